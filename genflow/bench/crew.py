"""Who does a bench's work: processes of this machine, the ranks of torchrun, or jobs of a Slurm cluster."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genflow.bench.channels import Arrivals, Letters, Pipe
from genflow.bench.post import Follower, Leader
from genflow.bench.runner import Hire, usable_cores
from genflow.bench.serve import ByPost, serve
from genflow.bench.store import Store
from genflow.config import BenchConfig, ConfigError, flatten

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets; the workers of a bench work alone, each on its own errand, and do not see it."""

WAIT, LEAVE = 600.0, 30.0
"""Seconds that a rank waits for the first one to open the bench, and the first one for the others to leave it."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def ranks() -> Ranks | None:
    """Where torchrun started this process; None where it did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return None
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(os.environ.get(word, "0")) for word in words))


@contextmanager
def crew(config: BenchConfig, store: Store) -> Iterator[Hire]:
    """A way to hire workers for a bench whose folder this process holds."""
    here = ranks()
    if here and config.slurm:
        raise ConfigError("slurm was given inside torchrun; choose one of the two")
    if not here and not config.slurm:
        yield lambda jobs: [_process(store.root, usable_cores() // jobs) for _ in range(jobs)]
        return
    with Leader(store.root) as leader:
        if here:
            with _colleagues(leader, here) as others:
                yield lambda jobs: [_process(store.root, usable_cores() // here.local_size), *others]
        else:
            from genflow.bench.slurm import submit

            yield lambda jobs: submit(config, store, leader, jobs)


def check(config: BenchConfig, threads: int, calls: float = 0.0) -> tuple[str, Any]:
    """Why a part of the bench refuses its options, "" if none does; and what the network costs, where that is asked.

    Found by building everything in a process of its own, which costs the import of torch there; nothing is written.

    Arguments:
        config: The bench.
        threads: Of the process.
        calls: Network calls of the bench, for one sample each; 0 where the network need not be measured.
    """
    arrivals: Arrivals = queue.Queue()
    with TemporaryDirectory() as folder:
        worker = _process(Path(folder), threads)
        worker.listen(arrivals)
        while (message := arrivals.get()[1]) is not None and not message.keys() & {"ready", "refused"}:
            worker.send({"config": flatten(config), "threads": threads, "place": 0, "calls": calls})
        reason = worker.last_words() if message is None else str(message.get("refused", ""))
        worker.kill()
        worker.close()
    return reason, (message or {}).get("costs")


def _process(folder: Path, threads: int) -> Pipe:
    variables: dict[str, str | None] = dict.fromkeys(_elastic())
    variables |= {"OMP_NUM_THREADS": str(max(1, threads)), "PYTHONUNBUFFERED": "1"}
    return Pipe(folder / "worker.log", variables)


def _elastic() -> list[str]:
    return [*RANK_VARIABLES, *(name for name in os.environ if name.startswith("TORCHELASTIC_"))]


@contextmanager
def _colleagues(leader: Leader, here: Ranks) -> Iterator[Sequence[Letters]]:
    """The other ranks, which come by themselves and are let go at the end, whether there was work or not."""
    names = [f"rank-{rank}" for rank in range(1, here.size)]
    try:
        yield [Letters(leader.box(name)) for name in names]
    finally:
        for name in names:
            leader.box(name).send({"end": True})
        patience = time.monotonic() + LEAVE
        while not all(_has_left(leader, name) for name in names) and time.monotonic() < patience:
            time.sleep(0.05)


def _has_left(leader: Leader, name: str) -> bool:
    return any("bye" in message for message in leader.box(name).receive())


def follow(config: BenchConfig, here: Ranks) -> int:
    """The part of every rank but the first: does errands until the bench is over; the signal that ended it, or 0.

    Raises:
        ConfigError: The first rank did not open the bench in time.
    """
    for name in _elastic():
        os.environ.pop(name, None)
    came = [0]
    follower = Follower(Path(config.out))
    if not follower.find(WAIT):
        raise ConfigError(f"rank {here.rank} found no bench in {config.out} within {WAIT:.0f} s; do ranks share it?")
    errands = ByPost(follower, f"rank-{here.rank}")

    def stop(number: int, frame: Any) -> None:
        came[0] = number
        errands.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    serve(errands, threads=max(1, usable_cores() // here.local_size), place=here.local_rank)
    errands.say(bye=True)
    errands.finish()
    return came[0]
