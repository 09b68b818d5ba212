"""Fixed-step solvers of dx/dt = v(x, t), in native time."""

from __future__ import annotations

from torch import Tensor

from genflow.solver.base import FieldLike, FixedStep, Noise


class Euler(FixedStep):
    """x + h v(x, t). For Poisson flow on its geometric grid this is the published Euler step in z."""

    order = 1

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        return x + float(s - t) * field.velocity(x, t)


class Heun(FixedStep):
    """The trapezoid of v at both ends of an Euler step (improved Euler), but a plain Euler step at the end.

    Near the data v changes fast, for score models like 1/√t, and the trapezoid's second slope there would overshoot.
    The published solvers end on one Euler step, which spends odd budgets; an even budget ends on two.
    """

    order = 2

    def plan(self, nfe: int) -> list[int]:
        return [2] * ((nfe - 1) // 2) + [1] * (2 - nfe % 2)

    def plan_steps(self, steps: int) -> list[int]:
        return [2] * (steps - 1) + [1]

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        h = float(s - t)
        first = field.velocity(x, t)
        if calls == 1:
            return x + h * first
        return x + h / 2 * (first + field.velocity(x + h * first, s))
