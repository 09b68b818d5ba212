"""Small tables that scikit-learn ships."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from genflow.checks import require
from genflow.data.arrays import ArrayDataset, ArrayPart, split_rows, stratified_rows


class SmallTable(ArrayDataset):
    """A small table, standardised by mean and deviation (of the population) of its training rows.

    A fifth is held out: of each class the last of a permutation (seed 0), or of all rows where there are no classes.
    Measured values are rounded and some rows are equal, so likelihoods of these tables have no upper bound.

    Arguments:
        which: "iris", "wine", "breast_cancer" or "diabetes".

    Source: UCI repository; Efron et al. 2004 (diabetes).
    """

    SETS = {"iris": (4, 3), "wine": (13, 3), "breast_cancer": (30, 2), "diabetes": (10, 0)}
    """Columns and classes."""
    SHARE = 0.2

    def __init__(self, which: str) -> None:
        super().__init__()
        require("small table", {"which": (which, which in self.SETS, f"one of {', '.join(self.SETS)}")})
        self.name = which
        columns, self.classes = self.SETS[which]
        self.shape = (columns,)

    def _read(self, split: str) -> ArrayPart:
        labels, data = self._bunch.target if self.classes else None, self._bunch.data
        rows = split_rows(len(data), self.SHARE, self.name) if labels is None else stratified_rows(labels, self.SHARE)
        known = data[rows["train"]]
        data = (data - known.mean(0)) / known.std(0)
        self._parts.update({part: ArrayPart(data, labels, kept) for part, kept in rows.items()})
        return self._parts[split]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, self._bunch.target_names)) if self.classes else ()

    @cached_property
    def _bunch(self) -> Any:
        from sklearn import datasets

        options: dict[str, Any] = {"scaled": False} if self.name == "diabetes" else {}
        return getattr(datasets, f"load_{self.name}")(**options)
