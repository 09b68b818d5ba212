"""NFE, seeds, tolerances, errors, and scipy and torchdiffeq as independent routes."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

import genflow
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VP
from genflow.registry import registries
from genflow.solver.adaptive import RK45
from genflow.solver.base import CallableField, Noise, NonFiniteError, StepUnderflowError, sample_generator
from genflow.solver.ode import Euler, Heun
from genflow.solver.sde import EulerMaruyama

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


class Counted:
    """An independent count of backbone calls: samples seen."""

    def __init__(self, backbone):
        self.backbone, self.samples = backbone, 0

    def __call__(self, x, condition):
        self.samples += len(x)
        return self.backbone(x, condition)


def pairs():
    for process, entry in registries()["processes"].entries().items():
        for solver, facts in registries()["solvers"].entries().items():
            few = facts.tags["budget"] or process in ("pfgm", "vp_ode")  # adaptive ones are slow, and see only fields
            if facts.tags["mode"] == entry.tags["mode"] and few:
                yield process, solver


@pytest.mark.parametrize(("name", "solver"), list(pairs()))
def test_nfe_is_what_an_independent_wrapper_counts(name, solver):
    process = genflow.get_process(name).for_data(POINTS)
    budgets = (1, 2, 7, 20) if registries()["solvers"].entry(solver).tags["budget"] else (None,)
    for nfe in budgets:
        counted = Counted(process.oracle(POINTS))
        solution = genflow.sample(process, counted, solver, 10, nfe=nfe, shape=(3,), batch_size=4, dtype=F64)
        assert counted.samples == pytest.approx(10 * solution.nfe)
        if nfe is not None:
            assert solution.nfe == nfe


@pytest.mark.parametrize(("name", "solver"), list(pairs()))
def test_same_seed_other_batch_size_same_samples(name, solver):
    process = genflow.get_process(name).for_data(POINTS)
    nfe = 15 if registries()["solvers"].entry(solver).tags["budget"] else None
    draws = [
        genflow.sample(process, process.oracle(POINTS), solver, n, nfe=nfe, seed=3, batch_size=b, dtype=F64).x
        for n, b in ((12, 12), (12, 5), (7, 1))
    ]
    torch.testing.assert_close(draws[1], draws[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(draws[2], draws[0][:7], rtol=1e-7, atol=1e-9)
    other = genflow.sample(process, process.oracle(POINTS), solver, 12, nfe=nfe, seed=4, dtype=F64).x
    assert not torch.allclose(other, draws[0])


@pytest.mark.parametrize(("name", "solver"), list(pairs()))
def test_every_budget_from_1_to_50_stays_finite(name, solver):
    if not registries()["solvers"].entry(solver).tags["budget"]:
        pytest.skip("the solver chooses its own steps")
    process = genflow.get_process(name).for_data(POINTS)
    for nfe in range(1, 51):
        x = genflow.sample(process, process.oracle(POINTS), solver, 4, nfe=nfe, dtype=F64).x
        assert bool(x.isfinite().all()), nfe


def test_rk45_takes_the_steps_that_scipy_takes():
    """Equal tolerance, one step size for the batch: the same end, and an NFE within one step of scipy's."""
    process = PFGM(dim=3, norm=1.7)
    field = process.field(process.oracle(POINTS))
    start = torch.tensor([[20.0, -3.0, 8.0], [1.0, 60.0, -5.0]], dtype=F64)
    ours = RK45(1e-5, 1e-5, control="batch").solve(field, start)

    def slope(s, x):
        z = torch.tensor(math.exp(s), dtype=F64)
        return (z * field.velocity(torch.from_numpy(x).reshape(2, 3), z)).flatten().numpy()

    ends = [math.log(process.t_prior), math.log(process.t_data)]
    theirs = solve_ivp(slope, ends, start.flatten().numpy(), rtol=1e-5, atol=1e-5)
    assert abs(ours.nfe - theirs.nfev) <= 1
    torch.testing.assert_close(ours.x.flatten(), torch.from_numpy(theirs.y[:, -1]), rtol=1e-4, atol=1e-5)


