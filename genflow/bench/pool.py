"""What the runner sees of workers: a pool of slots, each an executor of `concurrent.futures`. Imports no torch.

`genflow.bench.start` starts them: processes of this machine (`genflow.bench.local`) or workers of a Dask cluster
(`genflow.bench.cluster`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from genflow.bench import shards
from genflow.bench.cells import Cell
from genflow.config import BenchConfig

if TYPE_CHECKING:
    from genflow.bench.execute import Answer
    from genflow.bench.tasks import Task


class Slot(ABC):
    """Room for one task at a time: one worker, and whoever takes its place where it dies."""

    model = ""
    """Of the last task, which the worker still holds."""

    last_progress = (0.0, "")
    """What the worker last said of its task."""

    @abstractmethod
    def submit(self, task: Task) -> Future[Answer]:
        """Starts a task. The future has an exception where the worker was lost."""

    def progress(self) -> tuple[float, str]:
        """Share of the task that is done, and a word on how it goes."""
        return self.last_progress

    def last_words(self, error: BaseException) -> str:
        """Why the worker was lost, as far as that is known."""
        return f"{type(error).__name__}: {error}"


class Pool(ABC):
    """The workers of one bench."""

    @abstractmethod
    def slots(self) -> Sequence[Slot]:
        """Those that can work now. A task in a slot that is no longer among them is lost."""

    @abstractmethod
    def stop(self) -> None:
        """Asks every worker to save what it can and to answer."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers that are this bench's own, whatever they are doing, and lets the others go."""


def job_count(config: BenchConfig, todo: Sequence[Cell]) -> int:
    """Workers: as asked, but not more than there are tasks; else one per trained model, not more than CPU cores here.

    On a cluster the cores here do not count.
    """
    models = {cell.model for cell in todo if cell.model}
    tasks = sum(max(1, shards.number(cell, config)) for cell in todo)
    if config.jobs:
        return min(config.jobs, max(1, tasks))
    elsewhere = config.scheduler or config.cluster or config.slurm
    return min(len(todo) + 1 if elsewhere else usable_cores(), max(1, len(models) or min(len(todo), 2)))


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
