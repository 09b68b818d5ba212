"""Effects of a bench's factors: main effects and two-way interactions of a balanced design, with their errors.

With y the mean of a metric over all other factors, the main effect of a level j of a factor is y_j − y_0, 0 being the
level that was named first. The interaction of two factors' levels j and k is (y_jk − y_0k) − (y_j0 − y_00): by how much
the one's effect changes with the other. Both are sums Σ w y over the settings, taken for each training seed by itself,
so that what a seed does to all settings cancels; error and test are those of `genflow.estimates`. Imports no torch.

Source: Box, Hunter & Hunter 2005, Statistics for Experimenters, chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from genflow import estimates as es
from genflow.bench.axes import differing
from genflow.bench.cells import REAL
from genflow.bench.external import EXTERNAL
from genflow.bench.rows import Row
from genflow.bench.tables import Table, estimate
from genflow.evaluate.facts import MODEL, NFE, facts, title

SIGNIFICANT = "differs from 0"
COLUMNS = ["effect", "change", "95 % interval", "p", "least seen", "verdict"]

Level = Any
Setting = tuple[Level, ...]
"""A level of each factor."""


@dataclass(frozen=True)
class Effect:
    """A main effect, or an interaction of two factors.

    Arguments:
        levels: Factor -> (level, the level that it is compared with); one or two of them.
        change: What it does to the metric.
        p: With Holm's correction for the effects of its design; NaN where there is no test.
        verdict: In words.
        least: The smallest change that would have been significant; NaN where none would.
    """

    levels: Mapping[str, tuple[Level, Level]]
    change: es.Estimate
    p: float = math.nan
    verdict: str = ""
    least: float = math.nan

    @property
    def name(self) -> str:
        """head: noise − edm_rms; process × head: (vp_ode − pfgm) × (noise − edm_rms)"""
        steps = [f"{high} − {low}" for high, low in self.levels.values()]
        shown = steps[0] if len(steps) == 1 else " × ".join(f"({step})" for step in steps)
        return f"{' × '.join(self.levels)}: {shown}"


@dataclass(frozen=True)
class Design:
    """The settings of one metric that differ in the same factors.

    Arguments:
        metric: What is measured.
        where: What all of them have in common, in words.
        factors: Factor -> its levels, as they came.
        cells: The number of each setting.
    """

    metric: str
    where: str
    factors: Mapping[str, Sequence[Level]]
    cells: Mapping[Setting, es.Estimate]

    @property
    def lacking(self) -> str:
        """Why it is not balanced, as a sentence; "" where it is."""
        missing = [one for one in product(*self.factors.values()) if one not in self.cells]
        if missing:
            first = ", ".join(f"{name} {level}" for name, level in zip(self.factors, missing[0], strict=True))
            whole = math.prod(map(len, self.factors.values()))
            return f"The design is not balanced: {len(missing)} of {whole} settings have no number, e.g. {first}."
        if len({frozenset(one.values) for one in self.cells.values()}) > 1:
            return "The design is not balanced: its settings do not have the same seeds."
        return ""

    def contrast(self, weights: Mapping[Setting, float]) -> es.Estimate:
        """Σ w y over the settings, paired by seed; without an error where there is one seed."""
        seeds = min((one.seeds for one in self.cells.values() if one.seeds is not None), default=None)
        keys: list[Hashable] = list(next(iter(self.cells.values())).values)
        if len(keys) > 1:
            each = {k: math.fsum(w * self.cells[one].values[k] for one, w in weights.items()) for k in keys}
            over = next(iter(self.cells.values())).over
            return es.mean(each, over, seeds)
        return es.Estimate(math.fsum(w * self.cells[one].value for one, w in weights.items()), seeds=seeds)

    def effects(self) -> list[Effect]:
        """All main effects, then all interactions of two factors; their verdicts are one family."""
        steps = {name: [(level, levels[0]) for level in levels[1:]] for name, levels in self.factors.items()}
        chosen = [(name,) for name in self.factors] + list(combinations(self.factors, 2))
        found = []
        for names in chosen:
            for pairs in product(*(steps[name] for name in names)):
                levels = dict(zip(names, pairs, strict=True))
                found.append(Effect(levels, self.contrast(self._weights(levels))))
        judged = [es.judge(one.change) for one in found]
        adjusted = es.holm([one.p for one in judged])
        tests = sum(not math.isnan(p) for p in adjusted)
        return [
            replace(
                one,
                p=p,
                verdict=_worded(judgement, p),
                least=math.nan if math.isnan(p) else es.least_seen(one.change, tests=tests),
            )
            for one, judgement, p in zip(found, judged, adjusted, strict=True)
        ]

    def _weights(self, levels: Mapping[str, tuple[Level, Level]]) -> dict[Setting, float]:
        """±1 for the settings with the levels at hand, over how many others each level is met with; else left out."""
        others = math.prod(len(own) for name, own in self.factors.items() if name not in levels)
        weights = {}
        for setting in self.cells:
            own = dict(zip(self.factors, setting, strict=True))
            if all(own[name] in pair for name, pair in levels.items()):
                sign = math.prod(1 if own[name] == high else -1 for name, (high, _) in levels.items())
                weights[setting] = sign / others
        return weights

    def shares(self) -> dict[str, float]:
        """Share of the sum of squares between settings by factor and by pair of factors; the rest is of higher order.

        With one number a setting: SS of factors S is the squares of their means, less what is of fewer factors.
        """
        grand = math.fsum(one.value for one in self.cells.values()) / len(self.cells)
        total = math.fsum((one.value - grand) ** 2 for one in self.cells.values())
        squares: dict[tuple[str, ...], float] = {}
        for names in [*((name,) for name in self.factors), *combinations(self.factors, 2)]:
            means = [self._mean(names, at) for at in product(*(self.factors[name] for name in names))]
            whole = len(self.cells) * math.fsum((m - grand) ** 2 for m in means) / len(means)
            squares[names] = whole - math.fsum(squares[(name,)] for name in names if len(names) > 1)
        return {" × ".join(names): own / total if total else 0.0 for names, own in squares.items()}

    def _mean(self, names: Sequence[str], at: Sequence[Level]) -> float:
        places = [list(self.factors).index(name) for name in names]
        own = [e.value for one, e in self.cells.items() if all(one[i] == v for i, v in zip(places, at, strict=True))]
        return math.fsum(own) / len(own)


def _worded(judgement: es.Judgement, p: float) -> str:
    if math.isnan(p):
        return judgement.word
    return SIGNIFICANT if p <= es.LEVEL else es.UNDECIDED


# ---- from rows -------------------------------------------------------------------------------------------------------


def designs(rows: Sequence[Row]) -> list[Design]:
    """The designs of a bench that varies axes: one for each metric with a better direction and each of its terms, or,
    where solvers do not go with all processes and grids, one for each solver. Empty where no axis is varied."""
    drawn = [row for row in rows if row["process"] != REAL and row.get("terms") != EXTERNAL]
    own = [row for row in drawn if row["value"] is not None and math.isfinite(row["value"])]
    axes = differing(own)
    if not axes:
        return []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in own:
        fact = facts(row)
        if fact.sign and fact.table in (NFE, MODEL):
            groups.setdefault((row["metric"], row.get("terms") or ""), []).append(row)
    several = len({terms for _, terms in groups}) > 1
    found = []
    for (metric, terms), group in groups.items():
        words = f"{terms} terms" if several and terms else ""
        fixed = [row for row in group if row.get("budget") is not None or facts(row).table == MODEL]
        whole = _design(metric, words, fixed, axes) if fixed else None
        if whole and not whole.lacking:
            found += [whole] if whole.factors else []
            continue
        for solver in dict.fromkeys(row["solver"] for row in fixed):
            where = ", ".join(filter(None, (words, solver)))
            found.append(_design(metric, where, [row for row in fixed if row["solver"] == solver], axes))
    return [one for one in found if one.factors]


def _design(metric: str, where: str, rows: Sequence[Row], axes: Sequence[str]) -> Design:
    """The rows of one metric by their factors: those with two levels or more."""
    columns = {"process": "process", **{axis: axis for axis in axes}, "solver": "solver", "NFE": "budget"}
    levels = {name: list(dict.fromkeys(row.get(column) for row in rows)) for name, column in columns.items()}
    factors = {name: own for name, own in levels.items() if len(own) > 1}
    groups: dict[Setting, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(columns[name]) for name in factors), []).append(row)
    return Design(metric, where, factors, {setting: estimate(group) for setting, group in groups.items()})


def effects_tables(rows: Sequence[Row]) -> list[Table]:
    """A table of effects for each design; a sentence where it is not balanced."""
    names = {row["metric"]: title(row["metric"], facts(row)) for row in rows}
    found = []
    for one in designs(rows):
        heading = f"Effects on {names[one.metric]}" + (f", {one.where}" if one.where else "")
        if one.lacking:
            caption = "Effects are computed where every setting has a number of every seed."
            found.append(Table(heading, ["effect"], [[one.lacking]], caption))
            continue
        effects = one.effects()
        found.append(Table(heading, COLUMNS, [_line(effect) for effect in effects], _caption(one, effects)))
    return found


def _line(one: Effect) -> list[str]:
    low, high = es.interval(one.change)
    between = "–" if math.isnan(low) else f"{es.short(low)} to {es.short(high)}".replace("-", "−")
    change = es.text(one.change.value, one.change.error, signed=True)
    return [one.name, change, between, es.chance(one.p), es.short(one.least), one.verdict]


def _caption(design: Design, effects: Sequence[Effect]) -> str:
    factors = "; ".join(f"{name} {', '.join(map(str, levels))}" for name, levels in design.factors.items())
    seeds, over = len(effects[0].change.values), effects[0].change.over
    sizes = "; ".join(f"{name} {share:.0%}" for name, share in design.shares().items())
    tests = sum(not math.isnan(one.p) for one in effects)
    return (
        f"A balanced design of {len(design.cells)} settings: {factors}. A main effect is the change from the first "
        "level, averaged over all other factors; an interaction is by how much one factor's change differs between two "
        "levels of the other. "
        + (f"± is one standard error, of the mean over {seeds} {over}, paired by seed; intervals are of each effect "
           f"alone; p by Student's t with Holm's correction for {tests} effects. "
           if seeds else "One seed: the changes have no error and no verdict. ")
        + f"Share of the variation between settings: {sizes}; the rest is of three factors and more. "
        "Solvers that choose their own steps are left out."
    )  # fmt: skip
