"""`genflow` and `python -m genflow`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Runs the command line."""
    _end_quietly_from_here_on()
    from genflow.cli import run

    sys.exit(run())


def _end_quietly_from_here_on() -> None:
    """SIGINT and SIGTERM end the program at once and without a word, from before the first heavy import to the end.

    While a command works, `genflow.signals.stoppable` lets it clean up instead. Once everything is done, signals wait:
    the exit code is that of the work.
    """
    import atexit

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of a job in the background of a script
            signal.signal(number, _end)
    if hasattr(signal, "pthread_sigmask"):
        atexit.register(signal.pthread_sigmask, signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


def _end(number: int, frame: object) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
