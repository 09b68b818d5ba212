"""Oracles: their density against quadrature and other libraries, their field against the density it must carry.

Three facts fix an exact field: the density integrates to one and agrees with a density written another way, the score
is its gradient, and the velocity carries it, ∂_t log p + div v + v·∇ log p = 0.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.distributions import Empirical, GaussianMixture
from genflow.process.oracles import Cauchy, MixtureOracle, point_components, standard_components
from genflow.process.paths import SIEncDec, SILinear, SITrig
from genflow.process.poisson import PFGM, PFGMPP
from genflow.solver.adaptive import RK45

F64 = torch.float64
LINE = torch.tensor([[-1.1], [0.2], [0.9]], dtype=F64)
PLANE = torch.tensor([[-1.1, 0.4], [0.2, -0.7], [0.9, 0.5]], dtype=F64)
TILTED = [[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.4]]]
GAUSSIAN = ["vp_ode", "subvp_ode", "ve_ode", "si_linear", "si_trig", "si_encdec", "si_mirror", "si_fourier"]
FOURIER = {"alpha": (0.1, -0.05), "beta": (-0.1, 0.2)}


def normal(seed, *shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def process_of(name, **options):
    if name == "si_fourier":
        options = {**FOURIER, **options}
    return genflow.get_process(name, **options)


def sources(dim):
    """Bases of free interpolants in one or two dimensions."""
    means = [[-0.8, 0.3][:dim], [0.5, -0.2][:dim]]
    return {
        "mixture": {"source": "mixture", "source_options": {"means": means, "std": 0.4}},
        "uniform": {"source": "uniform"},
        "points": {"source": Empirical(normal(3, 4, dim))},
    }


def free(kind, dim, path, gamma, scale=0.8):
    """A free interpolant with every part of its answer, where it has a latent."""
    head = "velocity" if gamma == "none" else "velocity_denoiser"
    return path(head=head, gamma=gamma, gamma_scale=scale, channels=dim, **sources(dim)[kind])


FREE = [
    (kind, path, gamma)
    for path, gammas in (
        (SILinear, ("brownian", "quadratic", "sin_squared", "none")),
        (SITrig, ("brownian", "none")),
        (SIEncDec, ("sin_squared", "brownian")),
    )
    for gamma in gammas
    for kind in ("mixture", "uniform", "points")
    if not (gamma == "none" and kind == "points")
]
"""Base, path and latent. Points on both sides without a latent have no density."""


def inner(process):
    """Four times well inside, of which none is the middle, where encoding-decoding paths have a corner."""
    low, high = process.to_clock(torch.tensor(process.safe_interval, dtype=F64))
    return process.from_clock(low + (high - low) * torch.tensor([0.2, 0.4, 0.63, 0.85], dtype=F64))


# ---- densities -------------------------------------------------------------------------------------------


def total_on_the_line(oracle, t, scale):
    """∫ p_t dx by the midpoint rule on x = s tan u."""
    cells = 20_000
    u = math.pi * ((torch.arange(cells, dtype=F64) + 0.5) / cells - 0.5)
    density = oracle.log_prob((scale * u.tan())[:, None], t).exp() * scale / u.cos().square()
    return float(density.mean()) * math.pi


@pytest.mark.parametrize("name", [*GAUSSIAN, "pfgm", "pfgmpp"])
def test_density_of_points_integrates_to_one(name):
    process = process_of(name).for_data(LINE)
    for t in inner(process):
        if float(process.coefficients(t).b) > 1e-3:
            scale = max(1.0, float(process.coefficients(t).b))
            assert total_on_the_line(process.oracle(LINE), t, scale) == pytest.approx(1, abs=1e-6)


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize(("kind", "path", "gamma"), FREE)
def test_density_of_free_paths_integrates_to_one(kind, path, gamma):
    """Without a latent the density of a uniform base has jumps, which cost the rule one cell each."""
    process = free(kind, 1, path, gamma)
    sharp = kind == "uniform" and gamma == "none"
    for t in inner(process):
        assert total_on_the_line(process.oracle(LINE), t, 1.0) == pytest.approx(1, abs=2e-3 if sharp else 1e-6)


@pytest.mark.parametrize(("kind", "data"), [("mixture", "points"), ("mixture", "mixture"), ("uniform", "points")])
def test_density_integrates_to_one_over_the_plane(kind, data):
    process = free(kind, 2, SILinear, "brownian")
    oracle = process.oracle(PLANE if data == "points" else GaussianMixture(PLANE[:2], covariances=TILTED))
    axis = torch.linspace(-5, 5, 161, dtype=F64)
    states = torch.cartesian_prod(axis, axis)
    for t in inner(process)[[0, 2]]:
        total = float(oracle.log_prob(states, t).exp().sum()) * float(axis[1] - axis[0]) ** 2
        assert total == pytest.approx(1, abs=1e-6)


def convolved(process, points, base, t):
    """The law of a X + b N + g Z for points X and a base of components, by torch.distributions."""
    c = process.at(t, points)
    a, b, g = (float(v) for v in (c.a, c.b, c.g))
    weights, means, covariances = base
    count, dim = points.shape
    centres = (a * points[:, None] + b * means).reshape(-1, dim)
    spread = (b * b * covariances + g * g * torch.eye(dim, dtype=F64)).repeat(count, 1, 1)
    share = Categorical(logits=weights.repeat(count))
    return MixtureSameFamily(share, MultivariateNormal(centres, spread))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_score_of_plain_processes_is_the_gradient_of_another_library_s_density(name):
    process = process_of(name).for_data(PLANE)
    oracle, x = process.oracle(PLANE), normal(0, 6, 2).requires_grad_()
    for t in inner(process):
        want = convolved(process, PLANE, standard_components(2), t).log_prob(x)
        (score,) = torch.autograd.grad(want.sum(), x)
        torch.testing.assert_close(oracle.log_prob(x.detach(), t), want.detach(), rtol=1e-9, atol=1e-9)
        found = process.field(oracle).score(x.detach(), t)
        torch.testing.assert_close(found, score, rtol=1e-7, atol=1e-7 * float(score.abs().max()))


@pytest.mark.parametrize(("kind", "path", "gamma"), [c for c in FREE if c[0] != "uniform"])
def test_score_of_free_paths_is_the_gradient_of_another_library_s_density(kind, path, gamma):
    process = free(kind, 2, path, gamma)
    oracle, x = process.oracle(PLANE), normal(0, 6, 2).requires_grad_()
    for t in inner(process):
        want = convolved(process, PLANE, process.drawn.components(2), t).log_prob(x)
        (score,) = torch.autograd.grad(want.sum(), x)
        torch.testing.assert_close(oracle.log_prob(x.detach(), t), want.detach(), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(oracle.score(x.detach(), t), score, rtol=1e-7, atol=1e-7)
        if gamma != "none":
            torch.testing.assert_close(process.field(oracle).score(x.detach(), t), score, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("path", "gamma"), [(SILinear, "brownian"), (SITrig, "quadratic"), (SIEncDec, "sin_squared")])
def test_uniform_base_by_quadrature_over_the_box(path, gamma):
    """p(x) = (1/M) Σ_y ½ ∫ N(x; a y + b u, g²) du, u by Gauss–Legendre, and its gradient by autograd."""
    process = free("uniform", 1, path, gamma)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(400))
    oracle, x = process.oracle(LINE), torch.linspace(-1.5, 1.5, 9, dtype=F64)[:, None].requires_grad_()
    for t in inner(process):
        c = process.at(t, x.detach())
        gap = x[:, :, None] - (c.a * LINE).T[:, :, None] - c.b[..., None] * nodes
        heights = (-(gap.square()) / (2 * c.g**2)).exp() / (float(c.g) * math.sqrt(2 * math.pi))
        want = ((heights * weights / 2).sum(2).mean(1)).log()
        (score,) = torch.autograd.grad(want.sum(), x)
        torch.testing.assert_close(oracle.log_prob(x.detach(), t), want.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(process.field(oracle).score(x.detach(), t), score, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("process", [PFGM(), PFGMPP(D=3.5)], ids=["pfgm", "pfgmpp"])
def test_density_of_charges_is_that_of_scipy_s_student_t(process):
    oracle, x = process.oracle(PLANE), 2 * normal(1, 7, 2)
    for t in (0.01, 0.4, 8.0):
        law = multivariate_t(shape=t * t * np.eye(2), df=process.base.df)
        want = np.mean([law.pdf((x - y).numpy()) for y in PLANE], axis=0)
        torch.testing.assert_close(oracle.log_prob(x, torch.tensor(t, dtype=F64)), torch.from_numpy(want).log())


# ---- the field carries its density -----------------------------------------------------------------------


def unbalance(process, oracle, x, t):
    """∂_t log p + div v + v·∇ log p at x (B, N), and its largest term, all by autograd: (B,) each."""
    x, times = x.clone().requires_grad_(), t.expand(len(x)).clone().requires_grad_()
    log_p = oracle.log_prob(x, times)
    grad, rate = torch.autograd.grad(log_p.sum(), (x, times))
    velocity = process.field(oracle).velocity(x, t)
    rows = [torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(x.shape[1])]
    terms = torch.stack([rate, torch.stack(rows).sum(0), (velocity.detach() * grad).sum(1)])
    return terms.sum(0).detach().abs(), terms.detach().abs().amax(0)


def assert_balanced(process, oracle, x):
    for t in inner(process):
        found, size = unbalance(process, oracle, x, t)
        assert float((found / (1 + size)).max()) < 1e-6, f"at t = {float(t):g}"


@pytest.mark.parametrize("name", [*GAUSSIAN, "pfgm", "pfgmpp"])
def test_points_flow_with_their_density(name):
    process = process_of(name).for_data(PLANE)
    assert_balanced(process, process.oracle(PLANE), 0.7 * normal(2, 8, 2))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_mixtures_flow_with_their_density(name):
    process = process_of(name).for_data(PLANE)
    mixture = GaussianMixture(PLANE[:2], covariances=TILTED, weights=[0.3, 0.7])
    assert_balanced(process, process.oracle(mixture), normal(2, 8, 2))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("kind", "path", "gamma"), FREE)
def test_free_paths_flow_with_their_density(kind, path, gamma):
    """States are taken from the middle of what the path covers: without a latent a box has no density beside it."""
    process = free(kind, 2, path, gamma)
    x = 0.3 * normal(2, 8, 2)
    if gamma == "none" and kind == "uniform":
        x = x.clamp(-0.1, 0.1)
    assert_balanced(process, process.oracle(PLANE), x)


@pytest.mark.parametrize("path", [SILinear, SITrig, SIEncDec])
def test_mixture_to_mixture_flows_with_its_density(path):
    process = free("mixture", 2, path, "sin_squared")
    mixture = GaussianMixture(PLANE[:2], covariances=TILTED, weights=[0.3, 0.7])
    assert_balanced(process, process.oracle(mixture), normal(2, 8, 2))


@pytest.mark.parametrize("name", ["pfgm", "pfgmpp"])
def test_cauchy_data_flow_with_their_density(name):
    process = genflow.get_process(name, **({"D": 1} if name == "pfgmpp" else {}))
    assert_balanced(process, process.oracle(Cauchy(0.7)), 2 * normal(2, 8, 2))
    law = multivariate_t(shape=(0.7 + 2.0) ** 2 * np.eye(2), df=1)
    x = 3 * normal(4, 5, 2)
    found = process.oracle(Cauchy(0.7)).log_prob(x, torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(found, torch.from_numpy(law.logpdf(x.numpy())))


# ---- the same answer by two oracles, and means that add up -----------------------------------------------


@pytest.mark.parametrize("name", GAUSSIAN)
def test_points_as_components_of_no_extent_are_points(name):
    process = process_of(name).for_data(PLANE)
    one = process.oracle(PLANE)
    two = MixtureOracle(process, point_components(PLANE), standard_components(2), (2,))
    x = normal(5, 6, 2)
    for t in inner(process):
        torch.testing.assert_close(one.log_prob(x, t), two.log_prob(x, t), rtol=1e-9, atol=1e-9)
        for a, b in zip(one.means(x, t)[:2], two.means(x, t)[:2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def all_oracles():
    for name in [*GAUSSIAN, "pfgm", "pfgmpp"]:
        process = process_of(name).for_data(PLANE)
        yield name, process.oracle(PLANE)
        if name in GAUSSIAN:
            yield f"{name} mixture", process.oracle(GaussianMixture(PLANE, std=0.3))
    yield "cauchy", PFGM().oracle(Cauchy(0.7))
    for kind, path, gamma in FREE:
        yield f"{kind} {path.__name__} {gamma}", free(kind, 2, path, gamma).oracle(PLANE)


@pytest.mark.parametrize("oracle", [pytest.param(o, id=i) for i, o in all_oracles()])
def test_means_add_up_to_the_state(oracle):
    """a X̂ + b N̂ + g Ẑ = x, at one time for all rows and at one for each."""
    process, generator = oracle.process, torch.Generator().manual_seed(6)
    for t in (*inner(process), inner(process)):
        data = PLANE[[0, 1, 2, 0]]
        c = process.at(t, data)
        x = c.a * data + c.b * process.base_like(data, generator) + c.g * normal(7, 4, 2)
        data, base, latent = oracle.means(x, t)
        torch.testing.assert_close(c.a * data + c.b * base + c.g * latent, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["mixture", "uniform"])
def test_means_are_averages_over_draws(kind):
    """E[X], E[N] and E[Z] near a state, from 400 000 draws of the path itself: within 5 standard errors."""
    process = free(kind, 1, SILinear, "brownian")
    t, state, width = torch.tensor(0.4, dtype=F64), 0.15, 0.02
    generator = torch.Generator().manual_seed(0)
    x = LINE[torch.randint(3, (400_000,), generator=generator)]
    noise, z = process.base_like(x, generator), process._normal(x, generator)
    c = process.at(t, x)
    x_t = c.a * x + c.b * noise + c.g * z
    near = ((x_t - state).abs() < width)[:, 0]
    means = process.oracle(LINE).means(x_t[near], t)
    for draws, mean in zip((x, noise, z), means, strict=True):
        gap = draws[near] - mean
        assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(int(near.sum()))


def test_the_box_without_and_almost_without_base():
    """Past t = 1/2 an encoding-decoding path has no base left: the law is that of a y + g Z, E[N] the base's own."""
    process = free("uniform", 2, SIEncDec, "sin_squared")
    oracle, x = process.oracle(PLANE), 0.4 * normal(7, 5, 2)
    for t in (0.6, 0.8):
        at = torch.tensor(t, dtype=F64)
        c = process.at(at, x)
        eye = float(c.g) ** 2 * torch.eye(2, dtype=F64)
        law = MixtureSameFamily(Categorical(torch.ones(3, dtype=F64)), MultivariateNormal(float(c.a) * PLANE, eye))
        torch.testing.assert_close(oracle.log_prob(x, at), law.log_prob(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(oracle.means(x, at)[1], torch.zeros_like(x), rtol=0, atol=1e-12)
    before, after = (oracle.log_prob(x, torch.tensor(t, dtype=F64)) for t in (0.5 - 1e-5, 0.5 + 1e-5))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    for t in (0.49, 0.499, 0.4999, 0.499999):
        at = torch.tensor(t, dtype=F64)
        c = process.at(at, x)
        small = oracle.means(x, at)[1]
        law = x * float(c.b) / (3 * float(c.g) ** 2)  # the tilt of a narrow box, to first order in its width
        torch.testing.assert_close(small, law, rtol=0, atol=float(c.b) ** 2)


# ---- likelihoods -----------------------------------------------------------------------------------------


def assert_likelihood(process, oracle, x, prior_gap):
    """The change along the flow is that of the oracle's density to 1e-6; the prior is off by no more than its gap."""
    found = log_likelihood(process, oracle, x, solver=RK45(2e-9, 2e-9), trace="exact")
    near_data, near_prior = (torch.tensor(t, dtype=F64) for t in process.training_interval)
    want = oracle.log_prob(x, near_data)
    change = found.log_prob - process.log_prior(found.latent)
    torch.testing.assert_close(change + oracle.log_prob(found.latent, near_prior), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.log_prob, want, rtol=0, atol=prior_gap)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", [n for n in GAUSSIAN if n != "si_mirror"])
def test_likelihood_of_a_mixture_under_plain_processes(name):
    process = process_of(name).for_data(PLANE)
    mixture = GaussianMixture(PLANE, std=0.5, weights=[1, 2, 3])
    x = mixture.sample((5, 2), generator=torch.Generator().manual_seed(0), dtype=F64)
    assert_likelihood(process, process.oracle(mixture), x, 0.05)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("path", "gamma"),
    [(SILinear, "none"), (SILinear, "brownian"), (SITrig, "sin_squared"), (SIEncDec, "sin_squared")],
)
def test_likelihood_of_a_mixture_from_a_mixture(path, gamma):
    process = free("mixture", 2, path, gamma)
    mixture = GaussianMixture(PLANE, std=0.5, weights=[1, 2, 3])
    x = mixture.sample((4, 2), generator=torch.Generator().manual_seed(0), dtype=F64)
    assert_likelihood(process, process.oracle(mixture), x, 0.05)


@pytest.mark.slow
def test_likelihood_of_points_from_a_box():
    """Points smoothed by the path itself: x is drawn at the data's end."""
    process = SILinear(margin=0.05, head="velocity_denoiser", gamma="brownian", source="uniform", channels=2)
    oracle = process.oracle(PLANE)
    x = 0.95 * PLANE + 0.2 * normal(8, 3, 2)
    found = log_likelihood(process, oracle, x, solver=RK45(1e-8, 1e-8), trace="exact")
    near_data, near_prior = (torch.tensor(t, dtype=F64) for t in process.training_interval)
    change = found.log_prob - process.log_prior(found.latent)
    want = oracle.log_prob(x, near_data) - oracle.log_prob(found.latent, near_prior)
    torch.testing.assert_close(change, want, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_cauchy_likelihood_under_poisson_flow():
    process = PFGM(dim=2, norm=2.0, z_max=200.0)
    x = 2 * normal(9, 4, 2)
    assert_likelihood(process, process.oracle(Cauchy(0.7)), x, 0.01)


# ---- what has no oracle says so --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "data", "words"),
    [
        (SILinear(coupling="ot"), PLANE, "coupling = 'ot'"),
        (SILinear(source="uniform"), GaussianMixture(PLANE), "Uniform"),
        (SILinear(source="mixture", source_options={"means": [[0.0, 0.0, 0.0]]}), PLANE, "3 entries, the data 2"),
        (SILinear(source=Empirical(PLANE)), PLANE, "points and points without a latent"),
        (SILinear(), Cauchy(), "Cauchy base"),
        (PFGMPP(D=2), Cauchy(), "Cauchy base"),
        (PFGM(), GaussianMixture(PLANE), "GaussianMixture"),
        (PFGM(), torch.zeros(0, 2), "M >= 1"),
        (PFGM(), torch.zeros(3), r"\(M, \*\)"),
        (SILinear(source="uniform"), torch.zeros(0, 2), "M >= 1"),
        (SILinear(gamma="brownian", head="velocity_score"), torch.zeros(0, 2), "M >= 1"),
    ],
)
def test_unknown_fields_are_refused(process, data, words):
    with pytest.raises(ValueError, match=words):
        process.oracle(data)


@pytest.mark.parametrize("name", [*GAUSSIAN, "pfgm"])
def test_states_of_another_shape_are_refused(name):
    process = process_of(name).for_data(PLANE)
    oracle, t = process.oracle(PLANE), inner(process)[1]
    for call in (oracle.log_prob, process.field(oracle).velocity):
        with pytest.raises(ValueError, match=r"\(2,\)"):
            call(torch.zeros(4, 3, dtype=F64), t)
