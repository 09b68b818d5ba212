"""Numbers over seeds, and verdicts, on made-up rows with known answers."""

from __future__ import annotations

import math

import pytest

from genflow.reproduce.base import Number, Results, row
from genflow.reproduce.judge import asked, compare, every, grows_less, less, near, quality


def measured(process, values, metric="FD[digits]", budget=10, **more):
    return [
        row(metric, value, protocol="p", n=500, process=process, budget=budget, seed=seed, **more)
        for seed, value in enumerate(values)
    ]


def made(*groups):
    return Results("small", [one for group in groups for one in group])


def test_a_number_is_the_mean_over_seeds_with_its_standard_error():
    found = made(measured("a", [1.0, 2.0, 6.0])).find(process="a")
    assert found.value == pytest.approx(3.0)
    assert found.error == pytest.approx(math.sqrt(7 / 3))  # variance of 1, 2, 6 is 7
    assert found.seeds == 3


def test_one_seed_has_the_error_of_its_row():
    found = made(measured("a", [1.0], stderr=0.25)).find(process="a")
    assert (found.value, found.error) == (1.0, 0.25)
    assert math.isnan(made(measured("a", [1.0])).find(process="a").error)


def test_a_mean_over_different_things_is_refused():
    results = made(measured("a", [1.0]), measured("a", [2.0], budget=20))
    with pytest.raises(ValueError, match="several numbers"):
        results.find(process="a")
    assert results.find(process="a", budget=20).value == 2.0


def test_rows_without_a_number_are_not_numbers():
    assert made(measured("a", [math.nan])).find(process="a") is None
    assert made(measured("a", [None])).find(process="a") is None


@pytest.mark.parametrize(("second", "word"), [(2.0, "holds"), (0.1, "does not hold"), (1.05, "undecided")])
def test_less_is_decided_by_errors(second, word):
    results = made(measured("a", [1.0], stderr=0.1), measured("b", [second], stderr=0.1))
    verdict = less(quality("a"), quality("b"), ("A", "B"))(results)
    assert verdict.word == word
    assert "A 1.00 ± 0.10" in verdict.evidence
    assert "one seed" in verdict.evidence


def test_the_difference_is_in_standard_errors():
    results = made(measured("a", [1.0], stderr=0.3), measured("b", [2.0], stderr=0.4))
    ends = [results.find(process=name) for name in "ab"]
    assert compare(*ends) == pytest.approx(1 / 0.5)


@pytest.mark.parametrize(("second", "word"), [(1.2, "holds"), (1.05, "undecided"), (0.8, "does not hold")])
def test_without_errors_a_tenth_is_a_difference(second, word):
    results = made(measured("a", [1.0]), measured("b", [second]))
    verdict = less(quality("a"), quality("b"), ("A", "B"))(results)
    assert verdict.word == word
    assert "no error" in verdict.evidence


def test_what_was_not_measured_is_not_judged():
    results = made(measured("a", [1.0]))
    for judge in (
        less(quality("a"), quality("b"), ("A", "B")),
        near(quality("a"), quality("b"), ("A", "B"), 1.1),
        grows_less("a", ("b",), 10, 20),
    ):
        assert judge(results).word == "not judged"


def test_near_allows_a_factor():
    results = made(measured("a", [1.2]), measured("b", [1.0]))
    assert near(quality("a"), quality("b"), ("A", "B"), 1.25)(results).word == "holds"
    assert near(quality("a"), quality("b"), ("A", "B"), 1.15)(results).word == "does not hold"


def test_growth_is_a_ratio_of_budgets():
    results = made(
        measured("a", [3.0]), measured("a", [2.0], budget=50), measured("b", [1.0]), measured("b", [0.1], budget=50)
    )
    verdict = grows_less("a", ("b",), 10, 50)(results)
    assert verdict.word == "holds"
    assert "a 3 for 2 (1.50 times), b 1 for 0.1 (10.00 times)" in verdict.evidence
    assert grows_less("b", ("a",), 10, 50)(results).word == "does not hold"


def test_all_of_several():
    results = made(measured("a", [1.0]), measured("b", [2.0]), measured("c", [0.5]))
    first, second = (less(quality("a"), quality(name), ("A", name)) for name in "bc")
    assert every([first])(results).word == "holds"
    assert every([first, second])(results).word == "does not hold"


def test_inception_distances_come_before_others():
    results = made(measured("a", [1.0]), measured("a", [7.0], metric="FID"))
    assert asked(quality("a"), results).value == 7.0


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.0466, 0.00146, "3.0466 ± 0.0015"),
        (313.24, 10.3, "313 ± 10"),
        (12345.6, 312.0, "12346 ± 312"),
        (0.5, math.nan, "0.5"),
        (2.0, 0.0, "2 ± 0"),
    ],
)
def test_a_number_has_as_many_digits_as_its_error(value, error, text):
    assert str(Number(value, error, ())) == text
