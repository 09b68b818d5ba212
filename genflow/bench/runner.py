"""Runs the missing cells of a bench on workers and keeps what is finished. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genflow.bench.cells import Cell
from genflow.bench.pool import Pool, Slot, job_count
from genflow.bench.start import start_workers
from genflow.bench.store import Store
from genflow.bench.tasks import Task, Tasks
from genflow.config import BenchConfig, ConfigError

if TYPE_CHECKING:
    from genflow.bench.execute import Answer

Start = Callable[[BenchConfig, Store, int], Pool]
"""Starts so many workers; see `genflow.bench.start.start_workers`."""

DEATHS = 3
"""Workers that may be lost at one task before the task fails."""

PAUSE = 0.2
"""Seconds between two looks at the workers."""

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The bench was asked to stop; finished cells, shards and training states are kept.

    Arguments:
        number: The signal that came; 0 where the time limit was reached.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}" if number else "the time is up")
        self.number = number


class CellError(RuntimeError):
    """Cells that failed; the message says which and why."""


@dataclass
class Report:
    """Progress of the runner: share of all work done, seconds left, what each worker is doing."""

    share: float
    left: float
    running: list[str]
    done: int
    total: int


@dataclass
class Runner:
    """Gives tasks to workers, parents first, and prefers a worker that has just used the same model.

    A task whose worker is lost is given to another worker, or to the one that takes its place.

    Arguments:
        config: The bench.
        store: Its folder, locked by the caller.
        start: Starts the workers.
        report: Called a few times a second.
        keep_going: Whether the rest is still done after a cell has failed; else the bench stops.
        seconds: Time after which the bench stops by itself.
    """

    config: BenchConfig
    store: Store
    start: Start = start_workers
    report: Callable[[Report], None] = lambda report: None
    keep_going: bool = False
    seconds: float = float("inf")
    failures: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None
    refused: str = ""

    def run(self, cells: list[Cell], todo: list[Cell]) -> None:
        """Does every cell of todo.

        Raises:
            ConfigError: A part of the bench is refused, or its workers cannot be had; nothing ran.
            Interrupted: SIGINT or SIGTERM came, or the time limit is reached; a second signal ends the program at once.
            CellError: Cells failed.
        """
        if not todo:
            return
        self._tasks = Tasks(self.store, self.config, cells, todo)
        self._began, self._halting = time.monotonic(), False
        self._running: dict[Future[Answer], tuple[Slot, Task]] = {}
        self._deaths: dict[str, int] = {}
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._pool = self.start(self.config, self.store, job_count(self.config, todo))
            try:
                self._loop()
            finally:
                self._pool.close()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.stopped_by is not None:
            raise Interrupted(self.stopped_by)
        if self.refused:
            raise ConfigError(self.refused)
        if self.failures:
            raise CellError("\n".join(f"{name}: {error}" for name, error in self.failures.items()))

    def _on_signal(self, number: int, frame: Any) -> None:
        """The loop notices the first signal soon; after the second, workers notice that the bench is gone."""
        if self.stopped_by is not None:
            os._exit(128 + number)
        self.stopped_by = number

    def _halt(self) -> None:
        """Lets every worker save what it has and answer; no more tasks are given out."""
        if not self._halting:
            self._halting = True
            self._pool.stop()

    def _loop(self) -> None:
        while not (self._tasks.over or (self._halting and not self._running)):
            slots = self._pool.slots()
            for future in [f for f, (slot, _) in self._running.items() if slot not in slots]:
                self._lost(*self._running.pop(future), "the worker left the cluster")
            self._hand_out(slots)
            self.report(self._now())
            for future in self._finished():
                self._answered(future, *self._running.pop(future))
            if self.stopped_by is None and time.monotonic() - self._began > self.seconds:
                self.stopped_by = 0
            if self.stopped_by is not None:
                self._halt()
        self.report(self._now())

    def _finished(self) -> set[Future[Answer]]:
        """Tasks that have ended; waits a little where there are none."""
        if not self._running:
            time.sleep(PAUSE)
        return wait(self._running, PAUSE, FIRST_COMPLETED).done

    def _hand_out(self, slots: Sequence[Slot]) -> None:
        busy = [slot for slot, _ in self._running.values()]
        for slot in slots:
            if self._halting or slot in busy:
                continue
            task = self._tasks.take(slot.model)
            if task is None:
                return
            self._running[slot.submit(task)] = slot, task

    def _answered(self, future: Future[Answer], slot: Slot, task: Task) -> None:
        """Handles the end of a task: the worker's answer, or its loss."""
        error = future.exception() if not future.cancelled() else RuntimeError("the cluster gave the task up")
        if error is not None:
            return self._lost(slot, task, slot.last_words(error))
        kind, why = future.result()
        if kind == "done":
            return self._tasks.done(task)
        if kind == "failed":
            return self._fail(task, why)
        self._tasks.put_back(task)
        if kind == "refused":
            self.refused = why
            self._halt()
        return None

    def _lost(self, slot: Slot, task: Task, why: str) -> None:
        """Handles the loss of a worker: its task goes to another one, unless it has ended DEATHS workers."""
        deaths = self._deaths[task.name] = self._deaths.get(task.name, 0) + 1
        if self._halting or self._tasks.given_up(task):
            self._tasks.put_back(task)
        elif deaths < DEATHS:
            log.warning("%s is done again by another worker: %s", task.name, why.splitlines()[0])
            self._tasks.put_back(task)
        else:
            self._fail(task, f"{deaths} workers were lost at it; {why}")

    def _fail(self, task: Task, error: str) -> None:
        self.failures[task.name] = error
        self._tasks.failed(task)
        if not self.keep_going:
            self._tasks.clear()
            self._halt()

    def _now(self) -> Report:
        progress = [(task, *slot.progress()) for slot, task in self._running.values()]
        under_way = sum(task.cost * share for task, share, _ in progress)
        share = (self._tasks.spent + under_way) / (self._tasks.cost or 1.0)
        elapsed = time.monotonic() - self._began
        left = elapsed * (1 - share) / share if share > 0.01 else float("nan")
        words = [f"{task.name} {share:.0%} {note}".strip() for task, share, note in progress]
        return Report(share, left, words, self._tasks.total - self._tasks.unfinished, self._tasks.total)
