"""What was measured: rows of results.csv, and numbers over their seeds. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genflow.bench.cells import REAL
from genflow.bench.rows import Row
from genflow.estimates import Estimate, of_rows

EXACT = "exact field"
"""The backbone in rows of a study that trains nothing."""


def row(metric: str, value: float, *, protocol: str, n: int, **more: Any) -> Row:
    """A row of a study; fields of results.csv that are not given are empty.

    Its `training` is its seed, and None where nothing was trained: for real data and under the exact field.
    """
    empty = {"process": "", "backbone": "", "dataset": "", "solver": "", "nfe": None, "budget": None, "seed": 0}
    given = {"metric": metric, "value": value, "stderr": None, "n": n, "protocol": protocol, "seconds": 0.0}
    made = {**empty, **given, **more}
    untrained = made["backbone"] == EXACT or made["process"] == REAL
    return {"training": None if untrained else made["seed"], **made}


@dataclass(frozen=True)
class Number(Estimate):
    """A measured number over its seeds, and the rows behind it."""

    rows: tuple[Row, ...] = ()

    @property
    def nfe(self) -> float:
        """Mean backbone calls per sample; NaN where it has none."""
        return calls(self).value

    def __str__(self) -> str:
        return super().__str__()


def number(rows: Sequence[Row]) -> Number:
    """One number from the rows of one setting at several seeds."""
    return Number(**vars(of_rows(rows)), rows=tuple(rows))


def calls(one: Number) -> Estimate:
    """Backbone calls per sample behind a number; with several seeds, their standard error is over those."""
    rows = [row for row in one.rows if row.get("nfe") is not None]
    return of_rows(rows, "nfe") if rows else Estimate(math.nan)


@dataclass
class Results:
    """All that a recipe measured.

    Arguments:
        scale: "small" or "full".
        rows: Rows of results.csv, each with the "part" (configuration or study) it is from.
        arrays: What the studies of norms left, by part and process, first seed.
    """

    scale: str
    rows: list[Row] = field(default_factory=list)
    arrays: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    def select(self, **wanted: Any) -> list[Row]:
        """Rows with a finite number whose fields are as wanted; "metric" may end in * for any ending."""
        return [row for row in self.rows if _has_number(row) and all(_is(row, k, v) for k, v in wanted.items())]

    def find(self, **wanted: Any) -> Number | None:
        """The number of the selected rows, over seeds; None where there is none.

        Raises:
            ValueError: They differ in more than the seed, so that a mean would mix things.
        """
        rows = self.select(**wanted)
        if not rows:
            return None
        kinds = {tuple(row.get(k) for k in ("part", "process", "solver", "metric", "budget")) for row in rows}
        if len(kinds) > 1:
            raise ValueError(f"{wanted} matches several numbers: {sorted(map(str, kinds))}; narrow the query")
        return number(rows)

    def values(self, field_name: str, **wanted: Any) -> list[Any]:
        """The values of a field in the selected rows, each once, in order."""
        return list(dict.fromkeys(row.get(field_name) for row in self.select(**wanted)))


def _has_number(row: Row) -> bool:
    return row["value"] is not None and math.isfinite(row["value"])


def _is(row: Row, name: str, wanted: Any) -> bool:
    found = row.get(name)
    if isinstance(wanted, str) and wanted.endswith("*"):
        return str(found).startswith(wanted[:-1])
    return bool(found == wanted)
