"""Base distributions of free interpolants: mixtures, boxes, other data sets; smoothed by the latent where there is one.

They are not spherical at a scale, as `bases.Base` is: what is known of them is a draw, the density of b N + g Z, and
the Gaussian components that an exact answer needs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genflow.checks import is_number, is_positive, require
from genflow.process.shapes import in_float64
from genflow.random import categorical, integers, made_on, normal, uniform
from genflow.registry import check_options, registries, unknown


class Components(NamedTuple):
    """A Gaussian mixture: log weights (K,), means (K, N), covariances (K, N, N); a point has covariance 0."""

    log_weights: Tensor
    means: Tensor
    covariances: Tensor


class Distribution(ABC):
    """Anything that can be drawn from."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draws of shape (B, *)."""

    def log_density(self, x: Tensor, scale: float, latent: float) -> Tensor:
        """Log density of scale · N + latent · Z at x (B, *), Z standard normal: shape (B,), nats."""
        raise ValueError(self.no_density())

    def no_density(self) -> str | None:
        """None where `log_density` is known, else why not."""
        return None

    def components(self, dim: int) -> Components:
        """The Gaussian components of N, float64; raises ValueError where it has none."""
        raise ValueError(f"a {type(self).__name__} base is not a Gaussian mixture: its exact field is not known here")


@dataclass(frozen=True)
class GaussianMixture(Distribution):
    """Σ_k w_k N(m_k, C_k).

    Arguments:
        means: m_k, shape (K, N), as numbers or a tensor.
        std: Standard deviation of the components: one number, or one per component (K,), or per entry (K, N).
        covariances: Full covariances (K, N, N) instead of std.
        weights: w_k, positive; they are scaled to sum to one. None: equal.
    """

    means: Any
    std: Any = 1.0
    covariances: Any = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self._means.shape)
        if self._means.ndim != 2:
            raise ValueError(f"GaussianMixture: means have shape {shape}; give (K, N)")
        count, dim = shape
        if self.covariances is None:
            self._check_std(count, dim)
        elif _numbers("covariances", self.covariances).shape != (count, dim, dim):
            raise ValueError(f"GaussianMixture: covariances must have shape ({count}, {dim}, {dim})")
        else:
            self._check_covariances()
        if self.weights is not None and (len(self.weights) != count or not all(is_positive(w) for w in self.weights)):
            raise ValueError(
                f"GaussianMixture: weights = {self.weights!r} is not allowed; give {count} numbers above 0"
            )

    def _check_std(self, count: int, dim: int) -> None:
        std = _numbers("std", self.std)
        if tuple(std.shape) not in ((), (count,), (count, dim)) or bool((std < 0).any()):
            raise ValueError(
                f"GaussianMixture: std = {self.std!r} is not allowed; give one number of at least 0, {count} of them, "
                f"or {count} rows of {dim}"
            )

    def _check_covariances(self) -> None:
        found = _numbers("covariances", self.covariances)
        slack = 1e-10 * float(found.abs().max())
        even = float((found - found.mT).abs().max()) <= slack
        if not even or float(torch.linalg.eigvalsh(found).min()) < -slack:
            raise ValueError("GaussianMixture: covariances must be symmetric, with no negative eigenvalue")

    @cached_property
    def _means(self) -> Tensor:
        return _numbers("means", self.means)

    @cached_property
    def mixture(self) -> Components:
        """Its components, float64."""
        count, dim = self._means.shape
        if self.covariances is None:
            std = _numbers("std", self.std)
            std = std[:, None] if std.ndim == 1 else std
            covariances = torch.diag_embed(std.expand(count, dim).square())
        else:
            covariances = _numbers("covariances", self.covariances)
        weights = torch.ones(count) if self.weights is None else torch.tensor(self.weights)
        return Components((weights.double() / weights.double().sum()).log(), self._means, covariances)

    def components(self, dim: int) -> Components:
        if self._means.shape[1] != dim:
            raise ValueError(f"the mixture's means have {self._means.shape[1]} entries, the data {dim}")
        return self.mixture

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        found = self.components(math.prod(shape[1:]))
        rows = categorical(found.log_weights.exp(), shape[0], generator=generator)
        noise = normal((shape[0], found.means.shape[1]), generator=generator, dtype=dtype)
        values, vectors = torch.linalg.eigh(found.covariances)
        roots = vectors * values.clamp_min(0).sqrt()[:, None, :]
        shift = torch.einsum("bij,bj->bi", roots[rows], noise.cpu().double())
        return (found.means[rows] + shift).to(noise).reshape(shape)

    def no_density(self) -> str | None:
        if float(torch.linalg.eigvalsh(self.mixture.covariances).min()) > 0:
            return None
        return "its base is a mixture with components of no extent, which has no density: no likelihood"

    def log_density(self, x: Tensor, scale: float, latent: float) -> Tensor:
        if latent == 0 and self.no_density():
            raise ValueError(self.no_density())
        flat = in_float64(x.flatten(1))
        found = self.components(flat.shape[1])
        spread = scale**2 * found.covariances + latent**2 * torch.eye(flat.shape[1], dtype=torch.float64)
        parts = log_normal(flat[:, None] - scale * found.means.to(flat), spread.to(flat.device))
        return (parts + found.log_weights.to(flat)).logsumexp(1)


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform on the box [low, high]^N."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        require("Uniform", {"low": (low, is_number(low), "a number")})
        require("Uniform", {"high": (high, is_number(high) and high > low, f"a number above low = {low:g}")})

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        draw = uniform(shape, generator=generator, dtype=dtype)
        return self.low + (self.high - self.low) * draw

    def log_density(self, x: Tensor, scale: float, latent: float) -> Tensor:
        flat = in_float64(x.flatten(1))
        low, high = sorted((scale * self.low, scale * self.high))
        if latent == 0:
            inside = ((flat >= low) & (flat <= high)).all(1)
            return torch.where(inside, -flat.shape[1] * math.log(high - low), -torch.inf)
        far, near = (flat - low) / latent, (flat - high) / latent
        return (log_normal_interval(near, far) - math.log(high - low)).sum(1)


