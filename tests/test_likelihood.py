"""Likelihoods at any time of the path, against densities known in closed form, and the error of their probes."""

import math

import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chi2, multivariate_normal, multivariate_t

import genflow
from genflow.likelihood import bits_per_dim, log_likelihood
from genflow.process.bases import Gaussian, StudentT
from genflow.process.poisson import PFGM
from genflow.registry import registries
from genflow.solver.adaptive import RK45

F64 = torch.float64
POINTS = torch.tensor([[-0.8, 0.3], [0.9, 0.1], [0.2, -0.7]], dtype=F64)
SHARP = RK45(1e-7, 1e-7)
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]], dtype=F64)


def with_known_paths():
    """Every registered process whose x_t = a X + b N has a known base, one of each class."""
    seen = set()
    for name in registries()["processes"].entries():
        process = genflow.get_process(name)
        able = not any(process.why_not(c) for c in ("likelihood", "affine", "oracle"))
        if able and type(process) not in seen:
            seen.add(type(process))
            yield name


def mixture(process, t, x):
    """log p_t(x) of equal points: the mean of the base's densities about a y_j at scale b, by scipy."""
    a, b = (float(v) for v in process.schedule(torch.tensor(t, dtype=F64)))
    spread = b * b * torch.eye(x.shape[1], dtype=F64).numpy()
    rows = []
    for y in (a * POINTS).numpy():
        if isinstance(process.base, StudentT):
            rows.append(multivariate_t(y, spread, df=process.base.df).logpdf(x.numpy()))
        else:
            assert isinstance(process.base, Gaussian)
            rows.append(multivariate_normal(y, spread).logpdf(x.numpy()))
    return torch.from_numpy(logsumexp(rows, axis=0)) - math.log(len(POINTS))


def states(process, t, count):
    """Draws of x_t about the points."""
    t, generator = torch.tensor(t, dtype=F64), torch.Generator().manual_seed(1)
    data = POINTS[torch.arange(count) % len(POINTS)]
    return process.interpolate(data, process.base_like(data, generator), t)


@pytest.mark.quick_one_in(13)
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", list(with_known_paths()))
def test_finite_points_at_any_time(name, share):
    """Along the flow the density goes from the mixture at t to the mixture at the prior's end, exactly."""
    process = genflow.get_process(name).for_data(POINTS)
    near_data, near_prior = process.safe_interval
    clock = process.to_clock(torch.tensor([near_data, near_prior], dtype=F64))
    t = float(process.from_clock(torch.lerp(*clock, torch.tensor(share, dtype=F64))))
    x = states(process, t, 3)
    found = log_likelihood(process, process.oracle(POINTS), x, t=t, solver=SHARP, trace="exact")
    change = found.log_prob - process.log_prior(found.latent)
    want = mixture(process, t, x) - mixture(process, near_prior, found.latent)
    torch.testing.assert_close(change, want, rtol=0, atol=1e-4)
    assert found.t == t
    assert bool((found.stderr == 0).all())


@pytest.mark.parametrize("name", ["vp_ode", "pfgmpp"])
def test_at_the_prior_s_end_it_is_the_prior(name):
    process = genflow.get_process(name)
    x = states(process, process.t_prior, 4)
    found = log_likelihood(process, process.oracle(POINTS), x, t=process.t_prior, trace="exact")
    torch.testing.assert_close(found.log_prob, process.log_prior(x))
    assert torch.equal(found.latent, x)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("z", [1e-3, 2.0])
def test_cauchy_data_at_any_height(z):
    """Data of Cauchy(s): at z the marginal is Cauchy(s + z)."""
    s = 0.5
    process = PFGM(dim=3, norm=1.0, z_max=1e5, head="velocity")

    def exact(x, condition):
        return x / (s + process.time(condition.double()).reshape(-1, 1)).to(x)

    x = (s + z) * StudentT(1.0).sample((8, 3), generator=torch.Generator().manual_seed(0), dtype=F64)
    found = log_likelihood(process, exact, x, t=z, solver=RK45(1e-8, 1e-8), trace="exact").log_prob
    want = multivariate_t(torch.zeros(3).numpy(), ((s + z) ** 2 * torch.eye(3)).numpy(), df=1).logpdf(x.numpy())
    torch.testing.assert_close(found, torch.from_numpy(want), rtol=1e-4, atol=1e-4)


# ---- probes ----------------------------------------------------------------------------------------------


def correlated(process, covariance=COVARIANCE):
    """The exact backbone for X ~ N(0, C): E[X | x_t] = a C (a² C + b² I)⁻¹ x."""
    values, vectors = torch.linalg.eigh(covariance)

    def backbone(x, condition):
        c = process.at(process.time(condition.double()), x)
        gain = c.a * values / (c.a**2 * values + c.b**2)
        return process.prediction.encode((x @ vectors * gain) @ vectors.T, x, c)

    return backbone


