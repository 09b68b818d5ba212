"""Free interpolants: the same marginals for every ε, priors that integrate to one, bases given as objects, mirrors."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.distributions import Distribution, Empirical, GaussianMixture
from genflow.process.interpolant import GAMMAS, latent
from genflow.process.paths import SIEncDec, SIFourier, SILinear, SIMirror, SITrig
from genflow.process.score_sde import VP
from genflow.solver.noise import Noise

F64 = torch.float64
LINE = torch.tensor([[-1.1], [0.2], [0.9]], dtype=F64)
MIXTURE = {"source": "mixture", "source_options": {"means": [[-0.8], [0.5]], "std": 0.4}}
UNIFORM = {"source": "uniform"}
TARGET = GaussianMixture([[-1.0], [0.8]], std=0.3, weights=[1, 3])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cdf_of(mixture, a=1.0, spread=0.0):
    """Distribution function of a X + spread Z for a mixture X on the line, by scipy."""
    found = mixture.mixture
    parts = [
        (float(w.exp()), a * float(m), math.hypot(a * math.sqrt(float(c)), spread))
        for w, m, c in zip(found.log_weights, found.means, found.covariances, strict=True)
    ]
    return lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in parts)


# ---- the latent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GAMMAS)
def test_latent_and_its_product_with_its_rate(kind):
    """γ vanishes at both ends; γ γ' is half the derivative of γ², also where γ' is infinite."""
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    torch.testing.assert_close(latent(kind, ends)[0], torch.zeros(2, dtype=F64), rtol=0, atol=1e-15)
    assert bool(latent(kind, ends)[1].isfinite().all())
    t = torch.linspace(0.01, 0.99, 25, dtype=F64, requires_grad=True)
    g, product = latent(kind, t)
    rate = torch.zeros_like(t)
    if kind != "none":
        (rate,) = torch.autograd.grad((g.square() / 2).sum(), t)
        assert float(g.detach().max()) == pytest.approx({"brownian": 0.5, "quadratic": 0.25, "sin_squared": 1.0}[kind])
    torch.testing.assert_close(product.detach(), rate, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("options", [{}, MIXTURE])
def test_gamma_scale_multiplies_the_latent(options, scale):
    """The spread that x_t has beyond a X + b N, from the process's own pairs: γ_scale γ."""
    head = {"head": "velocity_denoiser"} if options else {}
    process = SILinear(gamma="quadratic", gamma_scale=scale, channels=1, **options, **head)
    t = torch.tensor(0.3, dtype=F64)
    c, x = process.coefficients(t), torch.zeros(1, 1, dtype=F64)
    extra = float(c.g) if options else math.sqrt(float(c.b) ** 2 - 0.7**2)
    assert extra == pytest.approx(scale * 0.3 * 0.7)
    assert float(process.at(t, x).a) == pytest.approx(0.3)


# ---- one family of SDEs, one set of marginals ------------------------------------------------------------


CASES = {
    "mixture to mixture": (lambda: SILinear(gamma="brownian", head="velocity_denoiser", **MIXTURE), TARGET),
    "mixture to mixture, trig": (lambda: SITrig(gamma="sin_squared", head="velocity_score", **MIXTURE), TARGET),
    "mixture to points": (lambda: SILinear(gamma="brownian", head="velocity_score", **MIXTURE), LINE),
    "uniform to points": (lambda: SILinear(gamma="brownian", head="velocity_denoiser", **UNIFORM), LINE),
    "points to mixture": (
        lambda: SILinear(gamma="brownian", head="velocity_denoiser", source=Empirical(LINE, "three")),
        TARGET,
    ),
    "encoding-decoding": (lambda: SIEncDec(head="velocity_denoiser", **MIXTURE), TARGET),
}


