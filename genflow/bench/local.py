"""Workers that are processes of this machine: one executor of the standard library for each.

A `ProcessPoolExecutor` breaks as a whole when one of its processes dies. So every slot has an executor with a single
process, and makes another when that has broken; the other slots are not affected. A pipe beside it carries progress and
requests to stop; when it closes, the process knows that the bench is gone.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from genflow.bench.execute import Answer, Assignment, execute, rehearse
from genflow.bench.pool import Pool, Slot, usable_cores
from genflow.bench.tasks import Task
from genflow.config import BenchConfig, flatten

T = TypeVar("T")

SIGNALS = {signal.SIGINT, signal.SIGTERM}

LOG = "worker.log"
"""File of the bench's folder for what workers write to standard error."""


class LocalSlot(Slot):
    """A process, started by the first call and replaced where it has died.

    Arguments:
        config: The bench.
        threads: Of the process.
        place: Number of the slot.
        log: File for what the process writes.
    """

    def __init__(self, config: BenchConfig, threads: int, place: int, log: Path) -> None:
        self.config, self.threads, self.place, self.log = flatten(config), threads, place, log
        self._open()

    def _open(self) -> None:
        self._line, self._theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        given = (self._theirs, str(self.log))
        self._executor = ProcessPoolExecutor(1, context, initializer=_begin, initargs=given)
        self._spent, self.model = False, ""

    def submit(self, task: Task) -> Future[Answer]:
        self.progress()
        self.last_progress, self.model = (0.0, ""), task.cell.model or self.model
        future = self.call(_execute, Assignment(self.config, task.cell.to_json(), task.part, self.threads, self.place))
        future.add_done_callback(self._look)
        return future

    def call(self, function: Callable[..., T], *given: Any) -> Future[T]:
        """Has the process call a function; a process that died or was asked to stop is replaced."""
        if self._spent:
            self._renew()
        self._said = self.log.stat().st_size if self.log.exists() else 0
        try:
            return self._submit(function, *given)
        except BrokenExecutor:  # it died between two calls
            self._renew()
            return self._submit(function, *given)

    def _submit(self, function: Callable[..., T], *given: Any) -> Future[T]:
        with _starting(self.threads):
            return self._executor.submit(function, *given)

    def _renew(self) -> None:
        self.close()
        self._open()

    def _look(self, future: Future[Answer]) -> None:
        """Marks a process that stopped or died, which takes no more tasks."""
        self._spent = future.cancelled() or bool(future.exception()) or future.result()[0] == "stopped"

    def progress(self) -> tuple[float, str]:
        with suppress(EOFError, OSError):
            while self._line.poll():
                self.last_progress = self._line.recv()
        return super().progress()

    def stop(self) -> None:
        """Asks the process to save what it can and to answer."""
        with suppress(OSError):
            self._line.send("stop")

    def hang_up(self) -> None:
        """Ends the process at once, as if the bench were gone."""
        self._line.close()
        self._theirs.close()

    def close(self) -> None:
        """Ends the process, and waits until it has gone."""
        self.hang_up()
        self._executor.shutdown(wait=True)

    def last_words(self, error: BaseException) -> str:
        said = self.log.read_bytes()[self._said :][:800].decode(errors="replace").strip() if self.log.exists() else ""
        return f"the worker process died (killed, or out of memory?): {said or 'it said nothing'}"


class LocalPool(Pool):
    """Processes that share the cores of this machine.

    Arguments:
        config: The bench.
        folder: Its folder.
        jobs: How many.
    """

    def __init__(self, config: BenchConfig, folder: Path, jobs: int) -> None:
        threads = max(1, usable_cores() // jobs)
        self._slots = [LocalSlot(config, threads, place, folder / LOG) for place in range(jobs)]

    def slots(self) -> list[LocalSlot]:
        return self._slots

    def stop(self) -> None:
        for slot in self._slots:
            slot.stop()

    def close(self) -> None:
        for slot in self._slots:
            slot.hang_up()
        for slot in self._slots:
            slot.close()


def check(config: BenchConfig, threads: int, calls: float = 0.0) -> tuple[str, Any]:
    """What `rehearse` finds, in a process of its own, which costs the import of torch there; nothing is written."""
    with TemporaryDirectory() as folder:
        slot = LocalSlot(config, threads, 0, Path(folder) / LOG)
        try:
            return slot.call(rehearse, flatten(config), threads, calls).result()
        except BrokenExecutor as error:
            return slot.last_words(error), None
        finally:
            slot.close()


# ---- starting a process ----------------------------------------------------------------------------------


@contextmanager
def _starting(threads: int) -> Iterator[None]:
    """The environment of a process that may start within `with`.

    BLAS and OpenMP read their threads from the environment when they are imported. Signals of the terminal wait until
    `_begin` says what becomes of them. And the script that runs the bench is not imported again in the process, as
    multiprocessing would: it need not guard itself by `__name__`.
    """
    with _environment({"PYTHONWARNINGS": "ignore"}):  # it warns of semaphores after a bench was killed
        resource_tracker.ensure_running()
    main, before = sys.modules["__main__"], signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with _environment({"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}):
            yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- inside the process ----------------------------------------------------------------------------------

_stop = threading.Event()
_bench: list[Connection] = []


def _begin(line: Connection, log: str) -> None:
    """Sets up a new process: it writes to the log, ignores Ctrl-C, and ends with the bench."""
    os.setsid()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _bench.append(line)
    threading.Thread(target=_listen, args=(line,), daemon=True).start()


def _listen(line: Connection) -> None:
    with suppress(EOFError, OSError):
        while line.recv():
            _stop.set()
    os._exit(1)


def _execute(given: Assignment) -> Answer:
    return execute(given, lambda share, note: _bench[0].send((share, note)), _stop.is_set)
