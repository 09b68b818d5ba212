"""Oracles: backbones that answer what a perfect network would, for data whose exact field is known.

They are called like any backbone with (x, condition); the native time is read back from the condition. Beside the
answer each gives the density of x_t, so velocity, score and likelihood all have a second route.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from genflow.process.affine_path import Coefficients
from genflow.process.bases import Base, Gaussian, StudentT
from genflow.process.distributions import (
    Components,
    Distribution,
    GaussianMixture,
    Uniform,
    log_normal,
    log_normal_interval,
    point_components,
    standard_components,
)
from genflow.process.free_heads import FreeVelocity
from genflow.process.heads import Head
from genflow.process.posterior import posterior_mean
from genflow.process.shapes import dimension, in_float64


@dataclass(frozen=True)
class Cauchy:
    """Data from a multivariate Cauchy distribution of that scale, about the origin."""

    scale: float = 1.0


DataLaw = GaussianMixture | Cauchy
"""Data distributions beside finite sets that have an exact field."""


class Predicting(Protocol):
    """What an oracle needs of a process: its path, and the head whose output it gives. See `AffineProcess`."""

    @property
    def prediction(self) -> Head: ...
    @property
    def base(self) -> Base: ...
    @property
    def drawn(self) -> Distribution | None: ...
    @property
    def is_affine(self) -> bool: ...
    @property
    def safe_interval(self) -> tuple[float, float]: ...
    def coefficients(self, t: Tensor) -> Any: ...
    def at(self, t: Tensor, x: Tensor) -> Coefficients: ...
    def time(self, condition: Tensor) -> Tensor: ...
    def state(self, network_input: Tensor, t: Tensor) -> Tensor: ...
    def why_not(self, capability: str) -> str | None: ...


class Oracle(ABC):
    """The exact backbone of a process for known data; `density` and `means` come from the leaf."""

    def __init__(self, process: Predicting) -> None:
        self.process = process

    @abstractmethod
    def means(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[X | x_t], E[N | x_t] and E[Z | x_t] at x (B, *) and native time t () or (B,): each (B, *)."""

    @abstractmethod
    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), shape (B,), nats."""

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t at x, shape (B, *), by autograd of `log_prob`: also where no velocity determines it."""
        with torch.enable_grad():
            inner = x.detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(self.log_prob(inner, t).sum(), inner)
        return found

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        t = self.process.time(in_float64(condition))
        x = self.process.state(x, t)
        data, base, latent = self.means(x, t)
        head, c = self.process.prediction, self.process.at(t, x)
        if isinstance(head, FreeVelocity):
            return head.encode_means(data, base, latent, c)
        return head.encode(data, x, c)

    def _base_mean(self, data: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three means where x_t = a X + b N."""
        c = self.process.at(t, x)
        return data, (x - c.a * data) / c.b, torch.zeros_like(x)


class PointOracle(Oracle):
    """Data uniform over points (M, *), under a spherical base."""

    def __init__(self, process: Predicting, points: Tensor) -> None:
        super().__init__(process)
        self.points = points

    def means(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _check_states(x, tuple(self.points.shape[1:]))
        return self._base_mean(posterior_mean(x, t, self.points.to(x), self.process), x, t)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log Σ_j k((x − a y_j)/b) − N log b − log M, k the base's density."""
        _check_states(x, tuple(self.points.shape[1:]))
        c = self.process.at(t, x)
        parts = [self.process.base.log_prob((x - c.a * y) / c.b) for y in self.points.to(x)]
        return torch.stack(parts).logsumexp(0) - dimension(x) * c.b.reshape(-1).log() - math.log(len(parts))


class MixtureOracle(Oracle):
    """Data and base both Gaussian mixtures (points are components of no extent), with or without a latent.

    Given components k of the data and l of the base x_t is normal with mean a m_k + b μ_l and covariance
    S = a² C_k + b² Σ_l + g² 1, and X given x_t has mean m_k + a C_k S⁻¹ (x − a m_k − b μ_l). Every row has its own
    N x N systems, so this is for small N and few components.
    """

    def __init__(self, process: Predicting, data: Components, base: Components, shape: tuple[int, ...] | None) -> None:
        super().__init__(process)
        self.data, self.base = data, base
        if shape is not None:
            self.shape = shape

    def _pairs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every pair of components: log weight + log density (B, P), x less its mean (B, P, N), S⁻¹ times that,
        and (a, b, g) as (B, 3)."""
        _check_states(x, getattr(self, "shape", None) or (self.data.means.shape[1],), whole=hasattr(self, "shape"))
        c = self.process.at(t, x)
        a, b, g = (torch.as_tensor(v).cpu().double().reshape(-1, 1, 1) for v in (c.a, c.b, c.g))
        flat = x.flatten(1).cpu().double()
        first, second = len(self.data.means), len(self.base.means)
        means = (a * self.data.means)[:, :, None] + (b * self.base.means)[:, None]
        gap = flat[:, None] - means.reshape(len(a), first * second, -1)
        eye = torch.eye(flat.shape[1], dtype=torch.float64)
        spread = (a[..., None] ** 2 * self.data.covariances)[:, :, None] + (b[..., None] ** 2 * self.base.covariances)[
            :, None
        ]
        spread = spread.reshape(len(a), first * second, *eye.shape) + g[..., None] ** 2 * eye
        weights = (self.data.log_weights[:, None] + self.base.log_weights).reshape(-1)
        logs = log_normal(gap, spread) + weights
        white = torch.cholesky_solve(gap[..., None], torch.linalg.cholesky(spread))[..., 0]
        return logs, gap, white, torch.cat([v.expand_as(a) for v in (a, b, g)], dim=1)[..., 0]

    def means(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logs, _, white, scales = self._pairs(x, t)
        weights = logs.softmax(1)
        first, second = len(self.data.means), len(self.base.means)
        grid = weights.reshape(-1, first, second)
        pull = (weights[..., None] * white).reshape(len(x), first, second, -1)
        a, b, g = (scales[:, i, None] for i in range(3))
        data = grid.sum(2) @ self.data.means + a * torch.einsum("kij,bkj->bi", self.data.covariances, pull.sum(2))
        base = grid.sum(1) @ self.base.means + b * torch.einsum("lij,blj->bi", self.base.covariances, pull.sum(1))
        found = (data, base, g * pull.sum((1, 2)))
        one, two, three = (v.reshape(x.shape).to(x) for v in found)
        return one, two, three

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        return self._pairs(x, t)[0].logsumexp(1).to(x)


class BoxOracle(Oracle):
    """Points (M, *) as data and a uniform base: given a point, each entry of N is a normal cut off at the box."""

    def __init__(self, process: Predicting, points: Tensor, box: Uniform) -> None:
        super().__init__(process)
        self.points, self.box = points, box

    def _parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of every point: log density (B, M), and E[N | x_t, point] (B, M, N)."""
        _check_states(x, tuple(self.points.shape[1:]))
        c, low, high = self.process.at(t, x), self.box.low, self.box.high
        a, b, g = (in_float64(torch.as_tensor(v, device=x.device)).reshape(-1, 1, 1) for v in (c.a, c.b, c.g))
        gap = in_float64(x.flatten(1))[:, None] - a * in_float64(self.points.flatten(1).to(x.device))
        if bool((g == 0).all()):
            outside = (b * low - gap).clamp_min(0) + (gap - b * high).clamp_min(0)
            return (-(b * (high - low)).log() - 1e12 * outside.square()).sum(2), (gap / b).clamp(low, high)
        logs, base = _cut_normal(gap, b, g, low, high)
        return logs.sum(2), base

    def means(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logs, inner = self._parts(x, t)
        weights = logs.softmax(1)
        data = (weights @ self.points.flatten(1).to(weights)).reshape(x.shape).to(x)
        base = (weights[..., None] * inner).sum(1).reshape(x.shape).to(x)
        c = self.process.at(t, x)
        rest, g = x - c.a * data - c.b * base, torch.as_tensor(c.g).to(x)
        return data, base, torch.where(g > 0, rest / torch.where(g > 0, g, 1.0), 0.0)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        return (self._parts(x, t)[0].logsumexp(1) - math.log(len(self.points))).to(x)


class CauchyOracle(Oracle):
    """Cauchy data of scale s under Poisson flow: x_z is Cauchy of scale s + z, the velocity is x/(s + z)."""

    def __init__(self, process: Predicting, data: Cauchy) -> None:
        super().__init__(process)
        self.data = data

    def means(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = self.data.scale
        return self._base_mean(x * scale / (scale + self.process.at(t, x).b), x, t)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        scale = self.data.scale + self.process.at(t, x).b
        return self.process.base.log_prob(x / scale) - dimension(x) * scale.reshape(-1).log()


def make_oracle(process: Predicting, data: Tensor | DataLaw) -> Oracle:
    """The oracle of known data under a process; see `AffineProcess.oracle`."""
    if reason := process.why_not("oracle"):
        raise ValueError(reason)
    source = process.drawn
    if isinstance(data, Tensor):
        if data.ndim < 2 or not len(data):
            raise ValueError(f"an oracle needs points of shape (M, *) with M >= 1, got shape {tuple(data.shape)}")
        if process.is_affine:
            return PointOracle(process, data)
        if isinstance(source, Uniform):
            return BoxOracle(process, data, source)
    if isinstance(data, Cauchy):
        if process.base == StudentT(df=1.0) and process.is_affine:
            return CauchyOracle(process, data)
        raise ValueError(f"Cauchy data have a known field under a Cauchy base only, not under {type(process).__name__}")
    if not isinstance(process.base, Gaussian):
        raise ValueError(f"the exact field of {type(data).__name__} data is not known under {type(process).__name__}")
    points = data if isinstance(data, Tensor) else None
    mixture = data.mixture if isinstance(data, GaussianMixture) else point_components(data.flatten(1).cpu().double())
    dim = mixture.means.shape[1]
    base = standard_components(dim) if source is None else source.components(dim)
    _check_extent(process, mixture, base)
    return MixtureOracle(process, mixture, base, None if points is None else tuple(points.shape[1:]))


def _check_states(x: Tensor, shape: tuple[int, ...], *, whole: bool = True) -> None:
    """Raises ValueError where x is not (B, *shape), or has not as many entries where `whole` is False."""
    if tuple(x.shape[1:]) != shape if whole else dimension(x) != math.prod(shape):
        raise ValueError(f"the oracle's data have samples of shape {shape}, but it was asked at {tuple(x.shape[1:])}")


def _check_extent(process: Predicting, data: Components, base: Components) -> None:
    """Raises ValueError where x_t would have no density: points as data, points as base and no latent."""
    c = process.coefficients(torch.tensor(sum(process.safe_interval) / 2, dtype=torch.float64))
    thin = [bool((torch.linalg.eigvalsh(part.covariances)[:, 0] <= 0).any()) for part in (data, base)]
    if all(thin) and float(c.g) == 0:
        raise ValueError(
            f"{type(process).__name__}: between points and points without a latent x_t has no density, so its field "
            "is not known; give a gamma"
        )


def _cut_normal(gap: Tensor, b: Tensor, g: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Log density of b U + g Z at gap and E[U | gap], U uniform on [low, high], Z standard normal.

    A box that is narrow for the normal, as b → 0, is expanded in its width: the differences of Φ and φ would cancel.
    """
    width, middle = high - low, (low + high) / 2
    share, place = b * width / g, (gap - b * middle) / g
    narrow = share * (1 + place.abs()) < 2e-3
    b = torch.where(narrow, g / width, b)
    near, far = (b * low - gap) / g, (b * high - gap) / g
    mass = log_normal_interval(near, far)
    shift = (_log_phi(near) - mass).exp() - (_log_phi(far) - mass).exp()
    few = _log_phi(place) + torch.log1p((place.square() - 1) * share.square() / 24) - g.log()
    logs = torch.where(narrow, few, mass - (b * width).log())
    base = torch.where(narrow, middle + place * share * width / 12, (gap + g * shift) / b)
    return logs, base.clamp(low, high)


def _log_phi(u: Tensor) -> Tensor:
    """Log density of the standard normal."""
    return -u.square() / 2 - math.log(2 * math.pi) / 2


__all__ = ["Cauchy", "DataLaw", "GaussianMixture", "Oracle", "make_oracle"]
