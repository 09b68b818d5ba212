"""NFE, seeds, tolerances, errors, and scipy and torchdiffeq as independent routes."""

import itertools
import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

import genflow
from genflow.bench.cells import lacking
from genflow.process.field import Field
from genflow.process.grids import SPACINGS
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VP
from genflow.registry import registries
from genflow.sampling import draw_prior
from genflow.solver.adaptive import RK23, RK45
from genflow.solver.base import NonFiniteError, StepUnderflowError
from genflow.solver.fields import CallableField
from genflow.solver.noise import Noise, sample_generator
from genflow.solver.ode import Euler, Heun
from genflow.solver.sde import EulerMaruyama
from genflow.testing import GaussianField

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


class Counted:
    """An independent count of backbone calls: samples seen."""

    def __init__(self, backbone):
        self.backbone, self.samples = backbone, 0

    def __call__(self, x, condition):
        self.samples += len(x)
        return self.backbone(x, condition)


FEW = {
    "torchdiffeq/dopri5": ("pfgm",),
    "scipy/RK45": ("pfgm",),
    "rk45": ("pfgm", "vp_ode"),
    "rk23": ("pfgm", "vp_ode"),
}
"""Adaptive solvers are slow, and see only fields: a process or two are enough, and one method of each library."""


def pairs(adaptive):
    for process, entry in registries()["processes"].entries().items():
        for solver, facts in registries()["solvers"].entries().items():
            library = solver.partition("/")[0] if "/" in solver else ""
            few = FEW.get(solver, {"torchsde": ("vp_sde",), "": None}.get(library, ()))
            fits = facts.tags["mode"] == entry.tags["mode"] and not lacking(entry, facts)
            if fits and (few is None or process in few) and (adaptive or facts.tags["budget"]):
                yield process, solver


def budget(solver):
    return 6 if registries()["solvers"].entry(solver).tags["budget"] else None


class Watched(Field):
    """A field that notes the times at which its network is called."""

    def output(self, x, t, *, unlabelled=False):
        self.seen = [*getattr(self, "seen", []), float(t.reshape(-1)[0])]
        return super().output(x, t, unlabelled=unlabelled)


@pytest.mark.quick_one_in(29)
@pytest.mark.parametrize(("name", "solver"), list(pairs(adaptive=True)))
def test_nfe_is_what_an_independent_wrapper_counts(name, solver):
    process = genflow.get_process(name).for_data(POINTS)
    counted, nfe = Counted(process.oracle(POINTS)), budget(solver)
    solution = genflow.sample(process, counted, solver, 5, nfe=nfe, shape=(3,), batch_size=2, dtype=F64)
    assert counted.samples == pytest.approx(5 * solution.nfe)
    assert nfe in (None, solution.nfe)


