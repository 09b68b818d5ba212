"""What a data set is: raw examples in two splits, and a declared scaling to the units that models see."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from genflow.process.base import is_count, require


@dataclass(frozen=True)
class Scaling:
    """Raw values r to data units: x = scale · (r + u) + shift, u ~ U[0, 1) where values are whole levels.

    Arguments:
        scale: Data units per raw unit.
        shift: Data units.
        levels: Number of whole grey levels 0 .. levels − 1, or None where raw values are continuous.
    """

    scale: float = 1.0
    shift: float = 0.0
    levels: int | None = None

    EDGE: ClassVar[float] = 2.0**-19
    """Dequantised values keep this far from the next level, so that float32 decodes them to their own."""

    @classmethod
    def grey(cls, levels: int) -> Scaling:
        """`levels` grey levels, uniformly dequantised, onto [−1, 1]."""
        return cls(scale=2 / levels, shift=-1.0, levels=levels)

    def encode(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Raw values to data units; dequantised by the generator, or at the middle of each level without one."""
        if self.levels is None:
            return self.scale * raw + self.shift
        if generator is None:
            return self.scale * (raw + 0.5) + self.shift
        u = torch.rand(raw.shape, generator=generator, dtype=raw.dtype, device=generator.device)
        inside = self.EDGE + (1 - 2 * self.EDGE) * u
        return self.scale * (raw + inside) + self.shift

    def decode(self, x: Tensor) -> Tensor:
        """Data units to raw values, on whole levels where there are levels."""
        raw = (x - self.shift) / self.scale
        return raw if self.levels is None else raw.floor().clamp(0, self.levels - 1)

    def log_det(self, dim: int) -> float:
        """log |dx/draw| of a sample of `dim` entries, nats: log p_raw = log p_x + log_det."""
        return dim * math.log(self.scale)


def check_split(name: str) -> None:
    """Raises ValueError for a split that no data set has."""
    require("dataset", {"split": (name, name in ("train", "test"), "'train' or 'test'")})


class Dataset(ABC):
    """Raw examples (n, *shape), float32, in two fixed splits, with their scaling."""

    name: str
    shape: tuple[int, ...]
    scaling: Scaling = Scaling()
    classes: int = 0
    """Number of classes of `labels`; 0 where there are none."""
    partners: Tensor | None = None
    """Draws of the base that belong to the training examples, (n, *shape), row by row; None where data come alone."""

    @cached_property
    @abstractmethod
    def train(self) -> Tensor:
        """Raw training examples (n, *shape)."""

    @cached_property
    @abstractmethod
    def test(self) -> Tensor:
        """Raw held-out examples (m, *shape)."""

    def split(self, name: str) -> Tensor:
        """ "train" or "test"."""
        check_split(name)
        return self.train if name == "train" else self.test

    def labels(self, split: str) -> Tensor | None:
        """Classes 0 ... classes − 1 of a split, shape (n,), int64; None where there are none."""
        check_split(split)
        return None

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log density in data units at x (n, *shape): shape (n,), nats."""
        raise ValueError(f"the data set '{self.name}' has no closed-form density")


class ToyDataset(Dataset):
    """A 2-D density that can be drawn from without end; its two splits are two seeded draws.

    Arguments:
        size: Points of each split.
        seed: Seed of the splits.
    """

    shape = (2,)

    def __init__(self, size: int = 10_000, seed: int = 0) -> None:
        require(
            self.name,
            {
                "size": (size, is_count(size), "a whole number above 0"),
                "seed": (seed, is_count(seed, least=0), "a whole number of at least 0"),
            },
        )
        self.size, self.seed = int(size), int(seed)

    @abstractmethod
    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        """`count` draws, shape (count, 2), float32."""

    def components(self, count: int, *, generator: torch.Generator) -> Tensor | None:
        """Classes of the points that `sample` draws from an equal generator, shape (count,); None without classes."""
        return None

    @cached_property
    def train(self) -> Tensor:
        return self.sample(self.size, generator=self._generator("train"))

    @cached_property
    def test(self) -> Tensor:
        return self.sample(self.size, generator=self._generator("test"))

    def labels(self, split: str) -> Tensor | None:
        super().labels(split)
        return self.components(self.size, generator=self._generator(split))

    def _generator(self, split: str) -> torch.Generator:
        return torch.Generator().manual_seed(2 * self.seed + (split == "test"))
