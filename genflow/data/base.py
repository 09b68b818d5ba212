"""What a data set is: raw examples in two splits, and a declared scaling to the units that models see."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from genflow.checks import is_count, require
from genflow.data.order import METHODS, Method, Rows, check_split, is_inside, order_rows, permutation, row_numbers
from genflow.placing import place
from genflow.random import uniform
from genflow.registry import registries

CACHED = 2**17
"""Values that are scaled at a time on a host, so that they stay in its cache between the five operations."""


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

    def encode(self, raw: Tensor, generator: torch.Generator | None = None, u: Tensor | None = None) -> Tensor:
        """Raw values to data units.

        Arguments:
            raw: Values, float, or bytes where they are whole levels.
            generator: Dequantises them; without it they go to the middle of each level.
            u: What was drawn for that already, of raw's shape and on its device; is overwritten.
        """
        if self.levels is None:
            return self.scale * raw + self.shift
        if generator is None and u is None:
            return self.scale * (raw + 0.5) + self.shift
        if u is None:
            assert generator is not None
            u = self.draw(raw.shape, generator, raw.dtype if raw.is_floating_point() else torch.float32)
            u = u if u.device == raw.device else place([u], raw.device)[0]
        rows = max(1, CACHED // max(1, u[:1].numel())) if u.is_cpu else len(u)
        for inside, values in zip(u.split(rows), raw.split(rows), strict=True):  # in place: new arrays cost more
            inside.mul_(1 - 2 * self.EDGE).add_(self.EDGE).add_(values).mul_(self.scale).add_(self.shift)
        return u

    @staticmethod
    def draw(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers in [0, 1) that dequantise raw values of a shape."""
        return uniform(shape, generator=generator, dtype=dtype)

    def decode(self, x: Tensor) -> Tensor:
        """Data units to raw values, on whole levels where there are levels."""
        raw = (x - self.shift) / self.scale
        return raw if self.levels is None else raw.floor().clamp(0, self.levels - 1)

    def describe(self) -> str:
        """The map to data units in words."""
        if self.scale == 1 and self.shift == 0 and self.levels is None:
            return "none: data units are raw units"
        low, high = (f"{self.scale * raw + self.shift:g}" for raw in (0, self.levels or 1))
        what = f"grey levels 0 to {self.levels - 1}, each an equal part of" if self.levels else "raw 0 to 1 onto"
        return f"{what} [{low}, {high}]"

    def log_det(self, dim: int) -> float:
        """log |dx/draw| of a sample of `dim` entries, nats: log p_raw = log p_x + log_det."""
        return dim * math.log(self.scale)


