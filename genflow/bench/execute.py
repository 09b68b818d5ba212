"""A worker's side of a bench: does one task at a time and answers with plain data. The first task imports torch."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genflow.bench.shards import Part

if TYPE_CHECKING:
    from genflow.bench.worker import Worker

Answer = tuple[Literal["done", "stopped", "failed", "refused"], str]
"""How a task ended, and why it failed or was refused. Not an exception: some cannot be unpickled elsewhere."""

Tell = Callable[[float, str], None]
"""Called with the share that is done and a note."""


@dataclass(frozen=True)
class Assignment:
    """A task with everything that its worker needs to know of the bench.

    Arguments:
        config: The bench, flat.
        cell: What to do.
        part: The shard to draw, or None.
        threads: Of torch.
        place: Which of the machine's GPUs to take, modulo their number.
    """

    config: Mapping[str, Any]
    cell: Mapping[str, Any]
    part: Part | None
    threads: int
    place: int


PAUSE = 0.2
"""Seconds between two messages on a task's progress."""

_kept: dict[str, Worker] = {}
"""The worker of this process's last task, by its configuration; it has a model in memory."""


def execute(given: Assignment, tell: Tell, should_stop: Callable[[], bool]) -> Answer:
    """Does a task.

    Arguments:
        given: The task.
        tell: Receives the progress, a few times a second.
        should_stop: Asked between steps.
    """
    if should_stop():
        return "stopped", ""
    try:
        worker = _worker(given)
    except (ValueError, TypeError, RuntimeError) as error:
        traceback.print_exc()
        return "refused", str(error)
    from genflow.bench.worker import Stopped

    worker.should_stop = should_stop
    try:
        worker.run(dict(given.cell), _seldom(tell), given.part)
    except Stopped:
        return "stopped", ""
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"
    return "done", ""


def _seldom(tell: Tell) -> Tell:
    last = 0.0

    def now_and_then(share: float, note: str) -> None:
        nonlocal last
        if time.monotonic() - last > PAUSE:
            last = time.monotonic()
            tell(share, note)

    return now_and_then


def _worker(given: Assignment) -> Worker:
    """The worker of a bench in this process, checked once; it uses the threads and the GPU that it was given."""
    import torch

    from genflow.bench.worker import Worker
    from genflow.config import BenchConfig, build

    torch.set_num_threads(given.threads)
    if given.config["device"] == "cuda" and torch.cuda.device_count():
        torch.cuda.set_device(given.place % torch.cuda.device_count())
    bench = json.dumps(given.config, sort_keys=True)
    if bench not in _kept:
        _kept.clear()
        worker = Worker(build(BenchConfig, given.config), lambda: False)
        worker.check()
        _kept[bench] = worker
    return _kept[bench]


def rehearse(config: Mapping[str, Any], threads: int, calls: float) -> tuple[str, Any]:
    """Why a part of the bench is refused, "" if none is; and what the network costs, where there are calls.

    Arguments:
        config: The bench, flat.
        threads: Of torch.
        calls: Network calls of the bench, for one sample each; 0 where the network need not be measured.
    """
    try:
        worker = _worker(Assignment(config, {}, None, threads, 0))
    except (ValueError, TypeError, RuntimeError) as error:
        traceback.print_exc()
        return str(error), None
    if not calls:
        return "", None
    from genflow.bench.calibrate import measure_costs

    return "", measure_costs(worker, calls)
