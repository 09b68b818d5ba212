"""scikit-learn's handwritten digits."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genflow.data.base import Dataset, Scaling

TEST_SIZE = 500


class Digits(Dataset):
    """1,797 images of 8x8 pixels with 17 grey levels (0 to 16), as (n, 1, 8, 8).

    The split is fixed: the first 1,297 indices of `numpy.random.RandomState(0).permutation(1797)` train, the last
    500 test. `labels("train")` are the digits 0 to 9 in the same order.

    Source: scikit-learn's load_digits, from Alpaydin & Kaynak 1998, UCI repository.
    """

    name = "digits"
    shape = (1, 8, 8)
    scaling = Scaling.grey(levels=17)
    classes = 10

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images.astype(np.float32)[:, None], bunch.target

    def _rows(self, split: str) -> np.ndarray:
        order = np.random.RandomState(0).permutation(1797)
        return order[:-TEST_SIZE] if split == "train" else order[-TEST_SIZE:]

    @cached_property
    def train(self) -> Tensor:
        return torch.from_numpy(self._all[0][self._rows("train")])

    @cached_property
    def test(self) -> Tensor:
        return torch.from_numpy(self._all[0][self._rows("test")])

    def labels(self, split: str) -> Tensor:
        """Digits 0 to 9 of a split, shape (n,), int64."""
        return torch.from_numpy(self._all[1][self._rows(split)].astype(np.int64))
