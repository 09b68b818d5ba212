"""Whether a claimed ordering holds, from numbers with their standard errors; words are made of the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genflow.report.measures import ENOUGH
from genflow.study.measure import Estimate

HOLDS, FAILS, OPEN = "holds", "does not hold", "can not be told"


def least(first: str, found: Mapping[str, Estimate]) -> str:
    """HOLDS where `first` is less than every other by two standard errors, FAILS where some other is less by as much,
    else OPEN."""
    gaps = [_errors(found[first], other) for name, other in found.items() if name != first]
    if not gaps or any(math.isnan(gap) for gap in gaps):
        return OPEN
    if any(gap <= -ENOUGH for gap in gaps):
        return FAILS
    return HOLDS if all(gap >= ENOUGH for gap in gaps) else OPEN


def _errors(a: Estimate, b: Estimate) -> float:
    """b − a in standard errors of the difference."""
    gap = b - a
    if gap.error == 0:
        return math.copysign(math.inf, gap.value) if gap.value else 0.0
    return gap.value / gap.error


@dataclass(frozen=True)
class Finding:
    """A sentence made of numbers, and the verdict on the claim where it has one."""

    text: str
    verdict: str = ""


def ordering(what: str, first: str, found: Mapping[str, Estimate], show: Callable[[Estimate], str]) -> Finding:
    """A sentence: the numbers, and whether `first` is the least of them.

    Arguments:
        what: What is compared, e.g. "the growth of FD from NFE 100 to 10".
        first: Whom the claim says it of.
        found: The numbers by name.
        show: A number in words.
    """
    numbers = ", ".join(f"{name} {show(one)}" for name, one in found.items())
    if len(found) < 2:
        return Finding(f"{capital(what)}: {numbers}; there is nothing to compare with.")
    verdict = least(first, found)
    rivals = [(_errors(found[first], other), name) for name, other in found.items() if name != first]
    known = [rival for rival in rivals if not math.isnan(rival[0])]
    if not known:
        said = f"{capital(what)}: {numbers}. That {first} has the least {verdict}: no standard error is known."
        return Finding(said, verdict)
    gap, rival = min(known)
    side = "below" if gap >= 0 else "above"
    near = ", its nearest." if side == "below" and len(known) > 1 else "."
    where = f"it is {abs(gap):.1f} standard errors {side} {rival}'s{near}"
    return Finding(f"{capital(what)}: {numbers}. That {first} has the least {verdict}: {where}", verdict)


def summary(findings: Sequence[Finding]) -> str:
    """How often the claimed order holds; "" where nothing was claimed."""
    verdicts = [one.verdict for one in findings if one.verdict]
    if not verdicts:
        return ""
    words = ", ".join(f"{kind} in {verdicts.count(kind)}" for kind in (HOLDS, FAILS, OPEN) if kind in verdicts)
    plural = "comparison" if len(verdicts) == 1 else "comparisons"
    return f"Of {len(verdicts)} {plural}, the claimed order {words}."


def capital(words: str) -> str:
    """The first letter in upper case."""
    return words[:1].upper() + words[1:]
