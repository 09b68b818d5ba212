"""2-D densities, most with an exact log_prob."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genflow.checks import is_number, is_positive, require
from genflow.data.base import ToyDataset
from genflow.process.bases import StudentT


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _floats(values: object) -> Tensor | None:
    """Values as a finite float64 tensor, or None where they are none."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None
    return tensor if bool(tensor.isfinite().all()) else None


def _are_positive(values: Tensor | None, shapes: tuple[tuple[int, ...], ...]) -> bool:
    return values is not None and tuple(values.shape) in shapes and bool((values > 0).all())


def _normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)


class GaussianMixture(ToyDataset):
    """Isotropic Gaussians; the class of a point is the Gaussian that it was drawn from.

    Arguments:
        means: Centres, K pairs.
        scales: Standard deviations, K numbers, or one for all.
        weights: K numbers, normalised here; equal by default.
    """

    name = "gaussian_mixture"

    def __init__(
        self,
        means: Sequence[Sequence[float]] = ((-1.5, 0.0), (1.5, 0.0), (0.0, 1.5)),
        scales: float | Sequence[float] = 0.4,
        weights: Sequence[float] | None = None,
        size: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__(size, seed)
        centres, spread = _floats(means), _floats(scales)
        count = len(centres) if centres is not None and centres.ndim else 0
        share = torch.ones(count, dtype=torch.float64) if weights is None else _floats(weights)
        require(
            self.name,
            {
                "means": (means, centres is not None and centres.shape == (max(count, 1), 2), "pairs of numbers"),
                "scales": (scales, _are_positive(spread, ((), (count,))), "a number above 0, or one for each mean"),
                "weights": (weights, _are_positive(share, ((count,),)), "a number above 0 for each mean"),
            },
        )
        assert centres is not None
        assert spread is not None
        assert share is not None
        self.means, self.scales, self.weights = centres, spread.expand(count), share / share.sum()
        self.classes = count

    def components(self, count: int, *, generator: torch.Generator) -> Tensor:
        return torch.multinomial(self.weights, count, replacement=True, generator=generator)

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        which = self.components(count, generator=generator)
        return (self.means[which] + self.scales[which, None] * _normal(count, generator)).float()

    def log_prob(self, x: Tensor) -> Tensor:
        square = (x.double()[:, None] - self.means).square().sum(2)
        terms = -square / (2 * self.scales**2) - 2 * self.scales.log() - math.log(2 * math.pi)
        return torch.logsumexp(terms + self.weights.log(), 1)


class EightGaussians(GaussianMixture):
    """Eight equal Gaussians of standard deviation 0.2 on a circle of radius 2."""

    name = "eight_gaussians"

    def __init__(self, size: int = 10_000, seed: int = 0) -> None:
        angles = [k * math.pi / 4 for k in range(8)]
        super().__init__([(2 * math.cos(a), 2 * math.sin(a)) for a in angles], 0.2, size=size, seed=seed)


class Checkerboard(ToyDataset):
    """Uniform on the 8 dark squares of a 4 x 4 board over [−2, 2]²; the corner square at (−2, −2) is dark."""

    name = "checkerboard"

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        row, half = (_uniform(count, generator) * 4).floor(), (_uniform(count, generator) * 2).floor()
        corner = torch.stack([2 * half + row % 2, row], 1)
        inside = torch.stack([_uniform(count, generator), _uniform(count, generator)], 1)
        return (corner + inside - 2).float()

    def log_prob(self, x: Tensor) -> Tensor:
        cell = (x.double() + 2).floor()
        dark = (cell.sum(1) % 2 == 0) & ((cell >= 0) & (cell < 4)).all(1)
        return torch.where(dark, -math.log(8.0), -math.inf)


class TwoMoons(ToyDataset):
    """Two interleaved half circles of radius 1 with Gaussian noise of standard deviation `noise`.

    Class 1 is the half circle that opens downwards, class 0 the other.
    """

    name = "two_moons"
    classes = 2

    def __init__(self, noise: float = 0.1, size: int = 10_000, seed: int = 0) -> None:
        super().__init__(size, seed)
        require(self.name, {"noise": (noise, is_number(noise) and noise >= 0, "a number of at least 0")})
        self.noise = noise

    def components(self, count: int, *, generator: torch.Generator) -> Tensor:
        return self._places(count, generator)[1].long()

    @staticmethod
    def _places(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Angle along the half circle, and whether it is the upper one."""
        return math.pi * _uniform(count, generator), _uniform(count, generator) < 0.5

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        angle, upper = self._places(count, generator)
        sign = torch.where(upper, 1.0, -1.0)
        x = sign * angle.cos() + torch.where(upper, -0.5, 0.5)
        y = sign * angle.sin() + torch.where(upper, -0.25, 0.25)
        return (torch.stack([x, y], 1) + self.noise * _normal(count, generator)).float()


class SwissRoll(ToyDataset):
    """A spiral of one and a half turns, outer radius about 2, with Gaussian noise of deviation `noise`."""

    name = "swiss_roll"

    def __init__(self, noise: float = 0.06, size: int = 10_000, seed: int = 0) -> None:
        super().__init__(size, seed)
        require(self.name, {"noise": (noise, is_number(noise) and noise >= 0, "a number of at least 0")})
        self.noise = noise

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        angle = 1.5 * math.pi * (1 + 2 * _uniform(count, generator))
        radius = angle / (2.25 * math.pi)
        spiral = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
        return (spiral + self.noise * _normal(count, generator)).float()


class Heart(ToyDataset):
    """Uniform inside (x² + y² − 1)³ = x² y³, stretched by `scale`.

    Drawn by rejection from a box; the area, 3.66197..., comes from quadrature of the curve's width.
    """

    name = "heart"
    AREA = 3.6619729
    BOX = (1.15, -1.01, 1.24)
    """Half width, lowest and highest y of the unit curve, rounded outwards."""

    def __init__(self, scale: float = 1.5, size: int = 10_000, seed: int = 0) -> None:
        super().__init__(size, seed)
        require(self.name, {"scale": (scale, is_positive(scale), "a number above 0")})
        self.scale = scale

    @staticmethod
    def inside(x: Tensor) -> Tensor:
        """Whether points of the unit curve's plane lie inside it."""
        square = x.square()
        return (square.sum(1) - 1) ** 3 <= square[:, 0] * x[:, 1] ** 3

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        width, low, high = self.BOX
        kept: list[Tensor] = []
        while sum(map(len, kept)) < count:
            box = torch.stack([_uniform(2 * count, generator), _uniform(2 * count, generator)], 1)
            points = box * torch.tensor([2 * width, high - low]) + torch.tensor([-width, low])
            kept.append(points[self.inside(points)])
        return (self.scale * torch.cat(kept)[:count]).float()

    def log_prob(self, x: Tensor) -> Tensor:
        level = -math.log(self.AREA * self.scale**2)
        return torch.where(self.inside(x.double() / self.scale), level, -math.inf)


class UniformDisk(ToyDataset):
    """Uniform inside a disk of radius `radius`."""

    name = "uniform_disk"

    def __init__(self, radius: float = 1.0, size: int = 10_000, seed: int = 0) -> None:
        super().__init__(size, seed)
        require(self.name, {"radius": (radius, is_positive(radius), "a number above 0")})
        self.radius = radius

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        angle, r = 2 * math.pi * _uniform(count, generator), self.radius * _uniform(count, generator).sqrt()
        return torch.stack([r * angle.cos(), r * angle.sin()], 1).float()

    def log_prob(self, x: Tensor) -> Tensor:
        level = -math.log(math.pi * self.radius**2)
        return torch.where(x.double().norm(dim=1) <= self.radius, level, -math.inf)


class Cauchy(ToyDataset):
    """The multivariate Cauchy of scale `scale`: data whose Poisson flow is known in closed form."""

    name = "cauchy"

    def __init__(self, scale: float = 0.5, size: int = 10_000, seed: int = 0) -> None:
        super().__init__(size, seed)
        require(self.name, {"scale": (scale, is_positive(scale), "a number above 0")})
        self.scale = scale

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        unit = StudentT(1.0).sample((count, 2), generator=generator, dtype=torch.float64)
        return (self.scale * unit).float()

    def log_prob(self, x: Tensor) -> Tensor:
        return StudentT(1.0).log_prob(x.double() / self.scale) - 2 * math.log(self.scale)
