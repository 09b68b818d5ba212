"""Running genflow as a program, with the faults that befall programs."""

import os
import socket
import subprocess
import sys
import time

import pytest
from warm import Server

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

MLP = ("--process", "vp_ode", "--backbone", "mlp", "--train-batch-size", "8", "--out", "model")
"""A run that takes half a millisecond a step."""


class Program:
    """genflow in a folder.

    Arguments:
        folder: Where it runs.
    """

    def __init__(self, folder, server):
        self.folder, self.server = folder, server

    def warm(self, *words, env=None):
        """The same as `start`, forked from a process that has imported everything; see `warm`."""
        return self.server().start(words, self.folder, env or {})

    def ranks(self, *words, count=2):
        """A team without a launcher: its programs, in the order of their ranks."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        where = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [self.warm(*words, env={**where, "RANK": str(k), "LOCAL_RANK": str(k)}) for k in range(count)]

    def start(self, *words, launcher=(sys.executable, "-m", "genflow"), **more):
        return subprocess.Popen(
            [*launcher, *map(str, words)],
            cwd=self.folder,
            env=ENVIRONMENT | more.pop("env", {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def train(self, *words, start=None):
        return (start or self.warm)("train", *MLP, *words)

    def until_saved(self, process, root="model"):
        """Waits for the first checkpoint of a run."""
        self.until(process, lambda: (self.folder / root / "latest").exists())

    def until(self, process, ready):
        """Waits until something is so, while the program runs."""
        deadline = time.monotonic() + 90
        while not ready():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)


@pytest.fixture(scope="session")
def server():
    """Starts the process that programs are forked from, when one is asked for."""
    started = []

    def start():
        started or started.append(Server(ENVIRONMENT))
        return started[0]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def program(tmp_path, server):
    return Program(tmp_path, server)


class Called:
    """genflow in this process: words -> (exit code, standard output, standard error)."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words):
        from genflow import cli

        self.monkeypatch.setattr(sys, "argv", ["genflow", *map(str, words)])
        self.capsys.readouterr()
        code = cli.run()
        return code, *self.capsys.readouterr()

    def train(self, *words):
        return self("train", *MLP, *words)


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return Called(monkeypatch, capsys)
