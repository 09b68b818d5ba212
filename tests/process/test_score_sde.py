"""Score SDEs against closed forms for Gaussian data."""

import math

import pytest
import torch

import genflow
from genflow.likelihood import bits_per_dim, log_likelihood
from genflow.process.bases import Gaussian
from genflow.process.score_sde import VE, VP, SubVP
from genflow.solver.adaptive import RK45

F64 = torch.float64


def gaussian_backbone(process, mean, scale):
    """The exact backbone for data N(mean, scale²): E[X | x_t] = mean + a s² (x − a mean)/(a² s² + b²)."""

    def backbone(x, condition):
        t = process.time(condition.double())
        c = process.at(t, x)
        gain = c.a * scale**2 / (c.a**2 * scale**2 + c.b**2)
        return process.predicts.encode(mean + gain * (x - c.a * mean), x, c)

    return backbone


@pytest.mark.parametrize("head", ["noise", "data", "velocity"])
def test_gaussian_data_give_the_closed_form_likelihood(head):
    process, mean, scale = VP(head=head, t_min=1e-5), 0.0, 0.5
    x = mean + scale * torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = log_likelihood(
        process, gaussian_backbone(process, mean, scale), x, solver=RK45(1e-8, 1e-8), trace="exact"
    ).log_prob
    want = Gaussian().log_prob((x - mean) / scale) - 3 * math.log(scale)
    torch.testing.assert_close(
        found, want, rtol=0, atol=1e-3
    )  # the prior N(0, 1) is off the marginal at t = 1 by 4e-5 x²


def test_bits_per_dim_of_a_gaussian():
    """With data units as raw units (scale 1), bits/dim is the differential entropy in bits, within its error."""
    from genflow.data.base import Scaling

    x = torch.randn(4000, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    value, error = bits_per_dim(Gaussian().log_prob(x), 2, Scaling(levels=2))
    entropy = 0.5 * math.log2(2 * math.pi * math.e)
    assert abs(value - entropy) < 4 * error
    assert 0 < error < 0.05


@pytest.mark.parametrize(("solver", "nfe"), [("heun", 200), ("euler", 400), ("euler_maruyama", 400)])
def test_gaussian_data_are_sampled_with_their_mean_and_scale(solver, nfe):
    process, mean, scale = VP(), 0.3, 0.5
    x = genflow.sample(process, gaussian_backbone(process, mean, scale), solver, 4000, nfe=nfe, shape=(2,), dtype=F64).x
    assert float(x.mean()) == pytest.approx(mean, abs=0.03)
    assert float(x.std()) == pytest.approx(scale, abs=0.02)


def test_score_is_the_gradient_of_the_log_density():
    process, scale = VP(), 0.7
    field = process.field(gaussian_backbone(process, 0.0, scale))
    x, t = torch.randn(5, 3, dtype=F64), torch.tensor(0.4, dtype=F64)
    c = process.at(t, x)
    want = -x / (c.a**2 * scale**2 + c.b**2)
    torch.testing.assert_close(field.score(x, t), want)


def test_natural_diffusion_is_half_of_beta():
    process = VP()
    for t in (0.01, 0.3, 1.0):
        found = float(process.natural_diffusion(torch.tensor(t, dtype=F64)))
        assert found == pytest.approx((0.1 + 19.9 * t) / 2, rel=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_any_diffusion_keeps_the_marginal(factor):
    process = VP()
    solver = genflow.get_solver("euler_maruyama", diffusion=factor)
    x = genflow.sample(process, gaussian_backbone(process, 0.0, 0.5), solver, 4000, nfe=500, shape=(1,), dtype=F64).x
    assert float(x.std()) == pytest.approx(0.5, abs=0.03)


def test_natural_diffusions_are_half_of_the_published_squares():
    """sub-VP: β (1 − e^(−2B))/2 with B = 0.1 t + 9.95 t²; VE: σ² ln(σ_max/σ_min)."""
    for t in (0.01, 0.3, 1.0):
        at, noise = torch.tensor(t, dtype=F64), 0.01 * 5000**t
        want = (0.1 + 19.9 * t) * -math.expm1(-2 * (0.1 * t + 9.95 * t * t)) / 2
        assert float(SubVP().natural_diffusion(at)) == pytest.approx(want, rel=1e-9)
        assert float(VE().natural_diffusion(at)) == pytest.approx(noise**2 * math.log(5000), rel=1e-9)


def test_sub_vp_has_less_variance_than_vp():
    t = torch.linspace(1e-3, 1, 50, dtype=F64)
    a, b = SubVP().coefficients(t)[:2]
    assert bool((a.square() + b.square() < 1).all())
    torch.testing.assert_close(a, VP().coefficients(t).a)
    torch.testing.assert_close(b, VP().coefficients(t).b.square())


def test_ve_is_the_heat_flow_of_two_points():
    """x_t = X + σ N for X = ±1: the oracle's velocity against autograd of log p_t, dx/dt = −σ σ' ∇ log p_t."""
    process, points = VE(), torch.tensor([[-1.0], [1.0]], dtype=F64)
    field = process.field(process.oracle(points))
    for t in (0.1, 0.5, 0.9):
        x, sigma = torch.linspace(-3, 3, 7, dtype=F64)[:, None].requires_grad_(), 0.01 * 5000**t
        log_p = torch.logsumexp(-((x - points.T) ** 2) / (2 * sigma**2), dim=1)
        (score,) = torch.autograd.grad(log_p.sum(), x)
        found = field.velocity(x.detach(), torch.tensor(t, dtype=F64))
        torch.testing.assert_close(found, -(sigma**2) * math.log(5000) * score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("process", "options"),
    [(VE, {"sigma_min": 0}), (VE, {"sigma_max": 0.005}), (VE, {"sigma_max": math.inf}), (VE, {"head": "fields"}),
     (SubVP, {"beta_min": -1}), (SubVP, {"beta_max": 0.05}), (SubVP, {"t_min": 1})],
)  # fmt: skip
def test_bad_options_are_named(process, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        process(**options)
