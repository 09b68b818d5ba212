"""Protocols: how numbers were made, and when they must not share a table. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MISSING = "not measured: "
"""Beginning of the protocol of a row without a number; the reason follows."""

FD_WORDS = "; FD: "
"""In the protocol of a pushed path, the words before how its Fréchet distance is measured."""

OVER_DIRECTIONS = "; ± over directions only"
"""In the protocol of a sliced distance: what the column `stderr` is. ± in tables is another error, see `in_caption`."""

FRAMED = "; frame: sigma"
"""In a protocol, the words on the frame of a solver's steps. Solvers that choose their own steps and SDE solvers
without the option have none, so numbers are compared without them, as solvers are."""

SMALL = 10_000
"""With fewer samples than this, a Fréchet distance's protocol mentions its upward bias."""


def is_missing(row: Mapping[str, Any]) -> bool:
    """Whether a row has, in place of a number, the reason why nothing was measured."""
    return str(row.get("protocol", "")).startswith(MISSING)


def reason(row: Mapping[str, Any]) -> str:
    """Why a row has no number."""
    return str(row["protocol"]).removeprefix(MISSING)


def in_caption(protocol: str) -> str:
    """A protocol as captions show it, where ± is the standard error that their last sentence names."""
    return protocol.replace(OVER_DIRECTIONS, "")


def without_frame(protocol: str) -> str:
    """A protocol without the frame of the solver's steps, which is a setting of the solver."""
    return protocol.replace(FRAMED, "")


def bias_note(n: int, floor: float | None = None, floor_n: int = 0) -> str:
    """Words on the upward bias of a Fréchet distance at small n, with that of real data; "" at large n."""
    if n >= SMALL:
        return ""
    real = "" if floor is None else f": real data gets {floor:.3g} at n = {floor_n}"
    return f"; n = {n} is small and the distance biased upward{real}"


def rank_note(n: int, dim: int) -> str:
    """Words on a singular covariance of n samples in `dim` dimensions; "" where it is not singular."""
    return f"; n <= d = {dim}, so the covariance is singular and its exact low-rank form is used" if n <= dim else ""


def check_protocols(rows: Iterable[Mapping[str, Any]], allow_mixed: bool = False) -> None:
    """Refuses a comparison of numbers of one metric that were made in different ways.

    Rows are compared within a metric by data set, number of samples and protocol but for the solver's frame. Rows of
    real data, rows without a number, samples that others drew, and pushed paths (whose protocol says where each process
    was pushed) are left out.

    Arguments:
        rows: Rows of results.csv.
        allow_mixed: Compare them all the same.

    Raises:
        ValueError: There are two protocols; the message has both, and the option that allows them.
    """
    first: dict[str, str] = {}
    for row in rows:
        if allow_mixed or row["process"] == "data" or is_missing(row) or "@" in row["metric"]:
            continue
        if row.get("terms") == "external":  # shown beside the others, and ranked with none
            continue
        own = f"{row['dataset']}, n = {row['n']}, {without_frame(row['protocol'])}"
        other = first.setdefault(row["metric"], own)
        if own != other:
            raise ValueError(
                f"{row['metric']} was measured in two ways and cannot be compared in one table:\n  {other}\n  {own}\n"
                "measure again in one way, or set allow_mixed (--allow-mixed) to put them side by side"
            )
