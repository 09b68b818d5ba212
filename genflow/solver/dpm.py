"""Multistep solvers in λ = log(a/b) from posterior means: DPM-Solver++, also of the SDE, and UniPC, a call a step."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self

import torch
from torch import Tensor

from genflow.checks import is_number, require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, read, recalled, scheduled
from genflow.solver.noise import Noise
from genflow.solver.sde import drawn, is_noiseless_end, needed

FARTHEST = 2.0
"""How long a step in λ may be, in spacings of the means whose polynomial it follows; else fewer means are used.

With few steps on a grid even in time, the last step in λ is several times as long as the one before, and a polynomial
carried that far beyond its points is worth less than a constant. The published codes lower the order on the last steps
of fewer than 15; this rule does the same there, and also where another grid, path or budget has such a step.
"""


class Place(NamedTuple):
    """A time of the grid: a, b and λ = log(a/b), infinite where one of them is zero."""

    a: float
    b: float
    log_snr: float


class Mean(NamedTuple):
    """The posterior mean D (B, *) found at λ."""

    log_snr: float
    data: Combination


class Exponential(FixedStep):
    """Steps of x_s = (b_s/b_t) x_t + b_s ∫ e^λ D dλ, which is exact, with D replaced by a polynomial in λ.

    It holds for every path x_t = a X + b N whatever N is distributed as, since d(x/b)/d(a/b) = E[X | x_t]; so Poisson
    flow and interpolants are solved by the same steps as diffusion.

    Source: Lu et al. 2022, arXiv:2211.01095.
    """

    needs: tuple[str, ...] = ("data", "affine")
    points: int = 2
    """Means that the polynomial runs through."""

    corrections: float = 0
    """How many steps, from the first, are corrected once the mean at their end is known. That costs no call."""

    def __init__(self, grid: Spacing = "process") -> None:
        super().__init__(grid)
        self.past: list[Mean] = []
        self.last: tuple[Combination, Place, list[Mean]] | None = None
        self.corrected = 0
        self.places: dict[float, Place] = {}

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        known = scheduled(field, self)
        fresh = copy.copy(self)  # the means belong to this solve, not to the solver
        fresh.past, fresh.last, fresh.corrected = [], None, 0
        key = tuple(times.tolist())
        fresh.places = recalled(
            field, ("places", key), lambda: dict(zip(key, places(*known.schedule(times)), strict=True))
        )
        return fresh

    def ends_of(self, t: Tensor, s: Tensor) -> tuple[Place, Place]:
        """Both ends of a step."""
        if float(t) not in self.places:
            raise ValueError(f"{type(self).__name__} needs to know its grid: call solve, or begin before step")
        return self.places[float(t)], self.places[float(s)]

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        start, end = self.ends_of(t, s)
        origin = Combination.of(x)
        (data,) = read(field, origin, t, "data")
        if self.corrected < self.corrections and self.last is not None:
            before, left, means = self.last
            data = data.settled()
            origin = advance(before, left, start, correct(means, Mean(start.log_snr, data), left, start)).settled()
            self.corrected += 1
        self._remember(start, data)
        used = self._used(end)
        self.last = (origin, start, used) if self.corrected < self.corrections else None
        return advance(origin, start, end, predict(used, start, end)).value()

    def _remember(self, at: Place, data: Combination) -> None:
        before = [mean for mean in self.past if math.isfinite(mean.log_snr)]
        kept = before[len(before) - self.points + 1 :] if len(before) >= self.points else before
        if self.points > 2 or self.corrections:  # used more than once: as one tensor each
            kept = [Mean(mean.log_snr, mean.data.settled()) for mean in kept]
        self.past = [*kept, Mean(at.log_snr, data)]

    def _used(self, end: Place) -> list[Mean]:
        """The means that the step to `end` follows: all that are not too near each other for its length."""
        means, step = self.past, abs(end.log_snr - self.past[-1].log_snr)
        while len(means) > 1:
            if step <= FARTHEST * abs(means[-1].log_snr - means[0].log_snr) / (len(means) - 1):
                break
            means = means[1:]
        return means


class DPMpp2M(Exponential):
    """DPM-Solver++(2M): D is the line through the last two means, taken at the middle of the step in λ."""

    order = 2


class DPMpp3M(Exponential):
    """DPM-Solver++(3M): D is the parabola through the last three means, integrated exactly.

    The first step has one mean only, and left so it would make the whole of order 2; so it is corrected by the second
    mean, which is known one call later.
    """

    order = 3
    points = 3
    corrections = 1


class UniPC(Exponential):
    """Predictor and corrector of one call a step: the mean at a predicted x corrects that x, then predicts on.

    The corrector's polynomial runs through one mean more than the predictor's, which raises the order by one, but not
    above 3: the first step has one mean only. The last x is not corrected, which would take a call more. Where two
    means decide, the weights are those of B(h) = e^h − 1 (the published "bh2"); with more, every B gives the same.

    Arguments:
        order: Means of the predictor's polynomial, 1 to 3.
        grid: Spacing of the times; see `genflow.process.grids`.

    Source: Zhao et al. 2023, arXiv:2302.04867.
    """

    corrections = math.inf

    def __init__(self, order: int = 2, grid: Spacing = "process") -> None:
        super().__init__(grid)
        require("unipc", {"order": (order, order in (1, 2, 3), "1, 2 or 3")})
        self.points, self.order = int(order), min(int(order) + 1, 3)


class StochasticExponential(Exponential):
    """Steps of the SDE with ε = τ times the natural one, of which all but an integral of D is exact.

    With p = 1 + τ and h = λ_s − λ_t,

        x_s = (b_s/b_t) e^(−τh) x_t + a_s ∫ p e^(p (λ − λ_s)) D dλ + b_s sqrt(1 − e^(−2τh)) ξ

    In p λ for λ the integral is that of the ODE, so the same polynomials give it. τ = 0 is the ODE. The step to the
    data's end adds no noise.

    Arguments:
        diffusion: τ, the factor on ε.
        grid: Spacing of the times; see `genflow.process.grids`.

    Source: Lu et al. 2022, arXiv:2211.01095, for τ = 1.
    """

    mode = "sde"
    order = 2
    needs = ("sde", "data", "affine")

    def __init__(self, diffusion: float = 1.0, grid: Spacing = "process") -> None:
        super().__init__(grid)
        fits = is_number(diffusion) and diffusion >= 0
        require(type(self).__name__, {"diffusion": (diffusion, fits, "a number of at least 0")})
        self.diffusion = diffusion

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        fresh = super().begin(field, times)
        power = 1 + self.diffusion
        fresh.places = {t: place._replace(log_snr=power * place.log_snr) for t, place in fresh.places.items()}
        return fresh

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        (start, end), source = self.ends_of(t, s), needed(noise, self)
        (data,) = read(field, Combination.of(x), t, "data")
        self._remember(start, data)
        fade = self.diffusion / (1 + self.diffusion) * (end.log_snr - start.log_snr)  # τ h
        share = math.exp(-fade) * end.b / start.b
        mean = share * Combination.of(x) + end.a * predict(self._used(end), start, end)
        if is_noiseless_end(field, s) or self.diffusion == 0:
            return mean.value()
        return (mean + drawn(source, x, end.b * math.sqrt(-math.expm1(-2 * fade)))).value()


class SDEDPMpp2M(StochasticExponential):
    """SDE-DPM-Solver++(2M): D is the line through the last two means, taken at the middle of the step in λ."""


class SDEDPMpp3M(StochasticExponential):
    """SDE-DPM-Solver++(3M): D is the parabola through the last three means, integrated exactly.

    The means are those of a path with noise, whose own double integrals no polynomial knows: the weak order stays 2.
    """

    points = 3


def places(a: Tensor, b: Tensor) -> list[Place]:
    """a, b and λ at several times, on the host."""
    return [
        Place(u, v, math.log(u / v) if u > 0 and v > 0 else math.copysign(math.inf, u - v))
        for u, v in zip(a.tolist(), b.tolist(), strict=True)
    ]


def advance(x: Combination, start: Place, end: Place, integral: Combination) -> Combination:
    """(b_s/b_t) x + a_s I, with I = ∫ e^(λ − λ_s) D dλ from λ_t to λ_s."""
    return (end.b / start.b) * x + end.a * integral


def predict(means: list[Mean], start: Place, end: Place) -> Combination:
    """I from means up to λ_t: constant, line at the middle of the step, or the exact integral of a polynomial."""
    h = end.log_snr - start.log_snr
    whole = -math.expm1(-h)
    if len(means) == 1:
        return whole * means[0].data
    if len(means) == 2:
        share = h / (2 * (start.log_snr - means[0].log_snr))
        return whole * ((1 + share) * means[1].data - share * means[0].data)
    return weighted(exponential_weights(tuple(m.log_snr for m in means), start.log_snr, end.log_snr), means)


def correct(means: list[Mean], new: Mean, start: Place, end: Place) -> Combination:
    """I from means up to λ_t and one at λ_s."""
    if not math.isfinite(start.log_snr):
        return -math.expm1(-(end.log_snr - start.log_snr)) * new.data
    if len(means) == 1:
        return -math.expm1(-(end.log_snr - start.log_snr)) / 2 * (means[0].data + new.data)
    means = [*means, new]
    return weighted(exponential_weights(tuple(m.log_snr for m in means), start.log_snr, end.log_snr), means)


def weighted(weights: Sequence[float], means: list[Mean]) -> Combination:
    """Σ w_j D_j."""
    total = weights[0] * means[0].data
    for weight, mean in zip(weights[1:], means[1:], strict=True):
        total = total + weight * mean.data
    return total


@lru_cache(maxsize=4096)
def exponential_weights(nodes: tuple[float, ...], start: float, end: float) -> list[float]:
    """Weights w with ∫ e^(λ − end) p(λ) dλ = Σ w_j p(nodes_j) from start to end, for every p of degree < len(nodes)."""
    h = end - start
    shares = (torch.tensor(nodes, dtype=torch.float64) - start) / h
    powers = torch.arange(len(nodes), dtype=torch.float64)
    moments = torch.tensor(exponential_moments(h, len(nodes)), dtype=torch.float64)
    return (h * torch.linalg.solve(shares[None, :] ** powers[:, None], moments)).tolist()


def exponential_moments(h: float, count: int) -> list[float]:
    """∫ e^(h(v − 1)) v^k dv over [0, 1] for k < count: Σ (−h)^j k!/(k+j+1)! for small h, else by recursion in k."""
    if abs(h) < 1:
        return [sum((-h) ** j * math.factorial(k) / math.factorial(k + j + 1) for j in range(18)) for k in range(count)]
    found = [-math.expm1(-h) / h]
    for k in range(1, count):
        found.append((1 - k * found[-1]) / h)
    return found
