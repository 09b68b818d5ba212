"""Discrete reverse steps of a Gaussian path, and predictor–corrector sampling.

With r = a_t/a_s and V = b_t² − r² b_s², x_t = r x_s + sqrt(V) ξ is the forward transition from s to t, s nearer the
data. The functions of (r, V) are the published updates, whatever grid of noise levels r and V come from.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Self, TypeVar

import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, read, recalled, schedule_at, scheduled
from genflow.solver.langevin import ald_size, langevin_size, langevin_step
from genflow.solver.noise import Noise
from genflow.solver.ode import Euler
from genflow.solver.sde import EulerMaruyama, drawn, is_noiseless_end, needed, transition

State = TypeVar("State", Tensor, Combination)


def reverse_diffusion_mean(x: State, score: State, r: float, variance: float) -> State:
    """x − (r − 1) x + V s: the forward step with its drift reversed. The noise that goes with it is sqrt(V) ξ.

    Source: Song et al. 2021, arXiv:2011.13456.
    """
    return (2 - r) * x + variance * score


def ancestral_mean(x: State, score: State, r: float, variance: float) -> State:
    """(x + V s)/r, which is E[x_s | x_t] with the exact score.

    Source: Ho, Jain & Abbeel 2020, arXiv:2006.11239.
    """
    return (x + variance * score) / r


class Discrete(FixedStep):
    """One reverse step of the discrete forward chain a call; the step to the data's end adds no noise."""

    mode = "sde"
    order = 1
    needs = ("score", "affine")

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        source, start = needed(noise, self), Combination.of(x)
        scheduled(field, self)
        here, there = schedule_at(field, t), schedule_at(field, s)
        r, variance = transition(here, there)
        (score,) = read(field, start, t, "score")
        mean = self.mean(start, score, r, variance)
        if not is_noiseless_end(field, s):
            mean = mean + drawn(source, x, self.scale(variance, here[1], there[1]))
        return mean.value()

    @abstractmethod
    def mean(self, x: Combination, score: Combination, r: float, variance: float) -> Combination:
        """x at s without noise."""

    def scale(self, variance: float, b_t: float, b_s: float) -> float:
        """Scale of the noise."""
        return math.sqrt(variance)


class ReverseDiffusion(Discrete):
    """(2 − r) x + V s, noise of variance V."""

    def mean(self, x: Combination, score: Combination, r: float, variance: float) -> Combination:
        return reverse_diffusion_mean(x, score, r, variance)


VARIANCES = ("upper", "posterior")
"""Of an ancestral step's noise; see `Ancestral`."""


class Ancestral(Discrete):
    """(x + V s)/r, the mean of x_s given x_t.

    Arguments:
        variance: "upper": V, the published choice for VP. "posterior": V b_s²/b_t², the variance given the data too,
            the published choice for VE.
        grid: Spacing of the times; see `genflow.process.grids`.
    """

    def __init__(self, variance: str = "upper", grid: Spacing = "process") -> None:
        super().__init__(grid)
        require("ancestral", {"variance": (variance, variance in VARIANCES, " or ".join(VARIANCES))})
        self.variance = variance

    def mean(self, x: Combination, score: Combination, r: float, variance: float) -> Combination:
        return ancestral_mean(x, score, r, variance)

    def scale(self, variance: float, b_t: float, b_s: float) -> float:
        return math.sqrt(variance) * (b_s / b_t if self.variance == "posterior" else 1.0)


MOST_LAG = 0.03
"""Error of a variance above which samples without a predictor come with a warning."""

PREDICTORS: dict[str, type[FixedStep] | None] = {
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "euler_maruyama": EulerMaruyama,
    "probability_flow": Euler,
    "none": None,
}
CORRECTORS = ("langevin", "ald")
NORMS = ("time", "batch")
"""Where the size of a step of "langevin" comes from; see `PredictorCorrector`."""


