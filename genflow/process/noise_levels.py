"""Noise levels: which σ = b/a an affine process trains and samples at, how errors there count, and what a network sees.

Every affine path with one base is the same path in σ (`docs/math.md`), so what is set here means the same on all.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genflow.checks import is_above, is_number, is_positive, require
from genflow.process.affine_path import AffinePath, Coefficients
from genflow.process.base import Process
from genflow.process.grids import time_at_ratio
from genflow.process.heads import Head
from genflow.process.weighting import DATA_WEIGHTS, TIMES, WEIGHTINGS, quantile
from genflow.random import strata

FRAMES = ("path", "sigma")


@dataclass(kw_only=True)
class NoiseLevels(AffinePath, Process):
    """An affine process's options that are functions of σ = b/a alone.

    Arguments:
        head: What the backbone predicts; see `genflow.process.heads`.
        sigma_data: Standard deviation σ_d of the data's entries, data units. None: 0.5.
        times: Density of the training times: "clock", "log_uniform", "log_normal" or "logit_normal"; see
            `genflow.process.weighting`. All but the first are densities of σ = b/a.
        P_mean: Mean of ln σ in training where it is normal. None: the density's own.
        P_std: Standard deviation of ln σ in training where it is normal. None: the density's own.
        weighting: Which errors of a training point count alike at all times: "unit", those of the head; "likelihood",
            those of the score as they bound the likelihood (Song et al. 2021, arXiv:2101.09258); "edm", "min_snr" and
            "velocity", see `genflow.process.weighting`.
        sigma_min: Smallest σ = b/a of training and sampling, data units. None: where the path ends.
        sigma_max: Largest σ = b/a of training and sampling, data units. None: where the path begins.
        relative: sigma_min, sigma_max and exp(P_mean) are multiples of σ_d.
        frame: What the backbone receives. "path": x_t and the process's clock. "sigma": x_t/a and ln(σ)/4, which are
            the same on every path with one base.
    """

    head: str = "noise"
    sigma_data: float | None = None
    times: str = "clock"
    P_mean: float | None = None
    P_std: float | None = None
    weighting: str = "unit"
    sigma_min: float | None = None
    sigma_max: float | None = None
    relative: bool = False
    frame: str = "path"

    def __post_init__(self) -> None:
        low, high, mean, std = self.sigma_min, self.sigma_max, self.P_mean, self.P_std
        require(
            type(self).__name__,
            {
                "times": (self.times, self.times in TIMES, " or ".join(TIMES)),
                "P_mean": (mean, mean is None or is_number(mean), "a number"),
                "P_std": (std, std is None or is_positive(std), "a number above 0"),
                "weighting": (self.weighting, self.weighting in WEIGHTINGS, " or ".join(WEIGHTINGS)),
                "sigma_min": (low, low is None or is_positive(low), "a number above 0"),
                "sigma_max": (
                    high,
                    high is None or (is_above(high, low or 0) and is_number(high)),
                    "a number above sigma_min",
                ),
                "relative": (self.relative, isinstance(self.relative, bool), "true or false"),
                "frame": (self.frame, self.frame in FRAMES, " or ".join(FRAMES)),
            },
        )
        self._check_sigma()

    @abstractmethod
    def make_head(self) -> Head:
        """The head object behind the name."""

    @cached_property
    def prediction(self) -> Head:
        """The head: what the network's output means."""
        return self.make_head()

    def _check_sigma(self) -> None:
        """Raises ValueError where options ask for σ, or for a weight, that the process does not have."""
        name = type(self).__name__
        asked = {
            "times": self.times != "clock",
            "weighting": self.weighting != "unit",
            "sigma_min": self.sigma_min is not None,
            "sigma_max": self.sigma_max is not None,
            "frame": self.frame == "sigma",
        }
        given = next((option for option, is_asked in asked.items() if is_asked), None)
        if given and self.why_not("affine"):
            raise ValueError(
                f"{name}: {given} = {getattr(self, given)!r} needs the noise level σ = b/a of each time: "
                f"{self.why_not('affine')}; leave {given} out"
            )
        if self.weighting != "unit":
            self._check_weighting()
        fitted = not self.relative or self.sigma_data is not None
        if fitted and (self.sigma_min is not None or self.sigma_max is not None):
            self._check_range()

    def _check_weighting(self) -> None:
        """Raises ValueError where errors of the head cannot be counted as the weighting asks."""
        reason = None if self.prediction.linear else f"errors of the head '{self.head}' have no constant size"
        if self.weighting == "likelihood":
            reason = self.why_not("score") or reason
        if type(self).weight is not NoiseLevels.weight:
            reason = "it has a weight of its own"
        if reason:
            raise ValueError(f"{type(self).__name__}: weighting = '{self.weighting}' is not possible: {reason}")

    def _check_range(self) -> None:
        """Raises ValueError where the path does not reach the ends of the range of σ."""
        low, high = self._sigmas((self.t_data, self.t_prior)).tolist()
        for option, end in zip(("sigma_min", "sigma_max"), self._sigmas(self.safe_interval).tolist(), strict=True):
            wanted, slack = self._absolute(option), 1e-6
            if wanted is None:
                continue
            inside = low * (1 - slack) <= wanted <= high * (1 + slack)
            if not inside or not math.isclose(end, wanted, rel_tol=slack):
                raise ValueError(
                    f"{type(self).__name__}: {option} = {getattr(self, option):g}{self._unit()} is not on its path, "
                    f"whose σ = b/a runs from {low:.4g} to {high:.4g} (data units)"
                )

    def _unit(self) -> str:
        return f" times sigma_data = {self.data_scale:g}" if self.relative else ""

    # ---- σ = b/a -----------------------------------------------------------------------------------------

    @property
    def data_scale(self) -> float:
        """σ_d: as given or found, else 0.5."""
        return 0.5 if self.sigma_data is None else self.sigma_data

    def _absolute(self, option: str) -> float | None:
        """sigma_min or sigma_max in data units."""
        value = getattr(self, option)
        return None if value is None else value * (self.data_scale if self.relative else 1.0)

    def _sigmas(self, times: tuple[float, float]) -> Tensor:
        """σ at two times, float64; infinite where a is 0."""
        t = torch.tensor(times, dtype=torch.float64)
        a, b = (torch.as_tensor(v, dtype=torch.float64).expand(2) for v in self.coefficients(t)[:2])
        return b / a

    def time_at(self, sigma: Tensor) -> Tensor:
        """The native time at which b/a is sigma (), or (n,): the inverse of `noise_ratio`, float64.

        By bisection in the clock; a leaf class whose path can be inverted does that instead.
        """
        return time_at_ratio(self, sigma, (self.t_data, self.t_prior))

    def _between(self, interval: tuple[float, float]) -> tuple[float, float]:
        """An interval with the ends that sigma_min and sigma_max ask for in the place of its own."""
        given = [self._absolute(option) for option in ("sigma_min", "sigma_max")]
        near, far = (
            end if sigma is None else float(self.time_at(torch.tensor(sigma, dtype=torch.float64)))
            for end, sigma in zip(interval, given, strict=True)
        )
        return near, far

    @property
    def path_interval(self) -> tuple[float, float]:
        """The interval of sampling where no range of σ is given; a leaf class gives it."""
        return self.t_data, self.t_prior

    @property
    def path_training_interval(self) -> tuple[float, float]:
        """The interval of training and likelihoods where no range of σ is given."""
        return self.path_interval

    @cached_property
    def safe_interval(self) -> tuple[float, float]:
        return self._between(self.path_interval)

    @cached_property
    def training_interval(self) -> tuple[float, float]:
        return self._between(self.path_training_interval)

    def condition(self, t: Tensor) -> Tensor:
        return self.noise_ratio(t).log() / 4 if self.frame == "sigma" else super().condition(t)

    def time(self, condition: Tensor) -> Tensor:
        return self.time_at((4 * condition).exp()) if self.frame == "sigma" else super().time(condition)

    def network_input(self, x: Tensor, t: Tensor) -> Tensor:
        if self.frame != "sigma":
            return x
        if t.ndim or t.requires_grad:
            return self.in_data_units(x, t)
        a, _ = self.schedule_at(t)
        return x if a == 1 else x * (1 / a)

    def state(self, network_input: Tensor, t: Tensor) -> Tensor:
        return network_input * self.at(t, network_input).a if self.frame == "sigma" else network_input

    # ---- training ----------------------------------------------------------------------------------------

    def sample_time(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Training times (count,), float64, over the training interval: uniform in the clock, or by a density of σ.

        One time from each of `count` equally likely parts: every batch covers the interval, which lowers the variance
        of its loss (Kingma et al. 2021, arXiv:2107.00630).
        """
        u = strata(count, generator=generator)
        if self.times != "clock":
            return self.time_at(quantile(self.times, u, self._training_sigmas(), self._centre(), self.P_std))
        ends = self.to_clock(torch.tensor(self.training_interval, dtype=torch.float64)).tolist()
        return self.from_clock(ends[0] + (ends[1] - ends[0]) * u)

    def _training_sigmas(self) -> tuple[float, float]:
        """Ends of the training interval as σ: those given, to the last digit, so that paths share their draws."""
        found = self._sigmas(self.training_interval).tolist()
        low, high = (
            self._absolute(option) or end for option, end in zip(("sigma_min", "sigma_max"), found, strict=True)
        )
        return low, high

    def _centre(self) -> float | None:
        """Mean of ln σ, σ in data units, where it is given."""
        return self.P_mean if self.P_mean is None or not self.relative else self.P_mean + math.log(self.data_scale)

    def weight(self, t: Tensor, x_t: Tensor | None = None) -> Tensor:
        """Weight of a training point's loss, shape (B,): λ(σ) (dX̂/d residual)², or 1 for the weighting "unit".

        Arguments:
            t: Native times, shape (B,).
            x_t: States, shape (B, *), for heads whose gain depends on them.
        """
        if self.weighting == "unit":
            return torch.ones_like(t)
        c = self.at(t, torch.ones(len(t), 1, dtype=torch.float64, device=t.device) if x_t is None else x_t)
        gain = self.prediction.noise_gain(c, x_t).reshape(-1)  # of N̂: σ times it is of X̂
        sigma = self.noise_ratio(t).to(gain)
        if self.weighting != "likelihood":
            return DATA_WEIGHTS[self.weighting](sigma, self.data_scale) * (sigma * gain).square()
        return 2 * self._sigma_rate(t).to(gain) * gain.square()

    def _sigma_rate(self, t: Tensor) -> Tensor:
        """|d ln σ| for a unit of what training times are even in: the clock, or ln σ."""
        if self.times != "clock":
            return torch.ones_like(t)
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(t.double())))
        return (c.db / c.b - c.da / c.a).abs() * self.own_clock.rate(t)
