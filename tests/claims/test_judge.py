"""Numbers over seeds, and verdicts, on made-up rows with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genflow.claims import judge
from genflow.claims.judge import asked, distance, every, fewer_calls, grows_less, less, near, quality
from genflow.claims.results import EXACT, Results, calls, row
from genflow.estimates import NOT_MEASURED, ONE_SEED, ratio
from genflow.evaluate.facts import Number


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
    assert str(found) == "3.0 ± 1.5"


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


def untrained(process, value, error, **more):
    """A number of an exact field with an error over examples."""
    return measured(process, [value], stderr=error, backbone=EXACT, **more)


@pytest.mark.parametrize(("second", "word"), [(2.0, "holds"), (0.1, "does not hold"), (1.05, "undecided")])
def test_less_is_decided_by_a_test_over_seeds(second, word):
    results = made(measured("a", [1.0, 1.1, 0.9]), measured("b", [second + 0.05, second, second - 0.05]))
    verdict = less(quality("a"), quality("b"), ("A", "B"))(results)
    assert verdict.word == word
    assert "A 1.000 ± 0.058" in verdict.evidence
    assert verdict.gap.value == pytest.approx(second - 1)


def test_one_training_seed_is_not_judged():
    results = made(measured("a", [1.0], stderr=1e-6), measured("b", [2.0], stderr=1e-6))
    verdict = less(quality("a"), quality("b"), ("A", "B"))(results)
    assert verdict.word == ONE_SEED
    assert "A 1.0000000 ± 0.0000010" in verdict.evidence
    assert (
        less(quality("a"), quality("b"), ("A", "B"))(made(measured("a", [1.0]), measured("b", [2.0]))).word == ONE_SEED
    )


@pytest.mark.parametrize(("second", "word"), [(2.0, "holds"), (0.1, "does not hold"), (1.05, "undecided")])
def test_an_exact_field_has_no_training(second, word):
    """Its numbers are judged by their errors over examples; beside a trained model's they are not."""
    results = made(untrained("a", 1.0, 0.1), untrained("b", second, 0.1))
    assert less(quality("a"), quality("b"), ("A", "B"))(results).word == word
    assert results.find(process="a").seeds is None
    mixed = made(untrained("a", 1.0, 0.1), measured("b", [second], stderr=0.1, backbone="mlp"))
    assert less(quality("a"), quality("b"), ("A", "B"))(mixed).word == ONE_SEED


def test_what_was_not_measured_is_not_judged():
    results = made(measured("a", [1.0]))
    for judge_ in (
        less(quality("a"), quality("b"), ("A", "B")),
        near(quality("a"), quality("b"), ("A", "B"), 1.1),
        grows_less("a", ("b",), 10, 20),
    ):
        assert judge_(results).word == NOT_MEASURED


@pytest.mark.parametrize(("within", "word"), [(1.5, "holds"), (1.25, "undecided"), (1.0, "does not hold")])
def test_near_allows_a_factor(within, word):
    """The ratio 1.2 has the error 1.2 √(0.05² + 0.05²) = 0.085."""
    results = made(untrained("a", 1.2, 0.06), untrained("b", 1.0, 0.05))
    verdict = near(quality("a"), quality("b"), ("A", "B"), within)(results)
    assert verdict.word == word
    assert "ratio 1.200 ± 0.085" in verdict.evidence


def test_a_ratio_is_taken_seed_by_seed():
    """Where each seed has the same ratio it has no error, however the seeds differ; nor where seeds are shuffled."""
    one = made(measured("a", [2.0, 4.0, 9.0])).find(process="a")
    other = made(measured("a", [1.0, 2.0, 4.5])[::-1]).find(process="a")
    assert ratio(one, other).error == pytest.approx(0, abs=1e-15)
    assert math.hypot(one.error / one.value, other.error / other.value) > 0.5


def test_the_error_of_a_ratio_of_seeds_is_the_spread_of_many_runs():
    """Against a brute force: the standard deviation of the ratio over 4,000 repetitions of 20 correlated seeds."""
    rng = np.random.default_rng(0)
    under = 10 + rng.normal(size=(4000, 20))
    over = 1.5 * under + 0.5 * rng.normal(size=under.shape)
    spread = float((over.mean(1) / under.mean(1)).std())
    told = [
        ratio(*(made(measured("a", list(x[k]))).find(process="a") for x in (over, under))).error for k in range(200)
    ]
    assert float(np.mean(told)) == pytest.approx(spread, rel=0.06)


def test_calls_have_an_error_over_seeds():
    rows = [{**one, "nfe": 10.0 * (k + 1)} for k, one in enumerate(measured("a", [1.0, 1.0, 1.0], stderr=0.1))]
    found = calls(made(rows).find(process="a"))
    assert (found.value, found.error) == (20.0, pytest.approx(10 / math.sqrt(3)))
    assert math.isnan(calls(made(rows[:1]).find(process="a")).error)


@pytest.mark.parametrize(("other", "word"), [(60, "holds"), (41, "undecided"), (20, "does not hold")])
def test_fewer_calls_are_decided_by_their_spread(other, word):
    rows = [measured(name, [1.0] * 3) for name in "ab"]
    for one, middle in zip(rows, (40, other), strict=True):
        for k, row_ in enumerate(one):
            row_["nfe"] = middle + (k - 1 if middle == 40 else 1 - k)
    verdict = fewer_calls(quality("a"), quality("b"), ("A", "B"))(made(*rows))
    assert verdict.word == word
    assert "A 40.00 ± 0.58" in verdict.evidence