def test_vp_ode_agrees_with_torchdiffeq():
    process = VP()
    field = process.field(process.oracle(POINTS))
    start = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(9))
    ours = RK45(1e-9, 1e-9).solve(field, start).x
    times = torch.tensor([1.0, process.t_min], dtype=F64)
    theirs = odeint(lambda t, x: field.velocity(x, t), start, times, rtol=1e-9, atol=1e-9, method="dopri8")[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rk45_error_follows_its_tolerance():
    def error(tolerance):
        field = CallableField(lambda x, t: torch.cos(t).reshape(-1, 1) * x if t.ndim else torch.cos(t) * x, 0.0, 5.0)
        end = RK45(tolerance, tolerance).solve(field, torch.ones(3, 1, dtype=F64)).x
        return float((end - math.exp(math.sin(5.0))).abs().max())

    errors = [error(10.0**-k) for k in (3, 5, 7, 9)]
    assert errors[-1] < 1e-8
    slope = math.log10(errors[0] / errors[-1]) / 6
    assert 0.7 < slope < 1.3


def test_rk45_samples_have_their_own_steps():
    rates = torch.tensor([[1.0], [100.0]], dtype=F64)

    def field():
        return CallableField(lambda x, t: -torch.where(x.abs() > 5, rates[1], rates[0]) * (x - x.sign() * 7), 0.0, 1.0)

    both = RK45().solve(field(), torch.tensor([[1.0], [9.0]], dtype=F64))
    alone = RK45().solve(field(), torch.tensor([[1.0]], dtype=F64))
    assert both.nfe_per_sample[0] == alone.nfe_per_sample[0]
    assert both.nfe_per_sample[1] > 2 * both.nfe_per_sample[0]
    assert torch.equal(both.x[:1], alone.x)


def test_strong_order_of_euler_maruyama_on_additive_noise():
    """dx = −x dt + √2 dw, as v = 0, s = −x, ε = 1: with additive noise the strong order is 1."""

    class Ornstein(CallableField):
        def velocity_and_score(self, x, t):
            return torch.zeros_like(x), -x

        def natural_diffusion(self, t):
            return torch.tensor(1.0)

    class Increments:
        """Brownian increments of a fine grid, summed to coarser ones."""

        def __init__(self, fine, steps):
            self.rows = list(fine.reshape(steps, -1, fine.shape[1]).sum(1) * (steps / len(fine)) ** 0.5)

        def like(self, x):
            return self.rows.pop(0)[:, None]

    fine = torch.randn(2048, 400, dtype=F64, generator=torch.Generator().manual_seed(0))
    start = torch.ones(400, 1, dtype=F64)

    def end(steps):
        grid = torch.linspace(0, 1, steps + 1, dtype=F64)
        noise = Increments(fine, steps)
        return EulerMaruyama().solve(Ornstein(lambda x, t: x, 0, 9), start, grid=grid, noise=noise).x

    best = end(2048)
    errors = [float((end(n) - best).abs().mean()) for n in (16, 32, 64, 128)]
    slope = math.log2(errors[0] / errors[-1]) / 3
    assert 0.85 < slope < 1.2


def test_non_finite_states_are_typed_errors_with_time_and_advice():
    field = CallableField(lambda x, t: x * torch.where(torch.as_tensor(t) < 0.5, torch.nan, 1.0), 1.0, 0.0)
    for solver in (Euler(), Heun()):
        with pytest.raises(NonFiniteError, match=r"samples \[0, 1\].*step.*t = .*try"):
            solver.solve(field, torch.ones(2, 1), nfe=20)
    with pytest.raises(NonFiniteError, match="near t = "):
        RK45().solve(CallableField(lambda x, t: x * torch.nan, 1.0, 0.0), torch.ones(2, 1))


def test_a_blow_up_is_a_step_underflow_with_advice():
    field = CallableField(lambda x, t: x * x, 0.0, 2.0)
    with pytest.raises((StepUnderflowError, NonFiniteError), match="t = 1"):
        RK45(1e-6, 1e-6).solve(field, torch.ones(1, 1, dtype=F64))


def test_bad_settings_are_named():
    for options in ({"rtol": 0}, {"atol": -1}, {"control": "x"}, {"max_nfe": 3}):
        with pytest.raises(ValueError, match=next(iter(options))):
            RK45(**options)
    with pytest.raises(ValueError, match="takes no nfe"):
        RK45().solve(CallableField(lambda x, t: x, 0, 1), torch.ones(1, 1), nfe=3)
    with pytest.raises(ValueError, match="nfe = 0"):
        Euler().solve(CallableField(lambda x, t: x, 0, 1), torch.ones(1, 1), nfe=0)


def test_neighbouring_seeds_share_nothing():
    rows = [torch.randn(50, generator=sample_generator(s, k)) for s in range(5) for k in range(40)]
    correlation = torch.corrcoef(torch.stack(rows))
    off = correlation[~torch.eye(len(rows), dtype=torch.bool)]
    assert float(off.abs().max()) < 0.75  # 19,900 pairs of 50 draws: five standard errors are 0.71
    assert torch.equal(Noise(1, [5]).like(torch.zeros(1, 3)), Noise(1, range(9)).like(torch.zeros(9, 3))[5:6])
