"""SDE solvers: weak and strong orders as slopes, marginals whatever ε is, step sizes, torchsde, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

import genflow
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VE, VP
from genflow.sampling import sample
from genflow.solver.backend_sde import TorchSDE
from genflow.solver.base import NonFiniteError
from genflow.solver.churn import EDMChurn, time_of_sigma
from genflow.solver.fields import CallableField
from genflow.solver.noise import Noise
from genflow.solver.predictor import Ancestral, PredictorCorrector, ReverseDiffusion
from genflow.solver.sde import EPSILONS, EulerMaruyama, HeunSDE
from genflow.testing import GaussianField

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
FIRST_ORDER = [EulerMaruyama(), ReverseDiffusion(), Ancestral("upper"), Ancestral("posterior")]


def slope(steps, errors):
    """Least-squares slope of log error against log step."""
    return float(np.polyfit(-np.log(steps), np.log(errors), 1)[0])


# ---- orders ----------------------------------------------------------------------------------------------


class Impulses(Noise):
    """Row 0 gets no noise; row k + 1 gets ones at draw k. So one solve of a linear SDE gives its whole response."""

    def __init__(self):
        self.draws = 0

    def like(self, x):
        self.draws += 1
        found = torch.zeros_like(x)
        if self.draws < len(x):
            found[self.draws] = 1.0
        return found


def end_variance(solver, steps, end=1.3):
    """Exact variance at `end` of a solver on GaussianField, started from the exact one: no sampling error.

    The solver's map is linear in the start and in every draw, and all of them are independent.
    """
    field = GaussianField()
    grid = torch.linspace(0.2, end, steps + 1, dtype=F64)
    start = torch.zeros(2 * steps + 1, 2, dtype=F64)
    start[0] = field.scale(grid[0])
    noise = Impulses()
    found = solver.solve(field, start, grid=grid, noise=noise).x
    assert noise.draws < len(start)
    return found.square().sum(0), field.scale(grid[-1]) ** 2


@pytest.mark.quick_one_in(13)
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *((solver, 1) for solver in FIRST_ORDER),
        (HeunSDE(), 2),
        (HeunSDE(diffusion=0.5, epsilon="constant"), 2),
        (EulerMaruyama(diffusion=2.0, epsilon="bump"), 1),
        (EDMChurn(S_churn=4.0, S_tmin=0.0, S_tmax=1e6, S_noise=1.0), 2),
        (TorchSDE("euler"), 1),
        (TorchSDE("milstein"), 1),
        (TorchSDE("euler_heun"), 1),
        (TorchSDE("heun"), 2),
        (TorchSDE("midpoint"), 2),
        (TorchSDE("srk"), 2),
    ],
    ids=lambda v: f"{type(v).__name__}-{getattr(v, 'method', '')}" if isinstance(v, EulerMaruyama | TorchSDE) else None,
)
def test_weak_order(solver, order):
    steps, errors = (20, 40, 80, 160), []
    for n in steps:
        found, want = end_variance(solver, n)
        errors.append(float((found - want).norm()))
    assert slope(steps, errors) == pytest.approx(order, abs=0.2)


class Increments(Noise):
    """Brownian increments of a fine grid, summed to coarser ones."""

    def __init__(self, fine, steps):
        self.rows = list(fine.reshape(steps, -1, *fine.shape[1:]).sum(1) * (steps / len(fine)) ** 0.5)

    def like(self, x):
        return self.rows.pop(0)


PATHS = torch.randn(4096, 64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


def along_the_paths(solver, steps):
    grid = torch.linspace(0.2, 1.3, steps + 1, dtype=F64)
    start, noise = torch.ones(64, 2, dtype=F64), Increments(PATHS, steps)
    return solver.solve(GaussianField(), start, grid=grid, noise=noise).x


@pytest.fixture(scope="module")
def finest():
    """By ε: that of the field, or cot t = b² a'/a − b b', half the squared diffusion of the forward chain."""
    return {epsilon: along_the_paths(HeunSDE(epsilon=epsilon), len(PATHS)) for epsilon in ("natural", forward)}


def forward(t):
    return 1 / t.tan()


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("solver", [*FIRST_ORDER[:3], HeunSDE(), TorchSDE("euler")])
def test_strong_order_is_one_for_additive_noise(solver, finest):
    """One Brownian path on nested grids, all against one fine solve."""
    steps = (64, 128, 256, 512) if isinstance(solver, HeunSDE) else (16, 32, 64, 128)
    want = finest[forward if isinstance(solver, ReverseDiffusion | Ancestral) else "natural"]
    errors = [float((along_the_paths(solver, n) - want).abs().mean()) for n in steps]
    assert slope(steps, errors) == pytest.approx(1.0, abs=0.15)


# ---- marginals -------------------------------------------------------------------------------------------

SHAPES = [*EPSILONS, lambda t: 0.3 + 0.2 * torch.sin(9 * t)]


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("epsilon", SHAPES, ids=lambda e: e if isinstance(e, str) else "callable")
def test_every_diffusion_has_the_same_normal_marginal(epsilon, factor):
    """The exact variance of the discrete chain, so only the step is left: 0.2 % at 160 steps of the second order."""
    found, want = end_variance(HeunSDE(factor, epsilon=epsilon), 160)
    torch.testing.assert_close(found, want, rtol=2e-3, atol=0)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_every_diffusion_has_the_same_mixture_marginal(factor):
    """Points −1 and, three times as likely, 1: shares at the mixture's quantiles, within four standard errors."""
    process, n = genflow.get_process("si_linear"), 4000
    points = torch.tensor([[-1.0], [1.0], [1.0], [1.0]], dtype=F64)
    grid = torch.linspace(process.safe_interval[1], 0.8, 121, dtype=F64)
    generator = torch.Generator().manual_seed(4)
    start = process.sample_prior((n, 1), generator=generator, dtype=F64)

    class OneGenerator(Noise):
        def __init__(self):
            pass

        def like(self, x):
            return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    found = HeunSDE(factor).solve(process.field(process.oracle(points)), start, grid=grid, noise=OneGenerator()).x

    def below(x):
        return 0.25 * norm.cdf(x, -0.8, 0.2) + 0.75 * norm.cdf(x, 0.8, 0.2)

    for share in (0.05, 0.2, 0.3, 0.5, 0.7, 0.95):
        quantile = brentq(lambda x, p=share: below(x) - p, -5, 5)
        error = abs(float((found < quantile).double().mean()) - share)
        assert error < 4 * math.sqrt(share * (1 - share) / n)


