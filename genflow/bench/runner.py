"""Runs what is missing of a bench on workers, once, and keeps what is finished. Imports no torch."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from genflow.bench import shards
from genflow.bench.cells import Cell
from genflow.bench.channels import Arrivals, Channel, Message
from genflow.bench.store import Store
from genflow.bench.tasks import Task, Tasks
from genflow.config import BenchConfig, ConfigError, flatten

Hire = Callable[[int], Sequence[Channel]]
"""Gives so many workers."""


class Interrupted(Exception):
    """The bench was asked to stop; finished cells, shards and training states are kept.

    Arguments:
        number: The signal that came; 0 where the time was up.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}" if number else "the time is up")
        self.number = number


class CellError(RuntimeError):
    """Cells that failed; the message says which and why."""


@dataclass
class Report:
    """What the runner tells while it works: share of all work done, seconds left, what each worker is at."""

    share: float
    left: float
    running: list[str]
    done: int
    total: int


@dataclass
class _Slot:
    """A worker and what it is doing."""

    channel: Channel
    place: int
    ready: bool = False
    gone: bool = False
    task: Task | None = None
    share: float = 0.0
    note: str = ""
    model: str = ""


def job_count(config: BenchConfig, todo: Sequence[Cell]) -> int:
    """Workers: as asked, but not more than there are errands; else one per trained model, not more than CPU cores here.

    On a cluster the cores here do not count.
    """
    models = {cell.model for cell in todo if cell.model}
    errands = sum(max(1, shards.number(cell, config)) for cell in todo)
    if config.jobs:
        return min(config.jobs, max(1, errands))
    return min(len(todo) + 1 if config.slurm else usable_cores(), max(1, len(models) or min(len(todo), 2)))


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Runner:
    """Gives errands to workers, parents first, and prefers a worker that just used the same model.

    Arguments:
        config: The bench.
        store: Its folder, locked by the caller.
        hire: Gives the workers.
        report: Called a few times a second.
        keep_going: Whether a failed cell leaves the rest to be done; else the bench stops.
        seconds: After which the bench stops by itself.
    """

    config: BenchConfig
    store: Store
    hire: Hire
    report: Callable[[Report], None] = lambda report: None
    keep_going: bool = False
    seconds: float = float("inf")
    slots: list[_Slot] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None
    refused: str = ""

    def run(self, cells: list[Cell], todo: list[Cell]) -> None:
        """Does every cell of todo.

        Raises:
            ConfigError: A part refused its options; nothing ran.
            Interrupted: SIGINT or SIGTERM came, or time is up; a second signal ends the program at once.
            CellError: Cells failed, or a worker died.
        """
        if not todo:
            return
        self._tasks = Tasks(self.store, self.config, cells, todo)
        self._began, self._halting = time.monotonic(), False
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._start(job_count(self.config, todo))
            self._loop()
        finally:
            for slot in self.slots:
                slot.channel.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.stopped_by is not None:
            raise Interrupted(self.stopped_by)
        if self.refused:
            raise ConfigError(self.refused)
        if self.failures:
            raise CellError("\n".join(f"{name}: {error}" for name, error in self.failures.items()))

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stopped_by is not None:
            for slot in self.slots:
                slot.channel.kill()
            os._exit(128 + number)
        self._stop(number)

    def _stop(self, number: int) -> None:
        self.stopped_by = number
        self._halt()

    def _halt(self) -> None:
        """Lets every worker save what it has and end."""
        self._halting = True
        for slot in self.slots:
            slot.channel.stop()

    # ---- workers -----------------------------------------------------------------------------------------

    def _start(self, jobs: int) -> None:
        self._arrivals: Arrivals = queue.Queue()
        for place, channel in enumerate(self.hire(jobs)):
            self.slots.append(_Slot(channel, place))
            channel.listen(self._arrivals)

    def _greet(self, slot: _Slot) -> None:
        """A worker has come, perhaps for the second time: it is told what the bench is."""
        if slot.task:
            self._tasks.put_back(slot.task)
        slot.task, slot.ready = None, False
        threads = max(1, usable_cores() // len(self.slots))
        slot.channel.send({"config": flatten(self.config), "threads": threads, "place": slot.place})

    def _loop(self) -> None:
        by_channel = {slot.channel: slot for slot in self.slots}
        while not all(slot.gone for slot in self.slots):
            try:
                channel, message = self._arrivals.get(timeout=0.2)
            except queue.Empty:
                pass
            else:
                slot = by_channel[channel]
                self._lost(slot) if message is None else self._hear(slot, message)
            self.report(self._now())
            if not self._halting and time.monotonic() - self._began > self.seconds:
                self._stop(0)
            if self._halting and not any(slot.task for slot in self.slots):
                return
            if not self._halting and self._tasks.over:
                return

    def _hear(self, slot: _Slot, message: Message) -> None:
        if "hello" in message:
            self._greet(slot)
        elif "refused" in message:
            self.refused = message["refused"]
            self._halt()
        elif "share" in message:
            slot.share, slot.note = message["share"], message["note"]
        else:
            self._answered(slot, message)
            slot.ready = "stopped" not in message
            self._hand_out()

    def _answered(self, slot: _Slot, message: Message) -> None:
        """Ready for its first errand, or done with one."""
        if slot.task is None:
            return
        task, slot.task = slot.task, None
        if "done" in message:
            self._tasks.done(task)
        elif "failed" in message:
            self._fail(task, message["error"])
        else:
            self._tasks.put_back(task)

    def _lost(self, slot: _Slot) -> None:
        """A worker is gone: what it was at, if anything, has failed."""
        task, slot.task = slot.task, None
        slot.gone, slot.ready = True, False
        if self._halting:
            if task:
                self._tasks.put_back(task)
        elif task:
            self._fail(task, slot.channel.last_words())
        elif not self._tasks.over:
            self.failures[f"worker {slot.place}"] = slot.channel.last_words()
        self._hand_out()

    def _fail(self, task: Task, error: str) -> None:
        self.failures[task.name] = error
        self._tasks.failed(task)
        if not self.keep_going:
            self._tasks.clear()
            self._halt()

    def _hand_out(self) -> None:
        for slot in self.slots:
            if self._halting or not slot.ready or slot.task or slot.gone:
                continue
            task = self._tasks.take(slot.model)
            if task is None:
                continue
            slot.task, slot.share, slot.note = task, 0.0, ""
            slot.model = task.cell.model or slot.model
            slot.channel.send(task.message())

    def _now(self) -> Report:
        running = [s for s in self.slots if s.task]
        under_way = sum(s.task.cost * s.share for s in running if s.task)
        share = (self._tasks.spent + under_way) / (self._tasks.cost or 1.0)
        elapsed = time.monotonic() - self._began
        left = elapsed * (1 - share) / share if share > 0.01 else float("nan")
        words = [f"{s.task.name} {s.share:.0%} {s.note}".strip() for s in running if s.task]
        return Report(share, left, words, self._tasks.total - self._tasks.unfinished, self._tasks.total)
