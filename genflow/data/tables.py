"""What a published table of numbers is: its files, its three parts, its published preprocessing."""

from __future__ import annotations

import io
import tarfile
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from genflow.checks import require
from genflow.data.arrays import ArrayDataset, ArrayPart
from genflow.data.files import DataError, Published, Shelf

HELD_OUT = ("test", "validation")
VALIDATION = "published, with the validation part as the test split"
ARCHIVE = Published("data.tar.gz", "https://zenodo.org/record/1161203/files/data.tar.gz", "0.8 GB")
"""The sets as Papamakarios published them for masked autoregressive flows (arXiv:1705.07057)."""


class Parts(NamedTuple):
    """The three published parts, each (n, columns)."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Table(ArrayDataset):
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
        self.held_out, self.shelf = held_out, Shelf(self.name, root, download)
        self._found = {file: self._find(file) for file in self.files}

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self._prepared.train.shape[1:]

    @cached_property
    def _prepared(self) -> Parts:
        parts = self.prepare()
        for name, part in parts._asdict().items():
            if not len(part):
                raise DataError(f"{self._title}: too few rows, the {name} part is empty")
            if not np.isfinite(part).all():
                raise DataError(f"{self._title}: the {name} part has values that are not finite")
        return Parts(*(part.astype(np.float32) for part in parts))

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
        own = [Published(name) for name in (file, f"data/{file}", Path(file).name)]
        return self.shelf.need(*own, ARCHIVE)

    def open(self, file: str) -> BinaryIO:
        """One of the files, from where it was found.

        Raises:
            DataError: The archive is damaged or lacks it.
        """
        path = self._found[file]
        if path.name != ARCHIVE.name:
            return path.open("rb")
        try:
            with tarfile.open(path, "r:gz") as tar:
                for member in tar:
                    if member.name == f"data/{file}" and member.isreg():
                        return io.BytesIO(tar.extractfile(member).read())  # type: ignore[union-attr]  # a regular file
        except Exception as error:  # tarfile, gzip and zlib raise many types on damaged files
            raise DataError(f"{path} is damaged: {error}; fetch it again") from error
        raise DataError(f"{path} lacks data/{file}; fetch it again")

    def array(self, file: str) -> np.ndarray:
        """A table of numbers from an .npy file."""
        try:
            with self.open(file) as source:
                found = np.load(source, allow_pickle=False)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self._found[file]} can not be read as an array: {error}; fetch it again") from error
        if found.ndim != 2 or found.dtype.kind not in "fiu":
            raise DataError(f"{self._found[file]} holds {found.dtype} of shape {found.shape}, not a table of numbers")
        return found


def tenths(data: np.ndarray) -> Parts:
    """The last int(n/10) rows test, the last int(m/10) of the m before them validate, the rest train."""
    rest, test = last_rows(data, int(0.1 * len(data)))
    train, validation = last_rows(rest, int(0.1 * len(rest)))
    return Parts(train, validation, test)


def last_rows(data: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows but the last `count`, and those."""
    return data[: len(data) - count], data[len(data) - count :]


def standardised(parts: Parts) -> Parts:
    """By mean and standard deviation (of the population) of training and validation rows together."""
    known = np.vstack(parts[:2])
    mean, deviation = known.mean(0), known.std(0)
    return Parts(*((part - mean) / deviation for part in parts))
