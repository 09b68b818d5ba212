"""The norm study: spread and tie against closed forms, the grid with its push, and the whole study on an oracle."""

import math

import pytest
import torch

import genflow
from genflow.config import BenchConfig, NormConfig, build
from genflow.evaluate.base import Context
from genflow.evaluate.metrics import LikelihoodMetric, NormMetric
from genflow.evaluate.norm_z import push_grid, spread, tied
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VP
from genflow.solver.ode import Euler, Heun


def test_spread_is_the_interquartile_range_of_the_log():
    norms = (0.3 * torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))).exp()
    assert spread(norms) == pytest.approx(2 * 0.6745 * 0.3, rel=0.02)


def test_tied_is_one_for_a_function_of_time_and_zero_for_noise():
    times = torch.linspace(1, 5, 6)[:, None]
    assert tied(times.expand(6, 100)) == pytest.approx(1.0)
    noise = torch.randn(6, 50_000, generator=torch.Generator().manual_seed(0)).exp()
    assert abs(tied(noise)) < 1e-3
    both = times * torch.randn(6, 50_000, generator=torch.Generator().manual_seed(0)).exp()
    between = float(times.log().var(correction=0))
    assert tied(both) == pytest.approx(between / (between + 1), abs=0.01)


@pytest.mark.parametrize("process", [PFGM(dim=64, norm=6.4), VP()])
@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_the_push_is_where_noise_equals_signal_and_the_budget_is_kept(process, solver):
    grid, middle, push, nfe = push_grid(process, solver, 20, 1.0, 64)
    c = process.coefficients(torch.tensor(push, dtype=torch.float64))
    median = process.base.median_radius(64)
    assert float(c.b) * median == pytest.approx(float(c.a) * 8, rel=1e-6)
    assert float(grid[middle]) == push
    assert bool((grid.diff() < 0).all())
    assert 18 <= nfe <= 20
    assert nfe == sum(solver.plan_steps(middle)) + sum(solver.plan_steps(len(grid) - 1 - middle))


def test_median_radius_is_the_median_of_draws():
    for base in (PFGM.base, VP.base):
        draws = base.sample((20_000, 9), generator=torch.Generator().manual_seed(0), dtype=torch.float64).norm(dim=1)
        assert float(draws.median()) == pytest.approx(base.median_radius(9), rel=0.03)


def context(name, **more):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name).for_data(data.scaling.encode(data.train))
    oracle = process.oracle(data.scaling.encode(data.train))
    config = build(BenchConfig, {"samples": 60, "norm.factors": (0.5, 2.0), "norm.nfe": 12, "bpd.examples": 20, **more})
    assert isinstance(config.norm, NormConfig)
    return Context(config, data, 0, process, oracle)


@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_the_metric_reports_every_number_with_its_protocol(name):
    result = NormMetric().measure(context(name, samples=300))
    found = {r.metric: r for r in result.rows}
    assert set(found) == {
        "norm_spread[train]", "norm_spread[path]", "norm_tied[train]", "norm_tied[path]",
        "FD[digits]@norm*1", "FD[digits]@norm*0.5", "FD[digits]@norm*2",
    }  # fmt: skip
    assert all(math.isfinite(r.value) and r.protocol for r in result.rows)
    assert found["FD[digits]@norm*1"].nfe <= 12
    # an oracle's paths follow the training perturbations
    assert found["norm_spread[path]"].value == pytest.approx(found["norm_spread[train]"].value, rel=0.4)


@pytest.mark.slow
def test_bits_per_dim_of_an_oracle_is_finite_and_says_its_formula():
    (row,) = LikelihoodMetric().measure(context("vp_ode")).rows
    assert math.isfinite(row.value)
    assert row.stderr > 0
    assert "N log s" in row.protocol
    assert row.n == 20


def test_samples_are_measured_in_blocks_of_the_floor_s_size():
    from statistics import fmean

    from genflow.evaluate.metrics import FrechetMetric

    scene = context("vp_ode")
    scene.samples = scene.dataset.train[:1200]
    row = FrechetMetric().measure(scene).rows[0]
    blocks = [scene.frechet(scene.samples[i : i + 500]) for i in (0, 500)]
    assert row.value == pytest.approx(fmean(blocks))
    assert row.stderr == pytest.approx(abs(blocks[0] - blocks[1]) / 2)
    assert row.n == 500
    assert "2 blocks" in row.protocol