class Dataset(ABC):
    """Raw examples (n, *shape), float32, in two fixed splits, with their scaling.

    A subclass gives its rows as they are stored: `train` and `test`, or, where they are read from a disk, `count` and
    `examples`; and `labels` and `partners` where there are any. Callers get all of them in one fixed random
    order, by which the first n rows and any block of them are a fair draw of the split; see `genflow.data.order`.
    """

    name: str
    shape: tuple[int, ...]
    scaling: Scaling = Scaling()
    classes: int = 0
    """Number of classes of `labels`; 0 where there are none."""
    classes_asked: bool = False
    """Whether classes were asked for when the data were opened."""
    partners: Tensor | None = None
    """Draws of the base that belong to the training examples, (n, *shape), row by row; None where data come alone."""
    flip: bool = False
    """Whether training shows half of the images mirrored left to right, chosen anew each time."""
    held: bool = True
    """Whether both splits are in memory; False where `examples` reads them from a disk."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        order_rows(cls, Dataset)

    @cached_property
    def train(self) -> Tensor:
        """Raw training examples (n, *shape)."""
        return self._whole("train")

    @cached_property
    def test(self) -> Tensor:
        """Raw held-out examples (m, *shape)."""
        return self._whole("test")

    def split(self, name: str) -> Tensor:
        """ "train" or "test"."""
        check_split(name)
        return self.train if name == "train" else self.test

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        return len(self.split(split))

    def examples(self, split: str, rows: Tensor) -> Tensor:
        """Raw examples of a split by their rows (k,): shape (k, *shape), float32. Data on a disk read only these."""
        return self.split(split).index_select(0, rows)

    def order(self, split: str) -> Tensor:
        """Where each row of a split is stored, shape (n,), int64: a fixed permutation."""
        check_split(split)
        return permutation(split, self.count(split)).clone()

    def chunks(self, split: str, size: int = 1000) -> Iterator[Tensor]:
        """All raw examples of a split in order, at most `size` at a time."""
        require("dataset", {"size": (size, is_count(size), "a whole number above 0")})
        for rows in torch.arange(self.count(split)).split(size):
            yield self.examples(split, rows)

    def sweep(self, split: str, rows: Tensor, size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows as they lie on a disk, at most `size` at a time: (rows (k,), raw examples (k, *shape)).

        For callers that need all of them in any order: a disk is read once, from front to back.
        """
        require("dataset", {"size": (size, is_count(size), "a whole number above 0")})
        rows = row_numbers(rows, self.count(split))
        for part in rows[self.order(split)[rows].argsort()].split(size) if len(rows) else ():
            yield part, self.examples(split, part)

    def _whole(self, split: str) -> Tensor:
        """All raw examples of a split that is read by rows."""
        if type(self).examples is Dataset.examples and "_given_examples" not in vars(self):
            raise NotImplementedError(f"{type(self).__name__} gives no {split}: neither itself, nor by `examples`")
        total = self.count(split)
        if is_inside(self):
            return self.examples(split, torch.arange(total))
        whole = torch.empty(total, *self.shape)
        for rows, raw in self.sweep(split, torch.arange(total)):
            whole[rows] = raw.to(whole.dtype)
        return whole

    FITTED: ClassVar[int] = 20_000
    """Most examples that a process is fitted to."""
    FITTED_VALUES: ClassVar[int] = 2**28
    """Most values in them, 1 GiB: 20,000 colour images of 64x64 pixels are fewer."""

    def fitting_points(self) -> Tensor:
        """Training examples in data units, (n, *shape), that `process.for_data` is shown.

        All of them, or the first of a larger split, at most `FITTED` with at most `FITTED_VALUES` values: norms and
        scales need no more, and the memory is bounded.
        """
        most = min(self.count("train"), self.FITTED, max(1, self.FITTED_VALUES // max(1, math.prod(self.shape))))
        return self.scaling.encode(self.examples("train", torch.arange(most)))

    def declared(self) -> dict[str, str]:
        """What is done to the data before a model sees them, in words.

        Keys: source, split, preprocessing (all three from the catalogue), scaling, dequantisation, flip.
        """
        entry = registries()["datasets"].entries().get(self.name)
        tags = entry.tags if entry else {}
        levels = self.scaling.levels
        return {
            "source": entry.source if entry else "",
            "split": tags.get("split", ""),
            "preprocessing": tags.get("preprocessing", "none"),
            "scaling": self.scaling.describe(),
            "dequantisation": f"uniform within each of {levels} levels" if levels else "none: values are continuous",
            "flip": "half of the training images mirrored left to right, chosen anew each time"
            if self.flip
            else "none",
        }

    def labels(self, split: str) -> Tensor | None:
        """Classes 0 ... classes − 1 of a split, shape (n,), int64; None where there are none."""
        return None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """A name for each class, in the order of `labels`: "0", "1", ... where the data give none; empty without
        classes."""
        return tuple(map(str, range(self.classes)))

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log density in data units at x (n, *shape): shape (n,), nats."""
        raise ValueError(f"the data set '{self.name}' has no closed-form density")


for _name in ("train", "test", "partners"):
    setattr(Dataset, _name, Rows(_name, Dataset, Dataset.__dict__[_name], either=True))
for _name in METHODS:
    setattr(Dataset, _name, Method(_name, Dataset.__dict__[_name], either=True))


class ToyDataset(Dataset):
    """A 2-D density that can be drawn from without end; its two splits are two seeded draws.

    Arguments:
        size: Points of each split.
        seed: Seed of the splits.
    """

    shape = (2,)
    MOST: ClassVar[int] = 10**8
    """Most points of a split, which is held in memory."""

    def __init__(self, size: int = 10_000, seed: int = 0) -> None:
        require(
            self.name,
            {
                "size": (size, is_count(size) and size <= self.MOST, f"a whole number from 1 to {self.MOST}"),
                "seed": (seed, is_count(seed, least=0) and seed < 2**62, "a whole number from 0 to 2**62 - 1"),
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
        return self.components(self.size, generator=self._generator(split))

    def _generator(self, split: str) -> torch.Generator:
        return torch.Generator().manual_seed(2 * self.seed + (split == "test"))