def test_growth_is_a_ratio_of_budgets():
    results = made(
        untrained("a", 3.0, 0.0),
        untrained("a", 2.0, 0.0, budget=50),
        untrained("b", 1.0, 0.0),
        untrained("b", 0.1, 0.0, budget=50),
    )
    verdict = grows_less("a", ("b",), 10, 50)(results)
    assert verdict.word == "holds"
    assert "a 3 for 2 (1.5 times), b 1 for 0.1 (10 times)" in verdict.evidence
    assert grows_less("b", ("a",), 10, 50)(results).word == "does not hold"


def test_growth_within_its_errors_is_undecided():
    def ends(process, value, error):
        return untrained(process, value, error) + untrained(process, 10.0, error, budget=50)

    verdict = grows_less("a", ("b",), 10, 50)(made(ends("a", 20.0, 5.0), ends("b", 20.1, 5.0)))
    assert verdict.word == "undecided"
    assert "(2.0 ± 1.1 times)" in verdict.evidence
    assert grows_less("a", ("b",), 10, 50)(made(ends("a", 20.0, 0.1), ends("b", 30.0, 0.1))).word == "holds"
    assert grows_less("b", ("a",), 10, 50)(made(ends("a", 20.0, 0.1), ends("b", 30.0, 0.1))).word == "does not hold"


def test_the_least_of_all_needs_all():
    """One that is not measured leaves it open, unless another already refutes it."""
    rows = [
        untrained("a", 3.0, 0.1),
        untrained("a", 2.0, 0.1, budget=50),
        untrained("b", 9.0, 0.1),
        untrained("b", 2.0, 0.1, budget=50),
    ]
    verdict = grows_less("a", ("b", "c"), 10, 50)(made(*rows))
    assert verdict.word == NOT_MEASURED
    assert "c: not measured" in verdict.evidence
    assert grows_less("b", ("a", "c"), 10, 50)(made(*rows)).word == "does not hold"


def test_all_of_several():
    results = made(*(untrained(name, value, 0.1) for name, value in (("a", 1.0), ("b", 2.0), ("c", 0.5))))
    first, second = (less(quality("a"), quality(name), ("A", name)) for name in "bc")
    assert every([first])(results).word == "holds"
    assert every([first, second])(results).word == "does not hold"


def test_inception_distances_come_before_others():
    results = made(measured("a", [1.0]), measured("a", [7.0], metric="FID"))
    assert asked(quality("a"), results).value == 7.0


def test_a_frechet_distance_is_what_its_metric_says_it_is(monkeypatch):
    """By facts, not by name: one of a plugin counts; pushed paths, divergences and a study's own numbers do not."""
    others = ("FD[digits]@norm*1", "KL[nats]", "bits/dim", "distance, pasted", "FID of my own")
    with pytest.raises(LookupError):
        distance(made(*(measured("a", [1.0], metric=name) for name in others)))
    known = judge.facts
    own = Number("Mine", better="lower", bias=True)
    monkeypatch.setattr(judge, "facts", lambda row: own if row["metric"] == "Mine[x]" else known(row))
    assert distance(made(measured("a", [1.0], metric="Mine[x]"), measured("a", [2.0], metric="KL[nats]"))) == "Mine[x]"
    assert distance(made(measured("a", [1.0], metric="Mine[x]"), measured("a", [2.0], metric="FID"))) == "FID"


@pytest.mark.parametrize("factor", [True, False])
def test_a_growth_is_a_factor_or_a_difference(factor):
    """a grows from 1 to 3, b from 10 to 20: by factors a loses more, by differences b does."""
    ends = [("a", 3.0, 10), ("a", 1.0, 50), ("b", 20.0, 10), ("b", 10.0, 50)]
    results = made(*(untrained(name, value, 0.01, budget=budget) for name, value, budget in ends))
    assert grows_less("a", ("b",), 10, 50, factor)(results).word == ("does not hold" if factor else "holds")


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_a_null_claim_gets_a_verdict_in_one_of_twenty_draws(seeds):
    """Two processes alike, over seeds that they share."""
    rng, draws = np.random.default_rng(seeds), 1500
    claim = less(quality("a"), quality("b"), ("A", "B"))
    words = [
        claim(made(measured("a", list(a)), measured("b", list(b)))).word
        for a, b in rng.normal(10, 1, size=(draws, 2, seeds))
    ]
    share = 100 * (words.count("holds") + words.count("does not hold")) / draws
    assert share == pytest.approx(5, abs=1.7)  # three standard errors of the share


@pytest.mark.parametrize("beside", ["FD_test", "FD∞", "FD∞_test", "KD", "nearer_train"])
def test_the_distance_of_a_claim_is_the_headline_whatever_stands_beside_it(beside):
    rows = [measured("a", [3.0], f"{beside}[digits]", entry="fd"), measured("a", [1.0], entry="fd")]
    for order in (rows, rows[::-1]):
        results = made(*order)
        assert distance(results) == "FD[digits]"
        assert asked(quality("a"), results).value == 1.0
