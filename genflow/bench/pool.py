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

from genflow.accelerators import cards
from genflow.bench import shards
from genflow.bench.cells import Cell
from genflow.config import BenchConfig

if TYPE_CHECKING:
    from genflow.bench.execute import Answer
    from genflow.bench.tasks import Task


class Slot(ABC):
    """A place for one worker, which does one task at a time; a worker that dies is replaced in it."""

    model = ""
    """The model of the last task, which the worker still has in memory."""

    last_progress = (0.0, "")
    """Share of the task done, and a note, as the worker last sent them."""

    @abstractmethod
    def submit(self, task: Task) -> Future[Answer]:
        """Starts a task. The future ends with an exception if the worker is lost."""

    def progress(self) -> tuple[float, str]:
        """Share of the task that is done, and a note."""
        return self.last_progress

    def last_words(self, error: BaseException) -> str:
        """Why the worker was lost, as far as is known."""
        return f"{type(error).__name__}: {error}"


class Pool(ABC):
    """The workers of one bench."""

    @abstractmethod
    def slots(self) -> Sequence[Slot]:
        """The slots that can work now. The task of a slot that has left is lost."""

    @abstractmethod
    def stop(self) -> None:
        """Asks every worker to save what it can and to answer."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers that this bench started, whatever they are doing, and releases the others."""


def job_count(config: BenchConfig, todo: Sequence[Cell]) -> int:
    """Number of workers: as given, but no more than there are tasks; else one for each trained model, but no more than
    CPU cores, or cards where the work is theirs. On a cluster this machine does not matter.
    """
    models = {cell.model for cell in todo if cell.model}
    tasks = sum(max(1, shards.number(cell, config)) for cell in todo)
    if config.jobs:
        return min(config.jobs, max(1, tasks))
    elsewhere = config.scheduler or config.cluster or config.slurm
    here = usable_cores() if config.device == "cpu" else cards(config.device)
    return min(len(todo) + 1 if elsewhere else here, max(1, len(models) or min(len(todo), 2)))


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
