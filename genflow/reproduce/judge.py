"""How claims are judged: from measured numbers and their errors, never by hand. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genflow.bench.cells import REAL
from genflow.reproduce.base import Number, Results, Verdict, figure

CLEAR, UNKNOWN = 2.0, 0.1
"""A difference of so many standard errors is one, a smaller one is left undecided; where errors are not known, a
difference of this share of the smaller number stands for the first."""

Judge = Callable[[Results], Verdict]
Query = Mapping[str, Any] | Callable[[Results], Mapping[str, Any]]
"""Fields of the rows that are meant, or a function that gives them."""


def distance(results: Results, **wanted: Any) -> str:
    """Name of the Fréchet distance of samples that was measured: "FID", or FD[digits] and its like.

    Raises:
        LookupError: None was measured.
    """
    names = [m for m in results.values("metric", **wanted) if "@" not in m and (m == "FID" or m.startswith("FD["))]
    if not names:
        raise LookupError("no Fréchet distance was measured")
    return "FID" if "FID" in names else str(names[0])


def quality(process: str, **more: Any) -> Query:
    """The Fréchet distance of a process's samples; further fields narrow it."""

    def query(results: Results) -> Mapping[str, Any]:
        return {"process": process, "metric": distance(results), **more}

    return query


def asked(query: Query, results: Results) -> Number | None:
    """The number that a query means; None where it was not measured."""
    try:
        return results.find(**(query(results) if callable(query) else query))
    except LookupError:
        return None


def compare(a: Number, b: Number) -> float:
    """b less a in standard errors of the difference, or in what stands for them where neither is known."""
    known = [e for e in (a.error, b.error) if math.isfinite(e)]
    gap = b.value - a.value
    error = math.hypot(*known) if known else UNKNOWN / CLEAR * min(abs(a.value), abs(b.value))
    return gap / error if error else math.copysign(math.inf, gap) if gap else 0.0


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


def word(sigmas: float) -> Any:
    """The verdict on a difference that should be above zero, given in standard errors."""
    return "holds" if sigmas > CLEAR else "does not hold" if sigmas < -CLEAR else "undecided"


def seeds_note(*numbers: Number) -> str:
    """What the errors leave out, where a number is of one trained model alone."""
    if min(n.seeds for n in numbers) > 1:
        return ""
    if not any(math.isfinite(n.error) for n in numbers):
        return f"; one seed and no error: less than {UNKNOWN:.0%} apart is undecided"
    return "; one seed: the errors leave the training's own spread out"


def near(a: Query, b: Query, names: tuple[str, str], within: float) -> Judge:
    """Claims that a is at most `within` times b, i.e. as good up to a factor."""

    def judge(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            return Verdict("not judged", "not measured")
        ratio = one.value / two.value
        text = f"{one.rows[0]['metric']}: {names[0]} {one}, {names[1]} {two}: ratio {ratio:.2f}, allowed {within:g}"
        return Verdict("holds" if ratio <= within else "does not hold", text + seeds_note(one, two))

    return judge


def every(judges: Sequence[Judge]) -> Judge:
    """Claims all of several: holds where all hold, does not where one does not."""

    def judge(results: Results) -> Verdict:
        found = [one(results) for one in judges]
        words = [v.word for v in found]
        order = ("does not hold", "not judged", "undecided", "holds")
        worst: Any = next(w for w in order if w in words)
        return Verdict(worst, "; ".join(dict.fromkeys(v.evidence for v in found)))

    return judge


def growth(process: str, few: int, many: int, **more: Any) -> Callable[[Results], tuple[float, float] | None]:
    """Distances of a process at few and at many calls; None where they were not measured."""

    def ends(results: Results) -> tuple[float, float] | None:
        found = [asked(quality(process, budget=budget, **more), results) for budget in (few, many)]
        return None if None in found else (found[0].value, found[1].value)  # type: ignore[union-attr]

    return ends


def grows_less(one: str, others: Sequence[str], few: int, many: int, **more: Any) -> Judge:
    """Claims that `one` loses least, as a ratio, when its solver is cut from many to few calls."""

    def judge(results: Results) -> Verdict:
        found = {name: growth(name, few, many, **more)(results) for name in (one, *others)}
        known = {name: ends for name, ends in found.items() if ends}
        if one not in known or len(known) < 2:
            return Verdict("not judged", "not measured")
        text = ", ".join(f"{name} {figure(a)} for {figure(b)} ({a / b:.2f} times)" for name, (a, b) in known.items())
        least = min(known, key=lambda name: known[name][0] / known[name][1])
        evidence = f"{distance(results)} at NFE {few}, for that at NFE {many}: {text}"
        return Verdict("holds" if least == one else "does not hold", evidence)

    return judge


def floor(results: Results) -> str:
    """What real data get, in words; "" where it was not measured."""
    try:
        found = results.find(process=REAL, metric=distance(results))
    except (LookupError, ValueError):
        return ""
    return "" if found is None else f"real test data {figure(found.value)}"
