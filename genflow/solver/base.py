"""The solver's interface, and the loop over a fixed grid."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABCMeta, abstractmethod
from typing import Any, Literal, Self, Unpack, cast

import torch
from torch import Tensor

from genflow.checks import require
from genflow.former import moved
from genflow.process.grids import Spacing, check_spacing
from genflow.solver import FRAMES
from genflow.solver.ending import NO_FINISH, Ending, Finish
from genflow.solver.fields import FieldLike, How, Observer, Solution, announce, calls_at
from genflow.solver.frames import SigmaField
from genflow.solver.noise import Noise


class SolverError(RuntimeError):
    """A solve that cannot go on; the message says where and what to try."""


class NonFiniteError(SolverError):
    """A state that is no longer finite."""


class StepUnderflowError(SolverError):
    """An adaptive step that became too small, or too many steps."""


class SolverType(ABCMeta):
    """Gives every constructor the options of `Ending`, end and end_noise, and that of a fixed-step solver its frame."""

    def __call__(
        cls, *args: Any, end: str = "none", end_noise: float | str | None = None, frame: str = "native", **options: Any
    ) -> Any:
        ending, made = Ending(end, end_noise), super().__call__(*args, **options)
        if not ending.is_default and type(made).solve is not Solver.solve:
            raise ValueError(
                f"{cls.__name__} has a loop of its own in place of travel: it takes no end and no end_noise"
            )
        require(cls.__name__, {"frame": (frame, isinstance(frame, str) and frame in FRAMES, " or ".join(FRAMES))})
        if frame != "native" and not isinstance(made, FixedStep):
            raise ValueError(
                f"{cls.__name__} chooses its own steps in the process's clock: only solvers on a given grid take "
                f"frame = '{frame}'; leave it out"
            )
        made.ending, made.frame = ending, frame
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
        shared = list(inspect.signature(Ending).parameters.values())
        if issubclass(cls, FixedStep):
            shared.append(
                inspect.Parameter("frame", inspect.Parameter.KEYWORD_ONLY, default="native", annotation="str")
            )
        given = [p for p in shared if p.name not in {q.name for q in own}]
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in given]
        rest = [p for p in own if p.kind is p.VAR_KEYWORD]
        return inspect.Signature([*(p for p in own if p not in rest), *named, *rest])


class Solver(metaclass=SolverType):
    """Moves x along a field's velocity from one end of a grid to the other. A leaf gives `travel`.

    Every constructor takes, besides its own options, by keyword:

    Arguments:
        end: How a path ends: "none", "mean", "zero" or "published"; see `genflow.solver.ENDS`.
        end_noise: Noise σ = b/a at which it ends, data units; see `genflow.solver.ending.Ending`.
        frame: Of a fixed-step solver: "native" or "sigma"; see `genflow.solver.FRAMES`.
    """

    mode: Literal["ode", "sde"] = "ode"
    order: float = 1
    needs: tuple[str, ...] = ()
    """Capabilities of a process (`Process.why_not`) without which the solver cannot work, beside its mode's own."""
    ending: Ending = Ending()
    frame: str = "native"

    def ends(self, end: str = "none", end_noise: float | str | None = None) -> Self:
        """The same solver, with paths that end so; by default plainly."""
        fresh = copy.copy(self)
        fresh.ending = Ending(end, end_noise)
        return fresh

    def solve(
        self,
        field: FieldLike,
        x: Tensor,
        *,
        nfe: int | None = None,
        grid: Tensor | None = None,
        noise: Noise | None = None,
        observer: Observer | None = None,
    ) -> Solution:
        """The state at the end of the grid, or what the option `end` makes of it.

        Arguments:
            field: What to integrate.
            x: Start (B, *), at the grid's first time.
            nfe: Backbone calls per sample for a fixed-step solver on the field's own grid.
            grid: Explicit float64 times (steps + 1,) in the order of travel; then nfe is not given.
            noise: Source of randomness of SDE solvers.
            observer: Called with (x, t) at the start, after every accepted step, and with the mean that ends the path.

        Raises:
            NonFiniteError: A state stopped being finite.
            StepUnderflowError: An adaptive solver could not meet its tolerance.
            ValueError: The path cannot end as the options say, with the reason.
        """
        how: How = {"nfe": nfe, "grid": grid, "noise": noise, "observer": observer}
        if self.ending.is_default:
            return self.go(field, x, **how)
        return self.ending.solve(self, field, x, how)

    def framed(self, field: FieldLike) -> FieldLike:
        """The field in which the steps are taken."""
        return SigmaField(field, self) if self.frame == "sigma" else field

    def go(self, field: FieldLike, x: Tensor, *, finish: Finish = NO_FINISH, **how: Unpack[How]) -> Solution:
        """`travel` in the solver's frame; arguments and solution are those of native time."""
        inner = self.framed(field)
        if isinstance(inner, SigmaField):
            return inner.solve(self.travel, x, finish=finish, **how)
        return self.travel(field, x, finish=finish, **how)

    def travel(self, field: FieldLike, x: Tensor, *, finish: Finish = NO_FINISH, **how: Unpack[How]) -> Solution:
        """The state at the last time; arguments and errors as in `solve`.

        Arguments:
            finish: What follows: a budget leaves one evaluation for its mean.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no travel")


class FixedStep(Solver):
    """A solver on a given grid; a leaf gives `step`, and the evaluations of each step where that is not one.

    Arguments:
        grid: Spacing of the times where the solve is given a budget; see `genflow.process.grids`.
    """

    why_not_control: str | None = None
    """Why samples under a constraint (`genflow.inpainting`) cannot be drawn with it; None where they can."""

    step_calls: int = 1
    """Backbone calls of a step, 1 or 2; the last step takes one."""

    def __init__(self, grid: Spacing = "process") -> None:
        try:
            check_spacing(grid)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__.lower()}: {error}") from None
        self.spacing = grid

    def plan(self, nfe: int) -> list[int]:
        """Calls of each step, in order, that together spend exactly nfe."""
        return [1] * nfe if self.step_calls == 1 else [2] * ((nfe - 1) // 2) + [1] * (2 - nfe % 2)

    def plan_steps(self, steps: int) -> list[int]:
        """Calls of each step on a grid of that many steps."""
        return [self.step_calls] * (steps - 1) + [1] * (steps > 0)

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        """The solver that takes the steps of one solve: itself, or a copy with a memory of its own."""
        return self

    def evaluated(self, times: Tensor, plan: list[int]) -> Tensor:
        """The times at which a solve on that grid with those calls evaluates the field."""
        return times

    @abstractmethod
    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        """x at s from x at t with exactly `calls` backbone calls."""

    def planned(self, evaluations: int, finish: Finish) -> list[int]:
        """Calls of each step that together spend a budget, less the mean's one; none are left of a budget of one."""
        if not finish.mean:
            return self.plan(evaluations)
        whole = self.plan(evaluations)
        if whole[-1] == 1 and (finish.joined or len(whole) == 1):
            return whole[:-1]
        return self.plan(evaluations - 1)

    def affordable(self, field: FieldLike, nfe: int, finish: Finish) -> list[int]:
        """Calls of each step that spend a budget: exactly, or, where guidance acts on an interval, so that one more
        evaluation would not fit.

        Raises:
            ValueError: The budget is too small for one evaluation.
        """
        if getattr(field, "even_cost", True):
            return self.planned(nfe // field.cost, finish)
        fits, most = max(1, nfe // 2), nfe + 1
        while most - fits > 1:  # half of the budget always fits
            middle = (fits + most) // 2
            fits, most = (middle, most) if self._network_calls(field, middle, finish) <= nfe else (fits, middle)
        if self._network_calls(field, fits, finish) > nfe:
            raise ValueError(f"nfe = {nfe} is too small: an evaluation under guidance takes 2 calls")
        return self.planned(fits, finish)

    def _network_calls(self, field: FieldLike, evaluations: int, finish: Finish) -> int:
        """Network calls per sample of a solve with so many evaluations, counted without the network."""
        plan = self.planned(evaluations, finish)
        times, counting = self.times(field, len(plan)), cast(Any, field).counting()
        solver = self.begin(counting, times) if plan else self
        x, noise = torch.zeros(1, 1, dtype=torch.float64), Noise(0, [0])
        for i, calls in enumerate(plan):
            x = solver.step(counting, x, times[i], times[i + 1], noise, calls)
        return counting.evaluations + (int(calls_at(field, times[-1])) if finish.mean else 0)

    def planned_steps(self, steps: int, finish: Finish) -> list[int]:
        """Calls of each step on a grid of that many steps, the mean's not among them."""
        whole = self.plan_steps(steps + 1) if finish.joined else []
        return whole[:-1] if whole and whole[-1] == 1 else self.plan_steps(steps)

    def travel(self, field: FieldLike, x: Tensor, *, finish: Finish = NO_FINISH, **how: Unpack[How]) -> Solution:
        nfe, grid, noise, observer = how.get("nfe"), how.get("grid"), how.get("noise"), how.get("observer")
        if (nfe is None) == (grid is None):
            raise ValueError("give either nfe or grid, one of the two")
        if nfe is not None and nfe < 1:
            raise ValueError(f"nfe = {nfe} is not allowed; give a whole number above 0")
        if nfe is not None and nfe % field.cost and getattr(field, "even_cost", True):
            raise ValueError(
                f"nfe = {nfe} is odd, but guidance spends {field.cost} calls an evaluation; give an even one"
            )
        plan = (
            self.planned_steps(len(grid) - 1, finish) if grid is not None else self.affordable(field, nfe or 1, finish)
        )
        times = self.times(field, len(plan)) if grid is None else grid
        before, solver = field.evaluations, self.begin(field, times) if plan else self
        if plan:
            announce(field, solver.evaluated(times, plan), x)
        if observer:
            observer(x, float(times[0]))
        lookout, each = Lookout(field, times, plan), times.unbind()
        lookout.mark(0, solver, x, noise)
        for i, calls in enumerate(plan):
            x = solver.step(field, x, each[i], each[i + 1], noise, calls)
            if observer or (i + 1) % Lookout.EVERY == 0 or i + 1 == len(plan):
                lookout.look(i + 1, solver, x, noise)
            if observer:
                observer(x, float(each[i + 1]))
        return Solution(x, (field.evaluations - before) / len(x), t=float(times[-1]))

    def times(self, field: FieldLike, steps: int) -> Tensor:
        """The field's times for that many steps; for none, where it begins."""
        return field.grid(steps, spacing=self.spacing) if steps else field.grid(1)[:1]


class Lookout:
    """Looks at the states of a solve once in several steps, since looking makes an accelerator wait.

    Where they are no longer finite, the steps since the last look are taken again, to say which one it was.
    """

    EVERY = 16

    def __init__(self, field: FieldLike, times: Tensor, plan: list[int]) -> None:
        self.field, self.times, self.plan = field, times, plan
        self.native = getattr(field, "native", lambda t: t)

    def mark(self, step: int, solver: FixedStep, x: Tensor, noise: Noise | None) -> None:
        """Remembers where everything stands after that many steps."""
        self.step, self.solver, self.x, self.noise = step, copy.copy(solver), x, copy.copy(noise)

    def look(self, step: int, solver: FixedStep, x: Tensor, noise: Noise | None) -> None:
        """Raises NonFiniteError unless x, after that many steps, is finite."""
        try:
            check_finite(x, self.native(self.times[step]), step)
        except NonFiniteError:
            for i in range(self.step, step):
                t, s = self.times[i], self.times[i + 1]
                self.x = self.solver.step(self.field, self.x, t, s, self.noise, self.plan[i])
                check_finite(self.x, self.native(s), i + 1)
            raise  # a network that draws numbers of its own need not do the same again
        self.mark(step, solver, x, noise)


def check_finite(x: Tensor, t: Tensor, step: int) -> None:
    """Raises NonFiniteError naming time, step and the first bad samples."""
    if not math.isfinite(float(x.detach().sum())):
        bad = (~x.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(
                f"samples {bad[:5]} are not finite after step {step} at t = {float(t):g}; "
                "try more steps, a smaller tolerance, or a network trained longer"
            )


__getattr__ = moved("genflow.solver.base")
