"""What a bench will cost, before it starts: FLOPs, time, disk. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genflow.bench.cells import Cell
from genflow.bench.store import Store
from genflow.config import BenchConfig

ASSUMED = 4e-4
"""Seconds of a call for one sample: the default network and data on a two-core CPU."""

STARTING = 3.0
"""Seconds until a worker is ready."""


@dataclass(frozen=True)
class Cost:
    """Cost of the cells to do.

    Arguments:
        seconds: Time with the workers at hand.
        basis: What the estimate is based on.
        flops: Of all calls; None where they were not counted.
        call: FLOPs of one call for one sample.
        megabytes: Most that the results take on disk; None where the network was not measured.
    """

    seconds: float
    basis: str
    flops: float | None = None
    call: float | None = None
    megabytes: float | None = None

    def line(self, jobs: int) -> str:
        """In one line."""
        words = [f"estimated time: {self.seconds / 60:.1f} min with {jobs} job{'s' * (jobs != 1)} (from {self.basis})"]
        if self.flops is not None and self.call is not None:
            words.append(f"{si(self.flops)}FLOP, {si(self.call)}FLOP a network call")
        if self.megabytes is not None:
            words.append(f"at most {self.megabytes:.3g} MB on disk")
        return "; ".join(words)


def si(number: float) -> str:
    """A number with three digits and a prefix, e.g. "4.1 M"."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def estimate_cost(
    config: BenchConfig, store: Store, cells: Sequence[Cell], todo: Sequence[Cell], jobs: int, costs: Any = None
) -> Cost:
    """Cost of `todo`.

    Arguments:
        config: The bench.
        store: Its folder.
        cells: All its cells; the finished ones give the time of a call where nothing else does.
        todo: Those to do.
        jobs: Workers.
        costs: What a worker measured of the network (`measure_costs`), or None.
    """
    if costs and todo:
        each = [_seconds(cell, costs) for cell in todo]
        seconds = max(sum(each) / jobs, max(each)) + STARTING
        flops = costs["flops"]
        total = None if flops is None else flops * sum(_calls(cell) for cell in todo if cell.model)
        return Cost(seconds, "a timed call", total, flops, _megabytes(todo, costs))
    left = {cell.key for cell in todo}
    timed = [(c.cost, spent(store, c)) for c in cells if c.key not in left and c.kind != "metric"]
    known = [(cost, seconds) for cost, seconds in timed if seconds]
    rate = sum(s for _, s in known) / sum(c for c, _ in known) if known else ASSUMED
    basis = "the finished cells" if known else "the default network on a two-core CPU; no cell is finished yet"
    return Cost(sum(c.cost for c in todo) * rate / jobs if todo else 0.0, basis)


def _seconds(cell: Cell, costs: Any) -> float:
    """A training step's cost counts as four calls, of which it has its own time."""
    return cell.cost / 4 * costs["step"] if cell.kind == "train" else cell.cost * costs["call"]


def _calls(cell: Cell) -> float:
    """Calls for one sample; backwards takes two."""
    return cell.cost * 0.75 if cell.kind == "train" else cell.cost


def _megabytes(todo: Sequence[Cell], costs: Any) -> float:
    """Float32 weights, and three times as many numbers while a network trains; samples without compression."""
    weights = sum(4 * costs["parameters"] for c in todo if c.kind == "train")
    samples = sum(c.spec["samples"] * costs["numbers"] for c in todo if c.kind == "sample")
    return 4 * (weights + samples) / 1e6


def spent(store: Store, cell: Cell) -> float:
    """Seconds that a finished cell took."""
    files = store.files(cell.key)
    return float(json.loads(files.get("cell.json") or files["config.json"]).get("seconds", 0.0))
