"""Verdicts from numbers with errors, and the sentences they make."""

import math

import pytest

from genflow.claims.claim import Finding, family, ordering, over_seeds, summary
from genflow.estimates import FAILS, HOLDS, ONE_SEED, UNDECIDED, Estimate, Judgement, lowest


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


def test_a_sentence_says_the_numbers_the_verdict_and_the_rival():
    found = {"a": Estimate(3.0, 0.3, 99), "b": Estimate(1.0, 0.4, 99), "c": Estimate(9.0, 0.1, 99)}
    said = ordering("growth", "a", found, str)
    assert said.verdict == FAILS
    assert "Growth: a 3.00 ± 0.30, b 1.00 ± 0.40, c 9.00 ± 0.10" in said.told
    assert "That a has the least does not hold: it is 2 above b's, standard error 0.5" in said.told


def test_a_sentence_without_rival_or_error_has_no_false_verdict():
    assert ordering("growth", "a", {"a": Estimate(1.0, 0.1)}, str).verdict == ""
    assert ordering("growth", "a", {"a": Estimate(1.0), "b": Estimate(2.0)}, str).verdict == UNDECIDED


def test_one_training_seed_is_not_judged_and_several_are_joined():
    """A process's number is its mean over seeds, and another seed of its own is no rival."""
    alone = {"a": Estimate(1.0, 1e-6, 9, seeds=1), "b": Estimate(9.0, 1e-6, 9, seeds=1)}
    assert ordering("growth", "a", alone, str).told == (
        "Growth: a 1.0000000 ± 0.0000010, b 9.0000000 ± 0.0000010. That a has the least: one seed: not judged: "
        "it is 8 below b's, standard error 1.41e-06."
    )
    several = {
        f"{p}, seed {s}": Estimate(v + s, 5.0, 9, seeds=1) for p, v in (("a", 1.0), ("b", 9.0)) for s in range(3)
    }
    joined = over_seeds(several)
    assert {name: (one.value, one.error, one.seeds) for name, one in joined.items()} == {
        "a": (2.0, pytest.approx(1 / math.sqrt(3)), 3), "b": (10.0, pytest.approx(1 / math.sqrt(3)), 3)
    }  # fmt: skip
    assert ordering("growth", "a, seed 0", several, str).verdict == HOLDS


def test_the_findings_of_a_study_are_one_family():
    told = Finding("told")
    found = [
        Finding("", "x", Judgement(HOLDS, 0.03, HOLDS), "", 0.03),
        told,
        Finding("", "x", Judgement(HOLDS, 0.02, HOLDS)),
    ]
    again = family([*found, Finding("", "x", Judgement(ONE_SEED))])
    assert [one.verdict for one in again] == [HOLDS, "", HOLDS, ONE_SEED]
    assert [one.p for one in again][:3:2] == [0.04, 0.04]
    again = family([found[0], found[0]])
    assert [one.verdict for one in again] == [UNDECIDED] * 2


def test_the_summary_counts_verdicts():
    verdicts = (HOLDS, UNDECIDED, HOLDS)
    found = [Finding("told"), *(Finding("", "x", Judgement(word)) for word in verdicts)]
    assert summary(found) == "Of 3 comparisons, the claimed order holds in 2, is undecided in 1."
    assert summary([Finding("told")]) == ""
