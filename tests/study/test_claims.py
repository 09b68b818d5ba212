"""Verdicts from numbers with errors, and the sentences they make."""

import math

import pytest

from genflow.study.claims import FAILS, HOLDS, OPEN, Finding, least, ordering, summary
from genflow.study.measure import Estimate
from genflow.study.results import text, times


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({"a": (1, 0.1), "b": (2, 0.1)}, HOLDS),
        ({"a": (2, 0.1), "b": (1, 0.1)}, FAILS),
        ({"a": (1.9, 0.1), "b": (2, 0.1)}, OPEN),
        ({"a": (2, 0.1), "b": (1.9, 0.1)}, OPEN),
        ({"a": (1, 0.1), "b": (2, 0.1), "c": (1.05, 0.1)}, OPEN),
        ({"a": (1, 0.1), "b": (2, 0.1), "c": (0.5, 0.1)}, FAILS),
        ({"a": (1, math.nan), "b": (2, 0.1)}, OPEN),
        ({"a": (1, 0.0), "b": (2, 0.0)}, HOLDS),
        ({"a": (1, 0.0), "b": (1, 0.0)}, OPEN),
        ({"a": (1, 0.1)}, OPEN),
    ],
)
def test_an_ordering_needs_two_standard_errors(numbers, verdict):
    assert least("a", {name: Estimate(*one) for name, one in numbers.items()}) == verdict


def test_the_error_of_a_difference_is_of_both():
    found = {"a": Estimate(0.0, 0.3), "b": Estimate(1.0, 0.4)}  # 1/0.5 = 2 errors
    assert least("a", found) == HOLDS
    assert least("a", {**found, "b": Estimate(0.99, 0.4)}) == OPEN


def test_a_sentence_says_the_numbers_the_verdict_and_the_rival():
    found = {"a": Estimate(3.0, 0.3), "b": Estimate(1.0, 0.4), "c": Estimate(9.0, 0.1)}
    said = ordering("growth", "a", found, text)
    assert said.verdict == FAILS
    assert "Growth: a 3.00 ± 0.30, b 1.00 ± 0.40, c 9.00 ± 0.10" in said.text
    assert "a has the least does not hold: it is 4.0 standard errors above b's" in said.text


def test_a_sentence_without_rival_or_error_has_no_false_verdict():
    assert ordering("growth", "a", {"a": Estimate(1.0, 0.1)}, text).verdict == ""
    assert ordering("growth", "a", {"a": Estimate(1.0), "b": Estimate(2.0)}, text).verdict == OPEN


def test_a_factor_is_told_with_the_error_of_its_logarithm():
    assert times(Estimate(math.log(2), 0.05)) == "×2.00 ± 0.10"


def test_the_summary_counts_verdicts():
    found = [Finding("", HOLDS), Finding("", OPEN), Finding("told"), Finding("", HOLDS)]
    assert summary(found) == "Of 3 comparisons, the claimed order holds in 2, can not be told in 1."
    assert summary([Finding("told")]) == ""
