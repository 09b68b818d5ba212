"""Errors, tests and verdicts: closed forms, scipy, and the share of null differences that get a verdict."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from genflow import estimates as es
from genflow.estimates import FAILS, HOLDS, NOT_MEASURED, ONE_SEED, UNDECIDED, Estimate, Judgement

DRAWS, FAMILIES = 10_000, 2500


def keyed(values, keys=None, seeds=None):
    return es.mean(dict(zip(keys or range(len(values)), map(float, values), strict=True)), es.TRAININGS, seeds)


def shares(first, second, make):
    """Percent of null differences, a row a draw, that get a verdict."""
    words = [es.judge(make(a, b)).word for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert set(words) <= {HOLDS, FAILS, UNDECIDED}
    return 100 * (len(words) - words.count(UNDECIDED)) / len(words)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_a_mean_has_the_standard_error_of_its_replicates():
    found = es.mean([1.0, 2.0, 6.0])
    assert (found.value, found.error, found.n, found.dof) == (3.0, pytest.approx(math.sqrt(7 / 3)), 3, 2)
    assert found.error == pytest.approx(stats.sem([1.0, 2.0, 6.0]))
    assert math.isnan(es.mean([1.0]).error)
    assert math.isnan(es.mean([1.0, math.nan]).error)


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    found = es.bootstrap(values, np.mean, draws=2000)
    assert found.error == pytest.approx(stats.sem(values), rel=0.06)
    assert found == es.bootstrap(values, np.mean, draws=2000)
    median = es.bootstrap(values, np.median, draws=2000)
    assert median.error == pytest.approx(math.sqrt(math.pi / 2 / 400), rel=0.25)  # asymptotic, normal density


def row(value, seed=0, **more):
    return {"value": value, "seed": seed, "stderr": None, "n": 500, "nfe": 20.0, **more}


def test_rows_are_over_trainings_then_over_draws_then_over_samples():
    over_seeds = es.of_rows([row(1.0, 0, stderr=9.0), row(3.0, 1, stderr=9.0)])
    assert (over_seeds.value, over_seeds.error, over_seeds.seeds, over_seeds.over) == (2.0, 1.0, 2, es.TRAININGS)
    draws = es.of_rows([row(1.0, 0, training="file"), row(3.0, 1, training="file")])
    assert (draws.value, draws.error, draws.seeds, draws.over) == (2.0, 1.0, 1, es.DRAWS)
    assert es.judge(draws).word == ONE_SEED
    alone = es.of_rows([row(1.0, stderr=0.25)])
    assert (alone.value, alone.error, alone.seeds, alone.n, alone.over) == (1.0, 0.25, 1, 500, es.SAMPLES)
    untrained = es.of_rows([row(1.0, 0, training=None), row(3.0, 1, training=None)])
    assert untrained.seeds is None
    both = es.of_rows([row(v, s, training=s // 2) for s, v in enumerate((1.0, 3.0, 6.0, 8.0))])
    assert (both.n, both.value, both.error) == (2, 4.5, pytest.approx(2.5))
    assert math.isnan(es.of_rows([row(None), row(1.0, 1)]).value)
    assert es.of_rows([row(1.0, k, nfe=10.0 * (k + 1)) for k in range(3)], "nfe").error == pytest.approx(
        10 / math.sqrt(3)
    )


# ---- differences and ratios against scipy ----------------------------------------------------------------------------


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5), rng.normal(size=5)
    assert es.p_value(keyed(a) - keyed(b)) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    shuffled = keyed(b[::-1], range(4, -1, -1))
    assert es.p_value(keyed(a) - shuffled) == pytest.approx(stats.ttest_rel(a, b).pvalue)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 9), (10, 5)])
def test_the_unpaired_test_is_scipys_welch(n, m):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=n), 3 * rng.normal(size=m)
    found, theirs = es.mean(list(a)) - es.mean(list(b)), stats.ttest_ind(a, b, equal_var=False)
    assert es.p_value(found) == pytest.approx(theirs.pvalue)
    assert found.dof == pytest.approx(theirs.df)
    assert es.interval(found) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_errors_without_replicates_are_welchs_too():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=50), rng.normal(size=80) + 0.3
    known = [Estimate(x.mean(), stats.sem(x), len(x)) for x in (a, b)]
    assert es.p_value(known[0] - known[1]) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert es.p_value(known[0] - es.exact(0.1)) == pytest.approx(stats.ttest_1samp(a, 0.1).pvalue)


def test_partly_shared_keys_are_compared_over_those():
    first, other = keyed([1.0, 2.0, 6.0, 50.0], (0, 1, 2, 7)), keyed([3.0, 3.0, 3.0, 0.0], (2, 1, 0, 9))
    found = first - other
    assert (found.value, found.n, found.dof) == (0.0, 3, 2)
    assert found.error == pytest.approx(stats.sem([-2.0, -1.0, 3.0]))
    assert es.ratio(first, other).value == 1.0
    alone = keyed([1.0, 5.0], (0, 1)) - keyed([3.0, 3.0], (1, 2))
    assert (alone.value, alone.dof) == (0.0, 1), "one shared seed is no pair"


def test_scheffes_mean_is_the_difference_of_the_means():
    found = es.mean([1.0, 2.0]) - es.mean([5.0, 6.0, 10.0, 30.0])
    assert (found.value, found.dof) == (pytest.approx(1.5 - 12.75), 1)
    other = es.mean([5.0, 6.0, 10.0, 30.0]) - es.mean([1.0, 2.0])
    assert (other.value, other.error) == (pytest.approx(-found.value), pytest.approx(found.error))


def test_a_ratio_of_pairs_has_no_error_where_each_pair_has_it():
    found = es.ratio(keyed([2.0, 4.0, 9.0]), keyed([1.0, 2.0, 4.5]))
    assert (found.value, found.error) == (2.0, pytest.approx(0, abs=1e-15))
    apart = es.ratio(Estimate(6.0, 0.3, 50), Estimate(2.0, 0.2, 50))
    assert (apart.value, apart.error) == (3.0, pytest.approx(3 * math.hypot(0.05, 0.1)))
    assert es.ratio(es.exact(1.0), es.exact(0.0)).value == math.inf


def test_rounding_is_no_difference():
    """Replicates that agree up to the last digits, and constant differences of which only rounding varies."""
    a = keyed([0.1 + 0.2, 1.1 + 2.2, 7.0])
    b = keyed([0.3, 3.3, 7.0])
    assert (a - b).value == (a - b).error == 0.0
    assert es.below(a, b).word == UNDECIDED
    thirds = [es.ratio(keyed([0.1, 0.7, 1.3]), keyed([0.3 * k, 2.1 * k, 3.9 * k])) for k in (1, 1 + 1e-16)]
    assert es.below(*thirds).word == UNDECIDED
    assert es.text(1000.0, 1e-14) == "1000.000000000000000 ± 0.000000000000010"


def test_ratios_are_compared_in_pairs():
    """What a seed does to all four numbers cancels."""
    scale = np.array([1.0, 5.0, 30.0])
    first, second = es.ratio(keyed(scale * 2.0), keyed(scale)), es.ratio(keyed(scale * 3.0), keyed(scale))
    assert es.below(first, second).word == HOLDS


# ---- a null difference gets a verdict in 5 % of the draws -----------------------------------------------------------


EACH = [n if n in (2, 3, 5) else pytest.param(n, marks=pytest.mark.slow) for n in range(2, 11)]
"""Numbers of replicates."""


def some(fast, slow):
    """Cases, those in `slow` for the long run alone."""
    return [*fast, *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("n", EACH)
@pytest.mark.parametrize(("correlation", "ratio"), [(0.8, 2.0), pytest.param(0.0, 10.0, marks=pytest.mark.slow)])
def test_paired_keeps_its_level(n, correlation, ratio):
    rng = np.random.default_rng(n)
    a = rng.normal(size=(DRAWS, n))
    b = ratio * (correlation * a + math.sqrt(1 - correlation**2) * rng.normal(size=a.shape))
    assert shares(a, b, lambda x, y: keyed(x) - keyed(y)) == pytest.approx(5, abs=1)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("ratio", [1.0, *(pytest.param(r, marks=pytest.mark.slow) for r in (0.1, 2.0, 10.0))])
@pytest.mark.parametrize(
    ("n", "m"), some([(2, 2), (3, 10), (10, 4), (5, 5)], [(2, 3), (3, 3), (2, 5), (10, 2), (4, 4), (4, 7), (5, 10)])
)
def test_unpaired_keeps_its_level(n, m, ratio):
    """Standard deviations in that ratio."""
    rng = np.random.default_rng(100 * n + m)
    a, b = rng.normal(size=(DRAWS, n)), ratio * rng.normal(size=(DRAWS, m))
    assert shares(a, b, lambda x, y: es.mean(x) - es.mean(y)) == pytest.approx(5, abs=1)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("correlation", [0.8, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("n", "m", "common"), some([(2, 10, 2), (5, 6, 5)], [(2, 3, 2), (3, 5, 3), (4, 10, 4), (5, 5, 3)])
)
def test_partly_shared_seeds_keep_their_level(n, m, common, correlation):
    """What a seed does to both is there in the shared seeds alone."""
    rng = np.random.default_rng(100 * n + m)
    b = rng.normal(size=(DRAWS, m))
    a = rng.normal(size=(DRAWS, n))
    a[:, :common] = correlation * b[:, :common] + math.sqrt(1 - correlation**2) * a[:, :common]
    keys = [*range(common), *range(-1, common - n - 1, -1)]
    assert shares(a, b, lambda x, y: keyed(x, keys) - keyed(y)) == pytest.approx(5, abs=1)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(("n", "m"), some([(2, 10), (5, 500)], [(2, 2), (3, 500), (4, 4)]))
@pytest.mark.parametrize("ratio", [1.0, *(pytest.param(r, marks=pytest.mark.slow) for r in (0.2, 5.0))])
def test_errors_without_replicates_are_wrong_no_more_often(n, m, ratio):
    """A mean over a few seeds against a number of which only the error and its n are known; errors in that ratio."""
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(DRAWS, n)), rng.normal(size=(DRAWS, 2))
    error = ratio / math.sqrt(n) * np.sqrt(rng.chisquare(m - 1, size=DRAWS) / (m - 1))
    other = iter([Estimate(ratio / math.sqrt(n) * float(x), float(e), m) for x, e in zip(b[:, 0], error, strict=True)])
    assert shares(a, b, lambda x, y: keyed(x) - next(other)) <= 6


@pytest.mark.parametrize("n", EACH)
def test_intervals_hold_the_truth(n):
    rng = np.random.default_rng(n)
    bounds = [es.interval(es.mean(x)) for x in (7 + rng.normal(size=(DRAWS, n))).tolist()]
    assert 100 * np.mean([low < 7 < high for low, high in bounds]) == pytest.approx(95, abs=1)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_family_of_claims_has_one_wrong_verdict_in_twenty(n):
    """Eight null claims: Holm's family-wise error is 5 % at most, without it 1 − 0.95^8 = 34 %."""
    rng, wrong, loose = np.random.default_rng(n), 0, 0
    for x in rng.normal(size=(FAMILIES, 8, n)).tolist():
        found = [es.judge(es.mean(one)) for one in x]
        loose += any(one.word != UNDECIDED for one in found)
        wrong += any(one.word != UNDECIDED for one in es.together(found))
    assert 100 * wrong / FAMILIES == pytest.approx(5, abs=1)
    assert 100 * loose / FAMILIES == pytest.approx(100 * (1 - 0.95**8), abs=3)


