"""What the rows show: each setting's number with its error, which process is ahead, and whether that is significant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from genflow import estimates as es
from genflow.bench.cells import REAL
from genflow.bench.external import EXTERNAL
from genflow.bench.rows import Row
from genflow.bench.tables import by_setting
from genflow.bench.tables import estimate as estimate_of
from genflow.evaluate.facts import Number, facts, title


@dataclass(frozen=True)
class Setting:
    """A number of one setting.

    Arguments:
        process, solver, budget: The setting; budget is None for adaptive solvers.
        number: Its value and error.
        nfe: Mean backbone calls per sample, NaN where there are none.
    """

    process: str
    solver: str
    budget: int | None
    number: es.Estimate
    nfe: float

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return self.number.value

    @property
    def text(self) -> str:
        """12.34 ± 0.56"""
        return str(self.number)

    @property
    def how(self) -> str:
        """heun, NFE 20"""
        calls = "" if math.isnan(self.nfe) else f"NFE {self.nfe:.3g}"
        return ", ".join(filter(None, (self.solver, calls)))


def setting(rows: Sequence[Row]) -> Setting:
    """The number of one setting from its rows, one for each seed."""
    first = rows[0]
    calls = es.of_rows(rows, "nfe").value
    return Setting(first["process"], first["solver"], first.get("budget"), estimate_of(rows), calls)


def measured(rows: Iterable[Row], metric: str) -> list[Setting]:
    """One for each process, solver and budget that has a number."""
    own = [r for r in rows if r["metric"] == metric and r["process"] != REAL and r["value"] is not None]
    own = [r for r in own if r.get("terms") != EXTERNAL]  # they are shown and not ranked
    return [one for one in map(setting, by_setting(own).values()) if math.isfinite(one.value)]


def best_of_each(found: Iterable[Setting], sign: int) -> list[Setting]:
    """Each process's best, the best first; sign is 1 where lower is better, −1 where higher."""
    best: dict[str, Setting] = {}
    for one in found:
        kept = best.get(one.process)
        if kept is None or sign * one.value < sign * kept.value:
            best[one.process] = one
    return sorted(best.values(), key=lambda e: sign * e.value)


@dataclass(frozen=True)
class Lead:
    """One line of the summary: the best process, the next, and the verdict on the first being better.

    Arguments:
        metric, where: What is compared, e.g. FD[digits] at NFE 20.
        name: Title of the metric.
        first: The best mean.
        second: The next, or None.
        gap: By how much the first is better.
        judgement: With Holm's correction for the lines of the summary.
        p: With that correction; NaN where there is no test.
        tests: How many tests the summary has.
        group: What its rows have in common where others differ; see `groups`.
    """

    metric: str
    where: str
    name: str
    first: Setting
    second: Setting | None
    gap: es.Estimate
    judgement: es.Judgement
    p: float
    tests: int = 1
    group: str = ""

    @property
    def least_seen(self) -> float:
        """The smallest difference that would have been significant among so many tests; NaN where none would."""
        return math.nan if math.isnan(self.p) else es.least_seen(self.gap, tests=self.tests)

    def cells(self) -> list[str]:
        """A line of the table; columns are LEADER_COLUMNS."""
        line = [self.name, self.where, _name(self.first, self.where), self.first.text]
        if self.second is None:
            return [*line, *["–"] * 5, "nothing to compare with"]
        found = [es.text(self.gap.value, self.gap.error), es.chance(self.p), es.short(self.least_seen)]
        return [*line, _name(self.second, self.where), self.second.text, *found, self.judgement.word]


LEADER_COLUMNS = [
    *("metric", "where", "best mean", "value", "next", "its value"),
    *("difference", "p", "least seen", "verdict"),
]


def groups(rows: Sequence[Row], mixed: bool = False) -> dict[str, list[Row]]:
    """Rows that may be ranked together, by what they have in common: terms, and the values of varied axes of training.

    Arguments:
        rows: Of a bench, as `genflow.bench.axes.named_rows` gives them.
        mixed: All may be.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["process"] != REAL:
            key = ("", "") if mixed else (row.get("terms") or "", row.get("variant") or "")
            found.setdefault(key, []).append(row)
    several = len({terms for terms, _ in found}) > 1
    named = {(f"{terms} terms" if several and terms else "", variant): own for (terms, variant), own in found.items()}
    return {", ".join(filter(None, key)): own for key, own in named.items()}


def leaders(rows: Sequence[Row], mixed: bool = False) -> list[Lead]:
    """The process ahead on each metric: at each budget, among adaptive solvers, and with each process at its best; in
    each of the `groups`.

    The verdict is on "the process with the best mean is better"; all of them are one family of tests.
    """
    found = []
    metrics, apart = {r["metric"]: facts(r) for r in rows if r["process"] != REAL}, groups(rows, mixed)
    for (metric, fact), group in product(sorted(metrics.items(), key=lambda item: item[1].order), apart):
        own = measured(apart[group], metric)
        if fact.sign and fact.ranked and own:
            leads = [_lead(metric, where, best_of_each(some, fact.sign), fact) for where, some in _places(own)]
            found += [replace(one, group=group, where=", ".join(filter(None, (one.where, group)))) for one in leads]
    judged = [one.judgement for one in found]
    together, adjusted = es.together(judged), es.holm([one.p for one in judged])
    tests = sum(not math.isnan(one.p) for one in judged)
    return [
        replace(one, judgement=judgement, p=p, tests=tests)
        for one, judgement, p in zip(found, together, adjusted, strict=True)
    ]


def _places(found: Sequence[Setting]) -> list[tuple[str, list[Setting]]]:
    """Settings that are compared with each other, by what they have in common."""
    budgets = sorted({one.budget for one in found if one.budget is not None})
    places: list[tuple[str, list[Setting]]] = []
    if len({(one.solver, one.budget) for one in found}) > 1 or budgets:
        places += [(f"NFE {b}", [one for one in found if one.budget == b]) for b in budgets]
        free = [one for one in found if one.budget is None]
        places += [("own NFE", free)] if free else []
    if len(places) != 1:
        places.append(("each at its best" if places else "as measured", list(found)))
    return places


def _lead(metric: str, where: str, ranked: Sequence[Setting], fact: Number) -> Lead:
    name = title(metric, fact)
    if len(ranked) < 2:
        return Lead(
            metric, where, name, ranked[0], None, es.Estimate(math.nan), es.Judgement(es.NOT_MEASURED), math.nan
        )
    gap = ranked[1].number - ranked[0].number
    gap = gap if fact.sign > 0 else -gap
    judgement = es.judge(gap)
    return Lead(metric, where, name, ranked[0], ranked[1], gap, judgement, judgement.p)


def _name(one: Setting, where: str) -> str:
    """The process, with what `where` leaves open."""
    if where.startswith("as measured") or not one.solver:
        return one.process
    calls = "" if where.startswith("NFE ") or math.isnan(one.nfe) else f" at {one.nfe:.3g}"
    return f"{one.process}, {one.solver}{calls}"