@pytest.mark.quick_one_in(13)
@pytest.mark.parametrize(
    ("name", "factor"),
    [
        (n, f)
        for n in CASES
        for f in (0.0, 0.5, 1.0, 2.0)
        if f in (0.0, 2.0) or n in ("mixture to mixture", "uniform to points")
    ],
)
def test_every_diffusion_has_the_same_marginals(name, factor):
    """Samples at the end, and the states in the middle, against their laws; Kolmogorov–Smirnov, 1000 paths."""
    make, data = CASES[name]
    process = make()
    oracle, n, steps = process.oracle(data), 1000, 150
    solver = genflow.get_solver("euler_maruyama", diffusion=factor, grid="cosine")
    seen = {}
    at = 0.35

    def watch(x, t):
        if "middle" not in seen and t >= at:
            seen["middle"] = (x.clone(), t)

    x = genflow.sample(process, oracle, solver, n, nfe=steps, shape=(1,), dtype=F64, batch_size=n, observer=watch).x
    if data is TARGET:
        assert stats.kstest(x[:, 0].numpy(), cdf_of(TARGET)).pvalue > 1e-3
    else:
        counts = torch.cdist(x, LINE).argmin(1).bincount(minlength=3)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
        left = math.sqrt(1e-3)  # γ at the margin
        assert float(torch.cdist(x, LINE).amin(1).quantile(0.9)) < 1.5 * stats.norm.ppf(0.95) * left
    states, t = seen["middle"]
    assert stats.kstest(states[:, 0].numpy(), cdf_by_quadrature(oracle, t)).pvalue > 1e-3


def cdf_by_quadrature(oracle, t):
    """The oracle's distribution function, summed over a fine grid: proved to be the density elsewhere."""
    x = torch.linspace(-6, 6, 6001, dtype=F64)
    density = oracle.log_prob(x[:, None], torch.tensor(t, dtype=F64)).exp()
    total = torch.cumulative_trapezoid(density, x)
    found = torch.cat([torch.zeros(1, dtype=F64), total]).numpy()
    return lambda values: np.interp(values, x.numpy(), found)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_diffusion_of_a_plain_path_with_a_latent(factor):
    process = SILinear(gamma="brownian", mode="sde")
    solver = genflow.get_solver("euler_maruyama", diffusion=factor, grid="cosine")
    x = genflow.sample(process, process.oracle(TARGET), solver, 1500, nfe=250, shape=(1,), dtype=F64, batch_size=1500).x
    assert stats.kstest(x[:, 0].numpy(), cdf_of(TARGET)).pvalue > 1e-3


@pytest.mark.parametrize("path", [SILinear, SITrig, SIFourier])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 10.0])
def test_no_diffusion_is_negative(path, gamma, scale):
    """A large latent grows faster than a does somewhere: there ε = b (a' b − a b') alone would be negative."""
    process = path(gamma=gamma, gamma_scale=scale)
    found = process.natural_diffusion(torch.linspace(1e-3, 1 - 1e-3, 200, dtype=F64))
    assert bool((found >= 0).all())
    assert bool(found.isfinite().all())


def test_a_constant_diffusion():
    for process in (SILinear(epsilon=0.3), SIMirror(epsilon=0.3), SIEncDec(epsilon=0.3)):
        t = torch.tensor([0.1, 0.7], dtype=F64)
        assert process.natural_diffusion(t).tolist() == [0.3, 0.3]
    for bad in (-1, math.nan, "small", True):
        with pytest.raises(ValueError, match="epsilon"):
            SILinear(epsilon=bad)


# ---- priors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [MIXTURE, UNIFORM, {"coupling": "ot"}])
@pytest.mark.parametrize("gamma", ["none", "brownian", "sin_squared"])
@pytest.mark.parametrize("margin", [1e-3, 0.2])
def test_prior_integrates_to_one_and_is_what_is_drawn(base, gamma, margin):
    process = SILinear(gamma=gamma, margin=margin, **base)
    x = 8 * ((torch.arange(40_000, dtype=F64) + 0.5) / 20_000 - 1)
    density = process.log_prior(x[:, None]).exp()
    assert float(density.mean()) * 16 == pytest.approx(1, abs=1e-3 if base is UNIFORM else 1e-6)
    draws = process.sample_prior((3000, 1), generator=generator(), dtype=F64)
    total = torch.cat([torch.zeros(1, dtype=F64), torch.cumulative_trapezoid(density, x)]).numpy()
    assert stats.kstest(draws[:, 0].numpy(), lambda v: np.interp(v, x.numpy(), total)).pvalue > 1e-3


