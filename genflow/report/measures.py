"""What the rows say: means with their uncertainty, who is ahead, and by how much of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from genflow.bench.cells import REAL
from genflow.bench.tables import Row, is_frechet, mean_over_seeds
from genflow.registry import registries

LOWER = ("FD[", "FID", "KD[", "KID", "bits/dim", "nll", "sliced", "mmd", "energy", "kl")
HIGHER = ("IS", "CS[", "precision", "recall", "density", "coverage")
"""How names of metrics begin whose lower or higher values are better."""

ENOUGH = 2.0
"""Standard errors from which a difference is called one."""


def better(metric: str, entry: str = "") -> str:
    """ "lower", "higher", or "" where neither is known: a catalogue entry's tag `better`, else by the name."""
    tags = registries()["metrics"].entries()
    if entry in tags and "better" in tags[entry].tags:
        return str(tags[entry].tags["better"])
    if "@" in metric:
        return ""
    plain = metric.lower()
    if plain.startswith(tuple(word.lower() for word in LOWER)):
        return "lower"
    return "higher" if plain.startswith(tuple(word.lower() for word in HIGHER)) else ""


@dataclass(frozen=True)
class Estimate:
    """A number of one setting.

    Arguments:
        process, solver, budget: The setting; budget is None for adaptive solvers.
        value: Mean over seeds.
        error: Its standard error, NaN where unknown: over seeds, or of a single seed its own.
        seeds: How many.
        nfe: Mean backbone calls per sample, NaN where they mean nothing.
    """

    process: str
    solver: str
    budget: int | None
    value: float
    error: float
    seeds: int
    nfe: float

    @property
    def text(self) -> str:
        """12.3 ± 0.4"""
        return with_error(self.value, self.error)

    @property
    def how(self) -> str:
        """heun, NFE 20"""
        calls = "" if math.isnan(self.nfe) else f"NFE {self.nfe:.3g}"
        return ", ".join(filter(None, (self.solver, calls)))


def short(value: float) -> str:
    """Three significant digits, whole numbers in full."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def with_error(value: float, error: float) -> str:
    """A number to the second digit of its error; three digits where none is known."""
    if math.isnan(error) or error <= 0 or not math.isfinite(error):
        return short(value)
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"


def estimate(rows: Sequence[Row]) -> Estimate:
    """Rows of one setting, a row a seed, as one number."""
    mean, spread = mean_over_seeds([r["value"] for r in rows])
    own = rows[0].get("stderr")
    error = spread / math.sqrt(len(rows)) if len(rows) > 1 else math.nan if own is None else own
    calls = mean_over_seeds([r["nfe"] for r in rows])[0]
    first = rows[0]
    return Estimate(first["process"], first["solver"], first.get("budget"), mean, error, len(rows), calls)


def estimates(rows: Iterable[Row], metric: str) -> list[Estimate]:
    """One for each process, solver and budget that has a number."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["metric"] == metric and row["process"] != REAL and row["value"] is not None:
            groups.setdefault((row["process"], row["solver"], row.get("budget")), []).append(row)
    return [e for e in map(estimate, groups.values()) if math.isfinite(e.value)]


def best_of_each(found: Iterable[Estimate], sign: int) -> list[Estimate]:
    """Each process's best, the best first; sign is 1 where lower is better, −1 where higher."""
    best: dict[str, Estimate] = {}
    for one in found:
        kept = best.get(one.process)
        if kept is None or sign * one.value < sign * kept.value:
            best[one.process] = one
    return sorted(best.values(), key=lambda e: sign * e.value)


def headline(rows: Sequence[Row]) -> str:
    """The metric that stands on top: the first Fréchet distance, else the first with a known direction, else ""."""
    metrics = list(dict.fromkeys(r["metric"] for r in rows if r["process"] != REAL and r["value"] is not None))
    known = [m for m in metrics if better(m, _entry(rows, m))]
    return next((m for m in known if is_frechet(m)), known[0] if known else "")


def _entry(rows: Sequence[Row], metric: str) -> str:
    return next((r.get("entry", "") for r in rows if r["metric"] == metric), "")


def direction(rows: Sequence[Row], metric: str) -> int:
    """1 where lower is better, −1 where higher, 0 where it is not known."""
    return {"lower": 1, "higher": -1}.get(better(metric, _entry(rows, metric)), 0)


def apart(a: Estimate, b: Estimate) -> tuple[float, float]:
    """(b − a, in standard errors of the difference); the latter is NaN where an error is not known."""
    gap, error = b.value - a.value, math.hypot(a.error, b.error)
    if math.isnan(error):
        return gap, math.nan
    return gap, gap / error if error else math.copysign(math.inf, gap) if gap else 0.0


def leaders(rows: Sequence[Row]) -> list[list[str]]:
    """Who is ahead on each metric: at each budget, among adaptive solvers, and with each process at its best.

    Columns: `LEADER_COLUMNS`.
    """
    lines = []
    for metric in dict.fromkeys(r["metric"] for r in rows if r["process"] != REAL):
        sign, found = direction(rows, metric), estimates(rows, metric)
        if not sign or not found:
            continue
        budgets = sorted({e.budget for e in found if e.budget is not None})
        places: list[tuple[str, list[Estimate]]] = []
        if len({(e.solver, e.budget) for e in found}) > 1 or budgets:
            places += [(f"NFE {b}", [e for e in found if e.budget == b]) for b in budgets]
            free = [e for e in found if e.budget is None]
            places += [("own NFE", free)] if free else []
        if len(places) != 1:
            places.append(("each at its best" if places else "as measured", found))
        lines += [_leader(metric, where, best_of_each(group, sign)) for where, group in places]
    return lines


LEADER_COLUMNS = ["metric", "where", "best mean", "value", "next", "its value", "difference", "in errors", "verdict"]


def _leader(metric: str, where: str, ranked: Sequence[Estimate]) -> list[str]:
    first = ranked[0]
    line = [metric, where, _name(first, where), first.text]
    if len(ranked) < 2:
        return [*line, "–", "–", "–", "–", "nothing to compare with"]
    second = ranked[1]
    gap, errors = apart(first, second)
    times = "–" if math.isnan(errors) else f"{abs(errors):.1f}"
    return [*line, _name(second, where), second.text, short(abs(gap)), times, verdict(errors)]


def _name(one: Estimate, where: str) -> str:
    """The process and what else is not said by `where`."""
    if where == "as measured" or not one.solver:
        return one.process
    calls = "" if where.startswith("NFE ") or math.isnan(one.nfe) else f" at {one.nfe:.3g}"
    return f"{one.process}, {one.solver}{calls}"


def verdict(errors: float) -> str:
    """In words, from a difference in standard errors."""
    if math.isnan(errors):
        return "error not known"
    return "ahead" if abs(errors) >= ENOUGH else "not told apart"