class Empirical(Distribution):
    """The examples of a data set, drawn at random with replacement; it has no density.

    Arguments:
        points: Shape (M, *), data units.
        name: What they are called.
    """

    def __init__(self, points: Tensor, name: str = "given points") -> None:
        if points.ndim < 2 or not len(points):
            raise ValueError(f"a base of points needs shape (M, *) with M >= 1, got {tuple(points.shape)}")
        self.points, self.name = points, name

    @classmethod
    def of(cls, name: str, **options: Any) -> Empirical:
        """The training split of a registered data set, in its data units."""
        dataset = registries()["datasets"].get(name, **options)
        return cls(dataset.scaling.encode(dataset.train), name)

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        if tuple(shape[1:]) != tuple(self.points.shape[1:]):
            raise ValueError(
                f"the base '{self.name}' has samples of shape {tuple(self.points.shape[1:])}, not {shape[1:]}"
            )
        rows = integers(len(self.points), shape[0], generator=generator)
        return self.points[rows.to(self.points.device)].to(made_on(generator), dtype)

    def no_density(self) -> str:
        return f"its base, '{self.name}', is a data set, which has no density: no likelihood"

    def components(self, dim: int) -> Components:
        flat = in_float64(self.points.flatten(1))
        return point_components(flat)


def _numbers(name: str, value: Any) -> Tensor:
    """An option of a mixture as finite float64 numbers."""
    try:
        found = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        found = torch.tensor(math.nan, dtype=torch.float64)
    if not bool(found.isfinite().all()):
        raise ValueError(f"GaussianMixture: {name} = {value!r} is not allowed; give finite numbers, rows of one length")
    return found


def point_components(points: Tensor) -> Components:
    """Points (M, N) with equal weights as components of no extent."""
    count, dim = points.shape
    weights = torch.full((count,), -math.log(count), dtype=torch.float64, device=points.device)
    return Components(weights, points, torch.zeros(1, dim, dim, dtype=torch.float64).expand(count, dim, dim))


def standard_components(dim: int) -> Components:
    """The standard normal as a mixture of one."""
    eye = torch.eye(dim, dtype=torch.float64)
    return Components(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dim, dtype=torch.float64), eye[None])


def log_normal(gap: Tensor, covariance: Tensor) -> Tensor:
    """log N(gap; 0, covariance) for gaps (..., K, N) and covariances (K, N, N): shape (..., K), nats."""
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, gap[..., None], upper=False)[..., 0]
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -white.square().sum(-1) / 2 - log_det - gap.shape[-1] / 2 * math.log(2 * math.pi)


def log_normal_interval(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) − Φ(low)), low < high, without cancellation in either tail."""
    flip = low > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return upper + torch.log1p(-(lower - upper).exp().clamp(max=1 - 1e-16))


DISTRIBUTIONS = {"mixture": GaussianMixture, "uniform": Uniform}
"""Bases by name, beside "gaussian" and the names of data sets."""


def make_source(source: str | Distribution, options: Mapping[str, Any] | None) -> Distribution | None:
    """The distribution behind a name or an object; None for the standard normal.

    Raises:
        ValueError: No such base or data set, an option that it does not take, or another kind of object.
    """
    if not isinstance(source, str):
        if not isinstance(source, Distribution):
            raise ValueError(f"source = {source!r} is not allowed; give a name or a Distribution")
        if options:
            raise ValueError("source_options go with a source that is a name; this one is an object")
        return source
    if source == "gaussian":
        if options:
            raise ValueError(f"the base 'gaussian' takes no options, got {', '.join(options)}")
        return None
    if source in DISTRIBUTIONS:
        factory = DISTRIBUTIONS[source]
        check_options(f"the base '{source}'", factory, options or {})
        try:
            return factory(**(options or {}))
        except TypeError:
            raise ValueError(
                f"the base '{source}' needs source_options, e.g. {{means: [[-1, 0], [1, 0]], std: 0.3}}"
            ) from None
    known = registries()["datasets"].entries()
    if source not in known:
        raise unknown("base", source, ["gaussian", *DISTRIBUTIONS, *known])
    return Empirical.of(source, **(options or {}))
