"""What tests have worker processes do: importing this is quick."""

import os
import signal
import sys

from genflow.bench import local


def facts():
    """What a worker process begins with."""
    return {
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "session": os.getsid(0),
        "interrupt": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "torch": "torch" in sys.modules,
    }


def say(*words):
    """Writes as a cell's traceback does, and dies."""
    print(*words, file=sys.stderr)
    os._exit(9)


def tell_and_wait(task):
    """A task that tells how far it is, and is asked to stop."""
    local._bench[0].send((0.25, "loss 1.5"))
    return ("stopped" if local._stop.wait(20) else "done"), ""


def answer():
    """A task that is done at once."""
    return "done", ""


def at_work():
    """Whether a worker of a Dask cluster is doing a task."""
    from genflow.bench import cluster

    return cluster._turn.locked()
