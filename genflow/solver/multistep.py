"""Fixed-step solvers that use slopes of earlier steps: one backbone call a step at any order."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, read
from genflow.solver.noise import Noise
from genflow.solver.ode import runge_kutta


class AdamsBashforth(FixedStep):
    """x + ∫ p(τ) dτ over the step, p the polynomial through the slopes at the last `order` times of the grid.

    The weights follow from the times, since grids are not even. A polynomial of full degree needs order slopes: the
    first order − 2 steps are Runge–Kutta steps of order − 1 calls each, then the degree grows with the slopes in hand,
    which keeps the order. Where that would take more than a tenth of a budget, all steps take one call and the first
    ones are of lower order: with few steps, more of them are worth more than a good start.

    Source: Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, III.1 and III.5.
    """

    def __init__(self, grid: Spacing = "process") -> None:
        super().__init__(grid)
        self.past: list[tuple[float, Combination]] = []

    def plan(self, nfe: int) -> list[int]:
        start = self._start()
        return start + [1] * (nfe - sum(start)) if 10 * sum(start) <= nfe else [1] * nfe

    def plan_steps(self, steps: int) -> list[int]:
        start = self._start()[:steps]
        return start + [1] * (steps - len(start))

    def _start(self) -> list[int]:
        return [int(self.order) - 1] * (int(self.order) - 2)

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        fresh = copy.copy(self)  # the slopes belong to this solve, not to the solver
        fresh.past = []
        return fresh

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if calls > 1:
            x_s, slope = runge_kutta(field, x, t, s, calls)
            self._remember(t, slope)
            return x_s
        total = Combination.of(x)
        self._remember(t, *read(field, total, t, "velocity"))
        weights = adams_weights(tuple(time for time, _ in self.past), float(t), float(s))
        for weight, (_, slope) in zip(weights, self.past, strict=True):
            total = total + weight * slope
        return total.value()

    def _remember(self, t: Tensor, slope: Combination) -> None:
        before = self.past[len(self.past) - int(self.order) + 1 :] if len(self.past) >= self.order else self.past
        self.past = [*((time, past.settled()) for time, past in before), (float(t), slope)]


@lru_cache(maxsize=4096)
def adams_weights(times: tuple[float, ...], start: float, end: float) -> list[float]:
    """Weights w with ∫ p(τ) dτ = Σ w_j p(times_j) from start to end, for every polynomial p of degree < len(times)."""
    nodes = (torch.tensor(times, dtype=torch.float64) - start) / (end - start)
    powers = torch.arange(len(times), dtype=torch.float64)
    return ((end - start) * torch.linalg.solve(nodes[None, :] ** powers[:, None], 1 / (powers + 1))).tolist()


class AB2(AdamsBashforth):
    """Adams–Bashforth of order 2: on an even grid x + h (3 v_n − v_(n−1))/2. The first step is Euler's."""

    order = 2


class AB3(AdamsBashforth):
    """Adams–Bashforth of order 3: on an even grid x + h (23 v_n − 16 v_(n−1) + 5 v_(n−2))/12."""

    order = 3


class AB4(AdamsBashforth):
    """Adams–Bashforth of order 4: on an even grid x + h (55 v_n − 59 v_(n−1) + 37 v_(n−2) − 9 v_(n−3))/24."""

    order = 4
