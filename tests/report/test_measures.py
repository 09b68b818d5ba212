"""Means, standard errors and verdicts against the closed forms."""

import math
import statistics

import pytest

from genflow.registry import registries
from genflow.report.measures import apart, better, estimate, estimates, headline, leaders, with_error

VALUES = [3.0, 4.0, 6.5]


def test_over_seeds_the_error_is_the_deviation_over_the_root_of_their_number(row):
    found = estimate([row(value=v, seed=s, stderr=9.0) for s, v in enumerate(VALUES)])
    assert found.value == pytest.approx(statistics.mean(VALUES))
    assert found.error == pytest.approx(statistics.stdev(VALUES) / math.sqrt(3))
    assert found.seeds == 3


def test_one_seed_has_its_own_error_or_none(row):
    assert estimate([row(stderr=0.25)]).error == 0.25
    assert math.isnan(estimate([row(stderr=None)]).error)


def test_differences_in_standard_errors(row):
    a, b = (estimate([row(value=v, stderr=e)]) for v, e in ((1.0, 3.0), (11.0, 4.0)))
    assert apart(a, b) == (10.0, pytest.approx(2.0))  # √(3² + 4²) = 5
    assert apart(b, a) == (-10.0, pytest.approx(-2.0))
    unknown = estimate([row(value=2.0)])
    assert math.isnan(apart(a, unknown)[1])
    exact = [estimate([row(value=v, stderr=0.0)]) for v in (1.0, 1.0, 2.0)]
    assert apart(exact[0], exact[1]) == (0.0, 0.0)
    assert apart(exact[0], exact[2]) == (1.0, math.inf)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (53.66, 4.512, "53.7 ± 4.5"),
        (94.25, 20.7, "94 ± 21"),
        (2.7111, 0.0441, "2.711 ± 0.044"),
        (0.00123456, 0.0000123, "0.001235 ± 0.000012"),
        (1234.5, 1000.0, "1234 ± 1000"),
        (5.0, math.nan, "5"),
        (5.125, 0.0, "5.12"),
    ],
)
def test_numbers_stop_at_the_second_digit_of_their_error(value, error, text):
    assert with_error(value, error) == text


def test_which_way_is_better():
    assert [better(m) for m in ("FD[digits]", "bits/dim", "KID", "nll[nats]")] == ["lower"] * 4
    assert [better(m) for m in ("IS", "precision[digits]", "Coverage")] == ["higher"] * 3
    assert better("FD[digits]@norm*2") == better("norm_spread[path]") == better("unheard of") == ""


def test_a_catalogue_entry_says_it_itself():
    registries()["metrics"].add("my_score", object, tags={"better": "higher"})
    try:
        assert better("my number", "my_score") == "higher"
    finally:
        registries()["metrics"].remove("my_score")


def test_leaders_at_each_budget_and_with_each_at_its_best(row):
    rows = [
        row("a", 10.0, budget=5, stderr=1.0),
        row("a", 4.0, budget=10, stderr=0.3),
        row("a", 3.0, "FD[digits]", "rk45", None, nfe=61.0, stderr=0.1),
        row("b", 5.0, budget=5, stderr=1.0),
        row("b", 3.8, budget=10, stderr=0.4),
        row("data", 1.0, budget=None, solver=""),
    ]
    found = {line[1]: line for line in leaders(rows)}
    assert list(found) == ["NFE 5", "NFE 10", "own NFE", "each at its best"]
    assert found["NFE 5"][2:] == ["b, heun", "5.0 ± 1.0", "a, heun", "10.0 ± 1.0", "5", "3.5", "ahead"]
    assert found["NFE 10"][-2:] == ["0.4", "not told apart"]
    assert found["own NFE"][-1] == "nothing to compare with"
    assert found["each at its best"][2:6] == ["a, rk45 at 61", "3.00 ± 0.10", "b, heun at 10", "3.80 ± 0.40"]


def test_a_setting_without_a_number_has_no_estimate(row):
    rows = [row("a", None), row("a", math.inf, budget=20), row("b", 2.0)]
    assert [e.process for e in estimates(rows, "FD[digits]")] == ["b"]


def test_the_headline_is_a_frechet_distance_where_there_is_one(row):
    other = row(metric="bits/dim", entry="bpd")
    assert headline([other, row()]) == "FD[digits]"
    assert headline([other]) == "bits/dim"
    assert headline([row(metric="unheard of", entry="")]) == ""
