"""Who does a bench's tasks: a pool of workers, each behind an executor of `concurrent.futures`. Imports no torch.

Local workers are processes of this machine (`genflow.bench.local`), others are those of a Dask cluster
(`genflow.bench.cluster`). The runner sees the classes of this file alone.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from genflow.bench import shards
from genflow.bench.cells import Cell
from genflow.config import BenchConfig, ConfigError

if TYPE_CHECKING:
    from genflow.bench.execute import Answer
    from genflow.bench.store import Store
    from genflow.bench.tasks import Task


class Slot(ABC):
    """Room for one task at a time: one worker, and whoever takes its place where it dies."""

    model = ""
    """Of the last task, which the worker still holds."""

    told = (0.0, "")
    """What the worker last said of its task."""

    @abstractmethod
    def submit(self, task: Task) -> Future[Answer]:
        """Starts a task. The future has an exception where the worker was lost."""

    def progress(self) -> tuple[float, str]:
        """Share of the task that is done, and a word on how it goes."""
        return self.told

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


def open_pool(config: BenchConfig, store: Store, jobs: int) -> Pool:
    """The workers that the configuration asks for.

    Arguments:
        config: The bench.
        store: Its folder, held by this process.
        jobs: How many, where the bench starts them.

    Raises:
        ConfigError: It asks for a cluster that is not there, or a package for it is missing.
    """
    check_place(config)
    if config.scheduler or config.cluster or config.slurm:
        from genflow.bench.cluster import open_cluster

        return open_cluster(config, store, jobs)
    from genflow.bench.local import LocalPool

    return LocalPool(config, store.root, jobs)


def check_place(config: BenchConfig) -> None:
    """Raises ConfigError inside torchrun, for two kinds of workers at once, and for words of --cluster that mean none.

    Nothing is started and no package of the cluster is imported.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a bench does not share its work among the ranks of torchrun; start it once, with --jobs on one machine "
            "and --scheduler or --cluster on several (torchrun is for genflow train)"
        )
    given = [f"--{name}" for name in ("scheduler", "cluster", "slurm") if getattr(config, name)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; give one of them")
    if config.cluster or config.slurm:
        from genflow.bench.queues import request

        request(config)


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
