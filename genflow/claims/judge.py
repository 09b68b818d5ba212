"""How claims are judged: from measured numbers and their errors, never by hand. Imports no torch.

A claim is a difference that should be above zero: of two numbers, or of a number and a bound that the claim names.
Tests and verdicts are those of `genflow.estimates`; what several differences have to show, all of them have to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genflow.bench.cells import REAL
from genflow.claims.claim import Judge, Verdict, unmeasured
from genflow.claims.results import Number, Results, calls
from genflow.estimates import Estimate, all_of, exact, judge, lowest, ratio, short, text
from genflow.estimates import below as is_below
from genflow.evaluate.facts import Number as Fact
from genflow.evaluate.facts import facts

UNORDERED = Fact.order
NOT_MEASURED = unmeasured()

Query = Mapping[str, Any] | Callable[[Results], Mapping[str, Any]]
"""Fields of the rows to select, or a function that gives them."""
Ends = tuple[Estimate, Estimate]
"""What becomes of a number, and what it was: e.g. a distance at few calls and at many."""

# ---- numbers ---------------------------------------------------------------------------------------------------------


def distance(results: Results, **wanted: Any) -> str:
    """Name of the Fréchet distance of samples that was measured; in Inception's features (FID) rather than in others.

    Fréchet distances are the numbers that are biased at small n and better when lower, by their metrics' own facts; of
    several, the one of the highest order is meant, which is FID: published numbers are FID.

    Raises:
        LookupError: None was measured.
    """
    known = {row["metric"]: facts(row) for row in results.select(**wanted)}
    orders = {name: fact.order for name, fact in known.items() if fact.bias and fact.sign == 1}
    if not orders:
        raise LookupError("no Fréchet distance was measured")
    return str(max(orders, key=lambda name: orders[name] if orders[name] < UNORDERED else -1))


def of(process: str, metric: str) -> dict[str, str]:
    """The query of a process's number."""
    return {"process": process, "metric": metric}


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
    """The number that a query selects; None where it was not measured."""
    try:
        return results.find(**(query(results) if callable(query) else query))
    except LookupError:
        return None


def of_numbers(queries: Mapping[str, Query], decide: Callable[..., Verdict]) -> Judge:
    """A judge that finds numbers and decides by them, in order; its verdict names those that are missing.

    Arguments:
        queries: By what the numbers are called.
        decide: The verdict on the numbers.
    """

    def judged(results: Results) -> Verdict:
        found = {name: asked(query, results) for name, query in queries.items()}
        absent = [name for name, one in found.items() if one is None]
        return unmeasured(f"{' and '.join(absent)}: not measured") if absent else decide(*found.values())

    return judged


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

    def decide(one: Number, two: Number) -> Verdict:
        called, gap = what or str(one.rows[0]["metric"]), two - one
        return Verdict(judge(gap), f"{called}: {names[0]} {one}, {names[1]} {two}", gap)

    return of_numbers(dict(zip(names, (a, b), strict=True)), decide)


def near(a: Query, b: Query, names: tuple[str, str], within: float) -> Judge:
    """Claims that a is at most `within` times b, i.e. as good up to a factor."""

    def decide(one: Number, two: Number) -> Verdict:
        found, metric = ratio(one, two), one.rows[0]["metric"]
        evidence = f"{metric}: {names[0]} {one}, {names[1]} {two}: ratio {found}, allowed {within:g}"
        return below(found, within, evidence)

    return of_numbers(dict(zip(names, (a, b), strict=True)), decide)


def fewer_calls(a: Query, b: Query, names: tuple[str, str]) -> Judge:
    """Claims that the adaptive solver takes fewer network calls behind a than behind b."""

    def decide(one: Number, two: Number) -> Verdict:
        first, second = calls(one), calls(two)
        gap = second - first
        return Verdict(judge(gap), f"NFE of RK45: {names[0]} {first}, {names[1]} {second}", gap)

    return of_numbers(dict(zip(names, (a, b), strict=True)), decide)


