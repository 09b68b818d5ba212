"""A paper's claims and their verdicts. Tests and words are those of `genflow.estimates`. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from genflow.claims.results import Results
from genflow.estimates import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    ONE_SEED,
    UNDECIDED,
    Estimate,
    Judgement,
    Word,
    chance,
    holm,
    least_seen,
    short,
    together,
)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Arguments:
        judgement: By `genflow.estimates`.
        evidence: The numbers, in a sentence.
        gap: The difference that was tested, where it is one.
        claim: What was claimed.
    """

    judgement: Judgement
    evidence: str
    gap: Estimate | None = None
    claim: str = ""

    @property
    def word(self) -> Word:
        """In words."""
        return self.judgement.word


Judge = Callable[[Results], Verdict]


def unmeasured(why: str = "not measured") -> Verdict:
    """The verdict where numbers are missing."""
    return Verdict(Judgement(NOT_MEASURED), why)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper in our words, and how it is judged from numbers."""

    text: str
    judge: Judge

    def verdict(self, results: Results) -> Verdict:
        """The verdict alone; where the claim's question matches several numbers, it is not judged for that reason."""
        try:
            found = self.judge(results)
        except (ValueError, LookupError) as error:
            found = unmeasured(str(error))
        return replace(found, claim=self.text)


def family(found: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts of one recipe or study together: with Holm's correction for their number, and the evidence with p."""
    judged = [one.judgement for one in found]
    adjusted = holm([one.p for one in judged])
    tests = sum(not math.isnan(p) for p in adjusted)
    return [
        replace(one, judgement=judgement, evidence=one.evidence + _test(one.gap, p, tests))
        for one, judgement, p in zip(found, together(judged), adjusted, strict=True)
    ]


def _test(gap: Estimate | None, p: float, tests: int) -> str:
    """p, and the smallest difference that would have been seen among so many tests; "" where nothing was tested."""
    if math.isnan(p):
        return ""
    seen = least_seen(gap, tests=tests) if gap else math.nan
    return f"; p = {chance(p)}" + (f", {short(seen)} apart would be seen" if seen > 0 else "")


def summary(found: Sequence[Verdict]) -> str:
    """How often claims hold; "" where nothing was claimed."""
    words = [one.word for one in found]
    kinds = {
        HOLDS: "holds",
        FAILS: "does not hold",
        UNDECIDED: "is undecided",
        ONE_SEED: "is not judged (one seed)",
        NOT_MEASURED: "is not measured",
    }
    counts = ", ".join(f"{word} in {words.count(kind)}" for kind, word in kinds.items() if kind in words)
    plural = "comparison" if len(words) == 1 else "comparisons"
    return f"Of {len(words)} {plural}, the claimed order {counts}." if words else ""
