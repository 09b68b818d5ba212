"""Images in an array file: .npy, which is mapped, or .npz."""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genflow.checks import require
from genflow.data.arrays import ArrayDataset, ArrayPart, split_rows
from genflow.data.base import Scaling
from genflow.data.downloads import DataError, reading
from genflow.data.memory import megabytes
from genflow.data.notes import note, shown
from genflow.data.sources import check_member
from genflow.memory import room

LABELS = ("labels", "label", "y")
CHANNELS = (1, 3)
STORE = "store (n, height, width[, channels]) as uint8, or as floats with range=[low, high]"
MOST_CLASSES = 2**16
"""More different labels are measurements or numbers of rows, not classes."""
EMPTY_BYTES = 2**16
"""Up to so many bytes an .npy file that cannot be mapped is read, to say what is in it."""
LEVELS = 256
"""Fewest levels that float32 must distinguish in a declared range, as many as bytes have."""
ROWS_CHECKED = 4096
"""Rows whose range is checked at a time."""


class ArrayImages(ArrayDataset):
    """Images of an array file; of an .npy file only the rows that are asked for are read.

    The arguments are those of `genflow.data.own_images.load_images`.

    Raises:
        DataError: Not an array of images, or values outside the declared range.
    """

    name = "images"

    def __init__(
        self,
        places: Mapping[str, Path],
        range: Sequence[float] | None = None,
        *,
        classes: bool = False,
        test_share: float = 0.1,
        flip: bool = False,
    ) -> None:
        super().__init__()
        require("images", {"flip": (flip, isinstance(flip, bool), "true or false")})
        self.flip, self.places, self.classes_asked = flip, dict(places), classes
        parts = {split: _stored(place, classes) for split, place in places.items()}
        self.shape = parts["train"].array.shape[1:]
        self.scaling = _scaling(parts["train"].array.dtype, range, self.places["train"])
        for split, part in parts.items():
            self._check(part, self.places[split], range)
        self.held = not any(isinstance(part.array, np.memmap) for part in parts.values())
        if classes:
            parts, self.class_names = _numbered(parts, self.places)
            self.classes = len(self.class_names)
        if "test" not in parts:
            whole = parts["train"]
            rows = split_rows(len(whole.array), test_share, self.places["train"])
            parts = {split: replace(whole, rows=kept) for split, kept in rows.items()}
        self._parts = parts

    def _read(self, split: str) -> ArrayPart:
        return self._parts[split]

    def _check(self, part: ArrayPart, place: Path, range: Sequence[float] | None) -> None:
        shape = part.array.shape[1:]
        if shape != self.shape:
            raise DataError(f"{place} holds images of shape {shape}, {self.places['train']} of {self.shape}")
        (first, own), levels = (self.places["train"], part.array.dtype), self.scaling.levels
        if (own == np.uint8) != (levels is not None) or _scaling(own, range, place) != self.scaling:
            raise DataError(f"{place} ({own}) and {first} hold different types; make them alike")
        if range is not None:
            _check_range(part.array, range, place)

    def declared(self) -> dict[str, str]:
        return {**super().declared(), "source": ", ".join(map(str, self.places.values()))}


def _stored(place: Path, classes: bool) -> ArrayPart:
    """The images of a file, channels first, and their classes where they are asked for."""
    with reading(shown(place), "cannot be read as an array file", STORE):
        found = _members(place) if zipfile.is_zipfile(place) else {"images": _mapped(place)}
    if not classes and (unused := [name for name in LABELS if name in found]):
        note(f"{shown(place)}: the array {unused[0]} is not used; classes=true makes classes of it")
    images = channels_first(_only_images(found, place), place)
    return ArrayPart(images, _classes(found, len(images), place) if classes else None)


def _mapped(place: Path) -> np.ndarray:
    """The array of an .npy file, mapped; an array without entries cannot be."""
    try:
        return np.load(place, mmap_mode="r", allow_pickle=False)
    except ValueError:
        if place.stat().st_size > EMPTY_BYTES:
            raise
        return np.load(place, allow_pickle=False)


