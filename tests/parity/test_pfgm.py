"""Poisson flow against the published code (Newbeeer/Poisson_flow) and against the identities behind it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from genflow.data.base import Scaling
from genflow.likelihood import DivergenceField, bits_per_dim, log_likelihood
from genflow.process.base import Perturbed
from genflow.process.heads import PoissonField
from genflow.process.poisson import PFGM
from genflow.process.posterior import posterior_mean
from genflow.solver.adaptive import RK45
from genflow.solver.fields import CallableField
from genflow.solver.ode import Euler, Heun

PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
N = 192
IMAGE = (3, 8, 8)


def pfgm(**options):
    """The constants of the stored runs."""
    return PFGM(**{"dim": N, "gamma": 5.0, "m_max": 291, "z_max": 40.0, "z_min": 1e-3, "upper_norm": 3000.0, **options})


def grey(data, dtype):
    """The 8-bit images behind data that is stored in float32: the stored float64 runs saw them unrounded."""
    return (((data.double() + 1) * 127.5).round() / 127.5 - 1).to(dtype)


# ---- perturbation and target -----------------------------------------------------------------------------


@pytest.fixture
def target(load):
    return load("pfgm/field_target_D192_N256.npz")


@pytest.fixture
def replay(monkeypatch):
    """Replaces the next draws, in order of use, by given ones."""

    def play(**draws):
        for name, values in draws.items():
            queue = [v.double() for v in values]
            monkeypatch.setattr(torch, name, lambda *args, q=queue, **kwargs: q.pop(0))

    return play


@pytest.mark.parametrize("restrict", [True, False])
def test_perturbation_from_the_stored_draws(target, error, replay, restrict):
    """The draws are stored in float32, which alone is 6e-8."""
    z_raw = target["draw_z_raw"].flatten()
    low = z_raw.double().abs() * 0.01 < 0.005
    assert int(low.sum()) == int(target["num_restricted"])
    again = torch.zeros(16).masked_scatter(low, target["draw_u_restrict"])
    replay(
        rand=[target["draw_u_m"], *[again] * restrict],
        randn=[z_raw, target["draw_noise"].flatten(1), target["draw_gaussian"]],
    )
    process = pfgm(restrict="absolute" if restrict else "none", z_min=1e-10, z_max=1e3)
    x_t, z = process.published_perturbation(grey(target["data"][:16], torch.float64), torch.Generator())
    want = target[f"perturbed_{'' if restrict else 'no'}restrict_f64"]
    assert error(x_t.flatten(1), want[:, :-1]) < 1e-7
    assert error(z, want[:, -1]) < 1e-7


@pytest.mark.parametrize("mode", ["restrict", "norestrict"])
@pytest.mark.parametrize(("tag", "tolerance"), [("f64", 1e-7), ("f32", 1e-6)])
def test_target_and_its_loss(target, error, mode, tag, tolerance):
    """Published code adds 1e-7 to each distance and to the sum of weights: that is the float64 tolerance."""
    dtype = PRECISIONS[tag]
    process, data = pfgm(z_min=1e-10, z_max=1e3), grey(target["data"], dtype)
    points = target[f"perturbed_{mode}_{tag}"]
    x_t, z = points[:, :-1].reshape(-1, *IMAGE), points[:, -1].double()
    found = process.average_target(data[:16], x_t, z, data[16:])
    want = target[f"target_{mode}_{tag}"]
    assert found.dtype == dtype
    assert error(process.prediction.entries(found), want) < tolerance
    # published loss: half the sum over the N + 1 entries; ours: their mean
    pairs = Perturbed(x_t, z, found, torch.ones(16))
    loss = process.loss_terms(torch.zeros_like(found), pairs).mean() * (N + 1) / 2
    assert error(loss, target[f"loss_zero_pred_{mode}_{tag}"]) < 1e-6


@pytest.mark.parametrize("mode", ["restrict", "norestrict"])
def test_posterior_weights(target, error, mode):
    process, data = pfgm(z_min=1e-10, z_max=1e3), grey(target["data"], torch.float64)
    points, want = target[f"perturbed_{mode}_f64"], target[f"weights_logdomain_{mode}_f64"]
    x, z, rows = points[:, :-1], points[:, -1:], data.flatten(1)
    cross = rows.square().sum(1) - 2 * x @ rows.T
    logits = process.base.log_weights(cross, x.square().sum(1, keepdim=True), z, N)
    assert error(logits.softmax(1), want) < 1e-9
    mean = posterior_mean(x.reshape(-1, *IMAGE), z.flatten(), data, process)
    assert error(mean.flatten(1), want @ rows) < 1e-9


# ---- prior -----------------------------------------------------------------------------------------------

CASES = {"toy8": 20_000, "cifar10": 2_000, "celeba64": 500, "bedroom256": 60}
"""Set-ups of the published prior, and how many samples to draw."""


def case(load, name, **options):
    stored = load("pfgm/prior.npz")
    dim, z_max, upper = stored[f"{name}_D_zmax_upper"].tolist()
    return stored, PFGM(dim=int(dim), z_max=z_max, upper_norm=upper, **options)


def radii(process, count):
    draws = process.sample_prior((count, process.dim), generator=torch.Generator().manual_seed(0))
    return torch.cat([rows.double().norm(dim=1) for rows in draws.split(50)])


def assert_share(found, want, count):
    """A share of `count` independent draws, within four standard errors and one draw."""
    bound = 4 * (want * (1 - want) / count).clamp_min(0).sqrt() + 1 / count
    assert bool(((found - want).abs() <= bound).all()), f"{found} against {want}, bound {bound}"


@pytest.mark.parametrize("name", CASES)
def test_prior_radius(load, name):
    stored, process = case(load, name, prior="exact")
    quantiles = stored[f"{name}_exact_quantiles_unclipped"]
    median = process.t_prior * process.base.median_radius(process.dim)
    assert median == pytest.approx(float(quantiles[stored["q"] == 0.5]), rel=1e-9)
    r = radii(process, CASES[name])
    assert_share((r[:, None] <= quantiles).double().mean(0), stored["q"], len(r))


@pytest.mark.parametrize("name", CASES)
def test_clipped_prior_radius(load, name):
    """Most published priors sit on their upper clip: 54, 73 and 86 % of the samples."""
    stored, process = case(load, name, prior="published")
    r = radii(process, CASES[name])
    clipped = r >= process.upper_norm * (1 - 1e-6)
    assert_share(clipped.double().mean(), stored[f"{name}_exact_P_above_upper"], len(r))
    assert_share(clipped.double().mean(), stored[f"{name}_frac_clipped_upper"], len(r))
    below = stored[f"{name}_exact_quantiles_unclipped"] < process.upper_norm
    quantiles, levels = stored[f"{name}_emp_quantiles"][below], stored["q"][below]
    assert_share((r[:, None] <= quantiles).double().mean(0), levels, len(r))
    assert float(r.max()) == pytest.approx(process.upper_norm, rel=1e-6)


def test_prior_from_the_stored_draws(load, error, replay):
    """A radius z sqrt(B/(1 − B)) along g is z g/n with n = |g| sqrt((1 − B)/B)."""
    stored = load("pfgm/prior.npz")
    g, beta = stored["fixed_gaussian"].double(), stored["fixed_beta"]
    chi2 = g.square().sum(1) * (1 - beta) / beta
    replay(randn=[g.reshape(-1, *IMAGE)], _standard_gamma=[chi2 / 2])
    x = pfgm(prior="published").sample_prior((8, *IMAGE), generator=torch.Generator())
    assert error(x, stored["fixed_x"]) < 1e-6


@pytest.mark.parametrize("name", ["cifar10", "celeba64", "bedroom256"])
def test_prior_constant_is_that_of_the_right_sphere(load, name):
    """The published constant takes the sphere's area one dimension too low; the stored exact one is ours."""
    dim, published, exact, bits = load("pfgm/prior_log_theta_constants.npz")[name].tolist()
    process, x = PFGM(dim=int(dim), z_max=40.0), torch.zeros(1, int(dim), dtype=torch.float64)
    # at x = 0: log θ + log 2z − (N + 1) log z
    found = float(process.log_prior(x)) - math.log(2 * 40) + (dim + 1) * math.log(40)
    assert found == pytest.approx(exact, rel=1e-11)
    assert (found - published) / (dim * math.log(2)) == pytest.approx(bits, rel=1e-6)
    theirs = PFGM(dim=int(dim), z_max=40.0, constant="published")
    assert float(theirs.log_prior(x)) - math.log(2 * 40) + (dim + 1) * math.log(40) == pytest.approx(
        published, rel=1e-11
    )


