"""Solvers of torchdiffeq and scipy under this interface: same ends as ours, the libraries' own NFE, typed errors."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.score_sde import VE
from genflow.registry import registries
from genflow.solver.adaptive import RK45
from genflow.solver.backends import Scipy, TorchDiffEq
from genflow.solver.base import NonFiniteError, StepUnderflowError
from genflow.solver.fields import CallableField

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
NAMES = ["torchdiffeq/dopri5", "scipy/RK45"]
REST = [n for n, e in registries()["solvers"].entries().items() if "/" in n and not e.tags["budget"] and n not in NAMES]
EVERY = [(cls, method) for cls in (Scipy, TorchDiffEq) for method in cls.methods]


def prepared(name):
    process = genflow.get_process(name).for_data(POINTS)
    start = process.sample_prior((2, 3), generator=torch.Generator().manual_seed(1), dtype=F64)
    return process.field(process.oracle(POINTS)), start


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("process", ["pfgm", "vp_ode", "si_linear"])
def test_end_is_that_of_our_solver(process, solver):
    field, start = prepared(process)
    found = genflow.get_solver(solver, rtol=1e-6, atol=1e-6).solve(field, start)
    want = RK45(1e-8, 1e-8).solve(field, start)
    torch.testing.assert_close(found.x, want.x, rtol=1e-3, atol=1e-4)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("solver", REST)
def test_every_registered_method_ends_where_ours_does(solver):
    field, start = prepared("si_linear")
    found = genflow.get_solver(solver, rtol=1e-4, atol=1e-4).solve(field, start[:1])
    want = RK45(1e-8, 1e-8).solve(field, start[:1])
    torch.testing.assert_close(found.x, want.x, rtol=1e-2, atol=1e-2)


def test_every_method_is_registered():
    names = [f"{cls.library}/{method}" for cls, method in EVERY]
    assert sorted(names) == sorted(NAMES + REST)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("cls", "method"), EVERY)
def test_every_method_meets_its_tolerance(cls, method):
    """dx/dt = −x from 1 to 0, backwards in time, in float32 as well."""
    for dtype, bound in ((F64, 1e-3), (torch.float32, 1e-3)):
        field = CallableField(lambda x, t: -x, 1.0, 0.0)
        found = cls(method, rtol=1e-5, atol=1e-5).solve(field, torch.ones(2, 1, dtype=dtype))
        assert found.x.dtype == dtype
        assert float((found.x - math.e).abs().max()) < bound


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("method", ["RK45", "DOP853"])
def test_nfe_is_scipy_s_own(method):
    field, start = prepared("pfgm")
    found = Scipy(method, 1e-5, 1e-5).solve(field, start)
    ends = [math.log(float(z)) for z in field.grid(1)]
    for k, row in enumerate(start):

        def slope(s, x):
            z = torch.tensor(math.exp(s), dtype=F64).clamp(*sorted(field.process.safe_interval))
            return (z * field.velocity(torch.from_numpy(x)[None], z))[0].numpy()

        theirs = solve_ivp(slope, ends, row.numpy(), method=method, rtol=1e-5, atol=1e-5)
        assert int(found.nfe_per_sample[k]) == theirs.nfev
        torch.testing.assert_close(found.x[k], torch.from_numpy(theirs.y[:, -1]), rtol=1e-8, atol=1e-8)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("solver", NAMES)
def test_likelihood_keeps_each_sample_s_probe(solver):
    process = VE(sigma_min=0.3, sigma_max=5.0)

    def log_prob(by, seed):
        return log_likelihood(process, process.oracle(POINTS), POINTS[:3] + 0.1, solver=by, seed=seed).log_prob

    found = log_prob(genflow.get_solver(solver, rtol=1e-6, atol=1e-6), 5)
    torch.testing.assert_close(found, log_prob(RK45(1e-7, 1e-7), 5), rtol=0, atol=1e-4)
    assert float((found - log_prob(RK45(1e-7, 1e-7), 6)).abs().min()) > 1e-3  # another probe, another estimate


@pytest.mark.parametrize("solver", NAMES)
def test_errors_are_typed_and_give_advice(solver):
    broken = CallableField(lambda x, t: x * torch.nan, 1.0, 0.0)
    with pytest.raises(NonFiniteError, match="not finite near t = 1"):
        genflow.get_solver(solver).solve(broken, torch.ones(1, 1))
    blow_up = CallableField(lambda x, t: x * x, 0.0, 2.0)
    with pytest.raises((StepUnderflowError, NonFiniteError)):
        genflow.get_solver(solver, max_nfe=2000).solve(blow_up, torch.ones(1, 1, dtype=F64))
    with pytest.raises(StepUnderflowError, match="after 9 calls; raise the tolerance or max_nfe"):
        genflow.get_solver(solver, max_nfe=9).solve(*prepared("pfgm"))
    with pytest.raises(ValueError, match="takes no nfe"):
        genflow.get_solver(solver).solve(broken, torch.ones(1, 1), nfe=3)
    for options in ({"method": "euler"}, {"rtol": 0}, {"atol": -1}, {"max_nfe": 0.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            genflow.get_solver(solver, **options)


def test_observer_sees_both_ends():
    seen = []
    field, start = prepared("vp_ode")
    genflow.get_solver("scipy/RK45").solve(field, start, observer=lambda x, t: seen.append(t))
    assert seen == [float(t) for t in field.grid(1)]
