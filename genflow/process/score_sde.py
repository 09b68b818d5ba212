"""Score SDEs: variance preserving, sub-variance-preserving, variance exploding."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.checks import is_above, is_count, is_number, is_positive, require
from genflow.process.affine import AffineProcess
from genflow.process.affine_path import Coefficients
from genflow.process.shapes import in_float64

WEIGHTINGS = ("unit", "likelihood")


@dataclass(kw_only=True)
class ScoreSDE(AffineProcess):
    """An affine path that is the law of a forward SDE dx = f x dt + g dw; a leaf gives coefficients and levels.

    Arguments:
        weighting: "unit": errors of N̂ count alike at all times. "likelihood": errors of the score, times g(t)²,
            which bounds the likelihood (Song et al. 2021, arXiv:2101.09258).
        levels: Train at that many discrete noise levels, as DDPM (VP) and SMLD (VE) do, with "noise" or "score" as
            head. None: at all times.
    """

    weighting: str = "unit"
    levels: int | None = None

    def __post_init__(self) -> None:
        rule, levels = self.weighting, self.levels
        require(
            type(self).__name__,
            {
                "weighting": (rule, rule in WEIGHTINGS, " or ".join(WEIGHTINGS)),
                "levels": (
                    levels,
                    levels is None or (is_count(levels, 2) and levels <= 1_000_000),
                    "a whole number from 2 to 1,000,000",
                ),
            },
        )
        super().__post_init__()

    def weight(self, t: Tensor) -> Tensor:
        """1, or g² (|dN̂/d residual|/b)² with g² = 2 ε(t)."""
        if self.weighting == "unit":
            return super().weight(t)
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(in_float64(t))))
        return 2 * self.natural_diffusion(t) * (self.prediction.noise_gain(c) / c.b).square()

    def published_end(self, mode: str) -> str:
        """The authors' samplers end on a step of reverse diffusion without noise, taken at the last time.

        For VE that is E[X | x_t] exactly; for VP it takes away 0.91 of the noise at its t_min.
        """
        return "mean"

    @abstractmethod
    def level_times(self) -> Tensor:
        """Times of the discrete levels, (levels,), float64."""

    def sample_time(self, count: int, *, generator: torch.Generator) -> Tensor:
        if self.levels is None:
            return super().sample_time(count, generator=generator)
        times = self.level_times()
        return times[torch.randint(len(times), (count,), generator=generator, device=generator.device).cpu()]


@dataclass(kw_only=True)
class VP(ScoreSDE):
    """Variance preserving: a = exp(−B/2), b = sqrt(1 − e^(−B)), B(t) = β0 t + (β1 − β0) t²/2, t from 0 to 1.

    dx = −β x/2 dt + sqrt(β) dw with β(t) = β0 + (β1 − β0) t. With `levels` = L it is DDPM's chain: after k steps, at
    t = k/L, e^(−B) = Π (1 − β_i) over its β_i, even from β0/L to β1/L, and B is linear between.

    Arguments:
        beta_min: β0.
        beta_max: β1.
        t_min: End of sampling near the data; b' is infinite at 0.
        t_eps: End of training and of likelihoods near the data.

    Source: Song et al. 2021, arXiv:2011.13456; the chain: Ho et al. 2020, arXiv:2006.11239.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_eps: float = 1e-5

    t_data = 0.0
    t_prior = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high, near, end = self.beta_min, self.beta_max, self.t_min, self.t_eps
        require(
            type(self).__name__,
            {
                "beta_min": (low, is_number(low) and low >= 0, "a number of at least 0"),
                "beta_max": (high, is_above(high, low), "a number above beta_min"),
                "t_min": (near, is_positive(near) and near < 1, "a number between 0 and 1"),
                "t_eps": (end, is_positive(end) and not is_above(end, near), "above 0, at most t_min"),
                "levels": (
                    self.levels,
                    self.levels is None or is_above(self.levels, high),
                    "a whole number above beta_max: DDPM's β_i = β1/levels must lie below 1",
                ),
            },
        )
        if self.levels is not None:
            betas = torch.linspace(self.beta_min, self.beta_max, int(self.levels), dtype=torch.float64) / self.levels
            self._chain = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.log1p(-betas).cumsum(0)])

    @property
    def safe_interval(self) -> tuple[float, float]:
        return self.t_min, self.t_prior

    @property
    def training_interval(self) -> tuple[float, float]:
        return self.t_eps, self.t_prior

    def integral(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """B(t) and its derivative β(t)."""
        if self.levels is None:
            rate = self.beta_max - self.beta_min
            return self.beta_min * t + rate * t * t / 2, self.beta_min + rate * t
        steps = int(self.levels)
        below = (t.detach() * steps).long().clamp(0, steps - 1).cpu()
        start, slope = self._chain[below].to(t.device), (self._chain.diff()[below] * steps).to(t.device)
        return start + slope * (t - below.to(t) / steps), slope

    def level_times(self) -> Tensor:
        steps = int(self.levels or 0)
        return torch.arange(1, steps + 1, dtype=torch.float64) / steps

    def coefficients(self, t: Tensor) -> Coefficients:
        integral, beta = self.integral(t)
        a, b = (-integral / 2).exp(), (-torch.expm1(-integral)).sqrt()
        return Coefficients(a, b, -beta / 2 * a, beta / 2 * a * a / b)

    @property
    def prior_scale(self) -> float:
        """The published prior is the standard normal; b(1) = 0.99998."""
        return 1.0


@dataclass(kw_only=True)
class SubVP(VP):
    """Sub-variance-preserving: a as in VP, b = 1 − e^(−B), whose variance lies below that of VP.

    dx = −β x/2 dt + sqrt(β (1 − e^(−2B))) dw. b is the square of VP's b, not its root: near the data it is
    proportional to t, so b' is finite there, and N̂ is the noise at that smaller scale. The options are VP's.

    Source: Song et al. 2021, arXiv:2011.13456.
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        integral, beta = self.integral(t)
        a, b = (-integral / 2).exp(), -torch.expm1(-integral)
        return Coefficients(a, b, -beta / 2 * a, beta * a * a)


@dataclass(kw_only=True)
class VE(ScoreSDE):
    """Variance exploding: a = 1, b = σ(t) = σ_min (σ_max/σ_min)^t, t from 0 to 1.

    dx = σ sqrt(2 ln(σ_max/σ_min)) dw. The path starts at noise σ_min, where everything is finite, so sampling and
    training reach t = 0 itself; the prior is a normal of scale σ_max about the origin. With `levels` = L training is
    SMLD's, at t = k/(L − 1).

    Arguments:
        sigma_min: Noise left on the samples, data units.
        sigma_max: Scale of the prior, data units; the largest distance between two data points is a good value.

    Source: Song et al. 2021, arXiv:2011.13456; choice of σ_max: Song & Ermon 2020, arXiv:2006.09011.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    t_data = 0.0
    t_prior = 1.0

    def __post_init__(self) -> None:
        low, high = self.sigma_min, self.sigma_max
        require(
            "VE",
            {
                "sigma_min": (low, is_positive(low), "a number above 0"),
                "sigma_max": (high, is_above(high, low), "a number above sigma_min"),
            },
        )
        super().__post_init__()

    def coefficients(self, t: Tensor) -> Coefficients:
        rate = math.log(self.sigma_max / self.sigma_min)
        sigma = self.sigma_min * (rate * t).exp()
        return Coefficients(torch.ones_like(t), sigma, torch.zeros_like(t), rate * sigma)

    def level_times(self) -> Tensor:
        return torch.linspace(0, 1, int(self.levels or 0), dtype=torch.float64)
