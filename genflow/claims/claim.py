"""Whether a claimed ordering holds, by `genflow.estimates`; sentences are made of the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from genflow.estimates import (
    DRAWS,
    FAILS,
    HOLDS,
    ONE_SEED,
    TRAININGS,
    UNDECIDED,
    Estimate,
    Judgement,
    chance,
    holm,
    least_seen,
    lowest,
    mean,
    short,
    together,
)

SEED = ", seed "
"""Stands in a subject's label between its process and its seed, where a study has several seeds."""


@dataclass(frozen=True)
class Finding:
    """A sentence made of numbers, and the verdict on a claim where it has one.

    Arguments:
        text: The numbers.
        claim: What is judged, e.g. "That a has the least"; "" for nothing.
        judgement: The verdict; None for none.
        detail: What stands behind it.
        p: Of the test, with Holm's correction once the findings of a study are together.
        gap: The difference that was tested, where it is one.
        tests: How many tests the study has.
    """

    text: str
    claim: str = ""
    judgement: Judgement | None = None
    detail: str = ""
    p: float = math.nan
    gap: Estimate | None = None
    tests: int = 1

    @property
    def verdict(self) -> str:
        """In words; "" for none."""
        return self.judgement.word if self.judgement else ""

    @property
    def told(self) -> str:
        """The whole sentence."""
        if not self.judgement:
            return self.text
        word = (
            self.verdict
            if self.verdict in (HOLDS, FAILS)
            else f"is {self.verdict}"
            if self.verdict == UNDECIDED
            else ""
        )
        said = f"{self.claim} {word}" if word else f"{self.claim}: {self.verdict}"
        test = "" if math.isnan(self.p) else f"; p = {chance(self.p)}"
        seen = least_seen(self.gap, tests=self.tests) if test and self.gap else math.nan
        test += f", {short(seen)} apart would be seen" if seen > 0 else ""
        return f"{self.text} {said}: {self.detail}{test}."


def over_seeds(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Numbers by process over training seeds, from numbers by process and seed; those of one seed as they are."""
    groups: dict[str, dict[str, Estimate]] = {}
    for name, one in found.items():
        process, _, seed = name.partition(SEED)
        groups.setdefault(process, {})[seed] = one
    return {name: _joined(own) if len(own) > 1 else next(iter(own.values())) for name, own in groups.items()}


def _joined(own: Mapping[str, Estimate]) -> Estimate:
    trained = any(one.seeds is not None for one in own.values())
    values = {seed: one.value for seed, one in own.items()}
    return mean(values, TRAININGS if trained else DRAWS, len(own) if trained else None)


def ordering(what: str, first: str, found: Mapping[str, Estimate], show: Callable[[Estimate], str]) -> Finding:
    """A sentence: the numbers, and whether `first` is the least of them.

    Arguments:
        what: What is compared, e.g. "the growth of FD from NFE 100 to 10".
        first: Whom the claim says it of.
        found: The numbers by name, or by name and seed, which are joined over seeds.
        show: A number in words.
    """
    known, first = over_seeds(found), first.partition(SEED)[0]
    numbers = f"{capital(what)}: {', '.join(f'{name} {show(one)}' for name, one in known.items())}"
    if len(known) < 2:
        return Finding(f"{numbers}; there is nothing to compare with.")
    gaps = {name: other - known[first] for name, other in known.items() if name != first}
    rival = min(
        gaps, key=lambda name: gaps[name].value / gaps[name].error if gaps[name].error > 0 else gaps[name].value
    )
    gap, judgement = gaps[rival], lowest(first, known)
    side = "below" if gap.value >= 0 else "above"
    if math.isnan(gap.error):
        detail = "no standard error is known"
    else:
        detail = f"it is {short(abs(gap.value))} {side} {rival}'s, standard error {short(gap.error)}"
    return Finding(f"{numbers}.", f"That {first} has the least", judgement, detail, judgement.p, gap)


def family(findings: Sequence[Finding]) -> list[Finding]:
    """Findings of a study together: their verdicts with Holm's correction."""
    claims = [one for one in findings if one.judgement]
    judged = [one.judgement for one in claims if one.judgement]
    corrected = iter(zip(together(judged), holm([one.p for one in judged]), strict=True))
    tests = sum(not math.isnan(one.p) for one in judged)
    return [_with(one, *next(corrected), tests) if one.judgement else one for one in findings]


def _with(one: Finding, judgement: Judgement, p: float, tests: int) -> Finding:
    return replace(one, judgement=judgement, p=p, tests=tests)


def summary(findings: Sequence[Finding]) -> str:
    """How often the claimed order holds; "" where nothing was claimed."""
    verdicts = [one.verdict for one in findings if one.verdict]
    if not verdicts:
        return ""
    kinds = {HOLDS: "holds", FAILS: "does not hold", UNDECIDED: "is undecided", ONE_SEED: "is not judged (one seed)"}
    words = ", ".join(f"{said} in {verdicts.count(kind)}" for kind, said in kinds.items() if kind in verdicts)
    plural = "comparison" if len(verdicts) == 1 else "comparisons"
    return f"Of {len(verdicts)} {plural}, the claimed order {words}."


def capital(words: str) -> str:
    """The first letter in upper case."""
    return words[:1].upper() + words[1:]
