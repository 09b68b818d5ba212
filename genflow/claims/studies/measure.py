"""Distances of samples in blocks, with their standard errors, and their store on disk."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genflow.bench.cells import code_digest
from genflow.checkpoint import write_file
from genflow.config import BenchConfig
from genflow.data.base import Dataset
from genflow.estimates import Estimate, mean
from genflow.evaluate.features import Space
from genflow.evaluate.frechet import Gaussian, frechet
from genflow.evaluate.passes import feature_pass
from genflow.evaluate.protocol import bias_note, rank_note
from genflow.evaluate.reference import reference
from genflow.evaluate.spaces import space_for

BLOCKS = "blocks of prior draws"
"""What the replicates of one training, or of an exact field, are."""


@dataclass(frozen=True)
class Blocks:
    """A distance for each block of samples.

    Arguments:
        values: One for each block; block k of two settings begins at the same draws of the prior.
        nfe: Backbone calls per sample.
        seconds: What the samples took.
        trained: Whether one training is behind it, not an exact field.
    """

    values: tuple[float, ...]
    nfe: float = math.nan
    seconds: float = 0.0
    trained: bool = False

    @property
    def mean(self) -> Estimate:
        """Over blocks, which are paired with those of other settings."""
        return mean(dict(enumerate(self.values)), BLOCKS, 1 if self.trained else None)


@dataclass
class BlockDistance:
    """Fréchet distances to the training split, in blocks as large as the test split.

    Arguments:
        config: Says the space.
        dataset: Real data.
        features: As `genflow.evaluate.spaces.space_for` takes it.
    """

    config: BenchConfig
    dataset: Dataset
    features: str = "own"

    @cached_property
    def space(self) -> Space:
        return space_for(self.features, self.dataset, inception=self.config.inception, device=self.config.device)

    @cached_property
    def real(self) -> Gaussian:
        """Moments of the training split."""
        return reference(self.dataset, "train", self.space)[0]

    @property
    def name(self) -> str:
        """The metric's name in tables, e.g. FD[digits]."""
        return self.space.title("FD")

    @cached_property
    def size(self) -> int:
        """Samples of a block: the test split's size, so that the distance's bias is the floor's."""
        return min(self.config.samples, self.dataset.count("test"))

    def blocks(self, raw: Tensor) -> tuple[float, ...]:
        """The distance of each whole block of raw samples (n, *shape)."""
        parts = [part for part in raw.split(self.size) if len(part) == self.size]
        return tuple(frechet(self.real, feature_pass([part], self.space).moments.result()) for part in parts)

    @cached_property
    def floor(self) -> float:
        """What the test split gets."""
        return self.blocks(self.dataset.examples("test", torch.arange(self.size)))[0]

    @property
    def protocol(self) -> str:
        """How a distance was made."""
        return self.words("generated samples, decoded to the data's own units,", self.config.samples // self.size)

    @property
    def floor_protocol(self) -> str:
        """How the floor was made."""
        return self.words("the test split", 1)

    def words(self, what: str, count: int) -> str:
        """The protocol of a distance of `what` in `count` blocks."""
        over = f"mean and standard error over {count} blocks" if count > 1 else "one block"
        about = (
            f"Fréchet distance in float64 between {what} and the training split (n = {self.real.n}), "
            f"{self.space.about}; {over} of n = {self.size}"
        )
        return about + rank_note(self.size, len(self.real.mean)) + bias_note(self.size)


@dataclass
class PointStore:
    """Points that are measured already, a small file each, identified by all that they depend on.

    Arguments:
        folder: Where the files are.
        code: Classes and functions of this package that make the points.
    """

    folder: Path
    code: Sequence[Any] = ()

    def get(self, identity: Mapping[str, Any], make: Callable[[], Blocks]) -> Blocks:
        """The point of that identity, measured where it is not there."""
        path = self.folder / f"{self.key(identity)}.json"
        if path.exists():
            try:
                found = json.loads(path.read_text())
                return Blocks(tuple(found["values"]), found["nfe"], found["seconds"])
            except (ValueError, KeyError, TypeError):
                pass  # cut off by a kill: made again
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**vars(made), "identity": dict(identity)}, indent=1))
        return made

    def key(self, identity: Mapping[str, Any]) -> str:
        """Hash of what was asked for and of the code that answers."""
        parts = {"what": identity, "code": [code_digest("sample"), code_digest("model"), code_digest("metric")]}
        parts["own"] = [inspect.getsource(one) for one in (BlockDistance.blocks, *self.code)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
