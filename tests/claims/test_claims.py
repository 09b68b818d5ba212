"""Verdicts from numbers with errors, and the evidence they give."""

import math
from types import SimpleNamespace

import pytest

from genflow.claims.claim import Verdict, family, summary
from genflow.claims.judge import least
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.series import Series, over_seeds
from genflow.estimates import FAILS, HOLDS, NOT_MEASURED, ONE_SEED, UNDECIDED, Estimate, Judgement, lowest


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({"a": (1, 0.1), "b": (2, 0.1)}, HOLDS),
        ({"a": (2, 0.1), "b": (1, 0.1)}, FAILS),
        ({"a": (1.9, 0.1), "b": (2, 0.1)}, UNDECIDED),
        ({"a": (2, 0.1), "b": (1.9, 0.1)}, UNDECIDED),
        ({"a": (1, 0.1), "b": (2, 0.1), "c": (1.05, 0.1)}, UNDECIDED),
        ({"a": (1, 0.1), "b": (2, 0.1), "c": (0.5, 0.1)}, FAILS),
        ({"a": (1, math.nan), "b": (2, 0.1)}, UNDECIDED),
        ({"a": (1, 0.0), "b": (2, 0.0)}, HOLDS),
        ({"a": (1, 0.0), "b": (1, 0.0)}, UNDECIDED),
    ],
)
def test_an_ordering_needs_a_test(numbers, verdict):
    assert lowest("a", {name: Estimate(*one, n=1000) for name, one in numbers.items()}).word == verdict


def test_the_evidence_has_the_numbers_and_the_rival():
    found = {"a": Estimate(3.0, 0.3, 99), "b": Estimate(1.0, 0.4, 99), "c": Estimate(9.0, 0.1, 99)}
    one = least("a", found, "growth: ")
    assert one.word == FAILS
    assert one.evidence == ("growth: a 3.00 ± 0.30, b 1.00 ± 0.40, c 9.00 ± 0.10; a is 2 above b, standard error 0.5")
    assert one.gap.value == -2.0


def test_without_rival_or_error_there_is_no_false_verdict():
    assert least("a", {"a": Estimate(1.0, 0.1)}, "").word == NOT_MEASURED
    assert "nothing to compare with" in least("a", {"a": Estimate(1.0, 0.1)}, "").evidence
    unknown = least("a", {"a": Estimate(1.0), "b": Estimate(2.0)}, "")
    assert unknown.word == UNDECIDED
    assert "standard error not known" in unknown.evidence


def test_one_training_seed_is_not_judged_and_several_are_joined():
    """A process's number is its mean over seeds, and another seed of its own is no rival."""
    alone = {"a": Estimate(1.0, 1e-6, 9, seeds=1), "b": Estimate(9.0, 1e-6, 9, seeds=1)}
    one = least("a", alone, "growth: ")
    assert one.word == ONE_SEED
    assert one.evidence == (
        "growth: a 1.0000000 ± 0.0000010, b 9.0000000 ± 0.0000010; a is 8 below b, standard error 1.41e-06"
    )
    several = {
        f"{p}, seed {s}": Estimate(v + s, 5.0, 9, seeds=1) for p, v in (("a", 1.0), ("b", 9.0)) for s in range(3)
    }
    joined = over_seeds(several)
    assert {name: (one.value, one.error, one.seeds) for name, one in joined.items()} == {
        "a": (2.0, pytest.approx(1 / math.sqrt(3)), 3), "b": (10.0, pytest.approx(1 / math.sqrt(3)), 3)
    }  # fmt: skip
    assert least("a", joined, "growth: ").word == HOLDS


def test_growths_of_a_study_pair_its_blocks():
    """The spread that blocks share does not count: as a factor and as a difference."""
    series = Series(SimpleNamespace(name="FD", floor=1.0))
    for line, good, worse in (("a", (1.0, 3.0, 5.0), (2.0, 6.0, 10.0)), ("b", (1.0, 3.0, 5.0), (4.0, 12.0, 20.0))):
        series.add("p", line, 0, Blocks(good))
        series.add("p", line, 1, Blocks(worse))
    factor, difference = series.growths("p", 1, 0, "with x")
    assert (factor.word, difference.word) == (HOLDS, UNDECIDED)
    assert factor.claim == "a's distance grows the least with x, as a factor."
    assert "a 6 for 3 (2 times), b 12 for 3 (4 times); a is 2 below b, standard error 0" in factor.evidence
    assert "a 6 for 3 (+3.0 ± 1.2)" in difference.evidence
    assert series.table("", "", "").rows[0] == ["real test split", "1", "1"]


def test_the_verdicts_of_a_study_are_one_family():
    found = [
        Verdict(Judgement(HOLDS, 0.03, HOLDS), ""),
        Verdict(Judgement(HOLDS, 0.02, HOLDS), ""),
        Verdict(Judgement(ONE_SEED), "numbers"),
    ]
    again = family(found)
    assert [one.word for one in again] == [HOLDS, HOLDS, ONE_SEED]
    assert [one.evidence for one in again] == ["; p = 0.04", "; p = 0.04", "numbers"]
    assert [one.word for one in family([found[0], found[0]])] == [UNDECIDED] * 2


def test_the_summary_counts_verdicts():
    found = [Verdict(Judgement(word), "") for word in (HOLDS, UNDECIDED, HOLDS)]
    assert summary(found) == "Of 3 comparisons, the claimed order holds in 2, is undecided in 1."
    assert summary([]) == ""
