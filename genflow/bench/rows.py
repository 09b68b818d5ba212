"""Rows of results.csv: their columns, how they are collected from a bench's store, and how they are written.

Imports no torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genflow.bench.axes import VARIED
from genflow.bench.cells import REAL, Cell
from genflow.bench.store import Store

COLUMNS = (
    "process",
    "backbone",
    "dataset",
    "solver",
    "nfe",
    "metric",
    "value",
    "stderr",
    "n",
    "seed",
    "protocol",
    "seconds",
    "stopped",
    "terms",
    "low",
    "high",
    "network_seconds",
    *VARIED,
)
"""Of results.csv. `stopped`: how many samples the solver left short of the data's end; empty for none. `terms`: see
`genflow.process.terms`; rows of files without it have published ones. `low`, `high`: the bounds of an interval at 95 %,
which the protocol explains, where the metric gives one. `network_seconds`: those of `seconds` that the samples' solver
spent in the network. Last the axes of `genflow.bench.axes`."""

Row = dict[str, Any]


def collect(store: Store, cells: Iterable[Cell]) -> list[Row]:
    """Every measured row, in the order of the cells, with the catalogue name of its metric (`entry`), what it was
    measured `of`, and which `training` it is from."""
    known = {cell.key: cell for cell in cells}
    return [
        row
        | {
            "entry": cell.spec["metric"],
            **{key: cell.labels.get(key, "") for key in ("terms", *VARIED)},
            "of": "samples" if "solver" in cell.labels else "model",
            "training": training(row, next(filter(None, (one.folder for one in _line_of(cell, known))), "")),
        }
        for cell in known.values()
        if cell.kind == "metric"
        for row in store.rows(cell.key)
    ]


def _line_of(cell: Cell, known: Mapping[str, Cell]) -> list[Cell]:
    return [cell, *(known[key] for key in cell.parents if key in known)]


def training(row: Row, checkpoint: str = "") -> Any:
    """Which training a row is from: its checkpoint, or its seed; None for real data. The seeds of one checkpoint are
    draws of one training."""
    return None if row["process"] == REAL else checkpoint or row["seed"]


def to_csv(rows: Sequence[Row]) -> str:
    """results.csv: one row per measured number; numbers in full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
