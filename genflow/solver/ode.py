"""Fixed-step solvers of dx/dt = v(x, t), in native time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genflow.checks import is_number, require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, read, schedule_at, scheduled
from genflow.solver.noise import Noise
from genflow.solver.sde import drawn, is_noiseless_end, needed, transition


class Euler(FixedStep):
    """x + h v(x, t). For Poisson flow on its geometric grid this is the published Euler step in z."""

    order = 1

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        return runge_kutta(field, x, t, s, 1)[0]


class Heun(FixedStep):
    """The trapezoid of v at both ends of an Euler step (improved Euler), but a plain Euler step at the end.

    Near the data v changes fast, for score models like 1/√t, and the trapezoid's second slope there would overshoot.
    The published solvers end on one Euler step, which spends odd budgets; an even budget ends on two.
    """

    order = 2
    step_calls = 2

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        h, start = float(s - t), Combination.of(x)
        (first,) = read(field, start, t, "velocity")
        ahead = start + h * first
        if calls == 1:
            return ahead.value()
        (second,) = read(field, ahead, s, "velocity")
        return (start + h / 2 * (first + second)).value()


_STAGES: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    1: ((), (1.0,)),
    2: (((1 / 2,),), (0.0, 1.0)),
    3: (((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    4: (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Stage and solution weights by number of calls: Euler, midpoint, Kutta's third order, the classical fourth order."""


def runge_kutta(field: FieldLike, x: Tensor, t: Tensor, s: Tensor, calls: int) -> tuple[Tensor, Combination]:
    """One explicit Runge–Kutta step with that many calls, of order `calls`: x at s, and the slope at t."""
    rows, weights = _STAGES[calls]
    h, start = float(s - t), Combination.of(x)
    slopes = read(field, start, t, "velocity")
    for row, time in zip(rows, inner_times(t, s, calls), strict=True):
        slopes += read(field, moved(start, h, row, slopes), time, "velocity")
    return moved(start, h, weights, slopes).value(), slopes[0]


def moved(x: Combination, h: float, weights: tuple[float, ...], slopes: list[Combination]) -> Combination:
    """x + h Σ w_i k_i."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + h * weight * slope
    return x


def inner_times(t: Tensor, s: Tensor, calls: int) -> list[Tensor]:
    """Times of the stages after the first, where the steps go from t to s, () or (n,)."""
    shares = [sum(row) for row in _STAGES[calls][0]]
    found = {share: s if share == 1 else t + share * (s - t) for share in {*shares}}
    return [found[share] for share in shares]


class RungeKutta(FixedStep):
    """Explicit steps of `order` calls. Near the data v changes fast, so a budget ends on a step of fewer calls.

    Such a step, of one call or two, takes no slope at the end itself, where that of a score model is nearly singular.
    """

    def plan_steps(self, steps: int) -> list[int]:
        return [int(self.order)] * steps

    def evaluated(self, times: Tensor, plan: list[int]) -> Tensor:
        inner = [time for calls in {*plan} for time in inner_times(times[:-1], times[1:], calls)]
        return torch.cat([times, *inner])

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        return runge_kutta(field, x, t, s, calls)[0]


class Midpoint(RungeKutta):
    """x + h v(x + h/2 v, t + h/2): two calls a step; an odd budget ends on an Euler step."""

    order = 2

    def plan(self, nfe: int) -> list[int]:
        return [2] * (nfe // 2) + [1] * (nfe % 2)


class RK4(RungeKutta):
    """The classical fourth-order step of four calls; a budget's last one to four calls are midpoint and Euler steps.

    On a given grid every step is of order 4.

    Source: Kutta 1901.
    """

    order = 4

    def plan(self, nfe: int) -> list[int]:
        return [4] * ((nfe - 1) // 4) + {1: [1], 2: [2], 3: [2, 1], 0: [2, 2]}[nfe % 4]


class DDIM(FixedStep):
    """x_s = a(s) X̂ + b(s) N̂ with the posterior means of x at t held fixed: one call a step, exact for one data point.

    It follows the path's own curve, so its steps do not depend on how time is measured. For Poisson flow it is
    Euler's step in z, for VE and EDM Euler's step in σ. Where a field says only its velocity, that is held fixed.

    With η above 0, for Gaussian bases, noise takes the place of a part of N̂:

        x_s = a_s X̂ + sqrt(b_s² − τ²) N̂ + τ ξ,   τ = η (b_s/b_t) sqrt(b_t² − (a_t b_s/a_s)²)

    where τ/η is the deviation of x_s given x_t and X, so that η = 1 is `ancestral` with variance = "posterior". The
    step to the data's end adds no noise.

    Arguments:
        eta: η, 0 to 1. Above 0 it is an SDE solver.
        grid: Spacing of the times; see `genflow.process.grids`.

    Source: Song, Meng & Ermon 2021, arXiv:2010.02502, for VP.
    """

    order = 1

    def __init__(self, eta: float = 0.0, grid: Spacing = "process") -> None:
        super().__init__(grid)
        require("ddim", {"eta": (eta, is_number(eta) and 0 <= eta <= 1, "a number from 0 to 1")})
        self.eta = eta
        if eta:
            self.mode, self.needs = "sde", ("score", "affine")

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if self.eta:
            return self._noisy_step(field, x, t, s, needed(noise, self))
        step = getattr(field, "ddim_step", None)
        if step is None:
            raise ValueError("ddim needs posterior means, which this field does not give; use another ODE solver")
        found: Tensor = step(x, t, s)
        return found

    def _noisy_step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        scheduled(field, self)
        (a_t, b_t), (a_s, b_s) = here, there = schedule_at(field, t), schedule_at(field, s)
        (data,) = read(field, Combination.of(x), t, "data")
        base = (Combination.of(x) - a_t * data) / b_t
        scale = self.eta * b_s / b_t * math.sqrt(max(transition(here, there)[1], 0.0))
        mean = a_s * data + math.sqrt(max(b_s**2 - scale**2, 0.0)) * base
        return (mean if is_noiseless_end(field, s) else mean + drawn(noise, x, scale)).value()
