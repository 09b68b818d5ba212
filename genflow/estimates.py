"""Numbers with their errors, and the verdicts that they allow: the statistics of benches, reports, recipes and studies.
Imports neither torch nor scipy until a test is asked for.

An `Estimate` is a value with its standard error and the replicates that the error is made of. ± is always one standard
error: of the mean over training seeds where there are two or more, else over the samples or blocks of one training,
which says nothing about another training.

`a - b` and `ratio(a, b)` pair replicates by their keys (a seed, or a block of prior draws), over the
keys that both have, so that what a seed does to both cancels. `judge` gives the verdict on "this difference is above
zero": a two-sided t test at 5 %. `all_of` and `any_of` join claims; `together` corrects a family of them by Holm.

Which t test, by simulation of a null difference with 2 to 10 replicates of normal numbers (tests/test_estimates.py):

* Two or more shared keys: the paired t test over them, with one degree of freedom less than there are. Exactly 5 %
  whatever the variances and the correlation. A test that ignores the correlation has 0 to 3 % where seeds are shared.
* Else, with five or more replicates on both sides: Welch's test; 4.5 to 5.6 % for standard deviations that differ up to
  30 times. With four against ten it has 6.1 %.
* Else, with two to four on a side: Scheffé's test, which pairs the smaller side with contrasts of the larger,
  min(n, m) − 1 degrees of freedom. Exactly 5 %. Welch's test has 2.2 % at two against two, and up to 12 % at two
  against ten; Student's pooled test is exact for equal variances, and has up to 53 % at two against ten otherwise.
* Where the replicates of so small a side are not known one by one: its own degrees of freedom; at most 5 %.

Sources: Welch 1947, Biometrika 34; Scheffé 1943, Annals of Mathematical Statistics 14; Holm 1979, Scandinavian Journal
of Statistics 6; Berger 1982, Technometrics 24 (claims that need all of several); Efron 1979, Annals of Statistics 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from genflow.chances import LEVEL as LEVEL
from genflow.chances import holm as holm
from genflow.chances import same_shares as same_shares
from genflow.chances import share_interval as share_interval
from genflow.number_text import chance as chance
from genflow.number_text import short as short
from genflow.number_text import text as text

ENOUGH_FOR_WELCH = 5
"""Replicates on each side from which Welch's test keeps its level; see the module's docstring."""

Word = Literal["holds", "does not hold", "undecided", "one seed: not judged", "not measured"]
HOLDS: Word = "holds"
FAILS: Word = "does not hold"
UNDECIDED: Word = "undecided"
ONE_SEED: Word = "one seed: not judged"
NOT_MEASURED: Word = "not measured"
"""In place of a verdict where a number is missing."""

TRAININGS, DRAWS, SAMPLES = "training seeds", "seeds of the draws", "samples or blocks"
"""What replicates may be."""


# ---- numbers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Arguments:
        value: The number.
        error: Its standard error; 0 for an exact number, NaN where it is not known.
        n: Replicates that the error is made of.
        over: The kind of replicates, e.g. "training seeds".
        values: The replicates by key (a seed, a block of prior draws), where they are known one by one.
        seeds: Trainings behind the number; None where nothing was trained.
        dof: Degrees of freedom of the error; n − 1 by default.
    """

    value: float
    error: float = math.nan
    n: int = 1
    over: str = ""
    values: Mapping[Hashable, float] = field(default_factory=dict)
    seeds: int | None = None
    dof: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.dof):
            object.__setattr__(self, "dof", max(self.n - 1.0, 0.0))

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference, paired by key; see `difference`."""
        return difference(self, other)

    def __neg__(self) -> Estimate:
        return replace(self, value=-self.value, values={k: -v for k, v in self.values.items()})

    def __str__(self) -> str:
        return text(self.value, self.error)


def exact(value: float) -> Estimate:
    """A number without an error, such as a bound that a claim names."""
    return Estimate(value, 0.0)


def mean(values: Mapping[Any, float] | Sequence[float], over: str = "", seeds: int | None = None) -> Estimate:
    """Mean of independent replicates with its standard error, sd/√n; NaN where one of them is not known.

    Arguments:
        values: Replicates by key; those of a sequence are paired with no other number's.
        over: The kind of replicates.
        seeds: Trainings behind them; None where nothing was trained.
    """
    own = object()  # keys that no other number has
    known: dict[Hashable, float] = (
        dict(values) if isinstance(values, Mapping) else {(own, i): v for i, v in enumerate(values)}
    )
    n, middle = len(known), math.fsum(known.values()) / len(known)
    error = deviation(known.values()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(middle, error, n, over, known, seeds)


def deviation(values: Iterable[float]) -> float:
    """Sample standard deviation, with n − 1; NaN for fewer than two."""
    known = list(values)
    middle = math.fsum(known) / len(known)
    return math.nan if len(known) < 2 else math.sqrt(math.fsum((v - middle) ** 2 for v in known) / (len(known) - 1))


def of_rows(rows: Sequence[Mapping[str, Any]], column: str = "value") -> Estimate:
    """Rows of one setting as one number: over trainings where there are several, else over the draws of one, else with
    the row's own `stderr`.

    Arguments:
        rows: Rows of results.csv. `training` says which training a row is from (None: nothing was trained); without it
            each seed is a training of its own.
        column: "value", or "nfe", which has no `stderr`.
    """
    trainings = {row.get("training", row["seed"]) for row in rows}
    count = len(trainings - {None}) or None
    if len(rows) == 1:
        own, size = rows[0].get("stderr") if column == "value" else None, int(rows[0].get("n") or 1)
        return Estimate(_known(rows[0].get(column)), _known(own), size, SAMPLES, {}, count)
    several = count is not None and count > 1
    groups: dict[Hashable, list[float]] = {}
    for row in rows:
        key = row.get("training", row["seed"]) if several else row["seed"]
        groups.setdefault(key, []).append(_known(row.get(column)))
    over = TRAININGS if several else DRAWS
    return mean({key: math.fsum(own) / len(own) for key, own in groups.items()}, over, count)


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def bootstrap(values: Any, statistic: Callable[[Any], float], draws: int = 1000, seed: int = 0) -> Estimate:
    """A statistic of independent examples (n, ...), with the deviation of what draws of them with replacement give."""
    import numpy as np

    known, rng = np.asarray(values), np.random.default_rng(seed)
    again = [float(statistic(known[rng.integers(len(known), size=len(known))])) for _ in range(draws)]
    return Estimate(float(statistic(known)), deviation(again), len(known), SAMPLES)


def jackknife(whole: float, n: int, left: Sequence[tuple[int, float]]) -> Estimate:
    """A number at n → ∞, of a statistic whose bias is a/n: where the line in 1/n through its value on all n examples
    and those without one group each meets 1/n = 0. The error is that of the mean of these intercepts.

    Where the statistic is quadratic at its smallest value (a distance between equal distributions), the error comes out
    up to √2 too large.

    Arguments:
        whole: On all n examples.
        left: (examples, value) without one of several equal groups.

    Source: Quenouille 1956, Biometrika 43; Efron & Stein 1981, Annals of Statistics 9.
    """
    return replace(mean([(n * whole - k * value) / (n - k) for k, value in left], "groups of samples"), values={})


def together_at(value: float, a: Estimate, b: Estimate) -> Estimate:
    """A number with the errors of two independent sets of examples."""
    return replace(_independent(value, a, b, 1.0, 1.0), over=SAMPLES)


# ---- differences and ratios ------------------------------------------------------------------------------------------


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a − b with its standard error and degrees of freedom; which test that makes is in the module's docstring.

    Where only some keys are shared, it is the mean difference over those.
    """
    keys = shared(a, b)
    if keys:
        gap = mean({k: a.values[k] - b.values[k] for k in keys}, a.over, _fewest(a, b))
        return _without_rounding(gap, a, b)
    if a.values and b.values and 1 < min(a.n, b.n) < ENOUGH_FOR_WELCH:
        return replace(_scheffe(a, b), seeds=_fewest(a, b))
    return _without_rounding(_independent(a.value - b.value, a, b, 1.0, 1.0), a, b)