def test_no_diffusion_is_the_ode():
    field, x = GaussianField(), torch.ones(3, 2, dtype=F64)
    for stochastic, plain in ((EulerMaruyama(0), "euler"), (HeunSDE(0), "heun")):
        found = stochastic.solve(field, x, nfe=9, noise=Noise(0, range(3))).x
        torch.testing.assert_close(found, genflow.get_solver(plain).solve(field, x, nfe=9).x)


@pytest.mark.parametrize(
    "solver", [*FIRST_ORDER, HeunSDE(), EDMChurn(S_tmin=0.3, S_tmax=1.0), PredictorCorrector(), TorchSDE("srk")]
)
def test_the_last_step_adds_no_noise(solver):
    field, x = GaussianField(), torch.ones(2, 2, dtype=F64)
    last = field.grid(20)[-2:]
    if isinstance(solver, PredictorCorrector):
        solver = PredictorCorrector(predictor="reverse_diffusion").predictor
    ends = [solver.solve(field, x, grid=last, noise=Noise(seed, range(2))).x for seed in (0, 1)]
    assert torch.equal(*ends)


# ---- steps -----------------------------------------------------------------------------------------------


def test_ancestral_mean_is_the_conditional_expectation():
    """For normal data E[x_s | x_t] is the regression of x_s on x_t, from the joint covariance."""
    field, x = GaussianField(), torch.tensor([[0.7, -1.9]], dtype=F64)
    t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.9, dtype=F64)
    (a_t, b_t), (a_s, b_s) = field.schedule(t), field.schedule(s)
    # x_t = r x_s + independent noise, so Cov(x_t, x_s) = r Var(x_s)
    want = (a_t / a_s) * field.scale(s) ** 2 / field.scale(t) ** 2 * x
    silent = Impulses()
    torch.testing.assert_close(Ancestral().step(field, x, t, s, silent, 1), want, rtol=1e-12, atol=0)
    assert float(b_t) > float(b_s)


def test_posterior_variance_is_the_bridge_s():
    """Var(x_s | x_t, X) of the forward chain, by conditioning a two-dimensional normal."""
    field = GaussianField()
    t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.9, dtype=F64)
    (a_t, b_t), (a_s, b_s) = field.schedule(t), field.schedule(s)
    r = a_t / a_s
    want = b_s**2 - (r * b_s**2) ** 2 / b_t**2

    class Ones(Noise):
        def __init__(self):
            pass

        def like(self, x):
            return torch.ones_like(x)

    x = torch.zeros(1, 2, dtype=F64)
    found = Ancestral("posterior").step(field, x, t, s, Ones(), 1)
    torch.testing.assert_close(found, want.sqrt().expand(1, 2), rtol=1e-12, atol=0)


