"""Data sets whose examples are arrays: published batches, or files of arrays."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genflow.data.base import Dataset, check_split
from genflow.data.downloads import DataError


@dataclass(frozen=True)
class ArrayPart:
    """One split: an array in memory or mapped from a disk, which of its rows, and their classes.

    Arguments:
        array: Raw examples, (m, *shape), of any number type.
        labels: Classes of all m rows, or None.
        rows: Rows of the split, (n,); None for all.
    """

    array: np.ndarray
    labels: np.ndarray | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array if self.rows is None else self.rows)

    def place(self, wanted: np.ndarray) -> np.ndarray:
        """Rows of the array by rows of the split."""
        return wanted if self.rows is None else self.rows[wanted]


class ArrayDataset(Dataset):
    """Whole levels or numbers as they are stored; given as float32."""

    def __init__(self) -> None:
        self._parts: dict[str, ArrayPart] = {}

    @abstractmethod
    def _read(self, split: str) -> ArrayPart:
        """One split; called once for each."""

    def _part(self, split: str) -> ArrayPart:
        check_split(split)
        if split not in self._parts:
            self._parts[split] = self._read(split)
        return self._parts[split]

    def count(self, split: str) -> int:
        return len(self._part(split))

    def examples(self, split: str, rows: Tensor) -> Tensor:
        part = self._part(split)
        return torch.from_numpy(gather(part.array, part.place(rows.numpy())))

    def labels(self, split: str) -> Tensor | None:
        part = self._part(split)
        if part.labels is None:
            return None
        return torch.from_numpy(part.labels[part.place(np.arange(len(part)))].astype(np.int64))


GAP_BYTES = 2**16
"""Up to so many bytes between two wanted rows are read and dropped: on any disk cheaper than reading twice."""
READ_BYTES = 2**24
"""Most bytes that one read spans, so that memory is bounded."""


def gather(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of an array, (k, *shape), as float32. Of a mapped file, ascending ones are read in few runs."""
    if not isinstance(array, np.memmap):
        return array[places].astype(np.float32)
    found = np.empty((len(places), *array.shape[1:]), np.float32)
    row = max(1, array.dtype.itemsize * math.prod(array.shape[1:]))
    step, block = np.diff(places), places // max(1, READ_BYTES // row)
    cuts = (step < 0) | (step > 1 + GAP_BYTES // row) | (np.diff(block) != 0)
    for run in np.split(np.arange(len(places)), np.flatnonzero(cuts) + 1) if len(places) else ():
        first, last = places[run[0]], places[run[-1]]
        found[run] = np.array(array[first : last + 1])[places[run] - first]
    return found


def split_rows(total: int, share: float, where: object) -> dict[str, np.ndarray]:
    """Rows of both splits: the last round(share · total), at least one, of a seeded permutation are held out.

    Ascending, as they lie in the source: which rows a split has is decided here, their order by `genflow.data.order`.

    Raises:
        DataError: There are not two examples to split.
    """
    if total < 2:
        raise DataError(
            f"{where} holds {total} example(s); a training and a held-out split need at least 2 (or test_path)"
        )
    order = np.random.RandomState(0).permutation(total)
    held_out = min(max(1, round(share * total)), total - 1)
    return {"train": np.sort(order[:-held_out]), "test": np.sort(order[-held_out:])}


def stratified_rows(labels: np.ndarray, share: float) -> dict[str, np.ndarray]:
    """Rows of both splits: of each class the last round(share · count) of a permutation (seed 0) are held out."""
    random = np.random.RandomState(0)
    train, test = [], []
    for label in np.unique(labels):
        order = random.permutation(np.flatnonzero(labels == label))
        held_out = round(share * len(order))
        train.append(order[: len(order) - held_out])
        test.append(order[len(order) - held_out :])
    return {"train": np.sort(np.concatenate(train)), "test": np.sort(np.concatenate(test))}
