"""Two-sample numbers and the KL divergence as metrics of the bench, nats of vectors, and protocols that do not mix."""

import math

import numpy as np
import pytest
import torch

import genflow
from genflow.config import BenchConfig, build
from genflow.data.base import Dataset
from genflow.evaluate.base import Context, rows_as_dicts
from genflow.evaluate.likelihood import LikelihoodMetric
from genflow.evaluate.protocol import MISSING, bias_note, check_protocols, is_missing, reason
from genflow.evaluate.vectors import DivergenceMetric, TwoSampleMetric
from genflow.process.distributions import GaussianMixture
from genflow.solver.ending import words_of


class Table(Dataset):
    """Correlated Gaussian rows of six numbers: log_prob in closed form, no grey levels."""

    name, shape = "table", (6,)

    def __init__(self, n=300):
        mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 2
        self.law = torch.distributions.MultivariateNormal(torch.zeros(6).double(), mix @ mix.T + torch.eye(6) / 2)
        draws = torch.randn(3 * n, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        points = (draws @ self.law.scale_tril.T).float()
        self.train, self.test, self.fresh = points.split(n)

    def log_prob(self, x):
        return self.law.log_prob(x.double())


def two_gaussians(**options):
    return genflow.get_dataset("gaussian_mixture", size=500, **options)


def oracle(data_law, name="vp_ode"):
    """The process and its exact network for data of a Gaussian mixture."""
    process = genflow.get_process(name)
    return process, process.oracle(data_law)


def context(data, samples=None, **config):
    return Context(build(BenchConfig, {"bpd.examples": 200, **config}), data, 0, samples=samples)


def numbers(result):
    return {row.metric: row for row in result.rows}


def test_two_sample_numbers_of_fresh_data_are_at_the_floor_and_of_shifted_data_are_not():
    data = Table()
    metric = TwoSampleMetric(directions=60)
    fresh = numbers(metric.measure(context(data, data.fresh)))
    floor = numbers(metric.floor(context(data)))
    shifted = numbers(metric.measure(context(data, data.train + 1)))
    assert list(fresh) == ["sliced_W2", "MMD²", "energy", "C2ST[logistic]", "C2ST[knn]"]
    for name in fresh:
        assert shifted[name].value > fresh[name].value
        assert shifted[name].value > floor[name].value
        assert "the training split" in floor[name].protocol
        assert (fresh[name].n, floor[name].n) == (300, 300)
    assert shifted["MMD²"].value > 5 * shifted["MMD²"].stderr
    assert abs(fresh["C2ST[knn]"].value - 0.5) < 4 * fresh["C2ST[knn]"].stderr
    # a shift by 1 in each of 6 coordinates: W2 of the projections is |θ·1|, its mean square 1
    assert shifted["sliced_W2"].value == pytest.approx(1, rel=0.15)


def test_two_sample_numbers_are_reproducible_and_bounded():
    data = Table()
    one, two = (TwoSampleMetric(points=50).measure(context(data, data.train)) for _ in range(2))
    assert rows_as_dicts(one.rows) == rows_as_dicts(two.rows)
    assert {row.n for row in one.rows} == {50}

    class Wide(Table):
        name, shape = "wide", (3, 32, 32)

    (row,) = TwoSampleMetric().measure(context(Wide(), torch.zeros(4, 3, 32, 32))).rows
    assert reason(vars(row)).startswith("two-sample distances are for vectors of up to 1024")


@pytest.mark.parametrize("options", [{"points": 3}, {"directions": 1}, {"bandwidth": math.nan}])
def test_two_sample_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TwoSampleMetric(**options)


def law(shift=0.0):
    return GaussianMixture([[shift, 0.0]], 0.8)


def test_kl_of_the_exact_model_is_zero_and_of_a_shifted_one_is_the_closed_form():
    """KL(N(0, s²) ‖ N(m, s²)) = |m|²/2s²; the mean over draws within their own standard error."""
    data = two_gaussians(means=[[0.0, 0.0]], scales=[0.8], weights=[1.0])
    for shift in (0.0, 0.5):
        scene = context(data, **{"bpd.rtol": 1e-5, "bpd.atol": 1e-5})
        scene.process, scene.backbone = oracle(law(shift))
        (row,) = DivergenceMetric().measure(scene).rows
        want = shift**2 / (2 * 0.8**2)
        assert abs(row.value - want) <= 4 * row.stderr + 2e-3
        assert row.n == 200
        assert "exact trace" in row.protocol
        assert row.nfe > 5
        if shift:
            x = data.test[:200].double()
            draws = (x[:, 0] ** 2 - (x[:, 0] - shift) ** 2) / (2 * 0.8**2)
            assert row.value == pytest.approx(-float(draws.mean()), abs=5e-3)  # vp forgets x_0 to e⁻⁵


def test_no_density_no_kl():
    scene = context(genflow.get_dataset("two_moons", size=50))
    scene.process, scene.backbone = oracle(law())
    (row,) = DivergenceMetric().measure(scene).rows
    assert reason(vars(row)) == "the data set 'two_moons' has no closed-form density"


def test_nats_of_a_table_are_the_exact_models_own():
    """Six correlated columns, the exact network of their Gaussian: −log p in closed form, row by row in the mean."""
    data = Table()
    scene = context(data, **{"bpd.rtol": 1e-4, "bpd.atol": 1e-4, "bpd.examples": 100})
    process = genflow.get_process("vp_ode")
    known = GaussianMixture([[0.0] * 6], covariances=data.law.covariance_matrix[None])
    scene.process, scene.backbone = process, process.oracle(known)
    (row,) = LikelihoodMetric().measure(scene).rows
    truth = -data.log_prob(data.test[:100])
    assert row.metric == "nll[nats]"
    assert row.value == pytest.approx(float(truth.mean()), abs=0.15)  # one Hutchinson probe a row
    assert row.stderr == pytest.approx(float(truth.std()) / 10, rel=0.3)
    (gap,) = DivergenceMetric().measure(scene).rows
    assert abs(gap.value) < 5e-3  # the exact trace has no such noise


def row(**changes):
    base = {"process": "a", "dataset": "digits", "metric": "FID", "n": 500, "protocol": "clean"}
    return base | changes


def test_tables_refuse_to_mix_protocols_unless_told():
    good = [
        row(),
        row(process="b"),
        row(process="data", n=100, protocol="of real data"),
        row(metric="FD[digits]", protocol="other"),
        row(protocol=f"{MISSING}no weights"),
        row(metric="FD[digits]@norm*2", protocol="at t = 1"),
        row(metric="FD[digits]@norm*2", protocol="at t = 2"),
    ]
    check_protocols(good)
    for change in ({"protocol": "legacy_pytorch"}, {"n": 1000}, {"dataset": "mnist5k"}):
        with pytest.raises(ValueError, match="FID was measured in two ways") as error:
            check_protocols([*good, row(**change)])
        assert "digits, n = 500, clean" in str(error.value)
        assert str(next(iter(change.values()))) in str(error.value)
        assert "--allow-mixed" in str(error.value)
        check_protocols([*good, row(**change)], allow_mixed=True)


def test_a_missing_number_is_known_by_its_protocol():
    assert is_missing(row(protocol=f"{MISSING}why"))
    assert not is_missing(row())
    assert reason(row(protocol=f"{MISSING}why")) == "why"


def test_bias_is_told_at_small_n_only():
    assert bias_note(10_000) == ""
    assert "n = 500 is small" in bias_note(500)
    assert "real data gets 5.61 at n = 400" in bias_note(500, 5.612, 400)


def test_errors_of_rows_are_numbers():
    rows = TwoSampleMetric(points=40).measure(context(Table(), Table().train)).rows
    assert all(np.isfinite(r.stderr) for r in rows)


def test_the_two_sample_floor_is_at_the_samples_n():
    data = Table()
    scene = Context(build(BenchConfig, {"samples": 80}), data, 0, samples=data.fresh[:80])
    metric = TwoSampleMetric()
    assert {row.n for row in metric.measure(scene).rows} == {row.n for row in metric.floor(scene).rows} == {80}


def test_the_frame_of_a_solvers_steps_does_not_part_a_table_but_its_end_does():
    """Solvers that choose their own steps have no frame, and stand beside those that have one."""
    given = {"end": "none", "end_noise": "own"}
    own, framed = words_of(given), words_of({**given, "frame": "sigma"})
    rows = [{"process": "a", "metric": "FD[own]", "dataset": "d", "n": 9, "value": 1.0} for _ in range(3)]
    rows = [row | {"protocol": f"p; {words}"} for row, words in zip(rows, (own, framed, "end: mean"), strict=True)]
    assert own != framed
    check_protocols(rows[:2])
    with pytest.raises(ValueError, match="measured in two ways"):
        check_protocols(rows)
