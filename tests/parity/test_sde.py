"""The variance-exploding and the sub-variance-preserving process against score_sde_pytorch."""

from __future__ import annotations

import pytest
import torch

from genflow.process.score_sde import VE, SubVP
from genflow.solver.noise import Noise
from genflow.solver.sde import EulerMaruyama

PROCESSES = {"ve": VE, "subvp": SubVP}
STEPS = 1000

pytestmark = pytest.mark.parametrize("name", PROCESSES)


@pytest.fixture
def basics(load):
    return load("sde/basics.npz")


def noise_of(score, process, t):
    """What a noise-predicting network answers where the score is `score`."""
    return -score * process.at(t, score).b


def test_perturbation_kernel(basics, error, name):
    process, x, t = PROCESSES[name](), basics["x"], basics["t"]
    c = process.at(t, x)
    assert error(c.a * x, basics[f"{name}_mean_f64"]) < 1e-9
    # at t = 1e-5 the published 1 − e^(2c) of sub-VP keeps ten digits, ours all sixteen
    torch.testing.assert_close(c.b.flatten(), basics[f"{name}_std_f64"], rtol=1e-10, atol=0)


def test_forward_sde_from_the_coefficients(basics, error, name):
    process, x, t = PROCESSES[name](), basics["x"], basics["t"]
    c = process.at(t, x)
    torch.testing.assert_close(c.da / c.a * x, basics[f"{name}_drift_f64"], rtol=1e-9, atol=1e-12)
    assert error((2 * process.natural_diffusion(t)).sqrt(), basics[f"{name}_diffusion_f64"]) < 1e-9


def test_reverse_drifts(basics, error, name):
    process, x, t, score = PROCESSES[name](), basics["x"], basics["t"], basics["score"]
    output = noise_of(score, process, t)
    assert error(process.score(output, x, t), score) < 1e-9
    velocity = process.velocity(output, x, t)
    rows = process.natural_diffusion(t)[:, None, None, None]
    for found, want in (
        (velocity, f"{name}_rev_drift_pf1_f64"),
        (velocity - rows * score, f"{name}_rev_drift_pf0_f64"),
    ):
        assert all(error(a, b) < 1e-9 for a, b in zip(found, basics[want], strict=True))


def test_prior_log_density(basics, error, name):
    assert error(PROCESSES[name]().log_prior(basics["z"]), basics[f"{name}_prior_logp_f64"]) < 1e-9


class Fixed(Noise):
    """Noise that is given."""

    def __init__(self, draw):
        self.draw = draw

    def like(self, x):
        return self.draw


@pytest.mark.parametrize("row", range(4))
def test_one_step_from_the_stored_score(load, error, name, row):
    """Probability-flow drift and one Euler–Maruyama step of length 1/1000, with the stored score and noise.

    At t = 1e-3 the published float32 1 − e^(−2B) of sub-VP keeps four digits; the rest agrees to 1e-6.
    """
    tolerance = 1e-5 if (name, row) == ("subvp", 0) else 1e-6
    stored = load("sde/steps.npz")
    process = PROCESSES[name]()
    start = stored["x_ve" if name == "ve" else "x_vp"]
    x, score, noise = (v[row : row + 1] for v in (start, stored[f"{name}_score"], stored["noise"]))
    t = stored["t"][row].double()
    field = process.field(lambda x, condition: noise_of(score, process, t))
    assert error(field.velocity(x, t), stored[f"{name}_pf_ode_drift"][row : row + 1]) < tolerance
    for draw, key in ((noise, "x"), (0 * noise, "mean")):
        want = stored[f"{name}_euler_maruyama_pf0_{key}"][row : row + 1]
        assert error(EulerMaruyama().step(field, x, t, t - 1 / STEPS, Fixed(draw), 1), want) < tolerance
