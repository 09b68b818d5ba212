"""Base distributions of free interpolants: densities by quadrature and scipy, draws against them."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import genflow
from genflow.process.distributions import (
    Empirical,
    GaussianMixture,
    Uniform,
    log_normal,
    log_normal_interval,
    make_source,
)
from genflow.process.paths import SILinear

F64 = torch.float64
TILTED = [[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.4]]]
MEANS = [[-1.0, 0.5], [0.8, 0.0]]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smoothed(density, x, scale, latent):
    """∫ p_N(u) N(x; scale u, latent²) du, p_N on [−6, 6], by scipy's quadrature."""
    return integrate.quad(
        lambda u: density(u) * stats.norm.pdf(x, scale * u, latent), -6, 6, points=[-1, 0, 1], limit=400
    )[0]


@pytest.mark.parametrize(("scale", "latent"), [(0.9, 0.3), (0.2, 1.0), (1.0, 0.01)])
def test_smoothed_densities_are_convolutions(scale, latent):
    mixture = GaussianMixture([[-1.0], [0.5]], std=[0.3, 0.6], weights=[1, 3])
    laws = [
        (mixture, lambda u: 0.25 * stats.norm.pdf(u, -1, 0.3) + 0.75 * stats.norm.pdf(u, 0.5, 0.6)),
        (Uniform(-1.0, 1.0), lambda u: 0.5 * (abs(u) <= 1)),
    ]
    for law, density in laws:
        for x in (-0.9, 0.1, 0.6):
            found = float(law.log_density(torch.tensor([[x]], dtype=F64), scale, latent))
            assert math.exp(found) == pytest.approx(smoothed(density, x, scale, latent), rel=1e-6)


@pytest.mark.parametrize("law", [GaussianMixture([[-1.0], [0.5]], std=0.4), Uniform(-0.5, 1.5)])
@pytest.mark.parametrize(("scale", "latent"), [(1.0, 0.0), (0.7, 0.2), (1e-3, 1.0), (1e-9, 0.5)])
def test_densities_integrate_to_one(law, scale, latent):
    edge = 8.0
    x = edge * ((torch.arange(80_000, dtype=F64) + 0.5) / 40_000 - 1)
    total = float(law.log_density(x[:, None], scale, latent).exp().mean()) * 2 * edge
    assert total == pytest.approx(1, abs=1e-6)


def test_mixture_in_the_plane_is_scipy_s():
    law = GaussianMixture(MEANS, covariances=TILTED, weights=[1, 3])
    x = torch.randn(6, 2, dtype=F64, generator=generator())
    want = sum(
        w * stats.multivariate_normal.pdf(x, 0.7 * np.array(m), 0.49 * np.array(c) + 0.04 * np.eye(2))
        for w, m, c in zip((0.25, 0.75), MEANS, TILTED, strict=True)
    )
    torch.testing.assert_close(law.log_density(x, 0.7, 0.2), torch.from_numpy(want).log())


def test_mixture_draws_have_its_moments():
    law = GaussianMixture(MEANS, covariances=TILTED, weights=[1, 3])
    x = law.sample((100_000, 2), generator=generator(), dtype=F64).numpy()
    share, means = np.array([0.25, 0.75]), np.array(MEANS)
    mean = share @ means
    second = sum(w * (np.array(c) + np.outer(m, m)) for w, m, c in zip(share, means, TILTED, strict=True))
    assert np.abs(x.mean(0) - mean).max() < 5 * x.std() / math.sqrt(len(x))
    assert np.abs(np.cov(x.T) - (second - np.outer(mean, mean))).max() < 0.02


@pytest.mark.parametrize("std", [0.3, [0.3, 0.5], [[0.3, 0.1], [0.5, 0.2]]])
def test_extent_of_components_in_its_three_forms(std):
    law = GaussianMixture(MEANS, std=std)
    table = np.broadcast_to(np.array(std)[:, None] if np.ndim(std) == 1 else np.array(std), (2, 2))
    np.testing.assert_allclose(law.mixture.covariances, [np.diag(row**2) for row in table])


def test_uniform_draws_fill_the_box_evenly():
    x = Uniform(-2.0, 0.5).sample((4000, 3), generator=generator(), dtype=F64)
    assert stats.kstest(x.flatten().numpy(), stats.uniform(-2, 2.5).cdf).pvalue > 1e-3


def test_draws_of_a_data_set_are_its_examples():
    """Scaled as the data are; digits range over [−1, 1] in data units."""
    data = genflow.get_dataset("digits")
    law = make_source("digits", None)
    x = law.sample((20, 1, 8, 8), generator=generator(), dtype=torch.float32)
    rows = data.scaling.encode(data.train).flatten(1)
    assert all(bool((row == rows).all(1).any()) for row in x.flatten(1))
    assert len(x.flatten(1).unique(dim=0)) > 15


def test_every_example_is_as_likely():
    law = Empirical(torch.arange(4.0)[:, None])
    counts = law.sample((4000, 1), generator=generator(), dtype=F64).flatten().long().bincount(minlength=4)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ["mixture", "uniform", "points"])
