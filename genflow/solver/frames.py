"""The frame in which a fixed-step solver takes its steps: the process's native time, or σ = b/a of x/a.

On every path x_t = a X + b N the state x/a = X + σ N obeys d(x/a)/dσ = E[N | x_t] = (x/a − E[X | x_t])/σ, whatever a
and b are: all paths with one base are one flow in σ, and one SDE where the base is Gaussian. So a solver that steps
there takes the same steps on all of them. It needs no change for that: it sees a field whose time is σ.

Source: Karras et al. 2022, arXiv:2206.00364, where σ(t) = t and s(t) = 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from genflow.process.clock import Clock, NativeClock
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.fields import FieldLike, Observer, Solution, announce, read, scheduled


class SigmaField:
    """A field of x_t = a X + b N seen in σ: its state is x/a, its time σ = b/a, its path has a = 1 and b = σ.

    It makes the calls of the field, at the native times of its σ, and counts them there.

    Arguments:
        field: With a(t), b(t) and E[X | x_t].
        owner: Who steps in it, for messages.

    Raises:
        ValueError: The field has no such path.
    """

    clock: Clock = NativeClock()

    def __init__(self, field: FieldLike, owner: object) -> None:
        self.field, self.known = field, scheduled(field, owner)
        self._places: dict[float, tuple[Tensor, float]] = {}

    @property
    def evaluations(self) -> int:
        return self.field.evaluations

    @property
    def cost(self) -> int:
        return self.field.cost

    @property
    def even_cost(self) -> bool:
        return getattr(self.field, "even_cost", True)

    def calls_at(self, sigma: Tensor) -> Tensor:
        """Network calls per sample of an evaluation at each σ, int64, of sigma's shape; see `Field.calls_at`."""
        times = torch.stack([self.native(value) for value in sigma.reshape(-1)])
        return cast(Any, self.field).calls_at(times.reshape(sigma.shape))

    def counting(self) -> Self:
        """A copy that calls no network; see `Field.counting`."""
        fresh = copy.copy(self)
        fresh.field = cast(Any, self.field).counting()
        return fresh

    # ---- between the frames --------------------------------------------------------------------------------

    def sigmas(self, times: Tensor) -> Tensor:
        """σ at native times (n,), float64. They are remembered, so that each σ leads back to its time exactly.

        Raises:
            ValueError: x/a is not finite at one of them.
        """
        a, b = self.known.schedule(times)
        if not bool((a > 0).all()):
            raise ValueError(
                f"there is no data in x_t at t = {float(times[a <= 0][0]):g}, so x/a is not finite there; leave "
                "frame = 'sigma' out, or begin nearer to the data"
            )
        sigma = b / a
        self._places.update(zip(sigma.tolist(), zip(times.unbind(), a.tolist(), strict=True), strict=True))
        return sigma

    def place(self, sigma: Tensor) -> tuple[Tensor, float]:
        """The native time () of one σ, and a there."""
        if float(sigma) not in self._places:
            self._find(sigma.reshape(1))
        return self._places[float(sigma)]

    def _find(self, sigma: Tensor) -> None:
        ends = torch.stack([*self.field.grid(1), *(t for t, _ in self._places.values())])
        times = time_of_sigma(self.field, sigma, ends)
        a = self.known.schedule(times)[0].tolist()
        self._places.update(zip(sigma.tolist(), zip(times.unbind(), a, strict=True), strict=True))

    def native(self, sigma: Tensor) -> Tensor:
        """The native time () of one σ."""
        return self.place(sigma)[0]

    def scaled(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x/a of states x_t (B, *)."""
        return Combination.of(x, 1 / self.place(sigma)[1]).value()

    def unscaled(self, y: Tensor, sigma: Tensor) -> Tensor:
        """x_t of states x/a (B, *)."""
        return Combination.of(y, self.place(sigma)[1]).value()

    def solve(
        self,
        travel: Callable[..., Solution],
        x: Tensor,
        *,
        grid: Tensor | None = None,
        observer: Observer | None = None,
        **how: Any,
    ) -> Solution:
        """A solver's `travel` in this frame; x, grid, observer and solution are those of the native one."""
        times = self.sigmas(self.field.grid(1) if grid is None else grid)

        def seen(y: Tensor, sigma: float) -> None:
            assert observer is not None
            t, a = self._places[sigma]
            observer(Combination.of(y, a).value(), float(t))

        inner = self.scaled(x, times[0])
        sigmas = None if grid is None else times
        found = travel(self, inner, grid=sigmas, observer=seen if observer else None, **how)
        end = torch.tensor(found.t, dtype=torch.float64)
        return replace(found, x=self.unscaled(found.x, end), t=float(self.native(end)))

    # ---- what a solver sees --------------------------------------------------------------------------------

    def read(self, names: tuple[str, ...], y: Combination, sigma: Tensor) -> list[Combination]:
        """ "velocity", "score" or "data" at (x/a, σ); one evaluation. The score is that of x/a.

        A field that gives E[N | x_t] itself, as `base`, is asked for the velocity.
        """
        if "score" in names and (reason := self.known.why_not("score")):
            raise ValueError(reason)
        t, a = self.place(sigma)
        own = getattr(self.field, "base", None)
        if own is not None and names == ("velocity",):
            return [Combination.of(own((a * y).value(), t))]
        (data,) = read(self.field, a * y, t, "data")
        base = (y - data) / float(sigma)
        found = {"data": data, "velocity": base, "score": -1 / float(sigma) * base}
        return [found[name] for name in names]

    def velocity(self, y: Tensor, sigma: Tensor) -> Tensor:
        """d(x/a)/dσ, shape (B, *)."""
        return self.read(("velocity",), Combination.of(y), sigma)[0].value()

    def score(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of the log density of x/a, shape (B, *)."""
        return self.read(("score",), Combination.of(y), sigma)[0].value()

    def data(self, y: Tensor, sigma: Tensor) -> Tensor:
        """E[X | x_t], shape (B, *)."""
        return self.read(("data",), Combination.of(y), sigma)[0].value()

    def velocity_and_score(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        velocity, score = self.read(("velocity", "score"), Combination.of(y), sigma)
        return velocity.value(), score.value()

    def ddim_step(self, y: Tensor, sigma: Tensor, end: Tensor) -> Tensor:
        """Euler's step: the posterior means held fixed."""
        start = Combination.of(y)
        return (start + float(end - sigma) * self.read(("velocity",), start, sigma)[0]).value()

    def schedule(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """1 and σ."""
        return torch.ones_like(sigma, dtype=torch.float64), sigma.double()

    def natural_diffusion(self, sigma: Tensor) -> Tensor:
        """ε = σ for a unit of σ: that of every score SDE, seen from here."""
        return sigma.double()

    def why_not(self, capability: str) -> str | None:
        return self.known.why_not(capability)

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        """σ at the times of the field's own grid."""
        return self.sigmas(self.field.grid(steps, training=training, spacing=spacing))

    def is_noiseless_end(self, sigma: Tensor) -> bool:
        """Whether a step to σ () adds no noise; see `Field.is_noiseless_end`."""
        asked, t = getattr(self.field, "is_noiseless_end", None), self.native(sigma)
        return bool(asked(t)) if asked else float(t) == float(self.field.grid(1)[-1])

    def prepare(self, sigma: Tensor, y: Tensor) -> None:
        """Announces σ's: their times are found together."""
        new = sigma[[value not in self._places for value in sigma.tolist()]]
        if len(new):
            self._find(new)
        announce(self.field, torch.stack([self.native(value) for value in sigma]), y)

    def keep(self, rows: Tensor) -> None:
        self.field.keep(rows)


def enter(field: object, x: Tensor, t: Tensor) -> Tensor:
    """x_t (B, *) as a state of the field's frame, at t of its grid."""
    return field.scaled(x, t) if isinstance(field, SigmaField) else x


def leave(field: object, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t (B, *) and its native time () from a state of the field's frame at t."""
    return (field.unscaled(x, t), field.native(t)) if isinstance(field, SigmaField) else (x, t)


def time_of_sigma(field: FieldLike, sigma: Tensor, ends: Tensor | None = None) -> Tensor:
    """Native times with that σ (n,), by bisection in the clock between the outermost of `ends`; an end beyond them.

    Arguments:
        ends: Native times; None: those of the field's grid.
    """
    known, clock = scheduled(field, SigmaField), field.clock
    span = field.grid(1) if ends is None else ends
    a, b = known.schedule(span)
    near, far = (clock.to_clock(span[(b / a).argsort()[[0, -1]]])).tolist()
    low, high = torch.full_like(sigma, near), torch.full_like(sigma, far)
    for _ in range(60):
        middle = (low + high) / 2
        a, b = known.schedule(clock.from_clock(middle))
        below = b / a < sigma
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return clock.from_clock(high)
