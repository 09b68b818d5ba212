"""Discrete reverse steps of a Gaussian path, predictor–corrector sampling, and the step sizes of its Langevin part.

With r = a_t/a_s and V = b_t² − r² b_s², x_t = r x_s + sqrt(V) ξ is the forward transition from s to t, s nearer the
data. The functions of (r, V) are the published updates, whatever grid of noise levels r and V come from.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.process.grids import Spacing
from genflow.process.shapes import like_rows
from genflow.solver.base import FieldLike, FixedStep, Noise, scheduled
from genflow.solver.sde import EulerMaruyama, at_the_end, needed, transition


def reverse_diffusion_mean(x: Tensor, score: Tensor, r: float | Tensor, variance: float | Tensor) -> Tensor:
    """x − (r − 1) x + V s: the forward step's drift turned round. The noise that goes with it is sqrt(V) ξ.

    Source: Song et al. 2021, arXiv:2011.13456.
    """
    return (2 - r) * x + variance * score


def ancestral_mean(x: Tensor, score: Tensor, r: float | Tensor, variance: float | Tensor) -> Tensor:
    """(x + V s)/r, which is E[x_s | x_t] with the exact score.

    Source: Ho, Jain & Abbeel 2020, arXiv:2006.11239.
    """
    return (x + variance * score) / r


def langevin_size(score: Tensor, noise: Tensor, snr: float, alpha: float | Tensor, norms: str = "sample") -> Tensor:
    """2 α (snr |ξ|/|s|)², shape (B,), with norms of each sample or their means over the batch.

    Source: Song et al. 2021, arXiv:2011.13456.
    """
    noises, scores = noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)
    if norms == "batch":
        noises, scores = noises.mean().expand(len(noises)), scores.mean().expand(len(scores))
    return 2 * alpha * (snr * noises / scores).square()


def ald_size(b: float | Tensor, snr: float, alpha: float | Tensor) -> float | Tensor:
    """2 α (snr b)²: annealed Langevin dynamics, whose step follows the noise level.

    Source: Song & Ermon 2019, arXiv:1907.05600.
    """
    return 2 * alpha * (snr * b) ** 2


def langevin_step(x: Tensor, score: Tensor, noise: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """x + size · s + sqrt(2 size) ξ, and the same without noise; size has shape (B,)."""
    rows = like_rows(size, x)
    mean = x + rows * score
    return mean + (2 * rows).sqrt() * noise, mean


class Discrete(FixedStep):
    """One reverse step of the discrete forward chain a call; the step to the data's end adds no noise."""

    mode = "sde"
    order = 1
    needs = ("score", "affine")

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        known, source = scheduled(field, self), needed(noise, self)
        a, b = known.schedule(torch.stack([t, s]))
        r, variance = transition(a, b)
        mean = self.mean(x, known.score(x, t), r, variance)
        return mean if at_the_end(field, s) else mean + self.scale(variance, *b.tolist()) * source.like(x)

    @abstractmethod
    def mean(self, x: Tensor, score: Tensor, r: float, variance: float) -> Tensor:
        """x at s without noise."""

    def scale(self, variance: float, b_t: float, b_s: float) -> float:
        """Scale of the noise."""
        return math.sqrt(variance)


class ReverseDiffusion(Discrete):
    """(2 − r) x + V s, noise of variance V."""

    def mean(self, x: Tensor, score: Tensor, r: float, variance: float) -> Tensor:
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

    def mean(self, x: Tensor, score: Tensor, r: float, variance: float) -> Tensor:
        return ancestral_mean(x, score, r, variance)

    def scale(self, variance: float, b_t: float, b_s: float) -> float:
        return math.sqrt(variance) * (b_s / b_t if self.variance == "posterior" else 1.0)


PREDICTORS: dict[str, type[FixedStep] | None] = {
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "euler_maruyama": EulerMaruyama,
    "none": None,
}
CORRECTORS = ("langevin", "ald")
NORMS = ("sample", "batch")


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

    Langevin's step is 2 α (snr |ξ|/|s|)² with α = (a_t/a_t')², t' nearer the data by 1/1000 of the time: for VP the
    published 1 − β_k of 1000 noise levels, for VE 1, and defined for every other path. It is at most b², beyond which
    a step would overshoot; that matters where the score is nearly zero, as it can be in few dimensions.

    Arguments:
        predictor: A name of `PREDICTORS`.
        corrector: "langevin", or "ald" whose step is 2 α (snr b)².
        snr: Signal-to-noise ratio of a Langevin step.
        n_steps: Langevin steps at each time.
        norms: "sample": norms of each sample, so that no sample depends on its batch. "batch": their means over the
            batch, as published.
        variance: Of the predictor "ancestral"; see `Ancestral`. "posterior" is the published choice for VE, whose
            "upper" is reverse diffusion. Other predictors have one variance only.
        grid: Spacing of the times; see `genflow.process.grids`.

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
        norms: str = "sample",
        variance: str = "upper",
        grid: Spacing = "process",
    ) -> None:
        super().__init__(grid)
        choices = VARIANCES if predictor == "ancestral" else VARIANCES[:1]
        of_what = "" if predictor == "ancestral" else "; only the predictor ancestral has another"
        require(
            "pc",
            {
                "predictor": (predictor, predictor in PREDICTORS, f"one of {', '.join(PREDICTORS)}"),
                "corrector": (corrector, corrector in CORRECTORS, " or ".join(CORRECTORS)),
                "snr": (snr, is_positive(snr), "a number above 0"),
                "n_steps": (n_steps, is_count(n_steps), "a whole number above 0"),
                "norms": (norms, norms in NORMS, " or ".join(NORMS)),
                "variance": (variance, variance in choices, " or ".join(choices) + of_what),
            },
        )
        make = PREDICTORS[predictor]
        self.predictor = Ancestral(variance) if make is Ancestral else make() if make else None
        self.corrector, self.snr, self.n_steps, self.norms = corrector, snr, int(n_steps), norms

    def plan(self, nfe: int) -> list[int]:
        whole, left = divmod(nfe, self._calls())
        start = [1] * left if self.predictor else [left] * bool(left)
        return start + [self._calls()] * whole

    def plan_steps(self, steps: int) -> list[int]:
        return [self._calls()] * steps

    def _calls(self) -> int:
        return self.n_steps + bool(self.predictor)

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if self.predictor:
            for _ in range(calls - 1):
                x = self.correct(field, x, t, noise)[0]
            return self.predictor.step(field, x, t, s, noise, 1)
        mean = x
        for _ in range(calls):
            x, mean = self.correct(field, x, s, noise)
        return mean if at_the_end(field, s) else x

    def correct(self, field: FieldLike, x: Tensor, t: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """One Langevin step at t, with its noise and without."""
        known = scheduled(field, self)
        score, draw = known.score(x, t), needed(noise, self).like(x)
        a, b = known.schedule(torch.stack([t, nearer(field, t)]))
        alpha, limit = float((a[0] / a[1]) ** 2), float(b[0]) ** 2
        if self.corrector == "ald":
            size = torch.full((len(x),), float(ald_size(float(b[0]), self.snr, alpha)), dtype=x.dtype, device=x.device)
        else:
            size = langevin_size(score, draw, self.snr, alpha, self.norms)
        return langevin_step(x, score, draw, size.nan_to_num(limit).clamp(max=limit))
