"""How a path ends: at which noise, and whether its last call goes to E[X | x_t], which leaves none.

One place for all solvers: `Solver.solve` takes the options `end` and `end_noise` to an `Ending`; that asks the field
where to stop, lets the solver travel there on a field whose grids end at that time, and finishes what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeVar, Unpack, cast, runtime_checkable

import torch
from torch import Tensor

from genflow.checks import is_positive, require
from genflow.solver import ENDS
from genflow.solver.fields import FieldLike, How, Solution, calls_at


class Traveller(Protocol):
    """What an end needs of a solver; see `genflow.solver.base.Solver`."""

    mode: Literal["ode", "sde"]

    def go(self, field: FieldLike, x: Tensor, *, finish: Finish, **how: Unpack[How]) -> Solution: ...


@runtime_checkable
class Endable(Protocol):
    """How a process, and so its field, can end a path."""

    def end_time(self, noise: float) -> float: ...
    def published_end(self, mode: str) -> str: ...
    def why_not(self, capability: str) -> str | None: ...


class EndableField(Endable, Protocol):
    """What a field gives besides."""

    evaluations: int

    @property
    def cost(self) -> int: ...
    def grid(self, steps: int) -> Tensor: ...
    def data(self, x: Tensor, t: Tensor) -> Tensor: ...
    def until(self, t: float | None, *, noiseless: bool) -> Self: ...
    def in_data_units(self, x: Tensor, t: Tensor) -> Tensor: ...
    def rows(self, rows: Tensor) -> Self: ...


AField = TypeVar("AField", bound=EndableField)


@dataclass(frozen=True)
class Ending:
    """The options that every solver takes besides its own.

    Arguments:
        end: A name of `genflow.solver.ENDS`.
        end_noise: σ = b/a at which the path ends, data units: what comes out is X + σ N, or the mean given that.
            None: where the process's own sampling interval ends, as x_t = a X + b N. "own": there, as X + σ N.
    """

    end: str = "none"
    end_noise: float | str | None = None

    def __post_init__(self) -> None:
        end, noise = self.end, self.end_noise
        known = isinstance(end, str) and end in ENDS
        require(
            "solver",
            {
                "end": (end, known, f"one of {', '.join(ENDS)}"),
                "end_noise": (
                    noise,
                    noise is None or noise == "own" or is_positive(noise),
                    "a noise above 0 in data units, or own",
                ),
            },
        )

    @property
    def is_default(self) -> bool:
        """Whether it leaves everything as it is."""
        return self == Ending()

    @property
    def words(self) -> str:
        """For protocols and captions; "" for the plain end."""
        noise = self.end_noise
        at = "" if noise is None else " at its own noise" if isinstance(noise, str) else f" at noise {noise:g}"
        return "" if self.is_default else f"end: {self.end}{at}"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Ending:
        """That of a solver's options, the solver's own not looked at."""
        return cls(**{name: options[name] for name in ("end", "end_noise") if name in options})

    def on(self, owner: object, mode: str, solver: str) -> Finish:
        """What it comes to for a process or a field, under solvers of that mode.

        Raises:
            ValueError: The path cannot end so, with the reason and what it can do.
        """
        if self.is_default:
            return Finish()
        if not isinstance(owner, Endable):
            raise ValueError(
                f"{solver} cannot end with {self.words.removeprefix('end: ')}: this field gives neither E[X given x_t] "
                "nor a noise level; leave the options end and end_noise out"
            )
        end = owner.published_end(mode) if self.end == "published" else self.end
        reason = owner.why_not("data") if end != "none" else None
        if reason:
            raise ValueError(f"{solver}: end = '{end}' is not possible: {reason}; take end = 'none'")
        noise = self.end_noise
        if noise == "own" and (reason := owner.why_not("affine")):
            raise ValueError(f"{solver}: end_noise = 'own' is not possible: {reason}; leave it out")
        time = None if noise is None or isinstance(noise, str) else owner.end_time(noise)
        return Finish(time, end != "none", end == "zero", noise is not None)

    def solve(self, solver: Traveller, field: FieldLike, x: Tensor, how: How) -> Solution:
        """`solver.go` to where the path ends, and the end."""
        finish = self.on(field, solver.mode, type(solver).__name__)
        return finish.solve(solver, cast(EndableField, field), x, **how)


def words_of(options: Mapping[str, Any], *, plain_end: bool = False) -> str:
    """How paths end under a solver's options, and its frame, for protocols and captions; "" where both are plain.

    Arguments:
        plain_end: Paths end plainly, whatever the options say.
    """
    end, frame = "" if plain_end else Ending.of(options).words, options.get("frame", "native")
    return "; ".join(filter(None, (end, "" if frame == "native" else f"frame: {frame}")))


@dataclass(frozen=True)
class Finish:
    """An ending on one process.

    Arguments:
        time: Native time at which grids end; None where they end anyway.
        mean: Whether E[X | x_t] at the last time is what comes out.
        joined: Whether that is the solver's own last step, of the calls that it plans for a whole path.
        scaled: Whether X + σ N is what comes out, where the mean does not.
    """

    time: float | None = None
    mean: bool = False
    joined: bool = False
    scaled: bool = False

    def inner(self, field: AField) -> AField:
        """The field to travel on. Where the mean follows, the last step adds its noise like any other."""
        return field.until(self.time, noiseless=not self.mean)

    def solve(self, solver: Traveller, field: EndableField, x: Tensor, **how: Unpack[How]) -> Solution:
        grid, observer = how.get("grid"), how.get("observer")
        self._check_grid(field, grid)
        inner = self.inner(field)
        part = solver.go(cast(FieldLike, inner), x, finish=self, **how)
        field.evaluations = inner.evaluations
        t = self._last_time(inner, grid) if part.t is None else part.t
        found = self._finished(field, replace(part, t=t), torch.tensor(t, dtype=torch.float64))
        if observer and self.mean:
            observer(found.x, t)
        return found

    def _check_grid(self, field: EndableField, grid: Tensor | None) -> None:
        if grid is None:
            return
        if self.time is not None:
            raise ValueError("the grid that was given has its own end; leave end_noise out, or give nfe in its place")
        ends = field.grid(1)
        if float((grid[-1] - grid[0]) * (ends[1] - ends[0])) < 0:
            raise ValueError("the grid leads away from the data, where a path has no mean to end on; take end = 'none'")

    def _last_time(self, inner: EndableField, grid: Tensor | None) -> float:
        return float((inner.grid(1) if grid is None else grid)[-1])

    def _finished(self, field: EndableField, part: Solution, t: Tensor) -> Solution:
        """The solution with its samples ended, but for those that were left short: they are at times of their own."""
        if part.stopped is None or not bool(part.stopped.any()):
            return self._counted(field, replace(part, x=self.end(field, part.x, t)), None, t)
        done = ~part.stopped
        rows = done.to(part.x.device)
        x = part.x.clone()
        if bool(done.any()):
            own = field.rows(done)
            x[rows] = self.end(own, part.x[rows], t)
            field.evaluations = own.evaluations
        return self._counted(field, replace(part, x=x), done, t)

    def end(self, field: EndableField, x: Tensor, t: Tensor) -> Tensor:
        """What comes out for the states x at the last time."""
        if self.mean:
            return field.data(x, t)
        return field.in_data_units(x, t) if self.scaled else x

    def _counted(self, field: EndableField, part: Solution, done: Tensor | None, t: Tensor) -> Solution:
        """With the calls of the mean."""
        if not self.mean:
            return part
        share = 1.0 if done is None else float(done.double().mean())
        each, cost = part.nfe_per_sample, int(calls_at(cast(FieldLike, field), t))
        if each is not None:
            each = each + cost * (1 if done is None else done.to(each.device, each.dtype))
        return replace(part, nfe=part.nfe + cost * share, nfe_per_sample=each)


NO_FINISH = Finish()
"""Nothing follows the last step."""