def test_draws_depend_on_the_generator_alone(name, dtype):
    laws = {
        "mixture": GaussianMixture(MEANS),
        "uniform": Uniform(),
        "points": Empirical(torch.randn(5, 2, generator=generator())),
    }
    one, two = (laws[name].sample((6, 2), generator=generator(3), dtype=dtype) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == dtype
    assert not torch.equal(one, laws[name].sample((6, 2), generator=generator(4), dtype=dtype))


def test_sample_k_does_not_depend_on_the_batch():
    """A free interpolant's prior: rows 3 and 4 of ten are those drawn alone."""
    from genflow.sampling import draw_prior

    for source in ({"source": "uniform"}, {"source": "mixture", "source_options": {"means": MEANS}}):
        process = SILinear(gamma="brownian", **source)
        whole, _ = draw_prior(process, (2,), seed=1, indices=range(10), dtype=F64)
        part, _ = draw_prior(process, (2,), seed=1, indices=[3, 4], dtype=F64)
        assert torch.equal(whole[3:5], part)


# ---- helpers of densities --------------------------------------------------------------------------------


def test_log_normal_is_scipy_s():
    gap = torch.randn(4, 2, 2, dtype=F64, generator=generator())
    covariance = torch.tensor(TILTED, dtype=F64)
    found = log_normal(gap, covariance)
    for k in range(2):
        want = stats.multivariate_normal.logpdf(gap[:, k], np.zeros(2), TILTED[k])
        torch.testing.assert_close(found[:, k], torch.from_numpy(want))


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (3.0, 3.1), (-40.0, -39.0), (30.0, 31.0), (-0.1, 0.1), (-9.0, 9.0)]
)
def test_normal_intervals_keep_their_digits_in_the_tails(low, high):
    """Against scipy's log of the density, integrated: log ∫ exp(log φ(u) − log φ(c)) du + log φ(c)."""
    top = min(abs(low), abs(high)) if low * high > 0 else 0.0
    shift = stats.norm.logpdf(top)
    value, _ = integrate.quad(lambda u: math.exp(stats.norm.logpdf(u) - shift), low, high, epsabs=0, epsrel=1e-12)
    found = log_normal_interval(torch.tensor(low, dtype=F64), torch.tensor(high, dtype=F64))
    assert float(found) == pytest.approx(math.log(value) + shift, rel=1e-10)


# ---- what is not allowed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("mixtur", None, "did you mean 'mixture'"),
        ("gaussian", {"std": 1.0}, "takes no options"),
        ("mixture", None, "needs source_options"),
        ("mixture", {"mean": [[0.0]]}, "mean"),
        ("mixture", {"means": [0.0, 1.0]}, r"give \(K, N\)"),
        ("mixture", {"means": [[0.0], [1.0, 2.0]]}, "means"),
        ("mixture", {"means": "many"}, "means"),
        ("mixture", {"means": [[0.0, math.nan]]}, "means"),
        ("mixture", {"means": MEANS, "std": -1}, "std"),
        ("mixture", {"means": MEANS, "std": math.nan}, "std"),
        ("mixture", {"means": MEANS, "std": "wide"}, "std"),
        ("mixture", {"means": MEANS, "std": [1.0, 2.0, 3.0]}, "std"),
        ("mixture", {"means": MEANS, "weights": [1.0]}, "weights"),
        ("mixture", {"means": MEANS, "weights": [1.0, 0.0]}, "weights"),
        ("mixture", {"means": MEANS, "covariances": [[1.0]]}, "covariances"),
        ("mixture", {"means": MEANS, "covariances": [[[1.0, 2.0], [2.0, 1.0]]] * 2}, "covariances"),
        ("mixture", {"means": MEANS, "covariances": [[[1.0, 0.5], [0.0, 1.0]]] * 2}, "covariances"),
        ("uniform", {"low": 1.0, "high": 1.0}, "above low"),
        ("uniform", {"low": "a"}, "low"),
        ("uniform", {"high": math.inf}, "high"),
        (Uniform(), {"low": 0.0}, "source that is a name"),
        (3, None, "a name or a Distribution"),
    ],
)
def test_bad_bases_are_refused_in_a_sentence(source, options, words):
    with pytest.raises(ValueError, match=words):
        SILinear(source=source, source_options=options)


@pytest.mark.parametrize("law", [Empirical(torch.zeros(3, 2)), GaussianMixture([[0.0, 0.0]])])
def test_a_base_of_another_shape_is_refused(law):
    with pytest.raises(ValueError, match=r"not|entries"):
        law.sample((4, 3), generator=generator(), dtype=F64)
    with pytest.raises(ValueError, match="M >= 1"):
        Empirical(torch.zeros(0, 2))


@pytest.mark.parametrize("law", [Empirical(torch.zeros(3, 2), "my points"), GaussianMixture([[0.0, 0.0]], std=0.0)])
def test_a_base_without_density_says_so(law):
    process = SILinear(source=law)
    assert process.why_not("likelihood")
    with pytest.raises(ValueError, match="no density"):
        process.log_prior(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no likelihood"):
        genflow.log_likelihood(process, lambda x, c: x, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no density"):
        law.log_density(torch.zeros(1, 2), 1.0, 0.0)
    with pytest.raises(ValueError, match="not known"):
        Uniform().components(2)
