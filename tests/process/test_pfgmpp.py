"""PFGM++ against its two limits, its radius law, and the published preconditioning."""

import math

import pytest
import torch
from scipy.stats import beta, kstest, norm, truncnorm

import genflow
from genflow.process.heads import EDM
from genflow.process.poisson import PFGM, PFGMPP
from genflow.process.posterior import posterior_mean
from genflow.process.score_sde import VE

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


def generator():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("head", ["edm", "noise", "data", "velocity"])
def test_one_augmented_dimension_is_poisson_flow(head):
    plus, flow = PFGMPP(D=1, head=head), PFGM(dim=3, norm=1.7, z_max=40.0)
    x = 3 * torch.randn(5, 3, dtype=F64, generator=generator())
    fields = [p.field(p.oracle(POINTS)) for p in (plus, flow)]
    for z in (0.01, 0.3, 2.0, 8.0):
        found, want = (f.velocity(x, torch.tensor(z, dtype=F64)) for f in fields)
        torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-8)
    at_prior = PFGMPP(D=1, sigma_max=flow.t_prior).log_prior(x)
    torch.testing.assert_close(at_prior, flow.log_prior(x), rtol=1e-12, atol=0)


def test_many_augmented_dimensions_tend_to_the_gaussian_posterior():
    """The difference to VE at the same σ falls like 1/D."""
    limit, x = VE(sigma_min=0.002, sigma_max=80.0), 2 * torch.randn(20, 3, dtype=F64, generator=generator())
    gaps = []
    for sigma in (0.3, 1.0, 4.0):
        t = torch.tensor(math.log(sigma / 0.002) / math.log(80 / 0.002), dtype=F64)
        want = posterior_mean(x, t, POINTS, limit)
        found = [posterior_mean(x, torch.tensor(sigma, dtype=F64), POINTS, PFGMPP(D=d)) for d in (1e4, 1e5, 1e6)]
        gaps.append([float((f - want).abs().max()) for f in found])
    for coarse, middle, fine in gaps:
        assert fine < 1e-3
        assert coarse / middle == pytest.approx(10, rel=0.1)
        assert middle / fine == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("D", [1, 2, 3.5, 128])
def test_radius_of_the_perturbation_is_that_of_the_beta_law(D):
    """R²/(R² + r²) ~ Beta(N/2, D/2) with r = σ√D, of training pairs and of the prior."""
    process, n = PFGMPP(D=D), 6
    pairs = process.perturb(torch.zeros(4000, n, dtype=F64), generator=generator())
    prior = process.sample_prior((4000, n), generator=generator(), dtype=F64)
    for x, sigma in ((pairs.x_t, pairs.t), (prior, torch.tensor(80.0, dtype=F64))):
        radius2 = x.square().sum(1)
        share = radius2 / (radius2 + D * sigma**2)
        assert kstest(share.numpy(), beta(n / 2, D / 2).cdf).pvalue > 1e-3


def test_training_sigma():
    """ln σ is normal, cut off at both ends of the interval."""
    sigma = PFGMPP().sample_time(4000, generator=generator())
    assert kstest(sigma.log().numpy(), norm(-1.2, 1.2).cdf).pvalue > 1e-3
    wide = PFGMPP(P_std=20.0).sample_time(4000, generator=generator())
    law = truncnorm((math.log(0.002) + 1.2) / 20, (math.log(80) + 1.2) / 20, -1.2, 20)
    assert kstest(wide.log().numpy(), law.cdf).pvalue > 1e-3
    assert 0.002 <= float(wide.min()) < 0.0021
    assert 76 < float(wide.max()) <= 80.0
    even = PFGMPP(times="log_uniform").sample_time(4000, generator=generator()).log()
    width = math.log(80 / 0.002)
    assert kstest(even.numpy(), "uniform", args=(math.log(0.002), width)).pvalue > 1e-3


def test_the_loss_is_the_published_weighted_one():
    """|F − F*|² is λ |D − X|² with λ = (σ² + σ_d²)/(σ σ_d)² and D = c_skip x + c_out F."""
    process, s = PFGMPP(sigma_data=0.7), 0.7
    x = torch.randn(50, 4, dtype=F64, generator=generator())
    pairs = process.perturb(x, generator=generator())
    output = torch.randn(50, 4, dtype=F64, generator=generator())
    sigma = pairs.t[:, None]
    total = sigma**2 + s**2
    denoised = s**2 / total * pairs.x_t + sigma * s / total.sqrt() * output
    want = (total / (sigma * s) ** 2 * (denoised - x) ** 2).mean(1)
    torch.testing.assert_close(process.loss_terms(output, pairs), want, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(process.data_mean(output, pairs.x_t, pairs.t), denoised)


def test_edm_s_network_is_zero_on_gaussian_data_and_has_unit_targets():
    """For X ~ N(0, σ_d²) the skip alone is the posterior mean; a single pair's target has variance one, any a and b."""
    head, g = EDM(0.7), generator()
    for a, b in ((1.0, 0.01), (1.0, 3.0), (0.4, 0.9), (0.0, 1.0)):
        c = [torch.tensor(v, dtype=F64) for v in (a, b, 0.0, 1.0)]
        data, noise = (torch.randn(200_000, 1, dtype=F64, generator=g) for _ in range(2))
        x = a * 0.7 * data + b * noise
        coefficients = type(VE().coefficients(c[0]))(*c)
        mean = a * 0.49 * x / (b * b + a * a * 0.49)
        assert float(head.encode(mean, x, coefficients).abs().max()) < 1e-9
        assert float(head.encode(0.7 * data, x, coefficients).std()) == pytest.approx(1, abs=0.01)


def test_sigma_data_is_found_unless_given():
    points = 3 + 2 * torch.randn(5000, 4, dtype=F64, generator=generator())
    assert PFGMPP().for_data(points).prediction.sigma_data == pytest.approx(2, abs=0.05)
    assert PFGMPP(sigma_data=0.5).for_data(points).prediction.sigma_data == 0.5
    assert PFGMPP().prediction.sigma_data == 0.5
    assert PFGMPP().for_data(torch.ones(5, 4)).prediction.sigma_data == 1.0


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("D", [1, 8, 1e5])
def test_two_points_attract_half_the_samples_each(D):
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    process = PFGMPP(D=D)
    x = genflow.sample(process, process.oracle(points), "heun", 1000, nfe=59, dtype=F64).x
    assert abs(int((x[:, 0] > 0).sum()) - 500) < 4 * math.sqrt(1000) / 2
    assert float(torch.cdist(x, points).amin(1).quantile(0.9)) < 2e-2


@pytest.mark.parametrize(
    "options",
    [{"D": 0}, {"D": math.inf}, {"sigma_min": 0}, {"sigma_max": 1e-3}, {"times": "normal"}, {"P_mean": math.nan},
     {"P_std": 0}, {"sigma_data": -1}, {"head": "field"}, {"mode": "sde"}],
)  # fmt: skip
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PFGMPP(**options)
