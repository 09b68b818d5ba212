"""The data of a bench of checkpoints, which may not be on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import genflow
from genflow.checkpoint import catalogue_scaling, open_checkpoint
from genflow.data.base import Dataset, Scaling
from genflow.data.downloads import DataError


class UnavailableData(Dataset):
    """Data whose files are not on this machine: shape and scaling are known, the examples are not.

    Arguments:
        name: Registered name.
        shape: Of an example.
        scaling: To data units.
        reason: Why they are not here, and what to do.
    """

    def __init__(self, name: str, shape: tuple[int, ...], scaling: Scaling, reason: str) -> None:
        self.name, self.shape, self.scaling, self.reason = name, shape, scaling, reason

    @cached_property
    def train(self) -> Tensor:
        raise DataError(self.reason)

    @cached_property
    def test(self) -> Tensor:
        raise DataError(self.reason)

    def labels(self, split: str) -> Tensor | None:
        raise DataError(self.reason)

    def count(self, split: str) -> int:
        raise DataError(self.reason)

    def examples(self, split: str, rows: Tensor) -> Tensor:
        raise DataError(self.reason)


def data_of(name: str, options: Mapping[str, Any], checkpoint: str) -> Dataset:
    """A data set; where its files are missing, its shape and scaling alone.

    Arguments:
        name: Registered name.
        options: Of its constructor.
        checkpoint: Folder of a model of such data, which records their shape.
    """
    found: Dataset | None = None
    try:
        found = genflow.get_dataset(name, **options)
        found.examples("train", torch.tensor([0])), found.examples("test", torch.tensor([0]))
        return found
    except DataError as error:
        if found is not None:
            return UnavailableData(name, tuple(found.shape), found.scaling, str(error))
        opened = open_checkpoint(checkpoint)
        scaling = opened.scaling or catalogue_scaling(name) or Scaling()
        return UnavailableData(name, opened.shape, scaling, str(error))