@pytest.mark.quick_one_in(43)
@pytest.mark.parametrize(("name", "solver"), list(pairs(adaptive=True)))
def test_same_seed_other_batch_size_same_samples(name, solver):
    process = genflow.get_process(name).for_data(POINTS)
    how = {"nfe": budget(solver), "dtype": F64}
    draws = [
        genflow.sample(process, process.oracle(POINTS), solver, n, seed=3, batch_size=b, **how).x
        for n, b in ((6, 6), (6, 4), (3, 1))
    ]
    torch.testing.assert_close(draws[1], draws[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(draws[2], draws[0][:3], rtol=1e-7, atol=1e-9)
    other = genflow.sample(process, process.oracle(POINTS), solver, 6, seed=4, **how).x
    assert not torch.allclose(other, draws[0])


@pytest.mark.quick_one_in(43)
@pytest.mark.parametrize(("name", "solver"), list(pairs(adaptive=False)))
def test_budgets_are_exact_finite_and_go_from_end_to_end(name, solver):
    """The first call is at the prior's safe end, and the last step lands on the data's safe end."""
    process, made = genflow.get_process(name).for_data(POINTS), genflow.get_solver(solver)
    start, noise = draw_prior(process, (3,), 0, range(2), F64)
    near_data, near_prior = process.safe_interval
    for nfe in (*range(1, 7), 12, 50):
        field, times = Watched(process, process.oracle(POINTS[:2])), []
        found = made.solve(field, start, nfe=nfe, noise=noise, observer=lambda x, t, times=times: times.append(t))
        assert bool(found.x.isfinite().all()), nfe
        assert found.nfe == len(field.seen) == nfe
        assert (times[0], times[-1]) == (near_prior, near_data)
        assert field.seen[0] == near_prior


@pytest.mark.quick_one_in(23)
@pytest.mark.parametrize("solver", [n for n, e in registries()["solvers"].entries().items() if e.tags["budget"]])
def test_every_budget_from_1_to_50_is_exact(solver):
    """A solver sees only a field, so one is enough."""
    made = genflow.get_solver(solver)
    for nfe in range(1, 51):
        field = GaussianField()
        found = made.solve(field, torch.ones(2, 2, dtype=F64), nfe=nfe, noise=Noise(0, range(2)))
        assert found.nfe == field.evaluations / 2 == nfe
        assert bool(found.x.isfinite().all())


GRID_PAIRS = [(p, s) for p, s in pairs(adaptive=False) if "/" not in s]


def grids_of(name, solver):
    """A third of the spacings, turning with the process and with the solver; all where a process has two solvers."""
    if sum(one == name for one, _ in GRID_PAIRS) < 3:
        return list(SPACINGS)
    processes, solvers = ([*dict.fromkeys(column)] for column in zip(*GRID_PAIRS, strict=True))
    return list(SPACINGS)[(processes.index(name) + solvers.index(solver)) % 3 :: 3]


def test_every_process_and_every_solver_meets_every_grid():
    met = [(one, spacing) for pair in GRID_PAIRS for spacing in grids_of(*pair) for one in pair]
    assert {*met} == set(itertools.product({one for pair in GRID_PAIRS for one in pair}, SPACINGS))


@pytest.mark.quick_one_in(43)
@pytest.mark.parametrize(("name", "solver"), GRID_PAIRS)
def test_every_grid_stays_finite(name, solver):
    """Budgets 1 to 50, a part of them for each process, so that a solver meets many on every grid.

    Each pair of a process and a solver takes a third of the grids, so that each meets all of them.
    """
    offset = list(registries()["processes"].entries()).index(name) % 12
    process = genflow.get_process(name).for_data(POINTS)
    start, noise = draw_prior(process, (3,), 0, range(2), F64)
    field = process.field(process.oracle(POINTS[:2]))
    for spacing in grids_of(name, solver):
        made = genflow.get_solver(solver, grid=spacing)
        try:
            process.grid(3, spacing=spacing)
        except ValueError:
            continue  # the process says why it has no such grid; that is tested with the grids
        for nfe in (1, *range(2 + offset, 51, 12)):
            found = made.solve(field, start, nfe=nfe, noise=noise)
            assert bool(found.x.isfinite().all()), (spacing, nfe)
            assert found.nfe == nfe


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(("solver", "method"), [(RK45, "RK45"), (RK23, "RK23")])
def test_adaptive_solvers_take_the_steps_that_scipy_takes(solver, method):
    """Equal tolerance, one step size for the batch: the same end, and an NFE within one call of scipy's."""
    process = PFGM(dim=3, norm=1.7)
    field = process.field(process.oracle(POINTS))
    start = torch.tensor([[20.0, -3.0, 8.0], [1.0, 60.0, -5.0]], dtype=F64)
    ours = solver(1e-5, 1e-5, control="batch").solve(field, start)

    def slope(s, x):
        z = torch.tensor(math.exp(s), dtype=F64)
        return (z * field.velocity(torch.from_numpy(x).reshape(2, 3), z)).flatten().numpy()

    ends = [math.log(process.t_prior), math.log(process.t_data)]
    theirs = solve_ivp(slope, ends, start.flatten().numpy(), method, rtol=1e-5, atol=1e-5)
    assert abs(ours.nfe - theirs.nfev) <= 1
    torch.testing.assert_close(ours.x.flatten(), torch.from_numpy(theirs.y[:, -1]), rtol=1e-4, atol=1e-5)


def test_guidance_counts_both_calls():
    """Guided, an evaluation is two calls: budgets are met, and adaptive solvers count what they spend."""

    class Labelled:
        classes = 2

        def __init__(self):
            self.samples = 0

        def __call__(self, x, condition, labels):
            self.samples += len(x)
            return x * (0.5 + 0.1 * labels.to(x)[:, None])

    process, x = VP(), torch.ones(2, 3, dtype=F64)
    for solver in ("rk45", "rk23", "scipy/RK45", "torchdiffeq/dopri5", "dpmpp_2m", "unipc"):
        net = Labelled()
        field = Field(process, net, labels=torch.tensor([0, 1]), guidance=2.0)
        nfe = 8 if "pp" in solver or solver == "unipc" else None
        assert genflow.get_solver(solver).solve(field, x, nfe=nfe).nfe == pytest.approx(net.samples / 2)


@pytest.mark.slow
def test_vp_ode_agrees_with_torchdiffeq():
    process = VP()
    field = process.field(process.oracle(POINTS))
    start = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(9))
    ours = RK45(1e-9, 1e-9).solve(field, start).x
    times = torch.tensor([1.0, process.t_min], dtype=F64)
    theirs = odeint(lambda t, x: field.velocity(x, t), start, times, rtol=1e-9, atol=1e-9, method="dopri8")[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", [RK45, RK23])
def test_error_follows_the_tolerance(solver):
    def error(tolerance):
        field = CallableField(lambda x, t: torch.cos(t).reshape(-1, 1) * x if t.ndim else torch.cos(t) * x, 0.0, 5.0)
        end = solver(tolerance, tolerance).solve(field, torch.ones(3, 1, dtype=F64)).x
        return float((end - math.exp(math.sin(5.0))).abs().max())

    errors = [error(10.0**-k) for k in (3, 5, 6, 7)]
    assert errors[-1] < 1e-6
    slope = math.log10(errors[0] / errors[-1]) / 4
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


def test_a_stiff_sample_can_be_left_where_it_is_and_is_flagged():
    """y' = y² leaves every bound at t = 1/y(0): one sample does before the end, the others do not."""
    field = CallableField(lambda x, t: x * x, 0.0, 2.0)
    begin = torch.tensor([[0.1], [1.0], [-1.0], [0.25]], dtype=F64)
    for solver in (RK45(1e-6, 1e-6, on_stiff="return_last"), RK45(1e-6, 1e-6, on_stiff="return_last", max_nfe=60)):
        found = solver.solve(field, begin)
        assert found.status == "stopped"
        assert found.stopped.tolist() == [False, True, False, False]
        exact = begin / (1 - 2 * begin)
        torch.testing.assert_close(found.x[[0, 2, 3]], exact[[0, 2, 3]], rtol=1e-4, atol=1e-6)
        assert float(found.x[1]) > 1
    whole = RK45(1e-6, 1e-6, on_stiff="return_last").solve(field, begin[[0, 2, 3]])
    assert whole.status == "done"
    torch.testing.assert_close(whole.x, exact[[0, 2, 3]], rtol=1e-4, atol=1e-6)
    shared = RK45(1e-6, 1e-6, "batch", on_stiff="return_last").solve(field, begin)
    assert shared.stopped.all()


def test_bad_settings_are_named():
    for options in ({"rtol": 0}, {"atol": -1}, {"control": "x"}, {"max_nfe": 3}, {"on_stiff": "x"}):
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
