"""Data that come in pairs: every training example with the draw of the base that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from genflow.data.base import Dataset


class PairedDataset(Dataset):
    """Pairs of a draw of the base and an example, both held in memory; `genflow.sampling.rectify` makes them.

    Everything is in data units: the scaling is the identity.

    Arguments:
        name: For messages and resumable states.
        train: Examples (n, *shape).
        partners: Draws of the base, (n, *shape), row by row those of `train`.
        test: Held-out examples (m, *shape).
        labels: Classes of both splits, {"train": (n,), "test": (m,)}, where there are any.
        classes: Number of classes.
        class_names: Their names; "0", "1", ... by default.
    """

    def __init__(
        self,
        name: str,
        train: Tensor,
        partners: Tensor,
        test: Tensor,
        labels: Mapping[str, Tensor] | None = None,
        classes: int = 0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.name, self.shape = name, tuple(train.shape[1:])
        self.train, self.test, self.partners = train, test, partners  # the base permutes them as they come
        self.classes = classes
        if class_names is not None:
            self.class_names = tuple(class_names)
        self._labels = labels

    def labels(self, split: str) -> Tensor | None:
        return None if self._labels is None else self._labels[split]
