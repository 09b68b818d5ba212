"""A solver: Ralston's method of second order."""

from __future__ import annotations

from torch import Tensor

from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike
from genflow.solver.noise import Noise


class Ralston(FixedStep):
    """x + h (k1/4 + 3 k2/4) with k2 at two thirds of the step: the least error bound of two calls.

    Source: Ralston 1962, Math. Comp. 16.
    """

    order = 2

    def plan(self, nfe: int) -> list[int]:
        """Calls of each step that together spend a budget exactly: an odd one ends on a step of one call (Euler)."""
        return [2] * (nfe // 2) + [1] * (nfe % 2)

    def plan_steps(self, steps: int) -> list[int]:
        """Calls of each step on a grid of that many steps."""
        return [2] * steps

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        """x at s from x at t with exactly `calls` network calls. A field is all that a solver sees of a process."""
        h = float(s - t)
        first = field.velocity(x, t)
        if calls == 1:
            return x + h * first
        second = field.velocity(x + 2 / 3 * h * first, t + 2 / 3 * (s - t))
        return x + h * (first / 4 + 3 * second / 4)