def test_annealed_langevin_keeps_nearly_the_marginal():
    """x' = (1 − h/S²) x + sqrt(2h) ξ has stationary variance S²/(1 − h/(2 S²)), h = 2 α (snr b)²."""
    field, t = GaussianField(), torch.tensor(0.9, dtype=F64)
    a, b = (float(v) for v in field.schedule(t))
    later = math.sin(0.9 + 1.2 / 1000)
    h = 2 * (a / later) ** 2 * (0.16 * b) ** 2
    variance = (field.scale(t) ** 2) / (1 - h / (2 * field.scale(t) ** 2))
    pc = PredictorCorrector(corrector="ald", predictor="none")
    x = torch.zeros(3, 2, dtype=F64)
    x[0] = variance.sqrt()
    moved, mean = pc.correct(field, x, t, Impulses())
    torch.testing.assert_close(moved.square().sum(0), variance, rtol=1e-10, atol=0)
    torch.testing.assert_close(mean[0], (1 - h / field.scale(t) ** 2) * x[0], rtol=1e-10, atol=0)


def test_langevin_steps_by_time_or_by_norms_of_the_batch():
    field, t = GaussianField(), torch.tensor(0.9, dtype=F64)
    x = torch.tensor([[1.0, 2.0], [-8.0, 3.0], [0.1, 4.0]], dtype=F64)

    def first(norms, rows):
        return PredictorCorrector(norms=norms).correct(field, x[:rows], t, Noise(0, range(rows)))[0][0]

    assert torch.equal(first("time", 1), first("time", 3))
    assert not torch.allclose(first("batch", 1), first("batch", 3))


def test_langevin_step_is_bounded_where_there_is_no_score():
    field, t = GaussianField(), torch.tensor(0.9, dtype=F64)
    b = float(field.schedule(t)[1])
    for norms, snr in (("batch", 0.16), ("time", 0.9)):
        solver = PredictorCorrector(norms=norms, snr=snr)
        moved, mean = solver.correct(field, torch.zeros(4, 2, dtype=F64), t, Noise(0, range(4)))
        torch.testing.assert_close(moved, math.sqrt(2) * b * Noise(0, range(4)).like(mean))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("predictor", "n_steps"), [("reverse_diffusion", 1), ("ancestral", 3), ("none", 4)])
def test_pc_plans_spend_every_budget(predictor, n_steps):
    solver = PredictorCorrector(predictor=predictor, n_steps=n_steps)
    whole = n_steps + (predictor != "none")
    for nfe in range(1, 51):
        plan = solver.plan(nfe)
        assert sum(plan) == nfe
        assert plan.count(whole) >= nfe // whole
        found = solver.solve(GaussianField(), torch.ones(2, 2, dtype=F64), nfe=nfe, noise=Noise(0, range(2)))
        assert found.nfe == nfe
        assert bool(found.x.isfinite().all())


def test_pc_hands_the_variance_to_its_ancestral_predictor():
    """A step of one call has no correction, so it is the predictor's own."""
    field, x = GaussianField(), POINTS[:3, :2]
    t, s = torch.tensor([0.3, 0.8], dtype=F64)
    for variance in ("upper", "posterior"):
        alone = Ancestral(variance).step(field, x, t, s, Noise(0, range(3)), 1)
        cast = PredictorCorrector(predictor="ancestral", variance=variance)
        assert torch.equal(cast.step(field, x, t, s, Noise(0, range(3)), 1), alone)
    assert not torch.equal(alone, Ancestral("upper").step(field, x, t, s, Noise(0, range(3)), 1))


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "none"])
def test_pc_refuses_a_variance_that_its_predictor_does_not_have(predictor):
    with pytest.raises(ValueError, match="variance = 'posterior' is not allowed; give upper; only the predictor anc"):
        PredictorCorrector(predictor=predictor, variance="posterior")


def test_correction_mends_the_predictor():
    """Two coarse predictors at an equal number of steps: the corrected one ends nearer the variance."""
    errors = []
    for solver in (ReverseDiffusion(), PredictorCorrector(corrector="ald", n_steps=4)):
        field, grid, n = GaussianField(), torch.linspace(0.2, 1.3, 9, dtype=F64), 20_000
        generator = torch.Generator().manual_seed(0)

        class OneGenerator(Noise):
            def __init__(self, generator=generator):
                self.generator = generator

            def like(self, x):
                return torch.randn(x.shape, dtype=x.dtype, generator=self.generator)

        start = field.scale(grid[0]) * torch.randn(n, 2, dtype=F64, generator=generator)
        found = solver.solve(field, start, grid=grid, noise=OneGenerator()).x
        errors.append(float((found.square().mean(0) / field.scale(grid[-1]) ** 2 - 1).abs().max()))
    assert errors[1] < 0.7 * errors[0]


