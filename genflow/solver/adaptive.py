"""Adaptive Runge–Kutta with an embedded error estimate, on the tensor's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.process.base import is_count, is_positive, like_rows, require
from genflow.solver.base import (
    FieldLike,
    Noise,
    NonFiniteError,
    Observer,
    Solution,
    Solver,
    StepUnderflowError,
)

# Dormand & Prince 1980: stage times, stage weights; the last row of weights is the fifth-order solution.
_C = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Fifth-order minus fourth-order weights: the error estimate."""


@dataclass
class _State:
    """Rows still travelling: clock s, step h (both (G,)), state x, slope k = dx/ds, calls, whether the last
    attempt was rejected; G = B or 1."""

    s: Tensor
    h: Tensor
    x: Tensor
    k: Tensor
    calls: Tensor
    rejected: Tensor


class RK45(Solver):
    """Dormand–Prince 5(4) in the process's clock, first-same-as-last, local extrapolation.

    A step is accepted where rms(err / (atol + rtol max(|x|, |x_new|))) <= 1; the next is 0.9 err^(−1/5) times as
    long, within [0.2, 10] (at most 1 after a rejection, and for the step after it). The first step follows Hairer,
    Nørsett & Wanner, II.4.

    Arguments:
        rtol: Relative tolerance.
        atol: Absolute tolerance, data units.
        control: "sample": every sample has its own steps, so it does not matter which batch it is in, and its NFE
            is its own. "batch": one step for all, by the error over the whole batch, as scipy would take it.
        max_nfe: Calls per sample after which the solve gives up.

    Source: Dormand & Prince 1980.
    """

    order = 5

    def __init__(self, rtol: float = 1e-4, atol: float = 1e-4, control: str = "sample", max_nfe: int = 10_000) -> None:
        require(
            "rk45",
            {
                "rtol": (rtol, is_positive(rtol) and rtol < 1, "a number between 0 and 1"),
                "atol": (atol, is_positive(atol), "a number above 0"),
                "control": (control, control in ("sample", "batch"), "'sample' or 'batch'"),
                "max_nfe": (max_nfe, is_count(max_nfe, 8), "a whole number of at least 8"),
            },
        )
        self.rtol, self.atol, self.control, self.max_nfe = rtol, atol, control, max_nfe

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
        if nfe is not None:
            raise ValueError(
                "rk45 chooses its own steps: it takes no nfe; set rtol and atol, or use a fixed-step solver"
            )
        if observer and self.control == "sample" and len(x) > 1:
            raise ValueError("with control = 'sample' there is no common time to observe; use control = 'batch'")
        times = field.grid(1) if grid is None else grid
        if float(times[0]) == float(times[-1]):
            return Solution(x, 0.0)
        start, end = (float(s) for s in field.to_clock(times[[0, -1]].double()))
        groups = len(x) if self.control == "sample" else 1
        state = self._begin(field, x, start, end, groups)
        if observer:
            observer(x, float(times[0]))
        final, calls = x.clone(), torch.zeros(groups, dtype=torch.int64)
        rows = torch.arange(groups)
        while len(rows):
            state = self._advance(field, state, end, observer)
            done = state.s == end
            if bool(done.any()):
                self._store(final, rows[done], state.x, done)
                calls[rows[done]] = state.calls[done]
                rows, state = rows[~done], self._keep(field, state, ~done)
        per_sample = calls.expand(len(x)) if groups == 1 else calls
        return Solution(final, float(per_sample.double().mean()), nfe_per_sample=per_sample)

    def _store(self, final: Tensor, rows: Tensor, x: Tensor, done: Tensor) -> None:
        if self.control == "batch":
            final.copy_(x)
        else:
            final[rows.to(final.device)] = x[done.to(x.device)]

    def _keep(self, field: FieldLike, state: _State, left: Tensor) -> _State:
        if self.control == "batch":
            return state
        field.keep(left)
        rows = left.to(state.x.device)
        return _State(
            state.s[left], state.h[left], state.x[rows], state.k[rows], state.calls[left], state.rejected[left]
        )

    def _slope(self, field: FieldLike, x: Tensor, s: Tensor) -> Tensor:
        """dx/ds at clock s (G,)."""
        t = field.from_clock(s)
        rate = field.clock_rate(t).to(x.device, x.dtype)
        return like_rows(rate, x) * field.velocity(x, t if len(t) == len(x) else t.squeeze(0))

    def _norm(self, x: Tensor, groups: int) -> Tensor:
        """Root mean square per group, (G,), float64 on the host."""
        return x.reshape(groups, -1).square().mean(1).sqrt().double().cpu()

    def _begin(self, field: FieldLike, x: Tensor, start: float, end: float, groups: int) -> _State:
        s = torch.full((groups,), start, dtype=torch.float64)
        k = self._slope(field, x, s)
        scale = self.atol + self.rtol * x.abs()
        size, speed = self._norm(x / scale, groups), self._norm(k / scale, groups)
        h0 = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed.clamp_min(1e-300))
        h0 = h0.clamp(max=abs(end - start))
        sign = 1.0 if end > start else -1.0
        probe = x + like_rows((sign * h0).to(x.device, x.dtype), x) * k
        bend = self._norm((self._slope(field, probe, s + sign * h0) - k) / scale, groups) / h0
        steepest = torch.maximum(speed, bend)
        h1 = torch.where(steepest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / steepest.clamp_min(1e-300)) ** 0.2)
        h = torch.minimum(100 * h0, h1).clamp(max=abs(end - start))
        calls = torch.full((groups,), 2, dtype=torch.int64)
        return _State(s, sign * h, x, k, calls, torch.zeros(groups, dtype=torch.bool))

    def _advance(self, field: FieldLike, now: _State, end: float, observer: Observer | None) -> _State:
        """One attempted step of every row still travelling."""
        groups = len(now.s)
        last = (now.s + now.h - end) * now.h.sign() >= 0
        h = torch.where(last, end - now.s, now.h)
        h_x = like_rows(h.to(now.x.device, now.x.dtype), now.x)
        x, slopes = self._stages(field, now, h, h_x)
        error = sum((h_x * w) * k for w, k in zip(_E, slopes, strict=True) if w)
        scale = self.atol + self.rtol * torch.maximum(now.x.abs(), x.abs())
        err = self._norm(error / scale, groups)
        calls = now.calls + 6
        self._check(field, now, h, err, calls)
        err = err.nan_to_num(torch.inf)  # a trial step that left the field's domain is rejected like any other
        ok = err <= 1
        factor = (0.9 * err.clamp_min(1e-10) ** -0.2).clamp(0.2, 10.0)
        step = h * torch.where(ok & ~now.rejected, factor, factor.clamp(max=1.0))
        ok_x = like_rows(ok.to(x.device), x)
        moved = torch.where(ok_x, x, now.x)
        s = torch.where(ok, torch.where(last, end, now.s + h), now.s)
        if observer and bool(ok.all()):
            observer(moved, float(field.from_clock(s)[0]))
        return _State(s, step, moved, torch.where(ok_x, slopes[-1], now.k), calls, ~ok)

    def _stages(self, field: FieldLike, now: _State, h: Tensor, h_x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The fifth-order solution and all seven slopes; six backbone calls."""
        slopes, x = [now.k], now.x
        for c, row in zip(_C[1:], _A, strict=True):
            x = now.x + h_x * sum(w * k for w, k in zip(row, slopes, strict=True) if w)
            slopes.append(self._slope(field, x, now.s + c * h))
        return x, slopes

    def _check(self, field: FieldLike, now: _State, h: Tensor, err: Tensor, calls: Tensor) -> None:
        bad = ~err.isfinite() & ~self._norm(now.x, len(err)).isfinite() | ~self._norm(now.k, len(err)).isfinite()
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise NonFiniteError(
                f"the field is not finite near t = {float(field.from_clock(now.s[row])):g} (row {row}, step "
                f"{float(h[row]):g} of the clock); try a smaller rtol, or look at the network there"
            )
        if not bool(err.isfinite().all()) and bool((h.abs() < 1e-12).any()):
            raise NonFiniteError(f"the field is not finite after t = {float(field.from_clock(now.s[0])):g}")
        tiny = (h.abs() < 16 * torch.finfo(torch.float64).eps * now.s.abs().clamp_min(1e-3)) & (err > 1)
        if bool(tiny.any()) or int(calls.max()) > self.max_nfe:
            row = int(tiny.nonzero()[0]) if bool(tiny.any()) else int(calls.argmax())
            raise StepUnderflowError(
                f"rk45 can not meet rtol = {self.rtol:g}, atol = {self.atol:g} near t = "
                f"{float(field.from_clock(now.s[row])):g}: step {float(h[row]):g}, error {float(err[row]):.3g} times "
                f"the tolerance after {int(calls[row])} calls; raise the tolerance or max_nfe (now {self.max_nfe})"
            )
