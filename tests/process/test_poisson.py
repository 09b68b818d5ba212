"""Poisson flow against charges, closed forms and published constants."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import kstest

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.bases import StudentT
from genflow.process.poisson import PFGM
from genflow.process.posterior import posterior_mean
from genflow.solver.adaptive import RK45

F64 = torch.float64


def coulomb(x, z, charges):
    """The field of unit charges on z = 0 from its definition: Σ (x − y, z)/|(x − y, z)|^(N+1)."""
    gaps = torch.cat([x - charges, torch.full((len(charges), 1), z, dtype=F64)], dim=1)
    return (gaps / gaps.norm(dim=1, keepdim=True) ** (len(x) + 1)).sum(0)


@pytest.mark.parametrize("inverse", ["exact", "ratio", "projected"])
def test_velocity_is_the_direction_of_the_coulomb_field(inverse):
    charges = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    process = PFGM(dim=3, norm=2.0, inverse=inverse)
    field = process.field(process.oracle(charges))
    for z in (0.01, 0.3, 2.0, 8.0):
        x = torch.tensor([[0.7, -0.2, 0.4]], dtype=F64)
        e = coulomb(x[0], z, charges)
        torch.testing.assert_close(field.velocity(x, torch.tensor(z, dtype=F64))[0], e[:3] / e[3], rtol=1e-8, atol=1e-8)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("solver", ["euler", "heun", "rk45"])
def test_two_charges_attract_half_the_samples_each(solver):
    charges = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    process = PFGM(dim=2, norm=1.0, z_max=100.0)
    n = 2000
    x = genflow.sample(process, process.oracle(charges), solver, n, nfe=None if solver == "rk45" else 60, dtype=F64).x
    right = int((x[:, 0] > 0).sum())
    assert abs(right - n / 2) < 4 * math.sqrt(n) / 2
    gap = torch.cdist(x, charges).amin(1)
    assert float(gap.median()) < 3e-3
    assert float(gap.quantile(0.9)) < 2e-2


def test_oracle_flow_lands_on_the_data():
    points = genflow.get_dataset("digits").scaling.encode(genflow.get_dataset("digits").train[:40]).double()
    process = PFGM().for_data(points)
    x = genflow.sample(process, process.oracle(points), "rk45", 100, dtype=F64).x
    gap = torch.cdist(x.flatten(1), points.flatten(1)).amin(1)
    assert float(gap.median()) < 0.05  # nearest neighbours among the points are 3 and more apart
    assert len(torch.cdist(x.flatten(1), points.flatten(1)).argmin(1).unique()) > 15


@pytest.mark.slow
def test_cauchy_data_give_the_closed_form_velocity_and_likelihood():
    """Data of Cauchy(s): the marginal at z is Cauchy(s + z), so dx/dz = x/(s + z) and the density is known."""
    s, n = 0.5, 4
    process = PFGM(dim=n, norm=1.0, z_max=1e5, head="velocity")

    def exact(x, condition):
        z = process.time(condition.double())
        return x / (s + z.reshape(-1, 1)).to(x)

    x = s * StudentT(1.0).sample((50, n), generator=torch.Generator().manual_seed(0), dtype=F64)
    found = log_likelihood(process, exact, x, solver=RK45(1e-9, 1e-9), trace="exact").log_prob
    at_end = s + process.z_min  # the path starts at z_min, where the density is that of Cauchy(s + z_min)
    want = StudentT(1.0).log_prob(x / at_end) - n * math.log(at_end)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_hutchinson_is_unbiased_for_the_exact_trace():
    points = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    process = PFGM(dim=3, norm=1.7, z_max=50.0, z_min=0.05)
    x = points[:1].expand(400, -1) + 0.2
    solver = RK45(1e-6, 1e-6)
    exact = log_likelihood(process, process.oracle(points), x[:1], solver=solver, trace="exact").log_prob
    many = log_likelihood(process, process.oracle(points), x, solver=solver).log_prob
    assert abs(float(many.mean() - exact)) < 4 * float(many.std()) / 20 + 1e-3


def test_posterior_of_cauchy_data_matches_autograd_of_the_log_density():
    """For base Cauchy, x − X̂ is z times dx/dz of E_x/E_z; E_z is the density, and E is a gradient field:
    E_x = −∇ potential with potential Σ |(x − y, z)|^(1−N)/(N − 1)."""
    points = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(4))
    process, z = PFGM(dim=3, norm=1.7), torch.tensor(0.4, dtype=F64, requires_grad=True)
    x = torch.tensor([[0.3, 0.1, -0.5]], dtype=F64, requires_grad=True)
    gaps2 = (x - points).square().sum(1) + z * z
    potential = (gaps2 ** ((1 - 3) / 2)).sum() / 2
    grad_x, grad_z = torch.autograd.grad(potential, (x, z))
    slope = grad_x / grad_z
    found = x - posterior_mean(x.detach(), z.detach(), points, process)
    torch.testing.assert_close(found.detach(), (z * slope).detach())


@pytest.mark.parametrize(
    ("norm", "dim", "m", "z_max", "upper"), [(30, 3072, 287, 38.57, 2679), (41, 12288, 286, 37.4, 5202)]
)
def test_published_hyper_parameter_rule(norm, dim, m, z_max, upper):
    process = PFGM(norm=norm, dim=dim)
    assert process.published_m() == m
    assert process.t_prior == pytest.approx(z_max, rel=1e-2)
    assert process.radius_limit == pytest.approx(upper, rel=1e-3)


def test_exact_prior_radius_is_a_ratio_of_chi_squares():
    """|x|²/(N z²) of a multivariate Cauchy is F(N, 1)."""
    process = PFGM(dim=6, norm=3.0)
    x = process.sample_prior((4000, 6), generator=torch.Generator().manual_seed(0), dtype=F64)
    ratio = x.square().sum(1) / (6 * process.t_prior**2)
    assert kstest(ratio.numpy(), "f", args=(6, 1)).pvalue > 1e-3


def test_published_prior_is_clipped():
    process = PFGM(dim=3072, norm=30.0, prior="published", z_max=40.0, upper_norm=3000.0)
    radius = process.sample_prior((3000, 3072), generator=torch.Generator().manual_seed(0)).norm(dim=1)
    assert float(radius.max()) <= 3000 * (1 + 1e-5)
    share = float((radius > 2999).float().mean())
    assert share == pytest.approx(0.54, abs=0.03)  # "54 % of CIFAR-10 prior samples sit at upper_norm"


def test_projected_inverse_is_the_better_estimate_of_a_noisy_field():
    """Noise of 1 % on the N + 1 outputs: the projected inverse errs least, near and far from the data."""
    generator = torch.Generator().manual_seed(0)
    heads = {k: PFGM(dim=64, norm=6.0, gamma=1.0, inverse=k) for k in ("exact", "ratio", "projected")}
    for z, radius in ((0.05, 0.6), (0.5, 6.0), (10.0, 120.0)):
        x = torch.randn(500, 64, dtype=F64, generator=generator)
        x = radius * x / x.norm(dim=1, keepdim=True)
        t, c = torch.tensor(z, dtype=F64), None
        errors = {}
        noise = 0.01 * torch.randn(500, 65, dtype=F64, generator=generator)
        for name, process in heads.items():
            c = process.at(t, x)
            clean = process.prediction.encode(torch.zeros_like(x), x, c)
            velocity = process.velocity(clean + noise * 1, x, t)
            errors[name] = float((velocity - x / z).norm(dim=1).square().mean())
        assert errors["projected"] < 1.1 * min(errors["exact"], errors["ratio"]), (z, errors)


@pytest.mark.slow
def test_reverse_ode_agrees_with_scipy():
    points = torch.randn(8, 2, dtype=F64, generator=torch.Generator().manual_seed(6))
    process = PFGM(dim=2, norm=1.4)
    field = process.field(process.oracle(points))
    start = torch.tensor([[12.0, -7.0]], dtype=F64)
    ours = RK45(1e-9, 1e-9).solve(field, start).x

    def slope(s, x):
        z = torch.tensor(math.exp(s), dtype=F64)
        return (z * field.velocity(torch.from_numpy(x)[None], z))[0].numpy()

    ends = [math.log(process.t_prior), math.log(process.t_data)]
    theirs = solve_ivp(slope, ends, start[0].numpy(), rtol=1e-9, atol=1e-9).y[:, -1]
    torch.testing.assert_close(ours[0], torch.from_numpy(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"dim": 0}, {"norm": -1}, {"norm": math.nan}, {"tau": 0}, {"z_min": 0}, {"z_max": 1e-4}, {"gamma": 0},
     {"inverse": "exac"}, {"prior": "x"}, {"constant": "x"}, {"head": "fields"}, {"mode": "sde"}, {"large_batch": -1}],
)  # fmt: skip
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PFGM(**options)


def test_no_score_is_said_in_a_sentence():
    process = PFGM()
    with pytest.raises(ValueError, match="does not determine the score"):
        process.score(torch.zeros(1, 4), torch.zeros(1, 3), torch.tensor(1.0))
    with pytest.raises(ValueError, match="sample its ODE"):
        genflow.sample(process, process.oracle(torch.zeros(1, 3)), "euler_maruyama", 2, nfe=3)
