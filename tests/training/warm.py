"""genflow as a program of its own, forked from a process that has imported it: its start imports nothing.

As a script this is that process: it reads a job a line, and forks for each. A program has its own pid, signals, folder,
environment, standard output and error, as one that a shell has started.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback


class Server:
    """The process that programs are forked from; it ends with the tests."""

    def __init__(self, environment):
        here = [sys.executable, __file__]
        self.process = subprocess.Popen(here, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, words, folder, environment):
        """Starts `genflow WORDS`, or a script with its words, in a folder, with more of an environment."""
        job = {"words": [*map(str, words)], "folder": str(folder), "environment": environment}
        return Program(self, job)

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Program:
    """A running program, with what `subprocess.Popen` has of it."""

    def __init__(self, server, job):
        self.server, self.returncode = server, None
        self.pid, self.said = server.ask(**job)

    def poll(self):
        if self.returncode is None:
            self.returncode = self.server.ask(pid=self.pid)
        return self.returncode

    def communicate(self, timeout=120):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, "it runs on"
            time.sleep(0.01)
        texts = []
        for name in self.said:
            with open(name, encoding="utf-8") as file:
                texts.append(file.read())
        return texts

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(job, said):
    """The program itself, in the fork, of which nothing but the program ends."""
    os.setsid()
    for number, name in zip((1, 2), said, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (open(n, how) for n, how in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    code = 1
    try:
        if job["words"][0].endswith(".py"):
            sys.argv = job["words"]
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        else:
            sys.argv = ["genflow", *job["words"]]
            main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def serve():
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        for count, line in enumerate(sys.stdin):
            job = json.loads(line)
            if "pid" in job:
                found, status = os.waitpid(job["pid"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if found else None
            else:
                said = [f"{home}/{count}.out", f"{home}/{count}.err"]
                pid = os.fork()
                if not pid:
                    run(job, said)
                answer = (pid, said)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import genflow.checkpoint
    import genflow.commands.evaluate
    import genflow.commands.sample
    import genflow.commands.train
    import genflow.data.digits
    import genflow.distributed
    import genflow.training  # noqa: F401
    from genflow.__main__ import main

    serve()
