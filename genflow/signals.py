"""Ctrl-C and termination as a flag: the loop ends where it is safe; a second signal ends the program at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came while a command worked."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise `Stopped`, so that what is half done is cleaned up; a second one ends at once.

    During an import the program ends at once, since C code that is being set up turns exceptions into other errors or
    aborts. So it does where the exception could not be raised any further, as in a `__del__`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in numbers}
    hook = sys.unraisablehook

    def end_or_report(lost: Any) -> None:
        if isinstance(lost.exc_value, Stopped):
            os._exit(lost.exc_value.exit_code)
        hook(lost)

    sys.unraisablehook = end_or_report
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _stop(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(other) is _stop:
            signal.signal(other, _end)
    if _imports(frame):
        os._exit(128 + number)
    raise Stopped(number)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import goes on."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class StopFlag:
    """Inside `with StopFlag() as stop`, SIGINT and SIGTERM set a flag, which `stop.is_set()` reads.

    Arguments:
        patience: Seconds in which a repeated signal is taken for the first one, as a launcher passes on what the
            terminal has sent already.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self.patience, self._came = patience, 0.0
        self._event = threading.Event()
        self._before: dict[int, Any] = {}
        self.number = 0
        """The first signal that came; 0 for none."""

    def is_set(self) -> bool:
        return self._event.is_set()

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._event.is_set():
            if time.monotonic() - self._came > self.patience:
                os._exit(128 + number)
            return
        self.number, self._came = number, time.monotonic()
        self._event.set()
