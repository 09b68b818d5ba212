"""Ctrl-C and termination as a flag: the loop ends where it is safe; a second signal ends the program at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any


class StopFlag:
    """Inside `with StopFlag() as stop`, SIGINT and SIGTERM set a flag that `stop.is_set()` tells.

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
