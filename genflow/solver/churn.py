"""The stochastic sampler of EDM on every path with a Gaussian base, in σ = b/a and x/a."""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from torch import Tensor

from genflow.checks import is_number, require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, read, recalled, schedule_at, scheduled
from genflow.solver.frames import time_of_sigma
from genflow.solver.noise import Noise
from genflow.solver.sde import drawn, needed


class EDMChurn(FixedStep):
    """Raises the noise a little, then takes Heun's step of d(x/a)/dσ = (x/a − D)/σ from there.

    σ̂ = σ (1 + γ) with γ = min(S_churn/steps, √2 − 1) where S_tmin <= σ <= S_tmax, else 0; the noise added to x/a has
    scale S_noise sqrt(σ̂² − σ²). σ̂ never exceeds the process's own largest σ, so nothing is added at the prior's end.
    Two calls a step, one on the last, which an odd budget spends; an even one ends on two steps of one call. The
    published grid is grid="edm(7)".

    Arguments:
        S_churn: Amount of noise over the whole path; 0 is Heun's method.
        S_tmin: Smallest σ at which noise is added.
        S_tmax: Largest σ at which noise is added.
        S_noise: Factor on the noise.
        grid: Spacing of the times; see `genflow.process.grids`.

    Source: Karras et al. 2022, arXiv:2206.00364; the defaults are its setting for ImageNet-64.
    """

    mode = "sde"
    order = 2
    step_calls = 2
    needs = ("sde", "data", "affine")

    def __init__(
        self,
        S_churn: float = 40.0,
        S_tmin: float = 0.05,
        S_tmax: float = 50.0,
        S_noise: float = 1.003,
        grid: Spacing = "process",
    ) -> None:
        super().__init__(grid)
        given = {"S_churn": S_churn, "S_tmin": S_tmin, "S_tmax": S_tmax, "S_noise": S_noise}
        require("edm_churn", {n: (v, is_number(v) and v >= 0, "a number of at least 0") for n, v in given.items()})
        require("edm_churn", {"S_tmax": (S_tmax, S_tmax >= S_tmin, f"a number of at least S_tmin = {S_tmin:g}")})
        self.S_churn, self.S_tmin, self.S_tmax, self.S_noise = S_churn, S_tmin, S_tmax, S_noise
        self.raised: dict[float, Tensor] = {}

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        fresh = copy.copy(self)
        key = tuple(times.tolist())
        options = (self.S_churn, self.S_tmin, self.S_tmax)
        fresh.raised = recalled(
            field, ("raised", key, options), lambda: dict(zip(key, self.raise_noise(field, times), strict=True))
        )
        return fresh

    def raise_noise(self, field: FieldLike, times: Tensor) -> Tensor:
        """The time at which σ is σ̂, for every time of a grid; the same time where γ is 0."""
        a, b = scheduled(field, self).schedule(times)
        sigma = b / a
        gamma = min(self.S_churn / (len(times) - 1), math.sqrt(2) - 1)
        inside = (sigma >= self.S_tmin) & (sigma <= self.S_tmax) & (sigma < sigma_of(field, field.grid(1)[:1]))
        return torch.where(inside, time_of_sigma(field, sigma * (1 + gamma)), times) if gamma else times

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        scheduled(field, self)
        source = needed(noise, self)
        if float(t) not in self.raised:
            raise ValueError("edm_churn needs to know all times of its grid: call solve, not step")
        up = self.raised[float(t)]
        (a_t, b_t), (a_u, b_u), (a_s, b_s) = (schedule_at(field, time) for time in (t, up, s))
        extra = (b_u / a_u) ** 2 - (b_t / a_t) ** 2
        y = Combination.of(x, 1 / a_t)
        if float(up) != float(t):
            y = y + drawn(source, x, self.S_noise * math.sqrt(max(extra, 0.0)))
        return self._heun(field, y, (up, a_u, b_u / a_u), (s, a_s, b_s / a_s), calls).value()

    def evaluated(self, times: Tensor, plan: list[int]) -> Tensor:
        return torch.stack([*times, *self.raised.values()])

    def _heun(
        self,
        field: FieldLike,
        y: Combination,
        start: tuple[Tensor, float, float],
        end: tuple[Tensor, float, float],
        calls: int,
    ) -> Combination:
        """a y at the end, from y = x/a at the start; each end is (t, a, σ)."""
        (t, a_t, high), (s, a_s, low) = start, end
        first = (y - read(field, a_t * y, t, "data")[0]) / high
        moved = y + (low - high) * first
        if calls == 2:
            second = (moved - read(field, a_s * moved, s, "data")[0]) / low
            moved = y + (low - high) / 2 * (first + second)
        return a_s * moved


def sigma_of(field: FieldLike, t: Tensor) -> Tensor:
    """σ = b/a at times of any shape."""
    a, b = scheduled(field, EDMChurn).schedule(t)
    return b / a
