"""How numbers say how they were made, and when they must not stand in one table. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MISSING = "not measured: "
"""How the protocol of a row without a number begins; the reason follows."""

FD_WORDS = "; FD: "
"""In the protocol of a pushed path: what follows says how its Fréchet distance is measured."""

SMALL = 10_000
"""Fewer samples than this and a Fréchet distance's upward bias is told beside it."""


def is_missing(row: Mapping[str, Any]) -> bool:
    """Whether a row of results says that something was not measured, and why, instead of a number."""
    return str(row.get("protocol", "")).startswith(MISSING)


def reason(row: Mapping[str, Any]) -> str:
    """Why a row has no number."""
    return str(row["protocol"]).removeprefix(MISSING)


def bias_note(n: int, floor: float | None = None, floor_n: int = 0) -> str:
    """A sentence on the upward bias of a Fréchet distance at small n, with what real data gets; "" at large n."""
    if n >= SMALL:
        return ""
    real = "" if floor is None else f": real data gets {floor:.3g} at n = {floor_n}"
    return f"; n = {n} is small and the distance biased upward{real}"


def rank_note(n: int, dim: int) -> str:
    """A sentence on a covariance of n samples in `dim` dimensions that is singular; "" where it is not."""
    return f"; n <= d = {dim}, so the covariance is singular and its exact low-rank form is used" if n <= dim else ""


def check_protocols(rows: Iterable[Mapping[str, Any]], allow_mixed: bool = False) -> None:
    """Refuses to compare numbers of one metric that were made in different ways.

    Rows are compared within a metric by data set, number of samples and protocol. Rows of real data, rows without a
    number, and pushed paths (whose protocol says where each process was pushed) are left out.

    Arguments:
        rows: Rows of results.csv.
        allow_mixed: The caller takes the responsibility.

    Raises:
        ValueError: Two protocols, both named, with the way out.
    """
    first: dict[str, str] = {}
    for row in rows:
        if allow_mixed or row["process"] == "data" or is_missing(row) or "@" in row["metric"]:
            continue
        own = f"{row['dataset']}, n = {row['n']}, {row['protocol']}"
        other = first.setdefault(row["metric"], own)
        if own != other:
            raise ValueError(
                f"{row['metric']} was measured in two ways and can not stand in one table:\n  {other}\n  {own}\n"
                "measure again in one way, or set allow_mixed (--allow-mixed) to put them side by side"
            )