def _members(place: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(place) as archive:
        members = archive.infolist()
    for member in members:
        check_member(place, member, most=None)
    total, free = sum(member.file_size for member in members), room()
    if total > free:
        raise DataError(
            f"{shown(place)} unpacks to {megabytes(total)}, and {megabytes(free)} of memory are free; "
            "store the images as an .npy file, which is read row by row"
        )
    with np.load(place, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _only_images(found: Mapping[str, np.ndarray], place: Path) -> np.ndarray:
    images = {name: array for name, array in found.items() if array.ndim in (3, 4)}
    if len(images) != 1:
        held = ", ".join(f"{name} {array.shape}" for name, array in found.items()) or "nothing"
        raise DataError(f"{place} must hold one array of images (n, height, width[, channels]); it holds {held}")
    array = next(iter(images.values()))
    if not len(array):
        raise DataError(f"{place} holds no images: its array has the shape {array.shape}")
    if 0 in array.shape[1:]:
        raise DataError(
            f"{place} holds an array {array.shape}: its images have no pixels, since axis "
            f"{array.shape.index(0, 1)} has no entries; {STORE}"
        )
    return array


def channels_first(array: np.ndarray, place: Path) -> np.ndarray:
    """(n, channels, height, width), by the axis that has 1 or 3 entries."""
    if array.ndim == 3:
        return array[:, None]
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first == last:
        why = "both axis 1 and the last" if first else "neither axis 1 nor the last"
        raise DataError(f"{place} holds an array {array.shape}: {why} has 1 or 3 channels; store (n, channels, h, w)")
    return array if first else array.transpose(0, 3, 1, 2)


def _classes(found: Mapping[str, np.ndarray], count: int, place: Path) -> np.ndarray:
    named = [name for name in LABELS if name in found]
    if len(named) != 1:
        came = f"both {' and '.join(named)}; keep one" if named else f"{', '.join(found)}, and no {' or '.join(LABELS)}"
        raise DataError(f"{place} holds {came}: classes=true needs one array of labels, in an .npz file")
    labels = found[named[0]]
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    known = labels.dtype.kind in "bUS" or (labels.dtype.kind in "iu" and (labels >= 0).all())
    if labels.shape != (count,) or not known:
        came = f"{labels.dtype} of shape {labels.shape}"
        came += f", the smallest {labels.min()}" if labels.dtype.kind == "i" and labels.size else ""
        raise DataError(
            f"{place}: labels must be whole numbers from 0, one for each of the {count} images, or as many names "
            f"(strings); they are {came}"
        )
    return labels


def _numbered(
    parts: Mapping[str, ArrayPart], places: Mapping[str, Path]
) -> tuple[dict[str, ArrayPart], tuple[str, ...]]:
    """Parts whose labels are numbered 0, 1, ... in sorted order, and the names that the numbers stand for.

    Labels such as 0, 5 and 1,000,000 are three classes, not a million and one.
    """
    labels = {split: part.labels for split, part in parts.items() if part.labels is not None}
    if len({"number" if known.dtype.kind in "iu" else known.dtype.kind for known in labels.values()}) > 1:
        both = " and ".join(f"{places[split]} holds {known.dtype}" for split, known in labels.items())
        raise DataError(f"labels must be of one type: {both}")
    every = [_comparable(known) for known in labels.values()]
    values, codes = np.unique(np.concatenate(every), return_inverse=True)
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"{places['train']}: labels have {len(values)} different values, such as {values[0]} and {values[-1]}; "
            f"up to {MOST_CLASSES} are classes. Give classes=false to leave them out"
        )
    cuts = np.cumsum([len(known) for known in labels.values()])[:-1]
    numbered = {
        split: replace(parts[split], labels=own) for split, own in zip(labels, np.split(codes.reshape(-1), cuts))
    }
    return numbered, tuple(map(_name, values))


def _comparable(labels: np.ndarray) -> np.ndarray:
    """Whole numbers of one type; strings with accents written in one way, as `class_folders` does."""
    if labels.dtype.kind in "iu":
        return labels.astype(np.uint64)
    if labels.dtype.kind == "U":
        return np.array([unicodedata.normalize("NFC", label) for label in labels.tolist()])
    return labels


def _name(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _scaling(dtype: np.dtype, range: Sequence[float] | None, place: Path) -> Scaling:
    """256 levels for bytes, the declared range onto [−1, 1] for floats."""
    if dtype == np.uint8:
        if range is not None:
            raise ValueError(f"images: range is for arrays of floats; {place} holds levels 0 to 255 (uint8)")
        return Scaling.grey(256)
    if dtype.kind != "f":
        raise DataError(f"{place} holds {dtype}; store levels 0 to 255 as uint8, or floats with range=[low, high]")
    if range is None:
        raise DataError(f"{place} holds {dtype}, whose range must be declared: give range=[low, high], as in [0, 1]")
    if not _fits(*range):
        raise ValueError(
            f"images: range = {list(range)} is not allowed; give numbers that float32 can hold, "
            f"with at least {LEVELS} numbers between them"
        )
    scale = 2 / (range[1] - range[0])
    return Scaling(scale, -1 - scale * range[0])


def _fits(low: float, high: float) -> bool:
    """Whether float32 distinguishes enough levels in a range, and holds it and its scale."""
    about = np.finfo(np.float32)
    largest, width = max(abs(low), abs(high)), high - low
    return largest <= float(about.max) and width >= max(LEVELS * float(about.eps) * largest, float(about.tiny))


def _check_range(array: np.ndarray, range: Sequence[float], place: Path) -> None:
    largest = np.finfo(array.dtype).max  # so that a bound beyond the type is no infinity, which would let one pass
    low, high = np.clip(range, -largest, largest).astype(array.dtype)
    for start in np.arange(0, len(array), ROWS_CHECKED):
        rows = array[start : start + ROWS_CHECKED]
        outside = ~((rows >= low) & (rows <= high))
        if outside.any():
            row = int(start + outside.reshape(len(rows), -1).any(1).argmax())
            declared = ", ".join(f"{bound:g}" for bound in range)
            raise DataError(f"{place}: image {row} has values outside the declared range [{declared}], or NaN")
