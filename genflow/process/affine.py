"""x_t = a(t) X + b(t) N: everything a process needs, from its coefficients, base and head."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genflow.process.base import Coefficients, Mode, Perturbed, Process, dimension, over, require
from genflow.process.bases import Base, Gaussian
from genflow.process.heads import HEADS, Head
from genflow.process.posterior import posterior_mean


@dataclass(kw_only=True)
class AffineProcess(Process):
    """A process that is fixed by its coefficients; a leaf class gives `coefficients` and its two times.

    Arguments:
        head: What the backbone predicts: "noise", "data" or "velocity".
        mode: How it is sampled: "ode", or "sde" where the base is Gaussian.
    """

    head: str = "noise"
    mode: Mode = "ode"

    base: ClassVar[Base] = Gaussian()

    def __post_init__(self) -> None:
        require(
            type(self).__name__,
            {
                "head": (self.head, self.head in self.heads(), f"one of {', '.join(self.heads())}"),
                "mode": (self.mode, self.mode in ("ode", "sde"), "'ode' or 'sde'"),
            },
        )
        if self.mode == "sde" and self.why_not("sde"):
            raise ValueError(f"{type(self).__name__}: mode = 'sde' is not possible: {self.why_not('sde')}")
        self.predicts = self.make_head()
        self.extra_channels = self.predicts.extra_channels

    @abstractmethod
    def coefficients(self, t: Tensor) -> Any:
        """a, b and their derivatives at native time t () or (B,), as tensors of t's shape or as numbers."""

    def heads(self) -> tuple[str, ...]:
        """Names of the heads this process takes."""
        return tuple(HEADS)

    def make_head(self) -> Head:
        """The head object behind the name."""
        return HEADS[self.head]()

    # ---- training ----------------------------------------------------------------------------------------

    def sample_time(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Training times (count,), float64, uniform in the clock over the training interval.

        One time from each of `count` equal parts: every batch covers the interval, which lowers the variance of its
        loss (Kingma et al. 2021, arXiv:2107.00630).
        """
        ends = self.to_clock(torch.tensor(self.training_interval, dtype=torch.float64)).tolist()
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        u = (torch.arange(count, device=generator.device) + u) / count
        return self.from_clock(ends[0] + (ends[1] - ends[0]) * u)

    def perturb(
        self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None, partner: Tensor | None = None
    ) -> Perturbed:
        t = self.sample_time(len(x), generator=generator)
        x_t = self.interpolate(x, self.base_like(x, generator), t)
        return Perturbed(x_t, t, self.target(x, x_t, t, refs), torch.ones(len(x), device=x.device))

    def base_like(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of N of x's shape, dtype and device."""
        shape = tuple(x.shape)
        return self.base.sample(shape, generator=generator, dtype=x.dtype).to(x.device)

    def interpolate(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = a X + b N, shape (B, *)."""
        c = self.at(t, x)
        return c.a * x + c.b * noise

    def target(self, x: Tensor, x_t: Tensor, t: Tensor, refs: Tensor | None) -> Tensor:
        """What the backbone should answer at x_t: from X itself, or from E[X | x_t] where the head is not linear."""
        if not self.predicts.linear:
            x = posterior_mean(x_t, t, [x] if refs is None else [x, refs], self)
        return self.predicts.encode(x, x_t, self.at(t, x))

    def loss_terms(self, output: Tensor, pairs: Perturbed) -> Tensor:
        entries = self.predicts.entries
        return (entries(output) - entries(pairs.target)).square().mean(1)

    # ---- sampling ----------------------------------------------------------------------------------------

    def at(self, t: Tensor, x: Tensor) -> Coefficients:
        """The coefficients at t, in x's dtype and shaped to multiply x (B, *)."""
        return Coefficients(*(over(value, x) for value in self.coefficients(t.double())))

    def noise_level(self, t: Tensor) -> Tensor:
        return torch.as_tensor(self.coefficients(t)[1], dtype=torch.float64)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.predicts.velocity(output, x, self.at(t, x))

    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.predicts.decode(output, x, self.at(t, x))[0]

    def frozen_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """a(s) X̂ + b(s) N̂."""
        self.check_time(t)
        self.check_time(s)
        data, base = self.predicts.decode(output, x, self.at(t, x))
        end = self.at(s, x)
        return end.a * data + end.b * base

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """−N̂/b, which holds for a Gaussian base."""
        if self.why_not("score"):
            raise ValueError(self.why_not("score"))
        self.check_time(t)
        c = self.at(t, x)
        return -self.predicts.decode(output, x, c)[1] / c.b

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε = ±(b b' − (a'/a) b²), positive: half of the squared diffusion of the forward SDE."""
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(t.double())))
        toward_prior = 1.0 if self.t_prior > self.t_data else -1.0
        return toward_prior * (c.b * c.db - c.da / c.a * c.b * c.b)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (torch.as_tensor(v, dtype=torch.float64).expand(t.shape) for v in self.coefficients(t.double())[:2])
        return a, b

    def noise_ratio(self, t: Tensor) -> Tensor:
        a, b = self.schedule(t)
        return b / a

    def why_not(self, capability: str) -> str | None:
        if capability in ("data", "oracle", "norm", "affine", "likelihood"):
            return None
        if capability in ("score", "sde"):
            return None if isinstance(self.base, Gaussian) else self._no_score()
        return super().why_not(capability)

    def _no_score(self) -> str:
        return (
            f"{type(self).__name__} has a {type(self.base).__name__} base: its velocity does not determine the "
            "score, so it has no reverse SDE; sample its ODE"
        )

    # ---- prior -------------------------------------------------------------------------------------------

    @property
    def prior_scale(self) -> float:
        """Scale of the base at t_prior."""
        return float(self.coefficients(torch.tensor(self.safe_interval[1], dtype=torch.float64))[1])

    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return self.prior_scale * self.base.sample(shape, generator=generator, dtype=dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        return self.base.log_prob(x / self.prior_scale) - dimension(x) * math.log(self.prior_scale)

    # ---- known answers -----------------------------------------------------------------------------------

    def oracle(self, points: Tensor) -> Oracle:
        """A backbone that answers exactly for data uniform over `points` (M, *)."""
        return Oracle(self, points)

    def time_of_noise(self, ratio: float, *, dim: int) -> float:
        """The native time at which the median of |b N| is `ratio` times |a| √N: noise against signal.

        Found by bisection in the clock over the safe interval; its nearer end where the ratio is outside.
        """
        low, high = self.to_clock(torch.tensor(self.safe_interval, dtype=torch.float64)).tolist()
        goal = ratio * math.sqrt(dim) / self.base.median_radius(dim)
        for _ in range(80):
            middle = (low + high) / 2
            c = self.coefficients(self.from_clock(torch.tensor(middle, dtype=torch.float64)))
            low, high = (middle, high) if float(c[1]) < goal * abs(float(c[0])) else (low, middle)
        return float(self.from_clock(torch.tensor((low + high) / 2, dtype=torch.float64)))


class Oracle:
    """The exact backbone of a finite data set: it answers what a perfect network would.

    Called like any backbone with (x, condition); the native time is read back from the condition.
    """

    def __init__(self, process: AffineProcess, points: Tensor) -> None:
        if points.ndim < 2 or not len(points):
            raise ValueError(f"an oracle needs points of shape (M, *) with M >= 1, got shape {tuple(points.shape)}")
        self.process, self.points = process, points

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        process, t = self.process, self.process.time(condition.double())
        mean = posterior_mean(x, t, self.points.to(x), process)
        return process.predicts.encode(mean, x, process.at(t, x))
