"""What a published table of numbers is: its files, its three parts, its published preprocessing."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from genflow.checks import require
from genflow.data.arrays import ArrayDataset, ArrayPart
from genflow.data.downloads import DataError, DataFile, DataFolders, reading, tar_members
from genflow.former import moved

HELD_OUT = ("test", "validation")
VALIDATION = "published, with the validation part as the test split"
ARCHIVE = DataFile("data.tar.gz", "https://zenodo.org/record/1161203/files/data.tar.gz", "0.8 GB")
"""The sets as Papamakarios published them for masked autoregressive flows (arXiv:1705.07057)."""


class Parts(NamedTuple):
    """The three published parts, each (n, columns)."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class TableDataset(ArrayDataset):
    """A published table with its published preprocessing; its data units are those after it.

    The scaling is the identity: log densities in nats are of the preprocessed (standardised) values, as published.

    Arguments:
        root: Folder of the files; `$GENFLOW_DATA_DIR` or the cache folder by default.
        download: Whether missing files may be fetched.
        held_out: "test" or "validation": which published part is the test split. The other one is not used.
    """

    files: tuple[str, ...]
    """Its files below the archive's folder `data`."""

    def __init__(self, root: str | None = None, download: bool = False, held_out: str = "test") -> None:
        super().__init__()
        require(self.name, {"held_out": (held_out, held_out in HELD_OUT, "'test' or 'validation'")})
        self.held_out, self.folders = held_out, DataFolders(self.name, root, download)
        self._found = {file: self._find(file) for file in self.files}

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self._prepared.train.shape[1:]

    @cached_property
    def _prepared(self) -> Parts:
        with np.errstate(all="ignore"):  # what becomes of such values is said below, by column
            parts = self.prepare()
            parts = Parts(*(part.astype(np.float32) for part in parts))
        for name, part in parts._asdict().items():
            if not len(part):
                raise DataError(f"{self._title}: too few rows, the {name} part is empty")
            if part.shape[1:] != parts.train.shape[1:]:
                raise DataError(
                    f"{self._title}: the {name} part is {part.shape}, the training part {parts.train.shape}"
                )
            check_finite(part, f"{self._title}: after the preprocessing the {name} part")
        return parts

    @abstractmethod
    def prepare(self) -> Parts:
        """The published preprocessing, in the files' precision."""

    def _read(self, split: str) -> ArrayPart:
        return ArrayPart(self._prepared.train if split == "train" else getattr(self._prepared, self.held_out))

    def declared(self) -> dict[str, str]:
        facts = {**super().declared(), "source": self._title}
        return facts if self.held_out == "test" else {**facts, "split": VALIDATION}

    @property
    def _title(self) -> str:
        return ", ".join(map(str, self._found.values()))

    def _find(self, file: str) -> Path:
        """A file on its own, below a folder `data`, or the archive that holds it."""
        own = [DataFile(name) for name in (file, f"data/{file}", Path(file).name)]
        return self.folders.need(*own, ARCHIVE)

    def open(self, file: str) -> BinaryIO:
        """One of the files, from where it was found.

        Raises:
            DataError: The archive is damaged or lacks it.
        """
        path = self._found[file]
        if path.name != ARCHIVE.name:
            return path.open("rb")
        return io.BytesIO(tar_members(path, {f"data/{file}"})[f"data/{file}"])

    def array(self, file: str) -> np.ndarray:
        """A table of numbers from an .npy file."""
        with reading(self._found[file], "cannot be read as an array"), self.open(file) as source:
            found = np.load(source, allow_pickle=False)
        check_table(found, self._found[file])
        return found


def check_table(found: np.ndarray, place: object) -> None:
    """Raises DataError, with the column, unless an array is a table (n, columns) of finite numbers."""
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not found.shape[1]:
        raise DataError(f"{place} holds {found.dtype} of shape {found.shape}, not a table of numbers")
    check_finite(found, place)


def check_finite(table: np.ndarray, place: object) -> None:
    """Raises DataError naming the columns that have missing or infinite values, and the first such row."""
    bad = ~np.isfinite(table)
    if bad.any():
        column = int(bad.any(0).argmax())
        row = int(bad[:, column].argmax())
        others = int(bad.any(0).sum()) - 1
        more = f" ({others} more column{'s' * (others > 1)} such)" if others else ""
        raise DataError(
            f"{place} has values that are not finite: column {column} holds {table[row, column]} in row {row}{more}, "
            "counted from 0; repair or leave out such rows"
        )


def numbers(frame: Any, place: object) -> np.ndarray:
    """A table that pandas has read, (n, columns), float64.

    Raises:
        DataError: A column of text, by its number and name, or values that are missing.
    """
    import pandas as pd

    for column, (name, values) in enumerate(frame.items()):
        if values.dtype.kind not in "fiub":
            text = next(iter(values[pd.to_numeric(values, errors="coerce").isna() & values.notna()]), values.dtype)
            raise DataError(
                f"{place} cannot be read as numbers: column {column} ({name}) holds {text!r}; fetch it again"
            )
    table = frame.to_numpy(np.float64)
    check_table(table, place)
    return table


def moments(
    known: np.ndarray, place: object, columns: Sequence[object], ddof: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, by which a table is standardised.

    Arguments:
        known: Rows that they are of, (n, columns).
        place: Where the table is from.
        columns: The columns' numbers or names there, for messages.
        ddof: 0 for the deviation of a population, 1 for that of a sample.

    Raises:
        DataError: There are fewer than two rows, or a column is constant, or too large or too small for its type.
    """
    if len(known) < 2:
        raise DataError(f"{place}: too few rows to standardise its columns: {len(known)}")
    constant = known.min(0) == known.max(0)
    if constant.any():
        named = [f"{columns[k]} (always {known[0, k]:g})" for k in np.flatnonzero(constant)[:5]]
        raise DataError(
            f"{place}: column {', '.join(named)} is constant, so it cannot be standardised and has no density; "
            "leave it out"
        )
    mean, deviation = known.mean(0), known.std(0, ddof=ddof)
    lost = ~np.isfinite(mean) | ~np.isfinite(deviation) | (deviation == 0)
    if lost.any():
        first = int(lost.argmax())
        raise DataError(
            f"{place}: column {columns[first]} has no standard deviation in {known.dtype}: its values go from "
            f"{known[:, first].min():g} to {known[:, first].max():g}; give it another unit"
        )
    return mean, deviation


def tenths(data: np.ndarray) -> Parts:
    """The last int(n/10) rows test, the last int(m/10) of the m before them validate, the rest train."""
    rest, test = last_rows(data, int(0.1 * len(data)))
    train, validation = last_rows(rest, int(0.1 * len(rest)))
    return Parts(train, validation, test)


def last_rows(data: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows but the last `count`, and those."""
    return data[: len(data) - count], data[len(data) - count :]


def standardised(parts: Parts, place: object, columns: Sequence[int]) -> Parts:
    """By mean and standard deviation (of the population) of training and validation rows together; as `moments`."""
    mean, deviation = moments(np.vstack(parts[:2]), place, columns)
    return Parts(*((part - mean) / deviation for part in parts))


__getattr__ = moved(__name__)