def _without_rounding(gap: Estimate, a: Estimate, b: Estimate) -> Estimate:
    """A difference or an error of less than 1e-12 of the numbers is rounding, and taken to be 0."""
    least = 1e-12 * max(abs(a.value), abs(b.value))
    value, error = (0.0 if abs(v) <= least else v for v in (gap.value, gap.error))
    return replace(gap, value=value, error=error)


def shared(a: Estimate, b: Estimate) -> list[Hashable]:
    """Keys of the replicates that both have, where there are two or more."""
    keys = [key for key in a.values if key in b.values]
    return keys if len(keys) > 1 else []


def _fewest(*found: Estimate) -> int | None:
    return min((one.seeds for one in found if one.seeds is not None), default=None)


def _independent(value: float, a: Estimate, b: Estimate, by_a: float, by_b: float) -> Estimate:
    """A function of two independent numbers, by its derivatives to both."""
    parts = [(abs(by_a * a.error), a.dof), (abs(by_b * b.error), b.dof)]
    n = min((one.n for one in (a, b) if one.error != 0), default=1)
    error = math.hypot(parts[0][0], parts[1][0])
    return Estimate(value, error, n, a.over or b.over, {}, _fewest(a, b), welch_dof(*parts))


def welch_dof(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of independent errors, (Σ e²)²/Σ (e⁴/dof); parts are (error, dof).

    Where one of them is of too few replicates for that, the fewest, which keeps the level (Hsu 1938).
    """
    known = [(error, dof) for error, dof in parts if error != 0]
    if not known or not math.fsum(error**2 for error, _ in known):
        return math.inf
    fewest = min(dof for _, dof in known)
    if fewest < ENOUGH_FOR_WELCH - 1:
        return fewest
    return math.fsum(error**2 for error, _ in known) ** 2 / math.fsum(error**4 / dof for error, dof in known)


def _scheffe(a: Estimate, b: Estimate) -> Estimate:
    """a − b for independent replicates of any two numbers and variances: Student's t with min(n, m) − 1.

    For n <= m: d_i = a_i − √(n/m) b_i + Σ_{j<=n} b_j/√(nm) − Σ_j b_j/m, whose mean is that of a less that of b.
    """
    if a.n > b.n:
        return -_scheffe(b, a)
    x, y = list(a.values.values()), list(b.values.values())
    n, m = len(x), len(y)
    shift = math.fsum(y[:n]) / math.sqrt(n * m) - math.fsum(y) / m
    gaps = mean([x[i] - math.sqrt(n / m) * y[i] + shift for i in range(n)], a.over or b.over)
    return replace(gaps, values={})


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """a/b, with its standard error by linearisation, paired by key over the keys that both have.

    The result's replicates are r + (a_k − r b_k)/b, whose mean is r = a/b, so ratios are compared in pairs as well.
    """
    keys = shared(a, b)
    if keys:
        a, b = (replace(one, value=math.fsum(one.values[k] for k in keys) / len(keys)) for one in (a, b))
    if not b.value:
        return Estimate(math.copysign(math.inf, a.value) if a.value else math.nan, seeds=_fewest(a, b))
    value = a.value / b.value
    if keys:
        pseudo = {k: value + (a.values[k] - value * b.values[k]) / b.value for k in keys}
        return replace(mean(pseudo, a.over, _fewest(a, b)), value=value)
    return _independent(value, a, b, 1 / b.value, value / b.value)


# ---- tests -----------------------------------------------------------------------------------------------------------


def p_value(gap: Estimate) -> float:
    """Two-sided p of the value's being zero by Student's t; NaN where the error is not known."""
    if math.isnan(gap.value) or math.isnan(gap.error) or (gap.error and not gap.dof > 0):
        return math.nan
    if gap.error == 0 or math.isinf(gap.value):
        return 0.0 if gap.value else 1.0
    from scipy.special import ndtr, stdtr

    t = -abs(gap.value / gap.error)
    return float(2 * (ndtr(t) if math.isinf(gap.dof) else stdtr(gap.dof, t)))


def least_seen(gap: Estimate, level: float = LEVEL, tests: int = 1) -> float:
    """The smallest difference that is significant with this error, whatever the other tests give; NaN where none is."""
    level /= max(tests, 1)
    if math.isnan(gap.error) or (gap.error and not gap.dof > 0):
        return math.nan
    if not gap.error:
        return 0.0
    from scipy.special import ndtri, stdtrit

    return float(gap.error * (ndtri(1 - level / 2) if math.isinf(gap.dof) else stdtrit(gap.dof, 1 - level / 2)))


def interval(one: Estimate, level: float = LEVEL) -> tuple[float, float]:
    """Bounds that contain the true value in all but `level` of the cases."""
    half = least_seen(one, level)
    return one.value - half, one.value + half


def next_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Bounds that contain the next of several independent draws in all but `level` of the cases: Student's t."""
    one, n = mean(values), len(values)
    half = least_seen(replace(one, error=one.error * math.sqrt(n + 1)), level)
    return one.value - half, one.value + half


# ---- verdicts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim.

    Arguments:
        word: HOLDS, FAILS, UNDECIDED or ONE_SEED; NOT_MEASURED where numbers are missing.
        p: Of the statement that the numbers lean to; NaN where there is no test.
        leans: HOLDS or FAILS, whichever the numbers lean to.
    """

    word: Word
    p: float = math.nan
    leans: Word = HOLDS

    @property
    def opposite(self) -> Judgement:
        """The verdict on the claim's negation."""
        turned = {HOLDS: FAILS, FAILS: HOLDS}
        return Judgement(turned.get(self.word, self.word), self.p, turned[self.leans])


def judge(gap: Estimate, level: float = LEVEL) -> Judgement:
    """The verdict on "the difference is above zero"."""
    if math.isnan(gap.value):
        return Judgement(NOT_MEASURED)
    if gap.seeds is not None and gap.seeds < 2:
        return Judgement(ONE_SEED)
    return _worded(p_value(gap), HOLDS if gap.value > 0 else FAILS, level)


def _worded(p: float, leans: Word, level: float) -> Judgement:
    return Judgement(leans if p <= level else UNDECIDED, p, leans)


def below(a: Estimate, b: Estimate) -> Judgement:
    """The verdict on "a is less than b"."""
    return judge(difference(b, a))


def all_of(found: Iterable[Judgement], level: float = LEVEL) -> Judgement:
    """The verdict on claims that are all to hold.

    They hold with the largest p (an intersection-union test needs no correction), and one of k that fails refutes them
    with k times its p; a refutation stands also where others have no verdict.
    """
    claims = list(found) or [Judgement(NOT_MEASURED)]
    tested = [one for one in claims if not math.isnan(one.p)]
    against = min((one.p for one in tested if one.leans == FAILS), default=math.nan) * len(tested)
    if against <= level:
        return Judgement(FAILS, against, FAILS)
    for word in (NOT_MEASURED, ONE_SEED):
        if any(one.word == word for one in claims):
            return Judgement(word)
    if len(tested) < len(claims):
        return Judgement(UNDECIDED)
    if not math.isnan(against):
        return Judgement(UNDECIDED, min(against, 1.0), FAILS)
    return _worded(max(one.p for one in tested), HOLDS, level)


def any_of(found: Iterable[Judgement], level: float = LEVEL) -> Judgement:
    """The verdict on claims of which one is to hold: they fail where the opposites of all hold."""
    return all_of([one.opposite for one in found], level).opposite


def together(found: Sequence[Judgement], level: float = LEVEL) -> list[Judgement]:
    """Verdicts on a family of claims, by Holm: none is wrong in all but `level` of the cases."""
    adjusted = holm([one.p for one in found])
    return [one if math.isnan(p) else _worded(p, one.leans, level) for one, p in zip(found, adjusted, strict=True)]


def lowest(first: str, found: Mapping[str, Estimate]) -> Judgement:
    """The verdict on `first` being less than every other."""
    return all_of(below(found[first], other) for name, other in found.items() if name != first)


def meaning(found: Iterable[Estimate]) -> str:
    """What ± is for the numbers of one table: a sentence for its caption; "" where none has an error."""
    kinds = dict.fromkeys(
        (f"of the mean over {one.n} {one.over}" if one.values and one.over else f"over {one.over or SAMPLES}")
        + (" of one training seed" if one.seeds == 1 else "")
        for one in found
        if one.error > 0
    )
    return f"± is one standard error, {', or '.join(kinds)}" if kinds else ""
