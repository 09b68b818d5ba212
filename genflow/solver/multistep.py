"""Fixed-step solvers that use slopes of earlier steps: one backbone call a step at any order."""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Self

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from genflow.checks import require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, read
from genflow.solver.frames import SigmaField, time_of_sigma
from genflow.solver.noise import Noise
from genflow.solver.ode import inner_times, runge_kutta


class AdamsBashforth(FixedStep):
    """x + ∫ p(τ) dτ over the step, p the polynomial through the slopes at the last `order` times of the grid.

    The weights follow from the times, since grids are not even. A polynomial of full degree needs order slopes: the
    first order − 2 steps are Runge–Kutta steps of order − 1 calls each, then the degree grows with the slopes in hand,
    which keeps the order. Where that would take more than a tenth of a budget, all steps take one call and the first
    ones are of lower order: with few steps, more of them are worth more than a good start.

    Source: Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, III.1 and III.5.
    """

    def __init__(self, grid: Spacing = "process") -> None:
        super().__init__(grid)
        self.past: list[tuple[float, Combination]] = []

    def plan(self, nfe: int) -> list[int]:
        start = self._start()
        return start + [1] * (nfe - sum(start)) if 10 * sum(start) <= nfe else [1] * nfe

    def plan_steps(self, steps: int) -> list[int]:
        start = self._start()[:steps]
        return start + [1] * (steps - len(start))

    def _start(self) -> list[int]:
        return [int(self.order) - 1] * (int(self.order) - 2)

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        fresh = copy.copy(self)  # the slopes belong to this solve, not to the solver
        fresh.past = []
        return fresh

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if calls > 1:
            x_s, slope = runge_kutta(field, x, t, s, calls)
            self._remember(t, slope)
            return x_s
        total = Combination.of(x)
        self._remember(t, *read(field, total, t, "velocity"))
        weights = adams_weights(tuple(time for time, _ in self.past), float(t), float(s))
        for weight, (_, slope) in zip(weights, self.past, strict=True):
            total = total + weight * slope
        return total.value()

    def _remember(self, t: Tensor, slope: Combination) -> None:
        before = self.past[len(self.past) - int(self.order) + 1 :] if len(self.past) >= self.order else self.past
        self.past = [*((time, past.settled()) for time, past in before), (float(t), slope)]


class DEIS(AdamsBashforth):
    """x_s/a_s = x_t/a_t + ∫ p dσ, p the polynomial in native time through the last r + 1 noise means N̂ = E[N | x_t].

    That is tAB-r: Adams–Bashforth with all but N̂ integrated exactly, from d(x/a)/dσ = N̂ and σ = b/a. It is of order
    r + 1, with the start of Adams–Bashforth, whose Runge–Kutta steps are taken in σ. With frame = "sigma" the
    polynomial is one in σ, the paper's ρAB.

    Arguments:
        order: r, degree of the polynomial: 1 to 3.
        grid: Spacing of the times; see `genflow.process.grids`.

    Source: Zhang & Chen 2022, arXiv:2204.13902.
    """

    order = 3
    needs = ("data", "affine")

    def __init__(self, order: int = 2, grid: Spacing = "process") -> None:
        super().__init__(grid)
        require("deis", {"order": (order, order in (1, 2, 3), "1, 2 or 3")})
        self.order = int(order) + 1
        self.sigma: SigmaField | None = None
        self.weights: dict[float, list[float]] = {}

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        fresh = super().begin(field, times)
        fresh.sigma = SigmaField(field, self)
        weights = exponential_adams_weights(fresh.sigma, times, int(self.order))
        fresh.weights = dict(zip(times.tolist(), weights, strict=False))
        return fresh

    def evaluated(self, times: Tensor, plan: list[int]) -> Tensor:
        assert self.sigma is not None
        ends = self.sigma.sigmas(times)
        inner = [s for i, calls in enumerate(plan) for s in inner_times(ends[i], ends[i + 1], calls) if calls > 1]
        return torch.stack([*times, *map(self.sigma.native, inner)])

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if self.sigma is None or float(t) not in self.weights:
            raise ValueError("deis needs to know its grid: call solve, or begin before step")
        (a_t, a_s), (b_t, b_s) = (v.tolist() for v in self.sigma.known.schedule(torch.stack([t, s])))
        if calls > 1:
            start, end = (torch.tensor(b / a, dtype=torch.float64) for a, b in ((a_t, b_t), (a_s, b_s)))
            y, slope = runge_kutta(self.sigma, x / a_t, start, end, calls)
            self._remember(t, slope)
            return a_s * y
        (data,) = read(field, Combination.of(x), t, "data")
        self._remember(t, (Combination.of(x) - a_t * data) / b_t)
        total = Combination.of(x, a_s / a_t)
        for weight, (_, slope) in zip(self.weights[float(t)], self.past, strict=True):
            total = total + a_s * weight * slope
        return total.value()