# ---- the ODE ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "tolerance"), [("f64", 1e-9), ("f32", 1e-4)])
def test_published_drift(load, error, tag, tolerance):
    """dx/d log z from scripted network outputs, on both sides of z_exp, up to |v_x| = 0.999 √N.

    There float32 keeps four digits of 1 − q, in the published code as in ours.
    """
    stored, process = load("pfgm/ode_drift_from_field.npz"), pfgm(inverse="published")
    for k in range(7):
        z, field = stored[f"z{k}"].double(), stored[f"x_drift_z{k}"].to(PRECISIONS[tag])
        plane = stored[f"z_drift_z{k}"].to(field.dtype).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        velocity = process.velocity(torch.cat([field, plane], dim=1), torch.zeros_like(field), z)
        for found, want in zip(z * velocity, stored[f"drift_z{k}_{tag}"], strict=True):
            assert error(found, want) < tolerance


@pytest.fixture
def trajectories(load):
    return load("pfgm/trajectories_field.npz")


def recorded(process, points):
    """A field on the oracle that notes every (x, z) its network is called with."""
    oracle, calls = process.oracle(points), []

    def backbone(x, condition):
        calls.append((x, process.time(condition.double())))
        return oracle(x, condition)

    return process.field(backbone), calls


@pytest.mark.parametrize("tag", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "solver"),
    [("forward_euler", Euler()), ("improved_euler", Heun()), ("pc_euler_maruyama", Euler())],
)
def test_fixed_step_trajectories(trajectories, error, name, solver, tag):
    """Every network call and the end, which is stored as (x + 1)/2."""
    stored = {k.removeprefix(f"{name}_{tag}_"): v for k, v in trajectories.items() if k.startswith(f"{name}_{tag}")}
    tolerance = 1e-9 if tag == "f64" else 1e-4
    field, calls = recorded(pfgm(inverse="published"), trajectories["points"].to(PRECISIONS[tag]))
    solution = solver.solve(field, stored["calls_x"][0], nfe=int(stored["nfe"]))
    assert solution.nfe == int(stored["nfe"]) == len(calls)
    for (x, z), want_x, want_z in zip(calls, stored["calls_x"], stored["calls_z"], strict=True):
        assert error(x, want_x) < tolerance
        torch.testing.assert_close(z, want_z, rtol=tolerance, atol=0)
    assert error((solution.x + 1) / 2, stored["final"]) < tolerance
    on_grid = solver.solve(field, stored["calls_x"][0], grid=field.grid(int(trajectories["N"])))
    assert torch.equal(on_grid.x, solution.x)
    assert on_grid.nfe == solution.nfe


