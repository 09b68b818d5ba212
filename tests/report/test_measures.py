"""Settings with their errors, who is ahead, and the family of tests."""

import math
import statistics

import numpy as np
import pytest

from genflow import estimates as es
from genflow.evaluate.facts import headline, number_of
from genflow.registry import registries
from genflow.report.measures import leaders, measured, setting

VALUES = [3.0, 4.0, 6.5]


def test_over_seeds_the_error_is_the_deviation_over_the_root_of_their_number(row):
    found = setting([row(value=v, seed=s, stderr=9.0) for s, v in enumerate(VALUES)]).number
    assert found.value == pytest.approx(statistics.mean(VALUES))
    assert found.error == pytest.approx(statistics.stdev(VALUES) / math.sqrt(3))
    assert found.seeds == 3


def test_one_seed_has_its_own_error_or_none(row):
    assert setting([row(stderr=0.25)]).number.error == 0.25
    assert math.isnan(setting([row(stderr=None)]).number.error)


def better(metric, entry=""):
    return number_of(metric, entry).better


def test_which_way_is_better():
    assert [better(m) for m in ("FD[digits]", "bits/dim", "KID", "nll[nats]")] == ["lower"] * 4
    assert [better(m) for m in ("IS", "precision[digits]", "Coverage")] == ["higher"] * 3
    assert better("FD[digits]@norm*2") == better("norm_spread[path]") == better("unheard of") == ""
    assert better("isotropy") == better("fidelity") == "", "the beginning of a name says nothing"


def test_a_catalogue_entry_says_it_itself():
    registries()["metrics"].add("my_score", object, tags={"better": "higher"})
    try:
        assert better("my number", "my_score") == "higher"
        assert better("FD[mine]", "my_score") == "higher", "of its own numbers, whatever another's are called"
    finally:
        registries()["metrics"].remove("my_score")


def seeds_of(row, process, values, **more):
    return [row(process, v, seed=s, **more) for s, v in enumerate(values)]


def test_leaders_at_each_budget_and_with_each_at_its_best(row):
    rows = [
        *seeds_of(row, "a", (10.0, 10.1, 10.2), budget=5),
        *seeds_of(row, "a", (4.0, 4.4, 4.2), budget=10),
        *seeds_of(row, "a", (3.0, 3.1, 3.2), solver="rk45", budget=None, nfe=61.0),
        *seeds_of(row, "b", (5.0, 5.1, 5.3), budget=5),
        *seeds_of(row, "b", (3.8, 4.5, 4.2), budget=10),
        row("data", 1.0, budget=None, solver=""),
    ]
    found = {one.where: one.cells() for one in leaders(rows)}
    assert list(found) == ["NFE 5", "NFE 10", "own NFE", "each at its best"]
    line = found["NFE 5"]
    assert line[2:6] == ["b, heun", "5.133 ± 0.088", "a, heun", "10.100 ± 0.058"]
    assert line[6] == "4.967 ± 0.033"  # seed by seed 5, 5, 4.9
    assert line[-1] == "holds"
    assert found["NFE 10"][-1] == "undecided"
    assert found["own NFE"][-1] == "nothing to compare with"
    assert found["each at its best"][2:6] == ["a, rk45 at 61", "3.100 ± 0.058", "b, heun at 10", "4.17 ± 0.20"]


def test_the_lines_of_the_summary_are_one_family(row):
    """p is Holm's: of three tests the smallest is taken three times."""
    rows = []
    for budget, gaps in ((5, (5.0, 5.2, 4.8)), (10, (0.3, 0.5, 1.1)), (20, (0.1, -0.2, 0.3))):
        rows += seeds_of(row, "a", (1.0, 2.0, 3.0), budget=budget)
        rows += seeds_of(row, "b", [v + g for v, g in zip((1.0, 2.0, 3.0), gaps, strict=True)], budget=budget)
    found = leaders(rows)
    raw = [es.p_value(one.gap) for one in found]
    assert [one.p for one in found] == pytest.approx(es.holm(raw))
    assert found[0].p == pytest.approx(4 * raw[0])  # with the line of each at its best
    assert found[0].least_seen == pytest.approx(es.least_seen(found[0].gap, 0.05 / 4))


def test_one_training_seed_is_not_judged_whatever_its_error(row):
    (lead,) = leaders([row("a", 1.0, stderr=1e-6), row("b", 9.0, stderr=1e-6)])
    assert lead.cells()[-3:] == ["–", "–", "one seed: not judged"]
    several = [
        row(p, v, seed=s, training="file") for p in "ab" for s, v in enumerate((1.0, 1.1) if p == "a" else (9, 9))
    ]
    assert leaders(several)[0].judgement.word == es.ONE_SEED, "draws of one checkpoint are one training"


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(("draws", "within"), [(1500, 1.7), pytest.param(10_000, 1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize(
    "seeds", [(range(2), range(2)), (range(5), range(5)), (range(3), range(5)), (range(2), range(4, 9))], ids=str
)
def test_a_null_lead_gets_a_verdict_in_one_of_twenty_draws(row, seeds, correlation, draws, within):
    """Two processes with the same distribution, at one budget: the better mean is not better.

    Their seeds are the same, some are shared, or none; what a seed does to both is `correlation` of their variance.
    """
    rng, said = np.random.default_rng(len(seeds[1])), 0
    for own, common in zip(rng.normal(size=(draws, 2, 10)), rng.normal(size=(draws, 10)), strict=True):
        x = 10 + math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
        (lead,) = leaders([row(p, x[k, s], seed=s) for k, p in enumerate("ab") for s in seeds[k]])
        said += lead.judgement.word != es.UNDECIDED
    assert 100 * said / draws == pytest.approx(5, abs=within)  # three standard errors of the share


def test_a_setting_without_a_number_has_no_estimate(row):
    rows = [row("a", None), row("a", math.inf, budget=20), row("b", 2.0)]
    assert [e.process for e in measured(rows, "FD[digits]")] == ["b"]


def test_the_headline_is_a_frechet_distance_where_there_is_one(row):
    other = row(metric="bits/dim", entry="bpd")
    assert headline([other, row()]) == "FD[digits]"
    assert headline([other]) == "bits/dim"
    assert headline([row(metric="unheard of", entry="")]) == ""
