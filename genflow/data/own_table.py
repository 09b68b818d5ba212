"""Your own table of numbers: a CSV, parquet, .npy or .npz file, recognised by its contents."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genflow.checks import is_number, require
from genflow.data.arrays import ArrayDataset, ArrayPart, split_rows
from genflow.data.containers import PACKED
from genflow.data.downloads import DataError, reading
from genflow.data.notes import note, shown
from genflow.data.table_files import moments
from genflow.places import expand

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": r"\s+"}
"""Names of separators, beside a character itself."""
ALLOWED = "give a CSV, parquet, .npy or .npz file"
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""Text, in upper or lower case, that stands for a missing value."""
SNIFFED = 2**16
"""Bytes of a CSV file from which its separator and header are found."""


class OwnTable(ArrayDataset):
    """A table of numbers of your own, one example a row; its data units are those after standardising.

    Arguments:
        path: A CSV, parquet, .npy or .npz file.
        columns: Names or numbers (from 0) of the columns that are used; all without it.
        test_share: Share of the rows held out: the last of a permutation, seed 0.
        test_path: Where the held-out rows are, with the same columns; then all of `path` trains.
        standardise: Whether each column has its mean taken off and is divided by its standard deviation (of the
            population), both of the training rows.
        separator: Of a CSV file: "auto", a character, or comma, semicolon, tab or space.
        header: Of a CSV file: "auto" (a first row with text that is not a number), "yes" or "no".
        missing: "stop" at the first missing value, which is named, or "drop" the rows that have one.
        array: Name of the array of an .npz file; its only array without it.

    Raises:
        DataError: What is at `path` cannot be used; the message names row and column, counted from 0.
        ValueError: An option that is not allowed.
    """

    name = "table"

    def __init__(
        self,
        path: str = "",
        columns: Sequence[str] | None = None,
        test_share: float = 0.1,
        test_path: str | None = None,
        standardise: bool = True,
        separator: str = "auto",
        header: str = "auto",
        missing: str = "stop",
        array: str | None = None,
    ) -> None:
        super().__init__()
        single = isinstance(separator, str) and (separator in ("auto", *SEPARATORS) or len(separator) == 1)
        require(
            "table",
            {
                "path": (path, isinstance(path, str | Path) and bool(str(path)), ALLOWED.removeprefix("give ")),
                "test_share": (test_share, is_number(test_share) and 0 < test_share < 1, "a number between 0 and 1"),
                "standardise": (standardise, isinstance(standardise, bool), "true or false"),
                "separator": (separator, single, f"auto, {', '.join(SEPARATORS)}, or one character"),
                "header": (header, header in ("auto", "yes", "no"), "auto, yes or no"),
                "missing": (missing, missing in ("stop", "drop"), "stop or drop"),
            },
        )
        self.columns, self.standardise, self.missing = columns, standardise, missing
        self.how, self.array = (separator, header), array
        self.places = {"train": expand(path), **({"test": expand(test_path)} if test_path else {})}
        self.test_share = test_share
        found = {split: self._numbers(place) for split, place in self.places.items()}
        self.column_names = found["train"][1]
        parts = {split: table for split, (table, _) in found.items()}
        if "test" not in parts:
            whole, rows = parts["train"], split_rows(len(parts["train"]), test_share, shown(self.places["train"]))
            parts = {split: whole[kept] for split, kept in rows.items()}
        elif found["test"][1] != self.column_names:
            given, own = (", ".join(names) for names in (found["test"][1], self.column_names))
            raise DataError(f"{shown(self.places['test'])} has the columns {given}; {shown(path)} has {own}")
        self.shape = (len(self.column_names),)
        self.mean, self.deviation = np.zeros(self.shape), np.ones(self.shape)
        if standardise:
            self.mean, self.deviation = moments(parts["train"], shown(path), self.column_names)
        self._parts = {split: ArrayPart(self.preprocessed(table)) for split, table in parts.items()}
        note(f"table: {len(self.column_names)} columns; {self.count('train'):,} rows to train on, "
             f"{self.count('test'):,} held out")  # fmt: skip

    def preprocessed(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, columns) in the file's units, as models see them."""
        return ((rows - self.mean) / self.deviation).astype(np.float32)

    def original(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of `preprocessed`: samples in the file's units."""
        return rows * self.deviation + self.mean

    def _read(self, split: str) -> ArrayPart:
        return self._parts[split]

    def declared(self) -> dict[str, str]:
        done = "standardised by the training rows" if self.standardise else "none"
        split = (
            f"test_path = {shown(self.places['test'])}" if "test" in self.places else f"{self.test_share:g} held out"
        )
        facts = {"source": ", ".join(map(str, self.places.values())), "split": split, "preprocessing": done}
        return {**super().declared(), **facts}

    @cached_property
    def _wanted(self) -> list[str] | None:
        given = [self.columns] if isinstance(self.columns, str | int) else self.columns
        return None if given is None else [str(column) for column in given]

    def _numbers(self, place: Path) -> tuple[np.ndarray, list[str]]:
        """The wanted columns, (n, columns), float64, and their names."""
        frame = read_frame(place, self.how, self.array)
        names = [str(name) for name in frame.columns]
        kept = [_column(name, names, place) for name in self._wanted or names]
        if not kept or len(set(kept)) < len(kept):
            raise DataError(f"{shown(place)}: no columns are left, or one is named twice")
        table = np.stack([column_values(frame.iloc[:, k], k, names[k], place) for k in kept], axis=1)
        lost = np.isnan(table).any(1)
        if lost.any() and self.missing == "drop":
            note(f"table: {int(lost.sum()):,} of {len(table):,} rows of {shown(place)} have missing values, left out")
            table = table[~lost]
        self._check(table, kept, names, place)
        return table, [names[k] for k in kept]

    def _check(self, table: np.ndarray, kept: Sequence[int], names: Sequence[str], place: Path) -> None:
        if not len(table):
            raise DataError(f"{shown(place)} has no rows; {ALLOWED} with an example a row")
        bad = ~np.isfinite(table)
        if bad.any():
            row, k = np.argwhere(bad)[0]
            what = "has no value" if np.isnan(table[row, k]) else f"holds {table[row, k]}"
            more = f" ({int(bad.sum()) - 1:,} more such)" if bad.sum() > 1 else ""
            raise DataError(
                f"{shown(place)}: column {kept[k]} ({names[kept[k]]}) {what} in row {row}{more}, counted from 0; "
                "fill it in, leave the column out (columns=...), or leave out such rows (missing=drop)"
            )


def _column(wanted: str, names: Sequence[str], place: Path) -> int:
    """The place of a column by its name, else by its number."""
    if names.count(wanted) > 1:
        raise DataError(f"{shown(place)} has {names.count(wanted)} columns named {wanted}; give their numbers from 0")
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise DataError(f"{shown(place)} has no column {wanted}; it has {', '.join(names[:20])}")


def column_values(column: Any, k: int, name: str, place: Path) -> np.ndarray:
    """A column as float64, missing values NaN; raises DataError for one of text, dates, or true and false."""
    import pandas as pd

    if column.dtype.kind in "fiu":
        return column.to_numpy(np.float64)
    text = column.astype("string").str.strip()
    empty = text.isna() | text.str.lower().isin(MISSING)
    found = pd.to_numeric(text.where(~empty), errors="coerce")
    other = text[found.isna() & ~empty]
    if column.dtype.kind == "b" or len(other):
        kinds = text[~empty].nunique()
        example = f"{other.iloc[0]!r} in row {other.index[0]}" if len(other) else "true and false"
        raise DataError(
            f"{shown(place)}: column {k} ({name}) is not a column of numbers: it holds {example}, {kinds} different "
            "values; encode them as numbers, or leave the column out (columns=...)"
        )
    return found.to_numpy(np.float64, na_value=np.nan)


def read_frame(place: Path, how: tuple[str, str] = ("auto", "auto"), array: str | None = None) -> Any:
    """A file as a table of pandas, a row an example.

    Arguments:
        place: The file.
        how: Separator and header of a CSV file.
        array: Name of the array of an .npz file.

    Raises:
        DataError: It is not there, damaged, or not a table.
    """
    import pandas as pd

    if not place.exists():
        raise DataError(f"{shown(place)} does not exist; {ALLOWED}")
    if not place.is_file():
        raise DataError(f"{shown(place)} is not a regular file; {ALLOWED}")
    with reading(shown(place), "cannot be read", ALLOWED), place.open("rb") as file:
        head = file.read(SNIFFED)
    if head.startswith(b"\x93NUMPY") or zipfile.is_zipfile(place):
        found = _stored(place, array)
        return pd.DataFrame(found, columns=[str(k) for k in range(found.shape[1])])
    if head.startswith(b"PAR1"):
        return _parquet(place)
    return _csv(place, head, *how)


def _stored(place: Path, array: str | None) -> np.ndarray:
    """The array of an .npy or .npz file."""
    with reading(shown(place), "cannot be read as an array", ALLOWED):
        found = np.load(place, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found as file:
                names = file.files
                name = array or (names[0] if len(names) == 1 else "x")
                if name not in names:
                    raise DataError(f"{shown(place)} holds the arrays {', '.join(names)}; give array=NAME")
                found = file[name]
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not found.shape[1]:
        raise DataError(
            f"{shown(place)} holds {found.dtype} of shape {found.shape}, not a table of numbers (n, columns); "
            "reshape or convert it"
        )
    return found


def _parquet(place: Path) -> Any:
    import pandas as pd

    try:
        with reading(shown(place), "cannot be read as a parquet file", ALLOWED):
            return pd.read_parquet(place)
    except DataError as error:
        if isinstance(error.__cause__, ImportError):
            raise DataError(f"{shown(place)} is a parquet file, which needs pyarrow: pip install pyarrow") from None
        raise


def _csv(place: Path, head: bytes, separator: str, header: str) -> Any:
    """A text file; empty lines are no rows."""
    import pandas as pd

    if not head.strip():
        raise DataError(f"{shown(place)} is empty; {ALLOWED}")
    packed = next((name for start, name in PACKED if head.startswith(start)), "")
    if packed or b"\0" in head:
        raise DataError(f"{shown(place)} is {packed or 'not a text file'}; {ALLOWED}, unpacked")
    lines = [line for line in head.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    cut = SEPARATORS.get(separator, separator) if separator != "auto" else _separator(lines)
    first = lines[0].split() if cut == r"\s+" else next(csv.reader([lines[0]], delimiter=cut))
    named = header == "yes" or (header == "auto" and not all(_is_number(cell) for cell in first))
    with reading(shown(place), "cannot be read as a CSV file", "check separator and header"):
        frame = pd.read_csv(
            place,
            sep=cut,
            header=0 if named else None,
            encoding="utf-8-sig",
            skipinitialspace=True,
            index_col=False,
            engine="c",
            na_values=[*MISSING],
        )
    if named:  # pandas numbers names that come twice
        frame.columns = [cell.strip() for cell in first] if len(first) == frame.shape[1] else frame.columns
    return frame


def _separator(lines: Sequence[str]) -> str:
    """The one of tab, semicolon, comma and spaces that cuts the first lines into equal numbers of cells."""
    for cut in ("\t", ";", ","):
        counts = {len(row) for row in csv.reader(lines[:20], delimiter=cut)}
        if len(counts) == 1 and counts != {1}:
            return cut
    if any(cut in lines[0] for cut in "\t;,"):  # rows of different lengths, which pandas names by line
        return next(cut for cut in "\t;," if cut in lines[0])
    return r"\s+" if len(lines[0].split()) > 1 else ","


def _is_number(cell: str) -> bool:
    cell = cell.strip()
    try:
        float(cell)
    except ValueError:
        return cell.lower() in MISSING
    return True
