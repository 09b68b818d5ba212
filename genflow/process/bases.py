"""Base distributions: what N is in x_t = a X + b N, with its density and its posterior weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.random import ON_HOST, Stream, chi_square, made_on, normal


class Base(ABC):
    """A spherically symmetric distribution at unit scale on R^N."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draws of shape (B, *), each sample one draw of the N = prod(*) dimensional distribution."""

    @abstractmethod
    def log_prob(self, u: Tensor) -> Tensor:
        """Log density at u (B, *): shape (B,), nats."""

    @abstractmethod
    def log_weights(self, cross: Tensor, norm2: Tensor, b: Tensor, dim: int) -> Tensor:
        """Log posterior weights of data points y_j given x_t, up to a constant per row.

        Arguments:
            cross: a²|y_j|² − 2a x·y_j = |x − a y_j|² − |x|², shape (B, M). The part of the distance that
                differs between points is kept apart, so that far from the data nothing is lost to rounding.
            norm2: |x|², shape (B, 1).
            b: Scale of the base, shape (B, 1).
            dim: N.
        """

    @abstractmethod
    def median_radius(self, dim: int) -> float:
        """Median of |N| in `dim` dimensions."""


@dataclass(frozen=True)
class Gaussian(Base):
    """The standard normal: log p(u) = −|u|²/2 − N/2 log 2π."""

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return normal(shape, generator=generator, dtype=dtype)

    def log_prob(self, u: Tensor) -> Tensor:
        u = u.flatten(1)
        return -u.square().sum(1) / 2 - u.shape[1] / 2 * math.log(2 * math.pi)

    def log_weights(self, cross: Tensor, norm2: Tensor, b: Tensor, dim: int) -> Tensor:
        return -cross / (2 * b * b)

    def median_radius(self, dim: int) -> float:
        from scipy.stats import chi2

        return math.sqrt(chi2.ppf(0.5, dim))


@dataclass(frozen=True)
class StudentT(Base):
    """The standard multivariate Student-t with `df` degrees of freedom ν; ν = 1 is the multivariate Cauchy.

    p(u) = Γ((ν+N)/2) / (Γ(ν/2) (νπ)^(N/2)) · (1 + |u|²/ν)^(−(ν+N)/2); a draw is g / sqrt(χ²_ν / ν).
    With ν = 1 and scale z it is the field of a unit charge seen at height z: the prior of Poisson flow.
    """

    df: float = 1.0

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        place = made_on(generator)
        few = isinstance(generator, Stream) and math.prod(shape) < ON_HOST  # made on the host, and moved as a whole
        draw = normal(shape, generator=generator, dtype=dtype, device="cpu" if few else None)
        scale = (chi_square(shape[0], self.df, generator=generator) / self.df).sqrt()
        scale = scale.to(draw.device, dtype, non_blocking=True).reshape(-1, *(1,) * (len(shape) - 1))
        return (draw / scale).to(place, non_blocking=True)

    def log_prob(self, u: Tensor) -> Tensor:
        u, nu = u.flatten(1), self.df
        dim = u.shape[1]
        constant = math.lgamma((nu + dim) / 2) - math.lgamma(nu / 2) - dim / 2 * math.log(nu * math.pi)
        return constant - (nu + dim) / 2 * torch.log1p(u.square().sum(1) / nu)

    def log_weights(self, cross: Tensor, norm2: Tensor, b: Tensor, dim: int) -> Tensor:
        tail = self.df * b * b
        scale = norm2 + tail
        ratio = cross / scale
        near = (torch.maximum(cross + scale, tail) / scale).log()
        logs = torch.where(ratio < -0.5, near, torch.log1p(ratio.clamp_min(-0.5)))
        return -(self.df + dim) / 2 * logs

    def median_radius(self, dim: int) -> float:
        from scipy.stats import f

        return math.sqrt(dim * f.ppf(0.5, dim, self.df))
