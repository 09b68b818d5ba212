"""DPM-Solver++ and UniPC: weights against quadrature, orders as slopes, exact where D is, on every path with means."""

import functools
import math

import pytest
import torch
from scipy.integrate import quad

import genflow
from genflow.bench.cells import lacking
from genflow.process.score_sde import VP
from genflow.registry import registries
from genflow.sampling import draw_prior
from genflow.solver.adaptive import RK45
from genflow.solver.base import NonFiniteError
from genflow.solver.dpm import DPMpp2M, DPMpp3M, Mean, Place, UniPC, exponential_moments, exponential_weights, predict
from genflow.solver.fields import CallableField
from genflow.testing import GaussianField, error_slope

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
SOLVERS = [DPMpp2M(), DPMpp3M(), UniPC(1), UniPC(2)]
NAMES = ("dpmpp_2m", "dpmpp_3m", "unipc")
PROCESSES = [
    name
    for name, entry in registries()["processes"].entries().items()
    if entry.tags["mode"] == "ode" and not lacking(entry, registries()["solvers"].entry("unipc"))
]


@pytest.mark.parametrize("h", [1e-6, 0.01, 0.5, 0.999, 1.001, 4.0, 30.0, -0.3, -4.0])
def test_moments_against_quadrature(h):
    for k, found in enumerate(exponential_moments(h, 4)):
        want = quad(lambda v, k=k: math.exp(h * (v - 1)) * v**k, 0, 1, epsabs=1e-13)[0]
        assert found == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("nodes", "start", "end"), [([-1.2, 0.1, 0.3], 0.3, 0.9), ([0.0, 2.0, 2.5, 6.0], 2.5, 6.0)])
def test_weights_integrate_polynomials_against_quadrature(nodes, start, end):
    weights = exponential_weights(tuple(nodes), start, end)
    for degree in range(len(nodes)):
        found = sum(w * node**degree for w, node in zip(weights, nodes, strict=True))
        want = quad(lambda u, d=degree: math.exp(u - end) * u**d, start, end, epsabs=1e-13)[0]
        assert found == pytest.approx(want, rel=1e-9)


def test_two_means_are_a_line_taken_at_the_middle():
    """(1 − e^(−h)) D(λ + h/2) for a straight D, whatever the spacing of the means."""
    line = [Mean(u, torch.tensor([3.0 - 2 * u], dtype=F64)) for u in (-0.7, 0.4)]
    found = predict(line, Place(1, 1, 0.4), Place(1, 1, 1.0))
    assert float(found) == pytest.approx((1 - math.exp(-0.6)) * (3 - 2 * 0.7), rel=1e-12)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("grid", [lambda u: u, lambda u: u * (1 + u) / 2], ids=["even", "uneven"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: f"{type(s).__name__}{s.points}")
def test_order(solver, grid):
    assert error_slope(solver, [40, 80, 160, 320], grid) == pytest.approx(solver.order, abs=0.15)


def test_order_of_three_means_is_at_least_three():
    """On an uneven grid the fourth order of the inner steps still shows; the start makes it third in the end."""
    assert error_slope(UniPC(3), [40, 80, 160, 320]) > 2.85


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("name", PROCESSES)
def test_exact_for_one_point_at_any_budget(name, solver):
    """Then D is constant, and every step is the path itself."""
    process = genflow.get_process(name).for_data(POINTS)
    x, _ = draw_prior(process, (3,), 0, range(4), F64)
    (a_0, a_1), (b_0, b_1) = (v.tolist() for v in process.schedule(process.grid(1)))
    want = a_1 * POINTS[:1] + b_1 / b_0 * (x - a_0 * POINTS[:1])
    for nfe in (1, 2, 5, 11):
        found = genflow.get_solver(solver).solve(process.field(process.oracle(POINTS[:1])), x, nfe=nfe).x
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8 * float(x.abs().max()))


@functools.cache
def fine(name):
    """A process's field, a start, and where a fine solve ends: one for all solvers."""
    process = genflow.get_process(name).for_data(POINTS)
    x, _ = draw_prior(process, (3,), 1, range(5), F64)
    field = process.field(process.oracle(POINTS))
    return field, x, RK45(1e-8, 1e-8).solve(field, x).x


@pytest.mark.quick_one_in(23)
@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("name", PROCESSES)
def test_end_is_that_of_a_fine_solve(name, solver):
    field, x, want = fine(name)
    gaps = [(genflow.get_solver(solver).solve(field, x, nfe=n).x - want).norm(dim=1).median() for n in (10, 100)]
    assert gaps[1] < 1e-3
    assert gaps[1] < 0.2 * gaps[0]


def test_a_step_long_for_its_means_follows_fewer():
    """VP on its own grid ends on a step in log(a/b) several times as long as the one before."""
    process = VP()
    x, _ = draw_prior(process, (3,), 1, range(9), F64)
    field = process.field(process.oracle(POINTS))
    want = RK45(1e-8, 1e-8).solve(field, x).x
    for solver in SOLVERS:
        worst = (solver.solve(field, x, nfe=15).x - want).norm(dim=1).median()
        assert worst < 0.1, type(solver).__name__


def test_backwards_and_again():
    """To the prior and back along the closed form, with the grid turned round."""
    field, x = GaussianField(), torch.ones(1, 2, dtype=F64)
    grid = field.grid(60)
    for solver in SOLVERS:
        there = solver.solve(field, x, grid=grid.flip(0)).x
        torch.testing.assert_close(there, x * field.scale(grid[0]) / field.scale(grid[-1]), rtol=0, atol=3e-3)
        torch.testing.assert_close(solver.solve(field, there, grid=grid).x, x, rtol=0, atol=3e-3)


def test_a_solver_forgets_its_last_solve():
    field, x = GaussianField(), torch.ones(1, 2, dtype=F64)
    for solver in SOLVERS:
        ends = [solver.solve(field, x, nfe=nfe).x for nfe in (9, 30, 9)]
        assert torch.equal(ends[0], ends[2])
        assert solver.past == []


def test_errors_say_what_is_missing():
    plain = CallableField(lambda x, t: -x, 1.0, 0.0)
    for solver in SOLVERS:
        with pytest.raises(ValueError, match=r"needs the a\(t\) and b\(t\).*use a solver of dx/dt alone"):
            solver.solve(plain, torch.ones(1, 1), nfe=3)
    early = genflow.get_process("si_encdec").for_data(POINTS)
    with pytest.raises(ValueError, match=r"DPMpp2M cannot solve this field: .*no data in x_t"):
        DPMpp2M().solve(early.field(early.oracle(POINTS)), POINTS, nfe=3)
    broken = VP().field(lambda x, condition: x * torch.nan)
    with pytest.raises(NonFiniteError, match=r"after step 1 at t = .*try"):
        DPMpp2M().solve(broken, torch.ones(2, 3), nfe=4)
    with pytest.raises(ValueError, match="order = 4 is not allowed; give 1, 2 or 3"):
        UniPC(4)