@pytest.mark.slow
def test_claims_that_need_all_are_wrong_no_more_often():
    """ "First is less than four others" where all are alike; and where only one other is alike and the rest are far."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FAMILIES, 5, 5))
    for shift in (0.0, 50.0):
        words = []
        for one in (x + shift * (np.arange(5) > 1)[:, None]).tolist():
            words.append(es.lowest("0", {str(k): keyed(v) for k, v in enumerate(one)}).word)
        assert 100 * (words.count(HOLDS) + words.count(FAILS)) / len(words) < 6
    assert 100 * words.count(HOLDS) / len(words) == pytest.approx(2.5, abs=1)  # the side where it holds


def test_holm_is_the_closed_form():
    assert es.holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True
    )
    assert es.holm([0.6, 0.9]) == [1.0, 1.0]


def test_the_smallest_difference_is_where_the_verdict_turns():
    gap = es.mean([1.0, 2.0, 6.0])
    edge = es.least_seen(gap)
    assert edge == pytest.approx(gap.error * stats.t.ppf(0.975, 2))
    for factor, word in ((1.001, HOLDS), (0.999, UNDECIDED)):
        assert es.judge(Estimate(edge * factor, gap.error, gap.n)).word == word


# ---- verdicts --------------------------------------------------------------------------------------------------------


def test_one_training_seed_is_not_judged_whatever_its_error():
    one, other = Estimate(1.0, 1e-6, 500, seeds=1), Estimate(9.0, 1e-6, 500, seeds=1)
    assert es.below(one, other).word == ONE_SEED
    assert es.below(one, es.exact(5.0)).word == ONE_SEED
    assert es.below(keyed([1.0, 1.1], seeds=2), other).word == ONE_SEED
    assert es.below(es.ratio(one, other), es.exact(1.0)).word == ONE_SEED
    assert es.below(Estimate(1.0, 1e-6, 500), Estimate(9.0, 1e-6, 500)).word == HOLDS, "nothing was trained"


def test_exact_numbers_need_no_test_and_unknown_errors_have_none():
    assert es.below(es.exact(1.0), es.exact(2.0)).word == HOLDS
    assert es.below(es.exact(2.0), es.exact(1.0)).word == FAILS
    assert es.below(es.exact(1.0), es.exact(1.0)).word == UNDECIDED
    assert es.below(Estimate(1.0), es.exact(2.0)) == Judgement(UNDECIDED, pytest.approx(math.nan, nan_ok=True), HOLDS)
    assert es.judge(Estimate(math.nan)).word == NOT_MEASURED


def claims(*told):
    return [Judgement(leans if p <= 0.05 else UNDECIDED, p, leans) for leans, p in told]


def test_all_of_several():
    yes, no, open_ = (HOLDS, 0.01), (FAILS, 0.01), (HOLDS, 0.2)
    assert es.all_of(claims(yes, (HOLDS, 0.04))).p == 0.04
    assert es.all_of(claims(yes, yes)).word == HOLDS
    assert es.all_of(claims(yes, open_)).word == UNDECIDED
    assert es.all_of(claims(yes, no)).word == FAILS
    assert es.all_of(claims(yes, (FAILS, 0.03))).word == UNDECIDED, "twice 0.03"
    assert es.all_of([Judgement(ONE_SEED), *claims(yes)]).word == ONE_SEED
    assert es.all_of([Judgement(ONE_SEED), *claims(no)]).word == FAILS
    assert es.all_of([Judgement(NOT_MEASURED), Judgement(ONE_SEED)]).word == NOT_MEASURED
    assert es.all_of([]).word == NOT_MEASURED


def test_any_of_several_is_all_of_the_opposites():
    yes, no, open_ = (HOLDS, 0.01), (FAILS, 0.01), (HOLDS, 0.2)
    assert es.any_of(claims(yes, no)).word == HOLDS
    assert es.any_of(claims(no, no)).word == FAILS
    assert es.any_of(claims(open_, no)).word == UNDECIDED


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (3.0466, 0.00146, "3.0466 ± 0.0015"),
        (313.24, 10.3, "313 ± 10"),
        (12345.6, 312.0, "12346 ± 312"),
        (12.5, 0.779, "12.50 ± 0.78"),
        (0.5, math.nan, "0.5"),
        (2.0, 0.0, "2"),
        (1234.5, math.nan, "1234"),
        (-0.001, 12.0, "0 ± 12"),
        (1.23e-11, 4.5e-13, "(1.230 ± 0.045)e-11"),
        (math.nan, 1.0, "–"),
        (math.inf, 1.0, "∞"),
    ],
)
def test_a_number_has_as_many_digits_as_its_error(value, error, words):
    assert es.text(value, error) == words


def test_signs():
    assert es.text(1.25, 0.12, signed=True) == "+1.25 ± 0.12"
    assert es.text(-1.25, 0.12, signed=True) == "−1.25 ± 0.12"
    assert es.text(0.0, signed=True) == "0"


def test_the_caption_says_what_the_error_is_over():
    assert es.meaning([keyed([1.0, 2.0], seeds=2)]) == "± is one standard error, of the mean over 2 training seeds"
    alone = es.of_rows([row(1.0, stderr=0.1)])
    assert es.meaning([alone]) == "± is one standard error, over samples or blocks of one training seed"
    assert es.meaning([es.exact(1.0)]) == ""


def test_the_module_imports_neither_torch_nor_scipy():
    code = "import sys, genflow.estimates as e; e.mean([1., 2.]); assert not {'torch', 'scipy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