def test_a_data_set_as_base_has_no_likelihood():
    process = SILinear(source="eight_gaussians", gamma="brownian", head="velocity_denoiser")
    reason = process.why_not("likelihood")
    assert "'eight_gaussians'" in reason
    assert "no density" in reason
    with pytest.raises(ValueError, match="'eight_gaussians', is a data set"):
        log_likelihood(process, lambda x, c: x, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no density"):
        process.log_prior(torch.zeros(1, 2))
    assert process.why_not("sde") is None


def test_capabilities_of_a_free_path():
    process = SILinear(**UNIFORM)
    for capability in ("score", "sde", "data"):
        assert "velocity_denoiser" in process.why_not(capability)
    for capability in ("affine", "norm"):
        assert "not an affine path" in process.why_not(capability)
    assert process.why_not("likelihood") is None
    with pytest.raises(ValueError, match="mode = 'sde' is not possible"):
        SILinear(mode="sde", **UNIFORM)
    with pytest.raises(ValueError, match="not an affine path"):
        process.noise_ratio(torch.tensor(0.5))
    with pytest.raises(ValueError, match="not an affine path"):
        process.schedule(torch.tensor(0.5))
    with pytest.raises(ValueError, match="objective = 'own'"):
        SILinear(objective="stable", **UNIFORM)
    with pytest.raises(ValueError, match="latent"):
        SIEncDec(gamma="none")


# ---- configurations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        MIXTURE,
        UNIFORM,
        {"source": "uniform", "source_options": {"low": 0.0, "high": 2.0}},
        {"source": "two_moons"},
        {"coupling": "ot", "head": "velocity_score", "gamma": "quadratic", "gamma_scale": 0.5, "epsilon": 0.2},
        {"gamma": "sin_squared", "head": "edm", "margin": 0.01},
    ],
)
def test_options_make_the_round_trip(options):
    process = SILinear(**options)
    config = json.loads(json.dumps(process.config()))
    assert config == options
    again = SILinear(**config)
    assert type(again.drawn) is type(process.drawn)
    assert again.config() == process.config()
    fitted = process.for_data(torch.zeros(4, 2))
    assert SILinear(**fitted.config()).extra_channels == fitted.extra_channels
    shape = (5, 2) if options.get("source") == "two_moons" else (5, 1)
    draws = [p.sample_prior(shape, generator=generator(), dtype=F64) for p in (process, again)]
    assert torch.equal(*draws)


class Ring(Distribution):
    """A base that no name holds."""

    def sample(self, shape, *, generator, dtype):
        angle = 2 * math.pi * torch.rand(shape[0], generator=generator, dtype=dtype)
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_a_base_given_as_an_object_works_and_is_in_no_file():
    process = SILinear(source=Ring(), gamma="brownian", head="velocity_denoiser").for_data(torch.zeros(4, 2))
    assert process.extra_channels == 2
    prior = process.sample_prior((50, 2), generator=generator(), dtype=F64)
    assert float((prior.norm(dim=1) - 1).abs().mean()) < 0.1
    pairs = process.perturb(torch.randn(6, 2, generator=generator()), generator=generator())
    assert pairs.target.shape == (6, 4)
    with pytest.raises(ValueError, match="Ring was given as an object, which no file can hold"):
        process.config()
    with pytest.raises(ValueError, match="not a Gaussian mixture"):
        process.oracle(torch.zeros(2, 2))


def test_a_base_of_the_wrong_shape_is_named_when_it_is_drawn():
    for source in ({"source": "two_moons"}, {"source": "mixture", "source_options": {"means": [[0.0, 0.0]]}}):
        process = SILinear(**source)
        with pytest.raises(ValueError, match=r"not|entries"):
            process.perturb(torch.zeros(4, 3), generator=generator())


# ---- mirrors ---------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("scale", "factor"), [(0.4, 1.0), (2.0, 0.3), (2.0, 2.0), (6.0, 1.0)])
def test_a_mirror_forgets_the_start_by_its_diffusion(scale, factor):
    """Normal data of scale s: x/S, S² = s² + γ², is an Ornstein–Uhlenbeck process of rate ε/S², so start and end are
    correlated by exp(−∫ ε/S² dt); a large γ leaves next to nothing. The law stays as it is."""
    law, count = GaussianMixture([[0.3]], std=0.7), 4000
    process = SIMirror(gamma_scale=scale).for_data(law.sample((4000, 1), generator=generator(), dtype=F64))
    start = law.sample((count, 1), generator=generator(1), dtype=F64)
    solver = genflow.get_solver("euler_maruyama", diffusion=factor)
    end = solver.solve(process.field(process.oracle(law)), start, nfe=250, noise=Noise(0, range(count))).x

    def rate(t):
        gamma2 = scale**2 * math.sin(math.pi * t) ** 4
        return factor * 4 * gamma2 / (0.49 + gamma2)

    want = math.exp(-integrate.quad(rate, 0, 1)[0])
    found = float(torch.corrcoef(torch.cat([start, end], dim=1).T)[0, 1])
    assert abs(found - want) < 3 * (1 - want**2) / math.sqrt(count) + 0.01
    assert stats.kstest(end[:, 0].numpy(), cdf_of(law)).pvalue > 1e-3
    if scale == 6:
        assert want < 0.07


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_any_diffusion_of_a_mirror_keeps_the_distribution(factor):
    points = TARGET.sample((4000, 1), generator=generator(), dtype=F64)
    process = SIMirror().for_data(points)
    solver = genflow.get_solver("euler_maruyama", diffusion=factor, grid="cosine")
    x = genflow.sample(process, process.oracle(TARGET), solver, 1500, nfe=300, shape=(1,), dtype=F64, batch_size=1500).x
    assert stats.kstest(x[:, 0].numpy(), cdf_of(TARGET)).pvalue > 1e-3