def integrated_slope(process, t):
    """∫ ∂v/∂x of the linear flow of N(0, C): ½ log(C_T C_t⁻¹) with C_t = a² C + b² I."""
    values, vectors = torch.linalg.eigh(COVARIANCE)

    def spread(time):
        a, b = process.schedule(torch.tensor(time, dtype=F64))
        return a * a * values + b * b

    return vectors @ ((spread(process.t_prior) / spread(t)).log() / 2).diag() @ vectors.T


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_variance_of_probes_is_the_known_one(probe, count):
    """The estimate is eᵀ S e with S symmetric: variance 2 Σ_{i≠j} S_ij² for ±1 entries, 2 |S|² for normal ones."""
    process, n = genflow.get_process("ve_ode"), 1500
    x = torch.full((n, 3), 0.4, dtype=F64)
    t = 0.2
    settings = {"t": t, "solver": RK45(1e-5, 1e-5, control="batch"), "probe": probe, "probes": count}
    found = log_likelihood(process, correlated(process), x, **settings)
    slope = integrated_slope(process, t)
    squares = slope.square() if probe == "gaussian" else slope.square() - slope.square().diag().diag()
    variance = 2 * float(squares.sum()) / count
    assert float(found.log_prob.var()) == pytest.approx(variance, rel=0.2)
    a, b = (float(v) for v in process.schedule(torch.tensor(t, dtype=F64)))
    marginal = multivariate_normal(torch.zeros(3).numpy(), (a * a * COVARIANCE + b * b * torch.eye(3)).numpy())
    assert float(found.log_prob.mean()) == pytest.approx(marginal.logpdf(x[0].numpy()), abs=4 * (variance / n) ** 0.5)
    if count == 1:
        assert bool(found.stderr.isnan().all())
    else:
        assert float(found.stderr.square().mean()) == pytest.approx(variance, rel=0.2)


def test_a_probe_belongs_to_its_sample():
    process = genflow.get_process("vp_ode")
    x = states(process, 0.3, 7)
    settings = {"t": 0.3, "solver": RK45(1e-5, 1e-5), "probes": 3}
    whole = log_likelihood(process, process.oracle(POINTS), x, seed=5, **settings)
    apart = log_likelihood(process, process.oracle(POINTS), x[4:], seed=5, first_index=4, **settings)
    torch.testing.assert_close(whole.log_prob[4:], apart.log_prob, rtol=0, atol=1e-10)
    other = log_likelihood(process, process.oracle(POINTS), x[4:], seed=6, first_index=4, **settings)
    assert bool(((other.log_prob - apart.log_prob).abs() > 1e-3).any())


def test_more_probes_cost_no_backbone_calls():
    """One forward pass a call whatever the number of probes, and one pass back for each."""
    process, counts = genflow.get_process("vp_ode"), {"forward": 0, "back": 0}
    exact = correlated(process, torch.eye(2, dtype=F64))

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            counts["forward"] += 1
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            counts["back"] += 1
            return gradient

    for probes in (1, 5):
        counts.update(forward=0, back=0)
        found = log_likelihood(
            process,
            lambda x, condition: exact(Counted.apply(x), condition),
            POINTS,
            solver=genflow.get_solver("heun"),
            nfe=11,
            probes=probes,
        )
        assert found.nfe == 11
        assert counts == {"forward": 11, "back": 11 * probes}


# ---- refusals and units ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"trace": "exactly"}, "trace = 'exactly' is not allowed; give hutchinson or exact"),
        ({"probe": "sign"}, "probe = 'sign' is not allowed; give rademacher or gaussian"),
        ({"probes": 0}, "probes = 0 is not allowed"),
        ({"t": 1.5}, "t = 1.5 lies outside the interval of VP"),
        ({"t": -0.1}, "t = -0.1 lies outside the interval of VP"),
    ],
)
def test_what_is_not_allowed(given, what):
    process = genflow.get_process("vp_ode")
    with pytest.raises(ValueError, match=what):
        log_likelihood(process, process.oracle(POINTS), POINTS, **given)


def test_a_process_without_a_prior_density_refuses_with_its_reason():
    class Unknown(type(genflow.get_process("vp_ode"))):
        def why_not(self, capability):
            return "the prior is a set of photographs" if capability == "likelihood" else super().why_not(capability)

    process = Unknown()
    with pytest.raises(ValueError, match="no likelihood: the prior is a set of photographs"):
        log_likelihood(process, process.oracle(POINTS), POINTS)


def test_bits_per_dim_of_uniform_grey_levels():
    """A density that is even over all L levels' cells costs log2 L bits an entry."""
    from genflow.data.base import Scaling

    dim, levels = 12, 17
    log_prob = torch.full((9,), -dim * math.log(2.0), dtype=F64)  # even on [−1, 1]^N
    bits, error = bits_per_dim(log_prob, dim, Scaling.grey(levels))
    assert bits == pytest.approx(math.log2(levels))
    assert error == pytest.approx(0, abs=1e-12)


def test_the_standard_error_of_bits_per_dim():
    """Of normal −log p with a known scale, inside the 99.9 % interval of a χ² variance."""
    from genflow.data.base import Scaling

    n, dim, scale = 400, 5, 3.0
    nats = scale * torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(0))
    _, error = bits_per_dim(-nats, dim, Scaling.grey(2))
    ratio = (error * math.sqrt(n) * dim * math.log(2) / scale) ** 2 * (n - 1)
    assert chi2.ppf(5e-4, n - 1) < ratio < chi2.ppf(1 - 5e-4, n - 1)


def test_what_sampling_in_inference_mode_remembers_does_not_break_a_likelihood():
    """Coefficients and conditions of a time are remembered; a tensor of inference mode cannot be used by autograd."""
    import torch

    import genflow

    for name in ("pfgm", "vp_ode"):
        process = genflow.get_process(name)
        backbone = genflow.get_backbone("mlp", shape=(3,), extra_channels=process.extra_channels)
        grid = process.grid(4)
        with torch.inference_mode():
            genflow.get_solver("euler").solve(process.field(backbone), torch.ones(2, 3), grid=grid)
        x = torch.ones(2, 3, requires_grad=True)
        for t in grid:
            (slope,) = torch.autograd.grad(process.field(backbone).velocity(x, t).sum(), x)
            assert bool(slope.isfinite().all())
