"""Fixed-step solvers against closed forms: Taylor polynomials, quadrature rules, known weights, one data point."""

import math

import pytest
import torch
from numpy.polynomial import Polynomial
from torchdiffeq import odeint

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.base import Process
from genflow.process.poisson import PFGM, PFGMPP
from genflow.process.score_sde import VE, VP
from genflow.registry import registries
from genflow.solver.fields import CallableField
from genflow.solver.multistep import AB2, AB3, AB4, adams_weights
from genflow.solver.ode import DDIM, RK4, Euler, Midpoint, runge_kutta
from genflow.testing import error_slope

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


def start(process, count=5):
    return process.sample_prior((count, 3), generator=torch.Generator().manual_seed(1), dtype=F64)


SOLVERS = [Euler(), DDIM(), Midpoint(), RK4(), AB2(), AB3(), AB4()]


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("grid", [lambda u: u, lambda u: u * (1 + u) / 2], ids=["even", "uneven"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_order(solver, grid):
    assert error_slope(solver, [40, 80, 160, 320], grid) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_one_step_is_a_taylor_polynomial_and_a_quadrature_rule(calls):
    """On dx/dt = x the growth is the exponential series; on dx/dt = f(t) it is Euler, midpoint or Simpson."""
    t, s = torch.tensor(0.3, dtype=F64), torch.tensor(0.8, dtype=F64)
    field = CallableField(lambda x, t: x, 0.0, 1.0)
    end, first = runge_kutta(field, torch.ones(2, 1, dtype=F64), t, s, calls)
    assert float(end[0]) == pytest.approx(sum(0.5**k / math.factorial(k) for k in range(calls + 1)), rel=1e-15)
    assert torch.equal(first.value(), torch.ones(2, 1, dtype=F64))
    assert field.evaluations == 2 * calls
    exact = 4 if calls > 2 else calls
    power = CallableField(lambda x, t: t ** (exact - 1) * torch.ones_like(x), 0.0, 1.0)
    end, _ = runge_kutta(power, torch.zeros(1, 1, dtype=F64), t, s, calls)
    assert float(end) == pytest.approx((0.8**exact - 0.3**exact) / exact, rel=1e-12)


def test_midpoint_agrees_with_torchdiffeq():
    field, times = VP().field(VP().oracle(POINTS)), VP().grid(12)
    ours = Midpoint().solve(field, start(VP()), grid=times).x
    theirs = odeint(lambda t, x: field.velocity(x, t), start(VP()), times, method="midpoint")[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "weights"),
    [(AB2(), [-1 / 2, 3 / 2]), (AB3(), [5 / 12, -16 / 12, 23 / 12]), (AB4(), [-9 / 24, 37 / 24, -59 / 24, 55 / 24])],
)
def test_adams_weights_on_an_even_grid_are_the_classical_ones(solver, weights):
    k = solver.order
    assert adams_weights(tuple(float(i) for i in range(k)), k - 1.0, float(k)) == pytest.approx(weights, rel=1e-12)


def test_adams_weights_integrate_polynomials_over_uneven_times():
    times, end = [7.1, 3.0, 2.6, 0.4], 0.1
    for k in (1, 2, 3, 4):
        weights = adams_weights(tuple(times[-k:]), times[-1], end)
        for coefficients in ([1.0], [0.3, -2.0], [1.0, 0.0, 0.7], [0.2, 1.0, -0.5, 0.11]):
            if len(coefficients) <= k:
                p = Polynomial(coefficients)
                found = sum(w * p(t) for w, t in zip(weights, times[-k:], strict=True))
                assert found == pytest.approx(p.integ()(end) - p.integ()(times[-1]), rel=1e-10)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("solver", [AB2(), AB3(), AB4()], ids=lambda s: type(s).__name__)
def test_multistep_budgets_and_their_start(solver):
    """A budget is met exactly; n steps of a grid cost (order − 2)² calls more than n."""
    for nfe in range(1, 81):
        field = CallableField(lambda x, t: -x, 1.0, 0.0)
        assert solver.solve(field, torch.ones(2, 1), nfe=nfe).nfe == nfe
    field = CallableField(lambda x, t: -x, 1.0, 0.0)
    extra = (solver.order - 2) ** 2
    assert solver.solve(field, torch.ones(2, 1), grid=torch.linspace(1, 0, 21, dtype=F64)).nfe == 20 + extra
    assert solver.plan(9) == [1] * 9
    assert sum(solver.plan(100)) == 100
    assert len(solver.plan(100)) == 100 - extra


def test_a_solver_forgets_its_last_solve():
    process = VP()
    field, solver = process.field(process.oracle(POINTS)), AB3()
    ends = [solver.solve(field, start(process), nfe=nfe).x for nfe in (9, 30, 9)]
    assert torch.equal(ends[0], ends[2])
    assert solver.past == []


def test_rk4_takes_no_slope_at_the_data_end():
    for nfe in range(1, 30):
        times = []
        field = CallableField(lambda x, t, seen=times: seen.append(float(t)) or -x, 1.0, 0.0)
        assert RK4().solve(field, torch.ones(1, 1), nfe=nfe).nfe == nfe
        assert min(times) > 0


# ---- ddim ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, e in registries()["processes"].entries().items() if e.tags["mode"] == "ode"])
def test_ddim_is_exact_for_one_point(name):
    """Then the means are x_t's own X and N, so a single step goes from end to end along the path."""
    process = genflow.get_process(name).for_data(POINTS)
    x, (near_data, near_prior) = start(process), process.safe_interval
    field = process.field(process.oracle(POINTS[:1]))
    end = DDIM().solve(field, x, nfe=1)
    a, b = (torch.tensor([float(v) for v in process.coefficients(torch.tensor(t, dtype=F64))[:2]])
            for t in (near_data, near_prior))  # fmt: skip
    noise = (x - b[0] * POINTS[:1]) / b[1]
    torch.testing.assert_close(end.x, a[0] * POINTS[:1] + a[1] * noise, rtol=1e-5, atol=1e-6)
    assert end.nfe == 1


@pytest.mark.parametrize("process", [PFGM(dim=3, norm=1.7), PFGMPP()], ids=["pfgm", "pfgmpp"])
def test_ddim_is_euler_in_z(process):
    field, x = process.field(process.oracle(POINTS)), start(process)
    torch.testing.assert_close(DDIM().solve(field, x, nfe=9).x, Euler().solve(field, x, nfe=9).x)


def test_ddim_is_euler_in_sigma_for_ve():
    process = VE()
    field, x, times = process.field(process.oracle(POINTS)), start(process), process.grid(8)
    found, sigma = DDIM().solve(field, x, grid=times).x, 0.01 * 5000**times
    for i in range(8):
        denoised = field.data(x, times[i])
        x = x + (sigma[i + 1] - sigma[i]) * (x - denoised) / sigma[i]
    torch.testing.assert_close(found, x)


def test_ddim_is_the_published_update_for_vp():
    """x_s = α_s (x − σ_t ε)/α_t + σ_s ε, with ᾱ = e^(−B) by quadrature of β."""
    process, x = VP(), start(VP())
    t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.55, dtype=F64)
    field, noise = process.field(process.oracle(POINTS)), process.oracle(POINTS)(x, t)
    bar = [
        math.exp(-torch.trapezoid(0.1 + 19.9 * u, u)) for u in (torch.linspace(0, v, 1001, dtype=F64) for v in (t, s))
    ]
    want = math.sqrt(bar[1] / bar[0]) * (x - math.sqrt(1 - bar[0]) * noise) + math.sqrt(1 - bar[1]) * noise
    torch.testing.assert_close(DDIM().step(field, x, t, s, None, 1), want)


def test_ddim_says_where_it_can_not_work():
    process = VP()
    with pytest.raises(ValueError, match="ddim needs posterior means"):
        log_likelihood(process, process.oracle(POINTS), POINTS[:2], solver=DDIM(), nfe=3)
    with pytest.raises(ValueError, match="outside the interval"):
        process.field(process.oracle(POINTS)).ddim_step(POINTS[:2], torch.tensor(0.5), torch.tensor(-0.1))

    class Flow(Process):
        """A process that knows its velocity alone."""

        perturb = velocity = sample_prior = log_prior = None
        __abstractmethods__ = frozenset()

    with pytest.raises(ValueError, match="Flow does not define 'data'"):
        Flow().ddim_step(POINTS, POINTS, torch.tensor(0.0), torch.tensor(1.0))
