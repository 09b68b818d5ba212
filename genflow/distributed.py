"""Several processes that share one run: their shares of the work, sums and gathers, and the detection of lost ranks.

`torchrun` sets the environment that `open_team` reads; without it a team has one member and every call here is free.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from genflow.devices import claim_card, launched, local_rank
from genflow.memory import is_out_of_memory

BEAT_SECONDS = 0.5
"""Time between two heartbeats of a rank."""
SILENT_SECONDS = 30.0
"""A rank on a card without a heartbeat for so long is lost."""


class LostRankError(RuntimeError):
    """A process of the team was lost; the message names its rank."""


class Team:
    """The processes that share one run; here, one alone.

    Attributes:
        rank: Which one this is, from 0.
        size: How many there are.
    """

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's part of `count` rows: contiguous, in the order of ranks, sizes differing by at most one."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum of a tensor over all ranks."""
        return numbers

    def largest(self, numbers: Tensor) -> Tensor:
        """The largest of each entry over all ranks."""
        return numbers

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, (sum of their counts, *), in the order of ranks, on every rank."""
        return rows

    def gather_objects(self, value: Any) -> list[Any]:
        """A picklable value of every rank, in their order, on every rank."""
        return [value]

    def wait(self) -> None:
        """Returns when all ranks have called it."""

    def parallel(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with gradients averaged over the ranks."""
        return network

    def naming(self) -> AbstractContextManager[None]:
        """Around work in which ranks wait for each other; raises LostRankError, naming the rank, if one is lost."""
        return nullcontext()

    def close(self) -> None:
        """Ends the connection."""

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.close()


class Parallel(DistributedDataParallel):
    """Averages gradients over the ranks; the attributes of the network inside are visible."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def _is_connection(error: RuntimeError) -> bool:
    """Whether an error is about the connection between ranks; gloo's errors have no type of their own."""
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in ("gloo", "connection"))


class Ranks(Team):
    """A team that torchrun started.

    Each rank writes a heartbeat to the common store every `BEAT_SECONDS`. When a collective call fails, the ranks whose
    heartbeat has stopped are named.

    Arguments:
        device: "cpu", with gloo, or "cuda", with nccl and one card per rank.
        timeout: Seconds after which an unfinished collective call is an error.
    """

    def __init__(self, device: str, timeout: float) -> None:
        backend = "nccl" if device.startswith("cuda") else "gloo"
        if backend == "nccl":
            claim_card(device)
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")  # a lost rank is an error here, not an abort
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        self.rank, self.size, self.backend = dist.get_rank(), dist.get_world_size(), backend
        self.device = torch.device("cuda", local_rank()) if backend == "nccl" else torch.device("cpu")
        self._store = dist.distributed_c10d._get_default_store()
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        seen: dict[int, tuple[int, float]] = {}
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._store.add(f"genflow/beat/{self.rank}", 1)
                gone = self._silent(seen, time.monotonic()) if self.backend == "nccl" else []
            except RuntimeError:
                return
            if gone and not self._over.is_set():
                self._leave(gone)

    def _silent(self, seen: dict[int, tuple[int, float]], now: float) -> list[int]:
        """Ranks whose heartbeat has stopped for `SILENT_SECONDS`; `seen` holds the last change of each.

        A card that waits for a lost rank's part of a sum raises no error in the thread that waits for the card, so
        this has to be found out beside it.
        """
        for rank in range(self.size):
            beats = self._store.add(f"genflow/beat/{rank}", 0)
            if rank not in seen or seen[rank][0] != beats:
                seen[rank] = beats, now
        closed = self._store.add("genflow/closed", 0)
        return [] if closed else [k for k, (_, last) in seen.items() if now - last > SILENT_SECONDS and k != self.rank]

    def _leave(self, gone: list[int]) -> None:
        """Ends this process with the names of the lost ranks: its other thread may wait for them for ever."""
        sys.stderr.write(f"genflow: {self._loss(RuntimeError('no heartbeat'), gone)}\n")
        sys.stderr.flush()
        os._exit(1)

    def lost(self) -> list[int]:
        """Ranks without a heartbeat for some beats."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            before = {rank: self._store.add(f"genflow/beat/{rank}", 0) for rank in others}
            time.sleep(4 * BEAT_SECONDS)
            return [rank for rank in others if self._store.add(f"genflow/beat/{rank}", 0) == before[rank]]
        except RuntimeError:
            return [0] if self.rank else []

    @contextmanager
    def naming(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error) or isinstance(error, LostRankError):
                raise
            gone = self.lost()
            if gone or _is_connection(error):
                raise self._loss(error, gone) from error
            raise  # this rank's own fault

    def _loss(self, error: Exception, gone: list[int]) -> LostRankError:
        who = f"rank {' and rank '.join(map(str, gone))} of {self.size}" if gone else "an unknown rank"
        return LostRankError(
            f"{who} is lost, and rank {self.rank} cannot continue without it; the last checkpoint is intact. Run the "
            f"same command again to resume from it ({' '.join(str(error).split())[:200]})"
        )

    def total(self, numbers: Tensor) -> Tensor:
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, numbers: Tensor) -> Tensor:
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def _reduced(self, numbers: Tensor, how: Any) -> Tensor:
        whole = numbers.to(self.device).clone()
        self._do(lambda: dist.all_reduce(whole, op=how))
        return whole.to(numbers.device)

    def gather(self, rows: Tensor) -> Tensor:
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        counts = self.total(counts)
        padded = torch.zeros(int(counts.max()), *rows.shape[1:], dtype=rows.dtype, device=self.device)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self._do(lambda: dist.all_gather(parts, padded))
        return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]).to(rows.device)

    def gather_objects(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        self._do(lambda: dist.all_gather_object(found, value))
        return found

    def wait(self) -> None:
        self._do(dist.barrier)

    def parallel(self, network: torch.nn.Module) -> torch.nn.Module:
        return Parallel(network)

    def _do(self, call: Any) -> None:
        with self.naming():
            call()

    def close(self) -> None:
        self._over.set()
        with suppress(RuntimeError):  # the rank that holds the store may have gone already
            self._store.add("genflow/closed", 1)
        self._heart.join(timeout=2 * BEAT_SECONDS)
        dist.destroy_process_group()

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._over.set()


ALONE = Team()
"""The team of one."""


def open_team(device: str = "cpu", timeout: float = 600.0) -> Team:
    """The team that torchrun started this process in; without torchrun, `ALONE`.

    Arguments:
        device: Where the run computes.
        timeout: Seconds after which an unfinished collective call is an error.
    """
    return Ranks(device, timeout) if launched() else ALONE