class WithPlane:
    """A field on (x, z plane): the published adaptive solve carries z as one more channel, which enters its error."""

    def __init__(self, field):
        self.field, self.times = field, []

    def __getattr__(self, name):
        return getattr(self.field, name)

    def velocity(self, x, t):
        self.times.append(float(t))
        return torch.cat([self.field.velocity(x[:, :-1], t), torch.ones_like(x[:, -1:])], dim=1)


def test_adaptive_trajectory_step_by_step(trajectories, error):
    points, x = trajectories["points"], trajectories["rk45_f64_x0"]
    field = WithPlane(pfgm(inverse="published").field(pfgm(inverse="published").oracle(points)))
    start = torch.cat([x, torch.full_like(x[:, :1], 40.0)], dim=1)
    solution = RK45(rtol=1e-4, atol=1e-4, control="batch").solve(field, start)
    assert solution.nfe == int(trajectories["rk45_f64_nfe"]) == 104
    torch.testing.assert_close(
        torch.tensor(field.times, dtype=torch.float64), trajectories["rk45_f64_calls_z"][:, 0], rtol=1e-8, atol=0
    )
    assert error((solution.x[:, :-1] + 1) / 2, trajectories["rk45_f64_final"]) < 1e-9


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("tag", PRECISIONS)
@pytest.mark.parametrize("control", ["batch", "sample"])
@pytest.mark.parametrize("inverse", ["published", "ratio", "exact", "projected"])
def test_adaptive_trajectory(trajectories, error, tag, control, inverse):
    """On x alone, whatever reads the velocity from the field: within the solve's tolerance, with about its calls."""
    process, dtype = pfgm(inverse=inverse), PRECISIONS[tag]
    field = process.field(process.oracle(trajectories["points"].to(dtype)))
    solution = RK45(rtol=1e-4, atol=1e-4, control=control).solve(field, trajectories[f"rk45_{tag}_x0"].to(dtype))
    assert error((solution.x + 1) / 2, trajectories[f"rk45_{tag}_final"]) < 1e-4
    assert field.evaluations == round(solution.nfe * 4)
    assert solution.nfe == pytest.approx(104, abs=0 if tag == "f64" else 16)


# ---- likelihood ------------------------------------------------------------------------------------------


@pytest.fixture
def likelihood(load):
    stored = load("pfgm/likelihood_field.npz")
    return {**stored, "probe": 2 * stored["epsilon_bits"].double() - 1}