# ---- churn -----------------------------------------------------------------------------------------------


def test_churn_of_nothing_is_heun_in_sigma():
    process, x = VE(), 50 * torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    field = process.field(process.oracle(POINTS))
    found = EDMChurn(S_churn=0.0).solve(field, x, nfe=19, noise=Noise(0, range(4))).x
    sigma = 0.01 * 5000 ** process.grid(10)
    for i in range(10):
        gap = sigma[i + 1] - sigma[i]
        first = (x - field.data(x, process.grid(10)[i])) / sigma[i]
        moved = x + gap * first
        if i < 9:
            moved = x + gap / 2 * (first + (moved - field.data(moved, process.grid(10)[i + 1])) / sigma[i + 1])
        x = moved
    torch.testing.assert_close(found, x)


def test_churn_raises_the_noise_where_it_is_told_to():
    process = VP()
    field, times = process.field(process.oracle(POINTS)), process.grid(30)
    solver = EDMChurn(S_churn=9.0, S_tmin=0.1, S_tmax=20.0)
    before, after = process.noise_ratio(times), process.noise_ratio(solver.raise_noise(field, times))
    inside = (before >= 0.1) & (before <= 20.0)
    assert 5 < int(inside.sum()) < 30
    torch.testing.assert_close(after[inside], 1.3 * before[inside], rtol=1e-9, atol=0)
    assert torch.equal(after[~inside], before[~inside])
    assert float(EDMChurn(S_tmax=1e9).raise_noise(field, times)[0]) == float(times[0])


@pytest.mark.parametrize("process", [VP(), VE(), genflow.get_process("si_linear")])
def test_time_of_sigma_is_the_inverse(process):
    times = process.grid(12)
    field = process.field(process.oracle(POINTS))
    torch.testing.assert_close(time_of_sigma(field, process.noise_ratio(times)), times, rtol=1e-9, atol=1e-12)


# ---- errors ----------------------------------------------------------------------------------------------

EVERY = [*FIRST_ORDER, HeunSDE(), EDMChurn(), PredictorCorrector(), TorchSDE("heun")]


@pytest.mark.parametrize("solver", EVERY)
def test_errors_are_sentences(solver):
    x, grid = torch.ones(2, 3, dtype=F64), VP().grid(4)
    with pytest.raises(ValueError, match=r"(needs noise: give Noise\(seed, indices\))"):
        solver.solve(VP().field(VP().oracle(POINTS)), x, grid=grid)
    with pytest.raises(ValueError, match=r"use an ODE solver|use a solver of dx/dt alone"):
        solver.solve(CallableField(lambda x, t: -x, 1.0, 0.0), x, nfe=4, noise=Noise(0, range(2)))
    with pytest.raises(NonFiniteError, match=r"after step 1 at t = .*try"):
        solver.solve(VP().field(lambda x, condition: x * torch.nan), x, nfe=4, noise=Noise(0, range(2)))
    with pytest.raises(ValueError, match=f"{type(solver).__name__} cannot sample PFGM: .*Student"):
        sample(PFGM(), PFGM().oracle(POINTS), solver, 2, nfe=4)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (EulerMaruyama, {"diffusion": -1}, "diffusion = -1"),
        (HeunSDE, {"epsilon": "natral"}, "epsilon = 'natral' is not allowed; give one of natural, constant, bump"),
        (HeunSDE, {"epsilon": ["natural"]}, "epsilon"),
        (Ancestral, {"variance": "lower"}, "variance = 'lower' is not allowed; give upper or posterior"),
        (EDMChurn, {"S_churn": -1}, "S_churn"),
        (EDMChurn, {"S_tmin": 2, "S_tmax": 1}, "S_tmax = 1 is not allowed; give a number of at least S_tmin = 2"),
        (PredictorCorrector, {"predictor": "euler"}, "predictor"),
        (PredictorCorrector, {"corrector": "none"}, "corrector"),
        (PredictorCorrector, {"snr": 0}, "snr"),
        (PredictorCorrector, {"n_steps": 0}, "n_steps"),
        (PredictorCorrector, {"norms": "all"}, "norms"),
        (TorchSDE, {"method": "log_ode"}, "method = 'log_ode' is not allowed; give one of euler, milstein, srk"),
    ],
)
def test_bad_settings_are_named(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_a_negative_callable_epsilon_is_refused_where_it_is_met():
    solver = EulerMaruyama(epsilon=lambda t: t - 0.5)
    with pytest.raises(ValueError, match="is not allowed; give ε of at least 0"):
        solver.solve(GaussianField(), torch.ones(2, 2, dtype=F64), nfe=4, noise=Noise(0, range(2)))
