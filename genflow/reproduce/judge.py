"""How claims are judged: from measured numbers and their errors, never by hand. Imports no torch.

A claim is a difference that should be above zero: of two numbers, or of a number and a bound that the claim names.
It holds where the difference is more than CLEAR standard errors above zero, fails where it is as many below, and is
undecided between. What several differences have to show holds by the least of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genflow.bench.cells import REAL
from genflow.bench.tables import mean_over_seeds
from genflow.reproduce.base import Number, Results, Verdict, figure, number

CLEAR, UNKNOWN = 2.0, 0.1
"""A difference of so many standard errors is one, a smaller one is left undecided; where errors are not known, a
difference of this share of the smaller number stands for the first."""

NOT_MEASURED = Verdict("not judged", "not measured")

Judge = Callable[[Results], Verdict]
Query = Mapping[str, Any] | Callable[[Results], Mapping[str, Any]]
"""Fields of the rows that are meant, or a function that gives them."""

# ---- numbers ---------------------------------------------------------------------------------------------------------


def distance(results: Results, **wanted: Any) -> str:
    """Name of the Fréchet distance of samples that was measured: "FID", or FD[digits] and its like.

    Raises:
        LookupError: None was measured.
    """
    names = [m for m in results.values("metric", **wanted) if "@" not in m and (m == "FID" or m.startswith("FD["))]
    if not names:
        raise LookupError("no Fréchet distance was measured")
    return "FID" if "FID" in names else str(names[0])


def quality(process: str, parts: Mapping[str, str] | None = None, **more: Any) -> Query:
    """The Fréchet distance of a process's samples; further fields narrow it.

    Arguments:
        process: Whose samples.
        parts: The configuration that is meant, by scale, where several have the process.
        more: Fields of the rows.
    """

    def query(results: Results) -> Mapping[str, Any]:
        where = {"part": parts[results.scale]} if parts and results.scale in parts else {}
        return {"process": process, "metric": distance(results), **where, **more}

    return query


def asked(query: Query, results: Results) -> Number | None:
    """The number that a query means; None where it was not measured."""
    try:
        return results.find(**(query(results) if callable(query) else query))
    except LookupError:
        return None


def calls(one: Number) -> Number:
    """Backbone calls per sample behind a number; with several seeds, their standard error is over those."""
    rows = [row | {"value": row["nfe"], "stderr": None} for row in one.rows if row.get("nfe") is not None]
    return number(rows) if rows else Number(math.nan, math.nan, ())


def ratio(a: Number, b: Number) -> Number:
    """a over b, and its standard error by linearisation.

    Where both have the same seeds, several, the error is that of the mean of (a_s − r b_s)/b over seeds s, so what
    a seed does to both of its numbers cancels; else a's and b's own errors are taken to be independent, and the
    one that is not known to be nothing. NaN where neither is known.
    """
    value = a.value / b.value if b.value else math.copysign(math.inf, a.value) if a.value else math.nan
    over = {row["seed"]: row["value"] for row in a.rows}
    under = {row["seed"]: row["value"] for row in b.rows}
    rows = (*a.rows, *b.rows)
    if not b.value or not math.isfinite(value):
        return Number(value, math.nan, rows)
    if over.keys() == under.keys() and len(over) == len(a.rows) == len(b.rows) > 1:
        gaps = [(over[seed] - value * under[seed]) / b.value for seed in over]
        return Number(value, mean_over_seeds(gaps)[1] / math.sqrt(len(gaps)), rows)
    known = [e / b.value for e in (a.error, value * b.error) if math.isfinite(e)]
    return Number(value, math.hypot(*known) if known else math.nan, rows)


# ---- verdicts --------------------------------------------------------------------------------------------------------


def bound(value: float) -> Number:
    """A number that a claim names; it has no error of its own."""
    return Number(value, math.nan, ())


def compare(a: Number, b: Number) -> float:
    """b less a in standard errors of the difference, or in what stands for them where neither is known."""
    known = [e for e in (a.error, b.error) if math.isfinite(e)]
    gap = b.value - a.value
    error = math.hypot(*known) if known else UNKNOWN / CLEAR * min(abs(a.value), abs(b.value))
    return gap / error if error else math.copysign(math.inf, gap) if gap else 0.0


def word(sigmas: float) -> Any:
    """The verdict on a difference that should be above zero, given in standard errors."""
    return "holds" if sigmas > CLEAR else "does not hold" if sigmas < -CLEAR else "undecided"


def below(a: Number, limit: float, evidence: str) -> Verdict:
    """The verdict on a number that should be below a bound."""
    return Verdict(word(compare(a, bound(limit))), evidence + seeds_note(a))


def less(a: Query, b: Query, names: tuple[str, str], what: str = "") -> Judge:
    """Claims that a is less than b.

    Arguments:
        a, b: What is compared.
        names: How the two are called in the evidence.
        what: Name of the quantity; the metric's by default.
    """

    def judge(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            absent = " and ".join(name for name, found in zip(names, (one, two), strict=True) if found is None)
            return Verdict("not judged", f"{absent}: not measured")
        called = what or str(one.rows[0]["metric"])
        words = f"{called}: {names[0]} {one}, {names[1]} {two}" + seeds_note(one, two)
        return Verdict(word(compare(one, two)), words)

    return judge


def seeds_note(*numbers: Number) -> str:
    """What the errors leave out, where a number is of one trained model alone."""
    seeds = [n.seeds for n in numbers if n.trained]
    if not seeds or min(seeds) > 1:
        return ""
    if not any(math.isfinite(n.error) for n in numbers):
        return f"; one seed and no error: less than {UNKNOWN:.0%} apart is undecided"
    return "; one seed: the errors leave the training's own spread out"


def near(a: Query, b: Query, names: tuple[str, str], within: float) -> Judge:
    """Claims that a is at most `within` times b, i.e. as good up to a factor."""

    def judge(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            return NOT_MEASURED
        found = ratio(one, two)
        metric = one.rows[0]["metric"]
        text = f"{metric}: {names[0]} {one}, {names[1]} {two}: ratio {found}, allowed {within:g}"
        return below(found, within, text)

    return judge


def fewer_calls(a: Query, b: Query, names: tuple[str, str]) -> Judge:
    """Claims that the adaptive solver takes fewer network calls behind a than behind b."""

    def judge(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            return NOT_MEASURED
        first, second = calls(one), calls(two)
        text = f"NFE of RK45: {names[0]} {first}, {names[1]} {second}" + seeds_note(first, second)
        return Verdict(word(compare(first, second)), text)

    return judge


ORDER = ("does not hold", "not judged", "undecided", "holds")
"""What several claims amount to: the first of these that one of them has."""


def every(judges: Sequence[Judge]) -> Judge:
    """Claims all of several: holds where all hold, does not where one does not."""

    def judge(results: Results) -> Verdict:
        found = [one(results) for one in judges]
        return Verdict(worst(v.word for v in found), "; ".join(dict.fromkeys(v.evidence for v in found)))

    return judge


def worst(words: Any) -> Any:
    """What claims that are all to hold amount to, given their words."""
    found = set(words)
    return next(w for w in ORDER if w in found)


def growth(process: str, few: int, many: int, **more: Any) -> Callable[[Results], tuple[Number, Number] | None]:
    """Distances of a process at few and at many calls; None where they were not measured."""

    def ends(results: Results) -> tuple[Number, Number] | None:
        found = [asked(quality(process, budget=budget, **more), results) for budget in (few, many)]
        return None if None in found else (found[0], found[1])  # type: ignore[return-value]

    return ends


def grows_less(one: str, others: Sequence[str], few: int, many: int, **more: Any) -> Judge:
    """Claims that `one` loses least, as a ratio, when its solver is cut from many to few calls."""

    def judge(results: Results) -> Verdict:
        found = {name: growth(name, few, many, **more)(results) for name in (one, *others)}
        absent = ", ".join(name for name, ends in found.items() if not ends)
        if not found[one]:
            return Verdict("not judged", f"{absent}: not measured")
        evidence = f"{distance(results)} at NFE {few}, for that at NFE {many}: "
        return least(one, {name: ends for name, ends in found.items() if ends}, evidence, absent)

    return judge


def least(one: str, known: Mapping[str, tuple[Number, Number]], evidence: str, absent: str = "") -> Verdict:
    """The verdict on `one` having the smallest ratio of all.

    Arguments:
        one: Of `known`.
        known: Two numbers by name: what becomes of a thing, and what it was.
        evidence: How the sentence begins.
        absent: Names of what was not measured, with which nothing can hold.
    """
    ratios = {name: ratio(*ends) for name, ends in known.items()}
    text = ", ".join(
        f"{name} {figure(a.value)} for {figure(b.value)} ({ratios[name]} times)" for name, (a, b) in known.items()
    )
    words = [word(compare(ratios[one], other)) for name, other in ratios.items() if name != one]
    words += ["not judged"] if absent or not words else []
    missing = f"; {absent}: not measured" if absent else ""
    return Verdict(worst(words), evidence + text + missing + seeds_note(*ratios.values()))


def floor(results: Results) -> str:
    """What real data get, in words; "" where it was not measured."""
    try:
        found = results.find(process=REAL, metric=distance(results))
    except (LookupError, ValueError):
        return ""
    return "" if found is None else f"real test data {figure(found.value)}"