NODES = 16
"""Of Gauss–Legendre for each panel of at most e² in σ."""


def exponential_adams_weights(field: SigmaField, times: Tensor, points: int) -> list[list[float]]:
    """Weights w of each step with ∫ p dσ = Σ w_j p(t_j), for polynomials p in native time through the last `points`.

    By quadrature in log σ, in which t is smooth on every path.

    Arguments:
        times: The grid (n + 1,), float64.
    """
    sigma = field.sigmas(times)
    at, share = (torch.tensor(v, dtype=torch.float64) for v in leggauss(NODES))
    found, logs = [], []
    for start, end in zip(sigma[:-1].tolist(), sigma[1:].tolist(), strict=True):
        floor = 1e-12 * max(start, end)
        low, high = math.log(max(start, floor)), math.log(max(end, floor))
        cuts = torch.linspace(low, high, math.ceil(abs(high - low) / 2) + 1, dtype=torch.float64)
        half = cuts.diff()[:, None] / 2
        logs.append(
            torch.stack([cuts[:-1, None] + half * (1 + at), (half * share).expand(len(cuts) - 1, -1)]).flatten(1)
        )
    nodes = time_of_sigma(field.field, torch.cat([one[0] for one in logs]).exp(), times)
    for i, (of_t, (log, weight)) in enumerate(zip(nodes.split([one.shape[1] for one in logs]), logs, strict=True)):
        known = times[max(0, i + 1 - points) : i + 1]
        basis = lagrange(known, of_t)
        found.append((basis @ (weight * log.exp())).tolist())
    return found


def lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """The polynomials ℓ_j with ℓ_j(nodes_k) = 1 for j = k, else 0, at times (m,): shape (len(nodes), m)."""
    others = [torch.cat([nodes[:j], nodes[j + 1 :]]) for j in range(len(nodes))]
    rows = [((at - rest[:, None]) / (nodes[j] - rest)[:, None]).prod(0) for j, rest in enumerate(others)]
    return torch.stack(rows)


@lru_cache(maxsize=4096)
def adams_weights(times: tuple[float, ...], start: float, end: float) -> list[float]:
    """Weights w with ∫ p(τ) dτ = Σ w_j p(times_j) from start to end, for every polynomial p of degree < len(times)."""
    nodes = (torch.tensor(times, dtype=torch.float64) - start) / (end - start)
    powers = torch.arange(len(times), dtype=torch.float64)
    return ((end - start) * torch.linalg.solve(nodes[None, :] ** powers[:, None], 1 / (powers + 1))).tolist()


class AB2(AdamsBashforth):
    """Adams–Bashforth of order 2: on an even grid x + h (3 v_n − v_(n−1))/2. The first step is Euler's."""

    order = 2


class AB3(AdamsBashforth):
    """Adams–Bashforth of order 3: on an even grid x + h (23 v_n − 16 v_(n−1) + 5 v_(n−2))/12."""

    order = 3


class AB4(AdamsBashforth):
    """Adams–Bashforth of order 4: on an even grid x + h (55 v_n − 59 v_(n−1) + 37 v_(n−2) − 9 v_(n−3))/24."""

    order = 4
