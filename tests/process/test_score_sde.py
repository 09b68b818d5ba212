"""Score SDEs against closed forms for Gaussian data."""

import math
from itertools import pairwise

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
        return process.prediction.encode(mean + gain * (x - c.a * mean), x, c)

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


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("solver", "nfe"), [("heun", 200), ("euler", 400), ("euler_maruyama", 400)])
def test_gaussian_data_are_sampled_with_their_mean_and_scale(solver, nfe):
    process, mean, scale = VP(), 0.3, 0.5
    backbone, whole = gaussian_backbone(process, mean, scale), {"shape": (2,), "dtype": F64, "batch_size": 4000}
    x = genflow.sample(process, backbone, solver, 4000, nfe=nfe, **whole).x
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


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_any_diffusion_keeps_the_marginal(factor):
    process = VP()
    solver = genflow.get_solver("euler_maruyama", diffusion=factor)
    backbone, whole = gaussian_backbone(process, 0.0, 0.5), {"shape": (1,), "dtype": F64, "batch_size": 4000}
    x = genflow.sample(process, backbone, solver, 4000, nfe=500, **whole).x
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


# ---- discrete levels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta_min", "beta_max", "levels"), [(0.1, 20.0, 1000), (0.5, 9.0, 10)])
def test_ddpm_s_chain_step_by_step(beta_min, beta_max, levels):
    """At t = k/L: e^(−B) is the product of (1 − β_i), found by running the chain on the variance."""
    process = VP(levels=levels, beta_min=beta_min, beta_max=beta_max)
    share, variance = 1.0, 0.0
    for k in range(1, levels + 1):
        beta = (beta_min + (beta_max - beta_min) * (k - 1) / (levels - 1)) / levels
        share, variance = math.sqrt(1 - beta) * share, (1 - beta) * variance + beta
        if k in (1, 2, levels // 2, levels):
            c = process.coefficients(torch.tensor(k / levels, dtype=F64))
            assert float(c.a) == pytest.approx(share, rel=1e-12)
            assert float(c.b) ** 2 == pytest.approx(variance, rel=1e-10)
    torch.testing.assert_close(process.level_times(), torch.arange(1, levels + 1, dtype=F64) / levels)


def test_between_the_levels_the_path_is_that_of_its_rates():
    """Derivatives by autograd within every step, and continuity where steps meet."""
    process = VP(levels=20, beta_max=15.0)
    t = ((torch.arange(20, dtype=F64) + 0.4) / 20).requires_grad_()
    c = process.coefficients(t)
    for value, rate in ((c.a, c.da), (c.b, c.db)):
        (exact,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(rate.detach(), exact, rtol=1e-10, atol=1e-12)
    meet = process.level_times()[:-1]
    before, after = (process.coefficients(meet + shift) for shift in (-1e-9, 1e-9))
    torch.testing.assert_close(before.a, after.a, rtol=0, atol=1e-6)


def test_many_levels_tend_to_the_continuous_path():
    """The gap of the log signal falls like 1/L: −ln(1 − β) and the left ends of its steps, both of first order."""
    t = torch.tensor([0.2, 0.5, 1.0], dtype=F64)
    want = VP().coefficients(t).a.log()
    gaps = [float((VP(levels=n).coefficients(t).a.log() - want).abs().max()) for n in (200, 400, 800, 1600)]
    slopes = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert all(s == pytest.approx(1, abs=0.1) for s in slopes)


@pytest.mark.parametrize("process", [VP(levels=30, beta_max=15.0), SubVP(levels=30, beta_max=15.0), VE(levels=10)])
def test_training_times_are_the_levels_alike(process):
    from scipy.stats import chisquare

    levels = process.level_times()
    found = process.sample_time(6000, generator=torch.Generator().manual_seed(0))
    gap, row = (found[:, None] - levels).abs().min(1)
    assert float(gap.max()) == 0
    assert chisquare(row.bincount(minlength=len(levels)).numpy()).pvalue > 1e-3
    x = torch.randn(50, 2, dtype=F64)
    pairs = process.perturb(x, generator=torch.Generator().manual_seed(1))
    assert bool(torch.isin(pairs.t, levels).all())


def test_smld_s_levels_are_geometric():
    """σ_k = σ_min (σ_max/σ_min)^(k/(L−1)), both ends included."""
    process = VE(levels=7, sigma_min=0.02, sigma_max=10.0)
    sigma = process.coefficients(process.level_times()).b
    torch.testing.assert_close(sigma, torch.logspace(math.log10(0.02), 1, 7, dtype=F64))


@pytest.mark.parametrize("bad", [1, 0, -3, 2.5, math.nan, "many", True])
@pytest.mark.parametrize("process", [VP, SubVP, VE])
def test_bad_numbers_of_levels_are_refused(process, bad):
    with pytest.raises(ValueError, match="levels"):
        process(levels=bad)


def test_too_few_levels_for_the_last_beta_are_refused():
    """β_L = β1/L must lie below 1, or a step would keep less than nothing."""
    with pytest.raises(ValueError, match="above beta_max"):
        VP(levels=20)
    assert float(VP(levels=21).coefficients(torch.tensor(1.0, dtype=F64)).a) < 1e-3


# ---- weightings and objectives ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["noise", "data", "velocity", "edm", "score"])
@pytest.mark.parametrize(
    ("process", "squared"),
    [
        (VP, lambda t: 0.1 + 19.9 * t),
        (SubVP, lambda t: (0.1 + 19.9 * t) * -torch.expm1(-2 * (0.1 * t + 9.95 * t * t))),
        (VE, lambda t: 2 * math.log(5000) * (0.01 * 5000**t) ** 2),
    ],
)
def test_likelihood_weighting_counts_errors_of_the_score(process, squared, head):
    """weight · mean residual² = g² · mean |score error|², g² from the published SDE, the scores as they are read."""
    made = process(head=head, weighting="likelihood")
    x, noise = (torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    t = torch.linspace(0.05, 0.95, 6, dtype=F64)
    pairs = made.pairs(x, noise, t)
    output = pairs.target + 0.1 * torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    found = pairs.weight * made.loss_terms(output, pairs)
    wrong = made.score(output, pairs.x_t, t) - made.score(pairs.target, pairs.x_t, t)
    torch.testing.assert_close(found, squared(t) * wrong.square().mean(1), rtol=1e-7, atol=1e-12)
    assert bool((process(head=head).pairs(x, noise, t).weight == 1).all())


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("head", ["noise", "data", "velocity", "edm", "score"])
def test_stable_targets_have_the_same_mean_and_less_variance(head):
    """E[target | x_t] is the oracle's answer for both objectives: near one state the mean of single-pair targets is it,
    within 5 standard errors, and the stable targets, from a batch of 64 more, scatter less."""
    points = torch.tensor([[-1.0], [0.2], [0.9]], dtype=F64)
    own, stable = VP(head=head), VP(head=head, objective="stable", large_batch=64)
    t, width = torch.tensor(0.25, dtype=F64), 0.02
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return points[torch.randint(3, (count,), generator=generator)]

    x = draw(200_000)
    noise = torch.randn(x.shape, dtype=F64, generator=generator)
    singles = own.pairs(x, noise, t.expand(len(x)))
    near = (singles.x_t[:, 0] - 0.1).abs() < width
    exact = own.oracle(points)
    gap = (singles.target - exact(singles.x_t, own.condition(t).expand(len(x))))[near]
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(len(gap))
    states, times = singles.x_t[near][:200], t.expand(200)
    spread = []
    for k in range(200):
        refs = draw(65)
        found = stable.average_target(refs[:1], states[k : k + 1], times[:1], refs[1:])
        spread.append(found - exact(states[k : k + 1], own.condition(times[:1])))
    assert float(torch.cat(spread).std()) < 0.35 * float(gap.std())


@pytest.mark.parametrize("name", ["pfgm", "pfgmpp", "vp_ode", "si_linear"])
def test_the_whole_data_set_as_reference_is_the_oracle(name):
    """Targets of every training point are what the exact field of the data set answers, heads of all kinds."""
    data = torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(4))
    for head in genflow.get_process(name).heads():
        process = genflow.get_process(name, head=head, objective="stable", large_batch="all").for_data(data)
        assert process.reference_batch > 10**9
        # the batch is all of the data as well, so every point counts twice, which changes nothing
        pairs = process.perturb(data, generator=torch.Generator().manual_seed(0), refs=data)
        want = process.oracle(data)(pairs.x_t, process.condition(pairs.t))
        assert float(process.prediction.residual(pairs.target, want, process.at(pairs.t, data)).abs().max()) < 1e-8
