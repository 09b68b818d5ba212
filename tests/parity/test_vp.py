"""The variance-preserving process against score_sde_pytorch."""

from __future__ import annotations

import pytest
import torch

from genflow.process.score_sde import VP
from genflow.solver.noise import Noise
from genflow.solver.ode import Euler, Heun
from genflow.solver.sde import EulerMaruyama

STEPS = 1000


@pytest.fixture
def basics(load):
    return load("sde/basics.npz")


def noise_of(score, process, t):
    """What a noise-predicting network answers where the score is `score`."""
    return -score * process.at(t, score).b


def test_perturbation_kernel(basics, error):
    process, x, t = VP(), basics["x"], basics["t"]
    c = process.at(t, x)
    assert error(c.a * x, basics["vp_mean_f64"]) < 1e-9
    assert error(c.b.flatten(), basics["vp_std_f64"]) < 1e-9
    # at t = 1e-5 the published 1 − e^(2c) keeps ten digits, ours all sixteen
    torch.testing.assert_close(c.b.flatten(), basics["vp_std_f64"], rtol=1e-10, atol=0)


def test_forward_sde_from_the_coefficients(basics, error):
    process, x, t = VP(), basics["x"], basics["t"]
    c = process.at(t, x)
    assert error(c.da / c.a * x, basics["vp_drift_f64"]) < 1e-9
    assert error((2 * process.natural_diffusion(t)).sqrt(), basics["vp_diffusion_f64"]) < 1e-9


def test_reverse_drifts(basics, error):
    process, x, t, score = VP(), basics["x"], basics["t"], basics["score"]
    output = noise_of(score, process, t)
    assert error(process.score(output, x, t), score) < 1e-9
    velocity = process.velocity(output, x, t)
    rows = process.natural_diffusion(t)[:, None, None, None]
    for found, want in ((velocity, "vp_rev_drift_pf1_f64"), (velocity - rows * score, "vp_rev_drift_pf0_f64")):
        assert all(error(a, b) < 1e-9 for a, b in zip(found, basics[want], strict=True))


def test_prior_log_density(basics, error):
    assert error(VP().log_prior(basics["z"]), basics["vp_prior_logp_f64"]) < 1e-9


class Fixed(Noise):
    """Noise that is given."""

    def __init__(self, draw):
        self.draw = draw

    def like(self, x):
        return self.draw


@pytest.mark.parametrize("row", range(4))
def test_one_step_from_the_stored_score(load, error, row):
    """Probability-flow drift and one Euler–Maruyama step of length 1/1000, with the stored score and noise."""
    stored = load("sde/steps.npz")
    process = VP()
    x, score, noise = (stored[k][row : row + 1] for k in ("x_vp", "vp_score", "noise"))
    t = stored["t"][row].double()
    field = process.field(lambda x, condition: noise_of(score, process, t))
    assert error(field.velocity(x, t), stored["vp_pf_ode_drift"][row : row + 1]) < 1e-6
    for draw, want in ((noise, "vp_euler_maruyama_pf0_x"), (0 * noise, "vp_euler_maruyama_pf0_mean")):
        found = EulerMaruyama().step(field, x, t, t - 1 / STEPS, Fixed(draw), 1)
        assert error(found, stored[want][row : row + 1]) < 1e-6


# ---- published defects -----------------------------------------------------------------------------------


def standard_normal(process):
    """A backbone that is exact for standard normal data: there N̂ = b x."""

    def noise(x, condition):
        return process.at(process.time(condition.double()), x).b * x

    return noise


def test_no_diffusion_is_the_probability_flow():
    """The published Euler–Maruyama raises TypeError with probability_flow=True."""
    process, x = VP(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    field = process.field(standard_normal(process))
    ode = Euler().solve(field, x, nfe=7).x
    sde = EulerMaruyama(diffusion=0).solve(field, x, nfe=7, noise=Noise(0, range(5))).x
    torch.testing.assert_close(sde, ode)


@pytest.mark.parametrize("nfe", [1, 2, 5, 19])
@pytest.mark.parametrize("solver", [Euler(), Heun(), EulerMaruyama()])
def test_few_steps_are_finite(solver, nfe):
    """The published improved Euler refuses VP, and its discretised VP is not finite below 20 steps."""
    process, x = VP(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    solution = solver.solve(process.field(standard_normal(process)), x, nfe=nfe, noise=Noise(0, range(5)))
    assert solution.x.isfinite().all()
    assert solution.nfe == nfe
