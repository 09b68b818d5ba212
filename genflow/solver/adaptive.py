"""Adaptive Runge–Kutta with an embedded error estimate, on the tensor's device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.process.shapes import like_rows
from genflow.solver.base import NonFiniteError, Solver, StepUnderflowError
from genflow.solver.ending import NO_FINISH, Finish
from genflow.solver.fields import FieldLike, How, Observer, Solution, announce, calls_at

Vector = np.ndarray[Any, Any]
"""One number per group, on the host."""


@dataclass(frozen=True)
class Tableau:
    """An embedded pair of explicit Runge–Kutta methods, the first slope of a step being the last of the one before.

    Arguments:
        times: Shares of the step at which the stages after the first lie.
        stages: Weights of the slopes for each of those; the last row is the solution that goes on.
        error: That solution less the embedded one, weights of all slopes.
        order: Order of the embedded one.
    """

    times: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int

    def rows(self, like: Tensor) -> list[Tensor]:
        """The rows of `stages`, then `error`, as tensors of that dtype and device."""
        rows = (*self.stages, self.error)
        moved = torch.tensor([w for row in rows for w in row], dtype=like.dtype).to(like.device, non_blocking=True)
        return list(moved.split([len(row) for row in rows]))


@dataclass
class _State:
    """Rows still travelling, in G groups of one row each or one group of all.

    Arguments:
        s: Clock of each group, (G,), on the host, as are all of shape (G,): numpy is quick with a few numbers.
        h: Next step, (G,).
        x: State.
        slopes: dx/ds at x in the first place; the places after it are room for the other stages. Where a gradient
            is wanted there is no such room, so that a rejected attempt leaves nothing that the gradient could reach.
        calls: Backbone calls so far, (G,).
        rejected: Whether the last attempt was, (G,).
        rows: With one group of all, the tableau's rows as tensors.
        stuck: Whether no step is small enough, or the calls are used up, and what there is is to be returned, (G,).
    """

    s: Vector
    h: Vector
    x: Tensor
    slopes: Tensor
    calls: Vector
    rejected: Vector
    rows: list[Tensor]
    stuck: Vector


class Embedded(Solver):
    """An embedded Runge–Kutta pair in the process's clock, first-same-as-last, local extrapolation.

    A step is accepted where rms(err / (atol + rtol max(|x|, |x_new|))) <= 1; the next is 0.9 err^(−1/(q+1)) times as
    long, q the order of the embedded method, within [0.2, 10] (at most 1 after a rejection, and for the step after
    it). The first step follows Hairer, Nørsett & Wanner, II.4. A leaf gives the tableau.

    Arguments:
        rtol: Relative tolerance.
        atol: Absolute tolerance, data units.
        control: "sample": every sample has its own steps, so it does not matter which batch it is in, and its NFE
            is its own. "batch": one step for all, by the error over the whole batch, as scipy would take it.
        max_nfe: Calls per sample after which the solve gives up.
        on_stiff: What happens when it does, or no step is small enough: "stop" with an error, or "return_last": such
            a sample stays at its last accepted state, and the solution says which (`stopped`).
    """

    tableau: ClassVar[Tableau]

    def __init__(
        self,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        control: str = "sample",
        max_nfe: int = 10_000,
        on_stiff: str = "stop",
    ) -> None:
        require(
            type(self).__name__.lower(),
            {
                "rtol": (rtol, is_positive(rtol) and rtol < 1, "a number between 0 and 1"),
                "atol": (atol, is_positive(atol), "a number above 0"),
                "control": (control, control in ("sample", "batch"), "'sample' or 'batch'"),
                "max_nfe": (max_nfe, is_count(max_nfe, 8), "a whole number of at least 8"),
                "on_stiff": (on_stiff, on_stiff in ("stop", "return_last"), "'stop' or 'return_last'"),
            },
        )
        self.rtol, self.atol, self.control, self.max_nfe, self.on_stiff = rtol, atol, control, max_nfe, on_stiff

    def travel(self, field: FieldLike, x: Tensor, *, finish: Finish = NO_FINISH, **how: Unpack[How]) -> Solution:
        grid, observer = how.get("grid"), how.get("observer")
        if how.get("nfe") is not None:
            raise ValueError(
                f"{type(self).__name__.lower()} chooses its own steps: it takes no nfe; set rtol and atol, or use a "
                "fixed-step solver"
            )
        if observer and self.control == "sample" and len(x) > 1:
            raise ValueError("with control = 'sample' there is no common time to observe; use control = 'batch'")
        times = field.grid(1) if grid is None else grid
        if float(times[0]) == float(times[-1]):
            return Solution(x, 0.0)
        start, end = (float(s) for s in field.clock.to_clock(times[[0, -1]].double()))
        groups = len(x) if self.control == "sample" else 1
        state = self._begin(field, x, start, end, groups)
        if observer:
            observer(x, float(times[0]))
        final, calls, stopped = x, np.zeros(groups, dtype=np.int64), np.zeros(groups, dtype=bool)
        rows, waiting = np.arange(groups), np.ones(groups, dtype=bool)
        fixed = bool(getattr(field, "fixed_batch", False))
        while waiting.any():
            state = self._advance(field, state, end, observer)
            done = ((state.s == end) | state.stuck) & waiting
            if done.any():
                calls[rows[done]], stopped[rows[done]] = state.calls[done], state.stuck[done]
                final, kept = self._sorted(final, rows, state, done, ~done & waiting)
                waiting = waiting & ~done
                if fixed:
                    state = replace(state, s=np.where(waiting, state.s, end), h=np.where(waiting, state.h, 0.0))
                elif waiting.any() and kept is not None:
                    rows, state, waiting = rows[waiting], self._kept(field, state, waiting, kept), waiting[waiting]
        per_sample, short = torch.from_numpy(calls).expand(len(x)), torch.from_numpy(stopped).expand(len(x))
        return Solution(final, float(per_sample.double().mean()), nfe_per_sample=per_sample, stopped=short)

    def _sorted(
        self, final: Tensor, rows: Vector, state: _State, done: Vector, left: Vector
    ) -> tuple[Tensor, Tensor | None]:
        """The final states with those that are done, and on x's device which rows are left: one copy for both."""
        if done.all() and len(state.x) == len(final):
            return state.x, None
        places = np.concatenate([rows[done], np.flatnonzero(done), np.flatnonzero(left)])
        sizes = [int(done.sum())] * 2 + [int(left.sum())]
        to, of, kept = torch.from_numpy(places).to(state.x.device, non_blocking=True).split(sizes)
        return final.index_copy(0, to, state.x.index_select(0, of)), kept

    def _kept(self, field: FieldLike, state: _State, left: Vector, kept: Tensor) -> _State:
        """The rows that are left, with the first slope of each: the others are room."""
        field.keep(torch.from_numpy(left))
        first = state.slopes[0].index_select(0, kept)
        slopes = written(first.new_empty(len(self.tableau.error), *first.shape), 0, first)
        held = (state.s[left], state.h[left], state.x.index_select(0, kept), slopes)
        return _State(*held, state.calls[left], state.rejected[left], [], state.stuck[left])

    def _announced(self, field: FieldLike, x: Tensor, t: Tensor, h: Vector) -> tuple[list[Tensor], list[Any], Any]:
        """Times, dt/ds there and h, of stages at t (S, G): numbers for one group, else tensors that multiply x."""
        rates = field.clock.rate(t)
        if len(h) == 1:
            announce(field, t[:, 0], x)
            return list(t[:, 0]), rates[:, 0].tolist(), float(h[0])
        beside = torch.cat([rates, torch.from_numpy(h)[None]])
        asked = getattr(field, "prepare_rows", None)
        times, moved = asked(t, x, beside) if asked else (list(t), beside.to(x.device, x.dtype, non_blocking=True))
        *scales, length = (like_rows(row, x) for row in moved)
        return times, scales, length

    def _slope(self, field: FieldLike, x: Tensor, t: Tensor, rate: Any, slopes: Tensor, i: int) -> Tensor:
        """The slopes with dx/ds at native times t in place i, where dt/ds is `rate`."""
        velocity = field.velocity(x, t)
        if velocity.requires_grad or slopes.requires_grad or (not isinstance(rate, Tensor) and rate == 1):
            return written(slopes, i, velocity if not isinstance(rate, Tensor) and rate == 1 else velocity * rate)
        torch.mul(velocity, rate, out=slopes[i])
        return slopes

    def _norms(self, groups: int, *xs: Tensor) -> Tensor:
        """Root mean square of each x per group, (n, G): what steers the steps, through which no gradient flows."""
        rows = torch.stack([x.detach().reshape(groups, -1) for x in xs]) if len(xs) > 1 else xs[0].detach()[None]
        rows = rows.reshape(len(xs), groups, -1)
        return torch.linalg.vector_norm(rows, dim=2) / math.sqrt(rows.shape[2])

    def _scaled(self, error: Tensor, x: Tensor, other: Tensor) -> Tensor:
        """error / (atol + rtol max(|x|, |other|))."""
        return error / torch.maximum(x.abs(), other.abs()).mul_(self.rtol).add_(self.atol)

    def _moved(self, now: _State, slopes: Tensor, h: Any, row: int, x: Tensor | None) -> Tensor:
        """x + h Σ w_i k_i over the slopes k_i, with the weights of one row of the tableau.

        Where each sample has its own h, that is by operations on entries alone, so that the batch does not matter.
        """
        if now.rows:
            used = slopes[: len(now.rows[row])].flatten(1)
            total = torch.mv(used.T, now.rows[row]).reshape(now.x.shape)
            return total.mul_(h) if x is None else torch.add(x, total, alpha=h)
        weights = (*self.tableau.stages, self.tableau.error)[row]
        (w, k), *others = ((w, k) for w, k in zip(weights, slopes, strict=False) if w)
        total = w * k
        for w, k in others:
            total.add_(k, alpha=w)
        if x is None:
            return total.mul_(h)
        return torch.addcmul(x, total, h) if isinstance(h, Tensor) else torch.add(x, total, alpha=h)

    def _begin(self, field: FieldLike, x: Tensor, start: float, end: float, groups: int) -> _State:
        s, sign = np.full(groups, start), math.copysign(1.0, end - start)
        slopes = x.new_empty(len(self.tableau.error), *x.shape)
        t0 = field.clock.from_clock(torch.tensor([[start]], dtype=torch.float64))
        (t,), (rate,), _ = self._announced(field, x, t0, s[:1])
        slopes = self._slope(field, x, t, rate, slopes, 0)
        k = slopes[0]
        size, speed = on_host(self._norms(groups, self._scaled(x, x, x), self._scaled(k, x, x)))
        h0 = np.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / np.maximum(speed, 1e-300))
        h0 = np.minimum(h0, abs(end - start))
        inner = field.clock.from_clock(torch.from_numpy(s + sign * h0)[None])
        (t,), (rate,), length = self._announced(field, x, inner, sign * h0)
        ahead = rate * field.velocity(x + length * k, t)
        steepest = np.maximum(speed, on_host(self._norms(groups, self._scaled(ahead - k, x, x)))[0] / h0)
        shrunk = (0.01 / np.maximum(steepest, 1e-300)) ** (1 / (self.tableau.order + 1))
        h1 = np.where(steepest <= 1e-15, np.maximum(h0 * 1e-3, 1e-6), shrunk)
        h1 = np.where(np.isfinite(steepest), h1, 1e-3 * h0)  # the probe has left the field's domain
        h = np.minimum(np.minimum(100 * h0, h1), abs(end - start))
        rows = self.tableau.rows(x) if self.control == "batch" else []
        spent = np.zeros(groups, int) + calls_at(field, t0[0]) + calls_at(field, inner[0])
        no = np.zeros(groups, dtype=bool)
        return _State(s, sign * h, x, slopes, spent, no, rows, no)

    def _advance(self, field: FieldLike, now: _State, end: float, observer: Observer | None) -> _State:
        """One attempted step of every row still travelling."""
        tableau = self.tableau
        last = (now.s + now.h - end) * np.sign(now.h) >= 0
        h = np.where(last, end - now.s, now.h)
        t = field.clock.from_clock(torch.from_numpy(now.s + np.outer(tableau.times, h)))
        x, slopes = now.x, now.slopes
        times, rates, length = self._announced(field, x, t, h)
        for i, (t_i, rate) in enumerate(zip(times, rates, strict=True)):
            x = self._moved(now, slopes, length, i, now.x)
            slopes = self._slope(field, x, t_i, rate, slopes, i + 1)
        error = self._moved(now, slopes, length, len(tableau.times), None)
        errors = self._norms(len(h), self._scaled(error, now.x, x))[0]
        err = on_host(errors)
        calls = now.calls + calls_at(field, t).sum(0)
        stuck = self._check(field, now, h, err, calls)
        lost = ~np.isfinite(err)  # a trial step that left the field's domain is rejected
        if lost.any() and not lost.all() and slopes.requires_grad:
            return self._again(now, h, calls, lost, stuck)
        err = np.where(lost, np.inf, err)
        ok = err <= 1
        factor = np.clip(0.9 * np.maximum(err, 1e-10) ** (-1 / (tableau.order + 1)), 0.2, 10.0)
        step = h * np.where(ok & ~now.rejected, factor, np.minimum(factor, 1.0))
        x, slopes = self._accept(now, x, slopes, ok, errors)
        s = np.where(ok, np.where(last, end, now.s + h), now.s)
        if observer and ok.all():
            observer(x, float(field.clock.from_clock(torch.from_numpy(s))[0]))
        return _State(s, step, x, slopes, calls, ~ok, now.rows, stuck & (s != end))

    def _again(self, now: _State, h: Vector, calls: Vector, lost: Vector, stuck: Vector) -> _State:
        """The state before an attempt whose `lost` rows were not finite; these are to try a fifth of the step.

        Masking those rows is not enough: 0 · inf makes NaN of the gradient of a parameter that all rows share. So no
        row takes the attempt. The others repeat it with the same result, at the cost of its calls.
        """
        return replace(now, h=np.where(lost, 0.2 * h, now.h), calls=calls, rejected=now.rejected | lost, stuck=stuck)

    def _accept(self, now: _State, x: Tensor, slopes: Tensor, ok: Vector, errors: Tensor) -> tuple[Tensor, Tensor]:
        """x and the slope there where the step was accepted, else those before it."""
        if not ok.any():
            return now.x, now.slopes
        if ok.all():
            return x, written(slopes, 0, slopes[-1])
        rows = like_rows(errors <= 1, x)  # the same as ok, where x is
        return torch.where(rows, x, now.x), written(slopes, 0, torch.where(rows, slopes[-1], slopes[0]))

    def _check(self, field: FieldLike, now: _State, h: Vector, err: Vector, calls: Vector) -> Vector:
        """Which rows are stuck; raises where the field is not finite at a row's own state, or rows may not be stuck."""

        def time(row: int) -> float:
            return float(field.clock.from_clock(torch.tensor(now.s[row], dtype=torch.float64)))

        lost = ~np.isfinite(err)
        if lost.any():
            start = np.isfinite(on_host(self._norms(len(err), now.x, now.slopes[0]))).all(0)
            bad = lost & (~start | (np.abs(h) < 1e-12)) & (h != 0)
            if bad.any():
                row = int(bad.argmax())
                raise NonFiniteError(
                    f"the field is not finite near t = {time(row):g} (row {row}, step {h[row]:g} of the clock); "
                    "try a smaller rtol, or look at the network there"
                )
        tiny = (np.abs(h) < 16 * np.finfo(float).eps * np.maximum(np.abs(now.s), 1e-3)) & (err > 1)
        stuck = tiny | (calls > self.max_nfe)
        if stuck.any() and self.on_stiff == "stop":
            row = int(tiny.argmax()) if tiny.any() else int(calls.argmax())
            raise StepUnderflowError(
                f"{type(self).__name__.lower()} cannot meet rtol = {self.rtol:g}, atol = {self.atol:g} near t = "
                f"{time(row):g}: step {h[row]:g}, error {err[row]:.3g} times the tolerance after {calls[row]} calls; "
                f"raise the tolerance or max_nfe (now {self.max_nfe}), or take what there is: on_stiff = 'return_last'"
            )
        return stuck


def written(slopes: Tensor, i: int, slope: Tensor) -> Tensor:
    """The slopes up to that of stage i: in place, or as a copy without later ones where a gradient will flow."""
    if slopes.requires_grad or (slope.requires_grad and torch.is_grad_enabled()):
        return torch.cat([slopes[:i], slope[None]])
    slopes[i] = slope
    return slopes


def on_host(norms: Tensor) -> Vector:
    """As float64 numbers; they are widened here, since not every device has float64."""
    return norms.cpu().double().numpy()


class RK45(Embedded):
    """Dormand–Prince 5(4): six calls a step.

    Source: Dormand & Prince 1980.
    """

    order = 5
    tableau = Tableau(
        times=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        stages=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        order=4,
    )


class RK23(Embedded):
    """Bogacki–Shampine 3(2): three calls a step, for loose tolerances.

    Source: Bogacki & Shampine 1989.
    """

    order = 3
    tableau = Tableau(
        times=(1 / 2, 3 / 4, 1),
        stages=((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        order=2,
    )