@pytest.mark.slow
def test_the_ode_of_a_mirror_leads_back_and_is_refused():
    """No noise: every example comes back to itself, so asking for it is a mistake."""
    points = TARGET.sample((50, 1), generator=generator(), dtype=F64)
    process = SIMirror(gamma_scale=1.0).for_data(points)
    start = process.sample_prior((50, 1), generator=generator(1), dtype=F64)
    end = genflow.get_solver("heun").solve(process.field(process.oracle(TARGET)), start, nfe=400).x
    torch.testing.assert_close(end, start, rtol=0, atol=0.02)
    with pytest.raises(ValueError, match="its ODE leads back to the start"):
        SIMirror(mode="ode")
    for options in ({"source": "uniform"}, {"coupling": "ot"}):
        with pytest.raises(ValueError, match="its base is the data set itself"):
            SIMirror(**options)
    with pytest.raises(ValueError, match="gamma"):
        SIMirror(gamma="none")


def test_a_mirror_needs_its_data():
    with pytest.raises(ValueError, match="for_data"):
        SIMirror().sample_prior((2, 1), generator=generator())
    fitted = SIMirror(gamma="brownian", gamma_scale=math.sqrt(10)).for_data(LINE)
    assert SIMirror().points is None
    prior = fitted.sample_prior((200, 1), generator=generator(), dtype=F64)
    spread = float(torch.cdist(prior, LINE).amin(1).square().mean().sqrt())
    assert spread == pytest.approx(math.sqrt(10e-3 * 0.999), rel=0.2)
    for t in (0.5, 0.9):
        with pytest.raises(ValueError, match="does not belong to one time"):
            fitted.noise_ratio(torch.tensor(t))
    with pytest.raises(ValueError, match="no density"):
        fitted.log_prior(LINE)


def test_velocity_of_a_mirror_from_its_score():
    """v = γ' Ẑ = −γ γ' s, with s by autograd of the smoothed density."""
    process = SIMirror(gamma="brownian", gamma_scale=1.3)
    field, x = process.field(process.oracle(LINE)), torch.linspace(-2, 2, 7, dtype=F64)[:, None].requires_grad_()
    for t in (0.2, 0.5, 0.8):
        variance = 1.69 * t * (1 - t)
        log_p = torch.logsumexp(-((x - LINE.T) ** 2) / (2 * variance), dim=1)
        (score,) = torch.autograd.grad(log_p.sum(), x)
        want = -1.69 * (1 - 2 * t) / 2 * score
        torch.testing.assert_close(field.velocity(x.detach(), torch.tensor(t, dtype=F64)), want, rtol=1e-9, atol=1e-9)


def test_pairs_of_plain_paths_are_refused_partners_and_stable_targets_stay():
    """The plain path still is an affine process: its stable objective is the posterior mean over the batch."""
    process = SILinear(objective="stable", gamma="brownian", head="data", large_batch=0)
    x = torch.randn(64, 2, dtype=F64, generator=generator())
    pairs = process.perturb(x, generator=generator(1))
    c = process.at(pairs.t, x)
    for row in (0, 20, 63):
        logs = -(pairs.x_t[row] - c.a[row] * x).square().sum(1) / (2 * c.b[row] ** 2)
        torch.testing.assert_close(pairs.target[row], logs.softmax(0) @ x, rtol=1e-9, atol=1e-9)
    assert VP(objective="stable", large_batch="all").reference_batch > 10**9
