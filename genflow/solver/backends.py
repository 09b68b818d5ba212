"""Adaptive solvers of other libraries under this interface: torchdiffeq and scipy, in the process's clock."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.process.shapes import like_rows
from genflow.solver.base import NonFiniteError, Solver, StepUnderflowError
from genflow.solver.ending import NO_FINISH, Finish
from genflow.solver.fields import FieldLike, How, Solution, calls_at


class Slope:
    """dx/du of one sample, u the distance travelled in the clock from the grid's first time; counts its calls."""

    def __init__(self, field: FieldLike, start: float, end: float, max_nfe: int) -> None:
        self.field, self.start, self.end, self.max_nfe = field, start, end, max_nfe
        self.sign, self.length = math.copysign(1.0, end - start), abs(end - start)
        self.calls = 0

    def __call__(self, u: float, x: Tensor) -> Tensor:
        """dx/du at x (1, *). What lies past the end by rounding, or by a probe of the first step, sees the end."""
        s = self.end if u >= self.length * (1 - 1e-12) else self.start + self.sign * u
        t = self.field.clock.from_clock(torch.tensor(s, dtype=torch.float64))
        if self.calls >= self.max_nfe:
            raise StepUnderflowError(
                f"no end in sight at t = {float(t):g} after {self.calls} calls; raise the tolerance or max_nfe"
            )
        self.calls += int(calls_at(self.field, t))
        rate = self.sign * self.field.clock.rate(t).to(x.device, x.dtype)
        slope = like_rows(rate, x) * self.field.velocity(x, t)
        if not bool(slope.isfinite().all()):
            raise NonFiniteError(f"the field is not finite near t = {float(t):g}; look at the network there")
        return slope


class Backend(Solver):
    """A library's adaptive ODE solver, one sample at a time: so no sample depends on its batch, at the price of speed.

    It is there to check other solvers, and to compare with. A leaf gives its `methods` and `integrate`.

    Arguments:
        method: The library's name of the method.
        rtol: Relative tolerance.
        atol: Absolute tolerance, data units.
        max_nfe: Calls per sample after which the solve gives up.
    """

    library: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]

    def __init__(self, method: str, rtol: float = 1e-4, atol: float = 1e-4, max_nfe: int = 10_000) -> None:
        require(
            self.library,
            {
                "method": (method, method in self.methods, f"one of {', '.join(self.methods)}"),
                "rtol": (rtol, is_positive(rtol) and rtol < 1, "a number between 0 and 1"),
                "atol": (atol, is_positive(atol), "a number above 0"),
                "max_nfe": (max_nfe, is_count(max_nfe), "a whole number above 0"),
            },
        )
        self.method, self.rtol, self.atol, self.max_nfe = method, rtol, atol, int(max_nfe)

    @abstractmethod
    def integrate(self, slope: Slope, x: Tensor) -> Tensor:
        """x (1, *) after travelling slope.length."""

    def travel(self, field: FieldLike, x: Tensor, *, finish: Finish = NO_FINISH, **how: Unpack[How]) -> Solution:
        grid, observer = how.get("grid"), how.get("observer")
        if how.get("nfe") is not None:
            raise ValueError(f"{self.library} chooses its own steps: it takes no nfe; set rtol and atol")
        times = field.grid(1) if grid is None else grid
        start, end = (float(s) for s in field.clock.to_clock(times[[0, -1]].double()))
        if observer:
            observer(x, float(times[0]))
        slopes = [Slope(one_row(field, len(x), k), start, end, self.max_nfe) for k in range(len(x))]
        final = torch.cat([self.integrate(slope, x[k : k + 1]) for k, slope in enumerate(slopes)])
        if observer:
            observer(final, float(times[-1]))
        calls = torch.tensor([slope.calls for slope in slopes])
        return Solution(final, float(calls.double().mean()), nfe_per_sample=calls)


def one_row(field: FieldLike, count: int, row: int) -> FieldLike:
    """The field as that row of a batch sees it; the batch's own field keeps all its rows."""
    alone = copy.copy(field)
    alone.keep(torch.arange(count) == row)
    return alone


class TorchDiffEq(Backend):
    """An adaptive solver of torchdiffeq, on the tensor's device.

    Source: Chen 2018, github.com/rtqichen/torchdiffeq.
    """

    library = "torchdiffeq"
    methods = ("dopri5", "dopri8", "bosh3", "adaptive_heun")

    def integrate(self, slope: Slope, x: Tensor) -> Tensor:
        from torchdiffeq import odeint

        clock = x.dtype if x.device.type == "mps" else torch.float64  # torchdiffeq's times are on the device
        ends = torch.tensor([0.0, slope.length], dtype=clock)
        # step to the end, not past it and back; the steps are no part of a gradient, which the times would drop half of
        options = {"dtype": ends.dtype, "step_t": ends[1:], "norm": lambda y: y.detach().abs().pow(2).mean().sqrt()}
        try:
            path = odeint(
                lambda u, y: slope(float(u), y),
                x,
                ends,
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                options=options,
            )
        except AssertionError as error:  # torchdiffeq's word for a step that is too small
            raise StepUnderflowError(f"torchdiffeq gave up: {error}; raise the tolerance") from error
        return path[-1]


class Scipy(Backend):
    """`scipy.integrate.solve_ivp`, on the host in float64; the field is called in x's dtype and on its device.

    Source: Virtanen et al. 2020, Nature Methods 17.
    """

    library = "scipy"
    methods = ("RK45", "DOP853", "RK23", "LSODA", "BDF", "Radau")

    def integrate(self, slope: Slope, x: Tensor) -> Tensor:
        from scipy.integrate import solve_ivp

        def rate(u: float, y: object) -> object:
            return on_host(slope(u, torch.as_tensor(y).reshape(x.shape).to(x)))

        first = on_host(x)
        found = solve_ivp(rate, (0.0, slope.length), first, method=self.method, rtol=self.rtol, atol=self.atol)
        if not found.success:
            raise StepUnderflowError(f"scipy gave up: {found.message} Raise the tolerance")
        return torch.as_tensor(found.y[:, -1]).reshape(x.shape).to(x)


def on_host(x: Tensor) -> Any:
    """x as a flat float64 array.

    Raises:
        ValueError: A gradient is to flow through it.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "scipy solves on the host in numpy, through which no gradient flows; differentiate rk45, torchdiffeq or a "
            "fixed-step solver, or solve under torch.no_grad()"
        )
    return x.detach().flatten().cpu().double().numpy()
