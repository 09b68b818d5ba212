"""Ctrl-C and SIGTERM at any moment of any command: its exit code, and not a word on standard error."""

import random
import signal
import subprocess
import sys
import time

import pytest

COMMANDS = {
    "list": ["list"],
    "doctor": ["doctor"],
    "train": [
        *("train", "--process", "vp_ode", "--backbone", "mlp", "--dataset", "checkerboard"),
        *("--train-steps", "1000000", "--out", "run"),
    ],
    "bench": [
        *("bench", "--process", "vp_ode", "--backbone", "mlp", "--solver", "euler"),
        *("--nfe", "2", "--jobs", "1", "--out", "bench"),
    ],
    "sample": ["sample", "--checkpoint", "missing"],
}
CONSOLE = "import sys; from genflow.__main__ import main; sys.exit(main())"
"""What the console script does."""


def stopped(words, number, delay, folder, start=("-m", "genflow")):
    """(whether it had ended by itself, exit code, standard error) of a command that a signal reaches after a delay."""
    process = subprocess.Popen(
        [sys.executable, *start, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(delay)
    ended = process.poll() is not None
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    return ended, process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_at_any_moment_ends_quietly(command, number, tmp_path):
    chance = random.Random(f"{command} {number}")
    for start in (("-m", "genflow"), ("-c", CONSOLE)):
        for latest in (0.6, 2.0):
            delay = 0.25 + chance.random() * (latest - 0.25)  # Python itself takes the first moments
            ended, code, errors = stopped(COMMANDS[command], number, delay, tmp_path, start)
            assert "Traceback" not in errors, (delay, errors)
            before = (-number,) if delay < 0.6 else ()  # on a busy machine Python may not have begun by then
            done = 2 if command == "sample" else 0  # the command's own, where its work was done already
            assert ended or code in (128 + number, done, *before), (delay, code, errors)


def test_work_that_is_stopped_cleans_up_and_a_second_signal_does_not_wait(tmp_path):
    code = """
import sys, time, signal, os
from genflow import cli
def work(*_, **__):
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("cleaned", flush=True)
cli.cli.main = work
sys.argv = ["genflow", "list"]
sys.exit(cli.run())
"""
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out, errors) == (128 + number, "cleaned\n", "")


def test_a_signal_during_an_import_ends_at_once(tmp_path):
    (tmp_path / "slow_module.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(30)\n")
    code = "from genflow.signals import stoppable\nwith stoppable():\n    import slow_module\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=30)[1], process.returncode) == ("", 130)