def every(judges: Sequence[Judge]) -> Judge:
    """Claims all of several: holds where all hold, does not where one does not."""

    def decide(results: Results) -> Verdict:
        found = [one(results) for one in judges]
        return Verdict(all_of(v.judgement for v in found), "; ".join(dict.fromkeys(v.evidence for v in found)))

    return decide


# ---- the least of several --------------------------------------------------------------------------------------------


def least(
    first: str, found: Mapping[str, Estimate], evidence: str, words: Mapping[str, str] | None = None, absent: str = ""
) -> Verdict:
    """The verdict on `first` being less than every other.

    Arguments:
        first: Of `found`.
        found: Numbers by name.
        evidence: How the sentence begins.
        words: The numbers in words; as they are by default.
        absent: Names of what was not measured, with which nothing can hold.
    """
    evidence += ", ".join(f"{name} {words[name] if words else one}" for name, one in found.items())
    gaps = {name: other - found[first] for name, other in found.items() if name != first}
    judgement = all_of([lowest(first, found), *([NOT_MEASURED.judgement] if absent else [])])
    if not gaps:
        return Verdict(judgement, f"{evidence}; nothing to compare with")
    rival = min(gaps, key=lambda name: gaps[name].value / (gaps[name].error or 1.0))
    gap = gaps[rival]
    side = f"{short(abs(gap.value))} {'below' if gap.value >= 0 else 'above'} {rival}"
    error = f"standard error {short(gap.error)}" if gap.error >= 0 else "standard error not known"
    evidence += f"; {first} is {side}, {error}" + (f"; {absent}: not measured" if absent else "")
    return Verdict(judgement, evidence, gap)


def loses_least(first: str, ends: Mapping[str, Ends], evidence: str, factor: bool = True, absent: str = "") -> Verdict:
    """The verdict on `first` losing less than every other, as a factor or as a difference.

    A factor flatters whoever was far off before, a difference whoever was near: a claim says which it means.
    """
    lost = {name: ratio(*pair) if factor else pair[0] - pair[1] for name, pair in ends.items()}
    words = {
        name: f"{short(a.value)} for {short(b.value)} "
        + (f"({lost[name]} times)" if factor else f"({text(lost[name].value, lost[name].error, signed=True)})")
        for name, (a, b) in ends.items()
    }
    return least(first, lost, evidence, words, absent)


def loses_least_of(
    first: str,
    others: Sequence[str],
    ends: Callable[[str, Results], Ends | None],
    evidence: Callable[[Results], str],
    factor: bool = True,
) -> Judge:
    """Claims that `first` loses least of several processes.

    Arguments:
        first, others: Their names.
        ends: What becomes of a process's number and what it was; None where it was not measured.
        evidence: How the sentence begins.
        factor: Whether a factor is meant, or a difference.
    """

    def decide(results: Results) -> Verdict:
        found = {name: ends(name, results) for name in (first, *others)}
        known = {name: pair for name, pair in found.items() if pair}
        absent = ", ".join(name for name in found if name not in known)
        if first not in known or len(known) < 2:
            return unmeasured(f"{absent}: not measured")
        return loses_least(first, known, evidence(results), factor, absent)

    return decide


def grows_less(first: str, others: Sequence[str], few: int, many: int, factor: bool = True, **more: Any) -> Judge:
    """Claims that `first` loses least when its solver is cut from many to few calls."""

    def ends(name: str, results: Results) -> Ends | None:
        found = [asked(quality(name, budget=budget, **more), results) for budget in (few, many)]
        return None if None in found else (found[0], found[1])  # type: ignore[return-value]

    def evidence(results: Results) -> str:
        return f"{distance(results)} at NFE {few}, for that at NFE {many}: "

    return loses_least_of(first, others, ends, evidence, factor)


def floor(results: Results) -> str:
    """The value for real data, in words; "" where it was not measured."""
    try:
        found = results.find(process=REAL, metric=distance(results))
    except (LookupError, ValueError):
        return ""
    return "" if found is None else f"real test data {short(found.value)}"
