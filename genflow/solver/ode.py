"""Fixed-step solvers of dx/dt = v(x, t), in native time."""

from __future__ import annotations

from torch import Tensor

from genflow.solver.base import FieldLike, FixedStep, Noise


class Euler(FixedStep):
    """x + h v(x, t). For Poisson flow on its geometric grid this is the published Euler step in z."""

    order = 1

    def step(
        self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int
    ) -> Tensor:
        return x + float(s - t) * field.velocity(x, t)


class Heun(FixedStep):
    """The trapezoid of v at both ends of an Euler step (improved Euler); plain Euler where one call is left."""

    order = 2
    calls_per_step = 2

    def step(
        self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int
    ) -> Tensor:
        h = float(s - t)
        first = field.velocity(x, t)
        if calls == 1:
            return x + h * first
        return x + h / 2 * (first + field.velocity(x + h * first, s))