def published_rule(points):
    """dx/dz of the published likelihood: the field, v_z replaced below z = 5, brought to unit length, v_z + 1e-5."""
    process = pfgm()

    def velocity(x, t):
        c = process.at(t, x)
        output = process.prediction.entries(process.prediction.encode(posterior_mean(x, t, points, process), x, c))
        v_x, v_z, z = output[:, :-1], output[:, -1], float(t)
        if z < 5:
            share = v_x.norm(dim=1) / math.sqrt(N)
            v_z = -math.sqrt(N) * z / ((5 * share / (1 - share)).square().add(z * z).sqrt() + 5)
        length = (v_x.square().sum(1) + v_z.square()).sqrt() + 1e-7
        return (v_x / length[:, None] / (v_z / length + 1e-5)[:, None]).reshape(x.shape)

    return CallableField(velocity, 40.0, 1e-3)


def start_of(data):
    return torch.cat([data.flatten(1), torch.zeros(len(data), 1, dtype=data.dtype)], dim=1)


def test_divergence_under_an_independent_solver(likelihood, error):
    """Our divergence with the stored probe, integrated by scipy as the published code does, z = 1e-3 to 40."""
    field = DivergenceField(published_rule(likelihood["points"]), IMAGE, likelihood["probe"])

    def rate(t, y):
        return field.velocity(torch.from_numpy(y).reshape(2, -1), torch.tensor(t, dtype=torch.float64)).flatten()

    found = solve_ivp(rate, (1e-3, 40.0), start_of(likelihood["data"]).flatten().numpy(), rtol=1e-4, atol=1e-4)
    assert found.nfev == int(likelihood["nfe"])
    end = torch.from_numpy(found.y[:, -1]).reshape(2, -1)
    assert error(end[:, :-1], likelihood["latent_x"]) < 1e-9
    assert error(end[:, -1], likelihood["delta_logp"]) < 1e-9


def test_published_likelihood_with_our_solver(likelihood, error):
    """The same by our adaptive solver: this run has a rejected step, after which the next may not grow."""
    field = DivergenceField(published_rule(likelihood["points"]), IMAGE, likelihood["probe"])
    accepted = []
    solution = RK45(rtol=1e-4, atol=1e-4, control="batch").solve(
        field, start_of(likelihood["data"]), observer=lambda x, t: accepted.append(t)
    )
    assert solution.nfe == int(likelihood["nfe"])
    torch.testing.assert_close(torch.tensor(accepted, dtype=torch.float64), likelihood["accepted_z"], rtol=1e-8, atol=0)
    assert error(solution.x[:, :-1], likelihood["latent_x"]) < 1e-8
    assert error(solution.x[:, -1], likelihood["delta_logp"]) < 1e-9


def test_prior_and_bits_differ_by_the_published_constant_only(likelihood, error):
    latent = likelihood["latent_x"].reshape(2, *IMAGE)
    log_prior = pfgm().log_prior(latent)
    assert error(log_prior, likelihood["prior_logp"] + likelihood["prior_log_theta_correct"]) < 1e-9
    theirs = pfgm(constant="published").log_prior(latent)
    assert error(theirs, likelihood["prior_logp"] + likelihood["prior_log_theta"]) < 1e-9
    for log_prob, want in zip(theirs + likelihood["delta_logp"], likelihood["bpd"].tolist(), strict=True):
        assert bits_per_dim(log_prob[None], N, Scaling.grey(256))[0] == pytest.approx(want, abs=1e-9)
    total = log_prior + likelihood["delta_logp"]
    gap = float(likelihood["prior_log_theta_correct"] - likelihood["prior_log_theta"]) / (N * math.log(2))
    for log_prob, want in zip(total, likelihood["bpd"].tolist(), strict=True):
        found, _ = bits_per_dim(log_prob[None], N, Scaling.grey(256))
        assert found + gap == pytest.approx(want, abs=1e-9)


@pytest.mark.slow
def test_our_likelihood_near_the_published_one(likelihood):
    """Without 1e-5 added to a unit vector's v_z, which is a few percent at z = 1e-3, bits/dim move by under 0.003."""
    process = pfgm()
    field = DivergenceField(process.field(process.oracle(likelihood["points"])), IMAGE, likelihood["probe"])
    end = RK45(rtol=1e-6, atol=1e-6).solve(field, start_of(likelihood["data"])).x
    log_prob = process.log_prior(end[:, :-1]) + end[:, -1]
    bits = -log_prob / (N * math.log(2)) + 7
    gap = float(likelihood["prior_log_theta_correct"] - likelihood["prior_log_theta"]) / (N * math.log(2))
    assert (bits - (likelihood["bpd"] - gap)).abs().max() < 3e-3


