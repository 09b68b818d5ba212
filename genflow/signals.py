"""Ctrl-C and termination as a flag: the loop ends where it is safe; a second signal ends the program at once."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any


class StopFlag:
    """Inside `with StopFlag() as stop`, SIGINT and SIGTERM set a flag that `stop.is_set()` tells."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

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
            os._exit(128 + number)
        self._event.set()
