"""What solvers see and what they return: the field, and the solution."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from genflow.process.clock import Clock, NativeClock
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.noise import Noise

Observer = Callable[[Tensor, float], None]
"""Called with (x, t) at the start and after every accepted step."""


class How(TypedDict, total=False):
    """Keywords of a solve; see `genflow.solver.base.Solver.solve`."""

    nfe: int | None
    grid: Tensor | None
    noise: Noise | None
    observer: Observer | None


class FieldLike(Protocol):
    """What a solver needs to see: a callable of (x, t), a time grid, a clock, a count."""

    @property
    def evaluations(self) -> int: ...
    @property
    def cost(self) -> int: ...
    def velocity(self, x: Tensor, t: Tensor) -> Tensor: ...
    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def natural_diffusion(self, t: Tensor) -> Tensor: ...
    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor: ...
    @property
    def clock(self) -> Clock: ...
    def keep(self, rows: Tensor) -> None: ...


class Scheduled(Protocol):
    """What a field gives besides, where x_t = a X + b N."""

    def data(self, x: Tensor, t: Tensor) -> Tensor: ...
    def score(self, x: Tensor, t: Tensor) -> Tensor: ...
    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def why_not(self, capability: str) -> str | None: ...


def read(field: FieldLike, x: Combination, t: Tensor, *names: str) -> list[Combination]:
    """ "velocity", "score" or "data" at (x, t), by name, as sums that a step adds to; one evaluation.

    A field that gives no `read` is asked for the tensors.
    """
    asked = getattr(field, "read", None)
    if asked is not None:
        found: list[Combination] = asked(names, x, t)
        return found
    if len(names) > 1:
        return [Combination.of(v) for v in field.velocity_and_score(x.value(), t)]
    return [Combination.of(getattr(field, names[0])(x.value(), t))]


def announce(field: FieldLike, times: Tensor, x: Tensor) -> None:
    """Lets a field that wants to know find what it needs at these times of a solve at once."""
    prepare = getattr(field, "prepare", None)
    if prepare is not None:
        prepare(times, x)


def has_schedule(field: object) -> TypeGuard[Scheduled]:
    """Whether a field has the methods of `Scheduled`; asked at every step, so it does not ask `typing`."""
    return all(hasattr(field, name) for name in ("data", "score", "schedule", "why_not"))


def schedule_at(field: FieldLike, t: Tensor) -> tuple[float, float]:
    """a and b at one time, as numbers; a field that keeps them is asked for those."""
    asked = getattr(field, "schedule_at", None)
    a, b = asked(t) if asked else cast(Scheduled, field).schedule(t)
    return float(a), float(b)


def recalled(field: FieldLike, key: Hashable, make: Callable[[], Any]) -> Any:
    """What a solver needs of a grid, made once where the field keeps it; the key holds all that it depends on."""
    asked = getattr(field, "recall", None)
    return asked(key, make) if asked else make()


def calls_at(field: FieldLike, t: Tensor) -> Any:
    """Network calls per sample of an evaluation at native times, whole numbers (numpy) of t's shape."""
    if getattr(field, "even_cost", True):
        return np.full(t.shape, field.cost)
    return cast(Any, field).calls_at(t).numpy()


def scheduled(field: FieldLike, owner: object) -> Scheduled:
    """The same field, known to give a, b, posterior means and scores.

    Raises:
        ValueError: It does not; the solver that asks is named.
    """
    known = cast(Scheduled, field)
    if not has_schedule(field):
        raise ValueError(
            f"{type(owner).__name__} needs the a(t) and b(t) of x_t = a X + b N, which this field does not give; "
            "use a solver of dx/dt alone, such as heun or rk45"
        )
    reason = known.why_not("affine")
    if reason:
        raise ValueError(f"{type(owner).__name__} cannot solve this field: {reason}")
    return known


class CallableField:
    """Any callable (x, t) -> dx/dt as a field on native time, so that solvers work without a process.

    Arguments:
        function: dx/dt at x (B, *) and t () or (B,).
        t_start: Where the grid begins.
        t_end: Where it ends.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], t_start: float, t_end: float) -> None:
        self.function, self.ends = function, (t_start, t_end)
        self.clock: Clock = NativeClock()
        self.evaluations, self.cost = 0, 1

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        self.evaluations += x.shape[0]
        return self.function(x, t)

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("a plain callable has no score; use an ODE solver")

    def natural_diffusion(self, t: Tensor) -> Tensor:
        raise ValueError("a plain callable has no diffusion; use an ODE solver")

    def ddim_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Nothing but the velocity is known, so that is what is held fixed."""
        return x + float(s - t) * self.velocity(x, t)

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        if spacing not in ("process", "uniform"):
            raise ValueError(f"a plain callable has no grid '{spacing}'; give the times themselves to solve(grid=...)")
        return torch.linspace(*self.ends, steps + 1, dtype=torch.float64)

    def is_noiseless_end(self, t: Tensor) -> bool:
        """Whether a step to t adds no noise: t is where the grid ends."""
        return float(t) == self.ends[1]

    def keep(self, rows: Tensor) -> None:
        """Nothing is held per sample."""


@dataclass
class Solution:
    """What a solver returns.

    Arguments:
        x: Final states (B, *).
        nfe: Backbone calls per sample; the mean where samples differ.
        path: (t, x) pairs where a path was asked for, else empty.
        nfe_per_sample: Calls of each sample (B,), where samples differ.
        stopped: Whether each sample (B,) was left short of the end, where the solver may leave it there; else None.
        t: Native time of the last states, where the solver gives it.
    """

    x: Tensor
    nfe: float
    path: list[tuple[float, Tensor]] = field(default_factory=list)
    nfe_per_sample: Tensor | None = None
    stopped: Tensor | None = None
    t: float | None = None

    @property
    def status(self) -> Literal["done", "stopped"]:
        """ "stopped" where samples were left short of the end, else "done"."""
        return "stopped" if self.stopped is not None and bool(self.stopped.any()) else "done"