def nearer(field: FieldLike, t: Tensor) -> Tensor:
    """The time 1/1000 of the field's interval nearer the data than t, at most the data's end."""
    start, end = field.grid(1)
    moved = t + (end - start) / 1000
    return torch.minimum(moved, end) if end > start else torch.maximum(moved, end)


class PredictorCorrector(FixedStep):
    """At each time n_steps of Langevin dynamics, then one step of the predictor: 1 + n_steps calls.

    What is left of a budget goes to predictor steps without correction, at the prior's end. Without a predictor x goes
    on to the next noise level as it is and is corrected there, n_steps calls; what is left makes a shorter first step.
    The last step adds no noise.

    A Langevin step is η = 2 α (snr b)², or 2 α (snr |ξ|/|s|)² with norms = "batch", and α = (a_t/a_t')², t' nearer the
    data by 1/1000 of the time: for VP the published 1 − β_k of 1000 noise levels, for VE 1, and defined for every other
    path. Of normal data of scale S at time t it makes S² / (1 − η/2S²), at most 1 + snr² of S². Without a predictor
    the moves must also keep up with the path, which they do on VE alone at a sensible budget; where they do not, a
    warning says by how much.

    Arguments:
        predictor: A name of `PREDICTORS`.
        corrector: "langevin" or "ald", which differ by `norms` alone: "ald" knows none.
        snr: Signal-to-noise ratio of a Langevin step.
        n_steps: Langevin steps at each time.
        norms: "time": |ξ|/|s| is taken to be b, so a step depends on the time alone, and the law of the samples is
            kept. "batch": its mean over the batch, as published; then a sample depends on its batch, and the law holds
            for large batches only. "sample", which did not keep the law, is now read as "time", with a warning.
        variance: Of the predictor "ancestral"; see `Ancestral`. "posterior" is the published choice for VE, whose
            "upper" is reverse diffusion. Other predictors have one variance only.
        grid: Spacing of the times; see `genflow.process.grids`.
        limit: Most that a Langevin step may be, in units of b², beyond which it would overshoot where the score is the
            noise's alone; infinite: no limit, as published. It binds under norms = "batch" where scores are small, and
            under "time" where snr is above 0.7.

    Source: Song et al. 2021, arXiv:2011.13456.
    """

    mode = "sde"
    order = 1
    needs = ("sde", "score", "affine")
    why_not_control = (
        "its correctors move the known part as well, which is not drawn again before its predictor; give its predictor "
        "alone and ask control for correctors, which move the unknown part only"
    )

    def __init__(
        self,
        predictor: str = "reverse_diffusion",
        corrector: str = "langevin",
        snr: float = 0.16,
        n_steps: int = 1,
        norms: str = "time",
        variance: str = "upper",
        grid: Spacing = "process",
        limit: float = 1.0,
    ) -> None:
        super().__init__(grid)
        norms = self._known_norms(norms)
        choices = VARIANCES if predictor == "ancestral" else VARIANCES[:1]
        of_what = "" if predictor == "ancestral" else "; only the predictor ancestral has another"
        require(
            "pc",
            {
                "predictor": (predictor, predictor in PREDICTORS, f"one of {', '.join(PREDICTORS)}"),
                "corrector": (corrector, corrector in CORRECTORS, " or ".join(CORRECTORS)),
                "snr": (snr, is_positive(snr) and snr <= 100, "a number above 0 and up to 100"),
                "n_steps": (n_steps, is_count(n_steps), "a whole number above 0"),
                "norms": (norms, norms in NORMS, " or ".join(NORMS)),
                "variance": (variance, variance in choices, " or ".join(choices) + of_what),
                "limit": (limit, is_positive(limit) or limit == math.inf, "a number above 0, or inf for none"),
            },
        )
        make = PREDICTORS[predictor]
        self.predictor = Ancestral(variance) if make is Ancestral else make() if make else None
        self.corrector, self.snr, self.n_steps, self.norms = corrector, snr, int(n_steps), norms
        self.limit = limit

    @staticmethod
    def _known_norms(norms: str) -> str:
        """The name in use today of what was called "sample"."""
        if norms != "sample":
            return norms
        warnings.warn(
            "pc: norms = 'sample' is now read as norms = 'time': a step from a sample's own norms changes its law",
            FutureWarning,
            stacklevel=3,
        )
        return "time"

    def plan(self, nfe: int) -> list[int]:
        whole, left = divmod(nfe, self._calls())
        start = [1] * left if self.predictor else [left] * bool(left)
        return start + [self._calls()] * whole

    def plan_steps(self, steps: int) -> list[int]:
        return [self._calls()] * steps

    def _calls(self) -> int:
        return self.n_steps + bool(self.predictor)

    def begin(self, field: FieldLike, times: Tensor) -> Self:
        if self.predictor is None and len(times) > 1:
            error = self.lag(field, times)
            if abs(error) > MOST_LAG:
                warnings.warn(
                    f"pc: without a predictor the Langevin moves do not keep up with this path: {len(times) - 1} steps "
                    f"at snr = {self.snr:g} would leave normal data of scale 1/2 with {1 + error:.3g} times their "
                    "variance; take a predictor, or more calls and a larger snr",
                    UserWarning,
                    stacklevel=2,
                )
        return self

    def lag(self, field: FieldLike, times: Tensor) -> float:
        """Relative error of the variance of normal data of scale 1/2 after correctors alone at all times but the first.

        There a move is linear: with the variance S² at its time, x ← (1 − η/S²) x + sqrt(2η) ξ.
        """
        known = scheduled(field, self)
        a, b = known.schedule(times)
        want, alpha = (a / 2).square() + b.square(), (a / known.schedule(nearer(field, times))[0]).square()
        etas = torch.minimum(torch.as_tensor(ald_size(b, self.snr, alpha)), self.limit * b.square())
        found = float(b[0].square())
        for right, eta in zip(want[1:].tolist(), etas[1:].tolist(), strict=True):
            for _ in range(self.n_steps):
                found = (1 - eta / right) ** 2 * found + 2 * eta
        return found / float(want[-1]) - 1

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if self.predictor:
            for _ in range(calls - 1):
                x = self._moves(field, x, t, noise)[0].value()
            return self.predictor.step(field, x, t, s, noise, 1)
        for left in reversed(range(calls)):
            moved, mean = self._moves(field, x, s, noise)
            x = (mean if left == 0 and is_noiseless_end(field, s) else moved).value()
        return x

    def correct(self, field: FieldLike, x: Tensor, t: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """One Langevin step at t, with its noise and without."""
        moved, mean = self._moves(field, x, t, noise)
        return moved.value(), mean.value()

    def _moves(self, field: FieldLike, x: Tensor, t: Tensor, noise: Noise | None) -> tuple[Combination, Combination]:
        scheduled(field, self)
        start, draw = Combination.of(x), needed(noise, self).like(x)
        (score,) = read(field, start, t, "score")
        a, b = schedule_at(field, t)
        alpha = (a / recalled(field, ("nearer", float(t)), lambda: schedule_at(field, nearer(field, t))[0])) ** 2
        if self._by_batch:
            both = langevin_step(x, score.value(), draw, self.size(score.value(), draw, b, alpha))
            return Combination.of(both[0]), Combination.of(both[1])
        found: tuple[Combination, Combination]
        found = langevin_step(start, score, Combination.of(draw), self._time_size(b, alpha))
        return found

    @property
    def _by_batch(self) -> bool:
        return self.corrector == "langevin" and self.norms == "batch"

    def _time_size(self, b: float, alpha: float) -> float:
        return min(float(ald_size(b, self.snr, alpha)), self.limit * b * b)

    def size(self, score: Tensor, draw: Tensor, b: float, alpha: float) -> Tensor:
        """Of the step at each sample, shape (B,)."""
        if not self._by_batch:
            return score.new_full((len(score),), self._time_size(b, alpha))
        limit = self.limit * b * b
        return langevin_size(score, draw, self.snr, alpha).nan_to_num(limit).clamp(max=limit)
