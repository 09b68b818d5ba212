"""Gradients through solvers: with respect to parameters and the start, against finite differences and closed form."""

import math

import pytest
import torch

import genflow
from genflow.process.score_sde import VP
from genflow.registry import registries
from genflow.solver.adaptive import RK23, RK45
from genflow.solver.fields import CallableField
from genflow.solver.noise import Noise, sample_generator
from genflow.solver.ode import Heun

SOLVERS = list(registries()["solvers"].entries())
SHORT = torch.tensor([0.6, 0.25], dtype=torch.float64)
"""Where solvers that choose their steps travel: the last part of the path would take them most of their steps."""
START = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(torch.nn.Module):
    """X̂ = tanh(w x + c), with w and c to be learnt."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64))
        self.c = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x, condition):
        return torch.tanh(self.w * x + self.c)


def end(solver, net, x):
    """A number made of where the path of x ends; the noise is the same at every call."""
    field = VP(head="data").field(net)
    how = {"nfe": 7} if hasattr(solver, "plan") else {"grid": SHORT}
    found = solver.solve(field, x, noise=Noise(5, range(len(x))), **how)
    return (found.x * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).sum()


def made(name, **options):
    tags = registries()["solvers"].entry(name).tags
    tolerance = 1e-7 if tags["order"] >= 5 else 1e-5
    tight = {} if tags["budget"] else {"rtol": tolerance, "atol": tolerance}
    return genflow.get_solver(name, **tight, **options)


@pytest.mark.quick_one_in(43)
@pytest.mark.parametrize("options", [{}, {"end": "mean"}], ids=["plain", "mean"])
@pytest.mark.parametrize("name", [name for name in SOLVERS if not name.startswith("scipy/")])
def test_every_solver_differentiates(name, options):
    """With respect to the parameters and the start, at once."""
    net, x = Net(), START.clone().requires_grad_()
    solver = made(name, **options)
    value = end(solver, net, x)
    found = torch.autograd.grad(value, [net.w, net.c, x])
    with torch.no_grad():
        assert float(end(solver, net, x)) == float(value), "the numbers differ where a gradient is wanted"
        for place, gradient in zip((net.w, net.c, x), found, strict=True):
            way = torch.randn(place.shape, generator=sample_generator(1, 0), dtype=torch.float64)
            ends = []
            for sign in (1, -1):
                place += sign * 1e-3 * way
                ends.append(float(end(solver, net, x)))
                place -= sign * 1e-3 * way
            slope = (ends[0] - ends[1]) / 2e-3
            assert float((gradient * way).sum()) == pytest.approx(slope, rel=3e-3, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name.startswith("scipy/")])
def test_what_works_in_numpy_says_that_no_gradient_flows(name):
    net = Net()
    with pytest.raises(ValueError, match="no gradient flows; differentiate rk45"):
        end(made(name), net, START)
    with pytest.raises(ValueError, match="no gradient flows"):
        end(made(name), lambda x, condition: 0 * x, START.clone().requires_grad_())
    with torch.no_grad():
        assert math.isfinite(float(end(made(name), net, START)))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("control", ["sample", "batch"])
@pytest.mark.parametrize("kind", [RK45, RK23])
def test_adaptive_steps_against_the_closed_form(kind, control):
    """dx/dt = a x cos t and dx/dt = a: x e^(a sin T) and x + a T."""
    solver = kind(rtol=1e-9, atol=1e-11, control=control)
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = START.clone().requires_grad_()

    def rate(x, t):
        return a * x * torch.cos(t).reshape(-1, 1)

    growth = math.exp(0.7 * math.sin(1.5))
    found = torch.autograd.grad(solver.solve(CallableField(rate, 0.0, 1.5), x).x.sum(), [a, x])
    assert float(found[0]) == pytest.approx(float(START.sum()) * growth * math.sin(1.5), rel=1e-6)
    torch.testing.assert_close(found[1], torch.full_like(START, growth), rtol=1e-6, atol=0)
    drift = CallableField(lambda x, t: 0 * x + a, 0.0, 1.0)
    assert float(torch.autograd.grad(solver.solve(drift, START).x.sum(), a)[0]) == pytest.approx(3.0)


def test_second_derivatives_flow_too():
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, 1, dtype=torch.float64)
    value = RK45(1e-9, 1e-11).solve(CallableField(lambda x, t: a * x, 0.0, 1.0), x).x.sum()
    (first,) = torch.autograd.grad(value, a, create_graph=True)
    (second,) = torch.autograd.grad(first, a)
    assert float(second) == pytest.approx(math.exp(0.7), rel=1e-5)


@pytest.mark.parametrize("solver", [RK45(), RK45(control="batch"), RK23(), Heun(), RK45(end="mean")], ids=range(5))
def test_the_numbers_are_the_same_in_every_mode(solver):
    net = Net()
    values = [float(end(solver, net, START).detach())]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            values.append(float(end(solver, net, START)))
    assert len(set(values)) == 1


WIDTHS = {(RK45, "sample"): 0.08, (RK45, "batch"): 0.06, (RK23, "sample"): 0.15, (RK23, "batch"): 0.15}
"""Of a pulse that the solver's first long step meets."""


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("kind", "control"), WIDTHS)
def test_a_rejected_step_out_of_the_domain_leaves_the_gradient_finite(kind, control):
    """d√x/dt = −a/2 g(t), g a pulse: x(T) = (√x − a/2)². Long steps into it lead below 0, where √x is not finite.

    The gradient of a parameter that all rows share is summed over attempts: one rejected NaN would make it NaN.
    """
    outside, width = [], WIDTHS[kind, control]

    def rate(x, t):
        outside.append(bool((x.detach() < 0).any()))
        pulse = torch.exp(-(((t - 1) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        return -a * pulse.reshape(-1, 1) * x.sqrt()

    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    root = torch.tensor([[0.6], [3.0], [1.0], [0.7]], dtype=torch.float64)
    x = root.square().requires_grad_()
    solver = kind(rtol=1e-7, atol=1e-9, control=control)
    found = solver.solve(CallableField(rate, 0.0, 2.0), x)
    assert any(outside), "no attempt left the domain"
    assert bool(found.x.isfinite().all())
    slope, rows = torch.autograd.grad(found.x.sum(), [a, x])
    assert float(slope) == pytest.approx(-float((root - 0.4).sum()), rel=1e-5)
    torch.testing.assert_close(rows, 1 - 0.4 / root, rtol=1e-5, atol=0)
    with torch.no_grad():
        assert torch.equal(solver.solve(CallableField(rate, 0.0, 2.0), x).x, found.x)
