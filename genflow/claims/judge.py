"""How claims are judged: from measured numbers and their errors, never by hand. Imports no torch.

A claim is a difference that should be above zero: of two numbers, or of a number and a bound that the claim names.
Tests and verdicts are those of `genflow.estimates`; what several differences have to show, all of them have to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genflow.bench.cells import REAL
from genflow.claims.recipe import Number, Results, Verdict, calls, unmeasured
from genflow.estimates import Estimate, all_of, exact, judge, lowest, ratio, short
from genflow.estimates import below as is_below

NOT_MEASURED = unmeasured()

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


# ---- verdicts --------------------------------------------------------------------------------------------------------


def below(a: Estimate, limit: float, evidence: str) -> Verdict:
    """The verdict on a number that should be below a bound."""
    return Verdict(is_below(a, exact(limit)), evidence)


def less(a: Query, b: Query, names: tuple[str, str], what: str = "") -> Judge:
    """Claims that a is less than b.

    Arguments:
        a, b: What is compared.
        names: How the two are called in the evidence.
        what: Name of the quantity; the metric's by default.
    """

    def decide(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            absent = " and ".join(name for name, found in zip(names, (one, two), strict=True) if found is None)
            return unmeasured(f"{absent}: not measured")
        called, gap = what or str(one.rows[0]["metric"]), two - one
        return Verdict(judge(gap), f"{called}: {names[0]} {one}, {names[1]} {two}", gap)

    return decide


def near(a: Query, b: Query, names: tuple[str, str], within: float) -> Judge:
    """Claims that a is at most `within` times b, i.e. as good up to a factor."""

    def decide(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            return NOT_MEASURED
        found = ratio(one, two)
        metric = one.rows[0]["metric"]
        text = f"{metric}: {names[0]} {one}, {names[1]} {two}: ratio {found}, allowed {within:g}"
        return below(found, within, text)

    return decide


def fewer_calls(a: Query, b: Query, names: tuple[str, str]) -> Judge:
    """Claims that the adaptive solver takes fewer network calls behind a than behind b."""

    def decide(results: Results) -> Verdict:
        one, two = asked(a, results), asked(b, results)
        if one is None or two is None:
            return NOT_MEASURED
        first, second = calls(one), calls(two)
        gap = second - first
        return Verdict(judge(gap), f"NFE of RK45: {names[0]} {first}, {names[1]} {second}", gap)

    return decide


def every(judges: Sequence[Judge]) -> Judge:
    """Claims all of several: holds where all hold, does not where one does not."""

    def decide(results: Results) -> Verdict:
        found = [one(results) for one in judges]
        return Verdict(all_of(v.judgement for v in found), "; ".join(dict.fromkeys(v.evidence for v in found)))

    return decide


def growth(process: str, few: int, many: int, **more: Any) -> Callable[[Results], tuple[Number, Number] | None]:
    """Distances of a process at few and at many calls; None where they were not measured."""

    def ends(results: Results) -> tuple[Number, Number] | None:
        found = [asked(quality(process, budget=budget, **more), results) for budget in (few, many)]
        return None if None in found else (found[0], found[1])  # type: ignore[return-value]

    return ends


def grows_less(one: str, others: Sequence[str], few: int, many: int, **more: Any) -> Judge:
    """Claims that `one` loses least, as a ratio, when its solver is cut from many to few calls."""

    def decide(results: Results) -> Verdict:
        found = {name: growth(name, few, many, **more)(results) for name in (one, *others)}
        absent = ", ".join(name for name, ends in found.items() if not ends)
        if not found[one]:
            return unmeasured(f"{absent}: not measured")
        evidence = f"{distance(results)} at NFE {few}, for that at NFE {many}: "
        return least(one, {name: ends for name, ends in found.items() if ends}, evidence, absent)

    return decide


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
        f"{name} {short(a.value)} for {short(b.value)} ({ratios[name]} times)" for name, (a, b) in known.items()
    )
    found = all_of([lowest(one, ratios), *([unmeasured().judgement] if absent else [])])
    return Verdict(found, evidence + text + (f"; {absent}: not measured" if absent else ""))


def floor(results: Results) -> str:
    """What real data get, in words; "" where it was not measured."""
    try:
        found = results.find(process=REAL, metric=distance(results))
    except (LookupError, ValueError):
        return ""
    return "" if found is None else f"real test data {short(found.value)}"
