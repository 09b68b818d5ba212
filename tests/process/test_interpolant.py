"""Interpolants: their ends, their SDE's ε, and the score from the velocity as the papers give it."""

import math

import pytest
import torch

import genflow
from genflow.process.paths import SILinear, SITrig

F64 = torch.float64
BOTH = pytest.mark.parametrize("process", [SILinear(), SITrig()], ids=["linear", "trig"])


@BOTH
def test_ends_are_noise_and_data(process):
    x, noise = torch.randn(5, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    torch.testing.assert_close(process.interpolate(x, noise, torch.tensor(0.0)), noise)
    torch.testing.assert_close(process.interpolate(x, noise, torch.tensor(1.0)), x)


@BOTH
def test_diffusion_is_bounded_and_a_times_that_of_score_sdes(process):
    t = torch.linspace(1e-6, 1, 100, dtype=F64)
    found = process.natural_diffusion(t)
    want = {"SILinear": 1 - t, "SITrig": math.pi / 2 * (math.pi / 2 * t).cos()}[type(process).__name__]
    torch.testing.assert_close(found, want)
    inner = t[1:-1]
    score_sde = super(type(process).__mro__[1], process).natural_diffusion(inner)
    torch.testing.assert_close(found[1:-1], process.coefficients(inner).a * score_sde)


def test_score_from_the_trigonometric_velocity():
    """s = −x + (2/π) tan(πt/2) v, as in Albergo & Vanden-Eijnden 2023."""
    process, points = SITrig(), torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    field, x = process.field(process.oracle(points)), torch.randn(4, 3, dtype=F64)
    for t in (0.05, 0.5, 0.9):
        at = torch.tensor(t, dtype=F64)
        want = -x + 2 / math.pi * math.tan(math.pi * t / 2) * field.velocity(x, at)
        torch.testing.assert_close(field.score(x, at), want)


def test_straight_lines_to_one_point():
    """One data point: v = (X − x)/(1 − t), so one Euler step of the linear path lands on the path's end."""
    process, point = SILinear(), torch.tensor([[2.0, -1.0]], dtype=F64)
    start = process.sample_prior((4, 2), generator=torch.Generator().manual_seed(0), dtype=F64)
    field = process.field(process.oracle(point))
    end = genflow.get_solver("euler").solve(field, start, nfe=1).x
    left = (1 - 0.999) / (1 - 0.001)
    torch.testing.assert_close(end, point + left * (start - point))


@pytest.mark.quick_one_in(2)
@BOTH
def test_two_points_attract_half_the_samples_each(process):
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    for solver, nfe in (("heun", 41), ("euler_maruyama", 200)):
        x = genflow.sample(process, process.oracle(points), solver, 1000, nfe=nfe, dtype=F64).x
        assert abs(int((x[:, 0] > 0).sum()) - 500) < 4 * math.sqrt(1000) / 2
        assert float(torch.cdist(x, points).amin(1).quantile(0.9)) < 5e-2


@pytest.mark.parametrize("options", [{"margin": 0}, {"margin": 0.5}, {"margin": math.nan}, {"head": "field"}])
def test_bad_options_are_named(options):
    for process in (SILinear, SITrig):
        with pytest.raises(ValueError, match=rf"{process.__name__}: {next(iter(options))}"):
            process(**options)