# ---- the identities behind Poisson flow ------------------------------------------------------------------


@pytest.fixture
def identities(load):
    return load("interpolants/pfgm_interpolant_identities.npz")


@pytest.mark.parametrize("inverse", ["exact", "projected", "ratio"])
def test_field_of_forty_charges(identities, error, inverse):
    process = PFGM(dim=6, gamma=float(identities["gamma"]), z_min=1e-3, z_max=1e3, inverse=inverse)
    x, y, z = identities["x"], identities["y"], identities["z"]
    assert error(posterior_mean(x, z, y, process), identities["posterior_mean"]) < 1e-9
    output = process.oracle(y)(x, process.condition(z))
    assert error(output, identities["pfgm_target"]) < 1e-9
    velocity = process.velocity(output, x, z)
    for found, want in zip(velocity, identities["velocity_dxdz"], strict=True):
        assert error(found, want) < 1e-9


def test_density_of_forty_charges(identities, error):
    x, y, z = identities["x"], identities["y"], identities["z"]
    rows = [PFGM(dim=6, z_max=float(h)).log_prior(row - y).logsumexp(0) for row, h in zip(x, z, strict=True)]
    assert error(torch.stack(rows) - math.log(len(y)), identities["log_density"]) < 1e-9


def test_cauchy_data_stays_cauchy(identities, error):
    """Data of Cauchy scale s gives x_z of scale s + z: the prior's density at z_max = s + z."""
    for z, want in zip(identities["semigroup/z"], identities["semigroup/logp"], strict=True):
        process = PFGM(dim=3, z_max=float(identities["semigroup/s0"] + z))
        assert error(process.log_prior(identities["semigroup/x"]), want) < 1e-9


# ---- published defects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", ["exact", "projected"])
@pytest.mark.parametrize("q", [0.9, 0.99, 0.9995, 1.0, 1.0 + 1e-7, 1.05, 3.0])
@pytest.mark.parametrize("v_z", [-1.0000001e-5, -1e-12, 0.0, 1e-3])
def test_outputs_off_the_field_are_read_as_a_finite_outward_velocity(inverse, q, v_z):
    """The published rule explodes or turns round at v_z = −1e-5, is singular at |v_x| = √N and blind beyond."""
    head = PoissonField(gamma=5.0, inverse=inverse, radius=20.0)
    process = pfgm(radius=20.0)
    for z in (1e-3, 1.0, 40.0):
        outward = torch.full((1, N), 1 / math.sqrt(N), dtype=torch.float64)
        for distance in (1.0, 3000.0):
            x = distance * outward
            output = torch.cat([-q * math.sqrt(N) * outward, torch.full((1, 1), v_z, dtype=torch.float64)], dim=1)
            t = torch.tensor(z, dtype=torch.float64)
            speed = float((head.velocity(output, x, process.at(t, x)) * outward).sum())
            assert 0 < speed <= q * (math.hypot(distance + 20.0, z) + 5.0) / z * (1 + 1e-9)


def test_one_example_with_restriction():
    """The published perturbation fails on a batch of one."""
    for seed in range(20):
        found = pfgm(restrict="absolute").perturb(torch.zeros(1, *IMAGE), generator=torch.Generator().manual_seed(seed))
        assert found.x_t.shape == (1, *IMAGE)
        assert found.target.isfinite().all()


def test_heights_above_any_number_of_noise_scales():
    """The published network looks z up in a table of 1000 scales."""
    process = pfgm(z_max=5e3)
    points = torch.zeros(2, *IMAGE, dtype=torch.float64)
    x = torch.ones(2, *IMAGE, dtype=torch.float64)
    velocity = process.field(process.oracle(points)).velocity(x, torch.tensor([4999.0, 1000.0]))
    torch.testing.assert_close(velocity, x / torch.tensor([4999.0, 1000.0]).double().reshape(2, 1, 1, 1))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 3, 3), (2, 2, 1)])
def test_likelihood_of_one_charge_in_any_shape(shape):
    """The published likelihood takes three channels and even N only; one charge is a Cauchy of scale z_min."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    process = PFGM(dim=math.prod(shape), norm=3.0, z_min=0.5, z_max=20.0)
    solver = RK45(rtol=1e-6, atol=1e-6)
    found = log_likelihood(process, process.oracle(torch.zeros(1, *shape)), x, trace="exact", solver=solver)
    want = PFGM(dim=math.prod(shape), z_max=0.5, z_min=1e-3).log_prior(x)
    torch.testing.assert_close(found.log_prob, want, rtol=0, atol=1e-4)
    assert found.latent.shape == x.shape
