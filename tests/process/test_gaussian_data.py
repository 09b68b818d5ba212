"""Gaussian data under every process with a score: marginals, likelihood and score are known in closed form."""

import math

import pytest
import torch

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.bases import Gaussian
from genflow.registry import registries
from genflow.solver.adaptive import RK45

F64 = torch.float64
MEAN, SCALE = 0.3, 0.5


def having_score(mode):
    """Names of the processes that are sampled in this way and have a score."""
    for name, entry in registries()["processes"].entries().items():
        if entry.tags["mode"] == mode and "score" not in entry.tags.get("missing", {}):
            yield name


def gaussian_backbone(process):
    """The exact backbone for X ~ N(m, s²): E[X | x_t] = m + a s² (x − a m)/(a² s² + b²)."""

    def backbone(x, condition):
        c = process.at(process.time(condition.double()), x)
        gain = c.a * SCALE**2 / (c.a**2 * SCALE**2 + c.b**2)
        return process.prediction.encode(MEAN + gain * (x - c.a * MEAN), x, c)

    return backbone


def marginal(process, t, x):
    """log p_t(x) of N(a m, a² s² + b²), shape (B,)."""
    c = process.at(torch.tensor(t, dtype=F64), x)
    scale = (c.a**2 * SCALE**2 + c.b**2).sqrt()
    return Gaussian().log_prob((x - c.a * MEAN) / scale) - x.shape[1] * math.log(float(scale))


def draws(count, dim):
    return MEAN + SCALE * torch.randn(count, dim, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", list(having_score("ode")))
def test_likelihood(name):
    """Along the flow the density changes from one marginal to the other; the prior is within 0.05 of the last one."""
    for head in genflow.get_process(name).heads():
        process, x = genflow.get_process(name, head=head), draws(30, 3)
        if not process.is_affine:
            continue
        found = log_likelihood(process, gaussian_backbone(process), x, solver=RK45(1e-9, 1e-9), trace="exact")
        near_data, near_prior = process.training_interval
        want = marginal(process, near_data, x)
        change = found.log_prob - process.log_prior(found.latent)
        torch.testing.assert_close(change + marginal(process, near_prior, found.latent), want, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.log_prob, want, rtol=0, atol=0.05)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", list(having_score("ode")))
def test_flow_samples_have_the_data_s_mean_and_scale(name):
    process = genflow.get_process(name)
    x = genflow.sample(process, gaussian_backbone(process), "heun", 2000, nfe=201, shape=(2,), dtype=F64).x
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(x.std()) == pytest.approx(SCALE, abs=0.02)


@pytest.mark.quick_one_in(13)
@pytest.mark.parametrize("factor", [0.5, 1.0])
@pytest.mark.parametrize("name", list(having_score("sde")))
def test_any_diffusion_keeps_mean_and_scale(name, factor):
    process = genflow.get_process(name).for_data(draws(20_000, 2))
    solver = genflow.get_solver("euler_maruyama", diffusion=factor)
    x = genflow.sample(process, gaussian_backbone(process), solver, 2000, nfe=400, shape=(2,), dtype=F64).x
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(x.std()) == pytest.approx(SCALE, abs=0.02)


@pytest.mark.parametrize("name", list(having_score("ode")))
def test_score_is_the_gradient_of_the_log_density(name):
    process = genflow.get_process(name)
    field = process.field(gaussian_backbone(process))
    for t in process.grid(6)[1:-1]:
        x = draws(5, 3).requires_grad_()
        (want,) = torch.autograd.grad(marginal(process, float(t), x).sum(), x)
        torch.testing.assert_close(field.score(x.detach(), t), want, rtol=1e-7, atol=1e-9)
