"""Images in an array file: .npy, which is mapped, or .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genflow.checks import require
from genflow.data.archives import check_member
from genflow.data.arrays import ArrayDataset, ArrayPart, split_rows
from genflow.data.base import Scaling
from genflow.data.files import DataError

LABELS = ("labels", "label", "y")
CHANNELS = (1, 3)
ROWS_CHECKED = 4096
"""Rows whose range is checked at a time."""


class ArrayImages(ArrayDataset):
    """Images of an array file; of an .npy file only the rows that are asked for are read.

    The arguments are those of `genflow.data.images.load_images`.

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
        self.flip, self.places = flip, dict(places)
        parts = {split: _stored(place, classes) for split, place in places.items()}
        self.shape = parts["train"].array.shape[1:]
        self.scaling = _scaling(parts["train"].array.dtype, range, self.places["train"])
        for split, part in parts.items():
            self._check(part, self.places[split], range)
        self.held = not any(isinstance(part.array, np.memmap) for part in parts.values())
        known = [part.labels for part in parts.values() if part.labels is not None]
        self.classes = max((int(labels.max()) + 1 for labels in known), default=0)
        self._parts = parts if "test" in parts else _split(parts["train"], test_share, self.places["train"])

    def _read(self, split: str) -> ArrayPart:
        return self._parts[split]

    def _check(self, part: ArrayPart, place: Path, range: Sequence[float] | None) -> None:
        shape = part.array.shape[1:]
        if shape != self.shape:
            raise DataError(f"{place} holds images of shape {shape}, {self.places['train']} of {self.shape}")
        if (part.array.dtype == np.uint8) != (self.scaling.levels is not None):
            raise DataError(f"{place} and {self.places['train']} hold different types; make them alike")
        if range is not None:
            _check_range(part.array, range, place)

    def declared(self) -> dict[str, str]:
        return {**super().declared(), "source": ", ".join(map(str, self.places.values()))}


def _split(part: ArrayPart, share: float, place: Path) -> dict[str, ArrayPart]:
    rows = split_rows(len(part.array), share, place)
    return {split: ArrayPart(part.array, part.labels, kept) for split, kept in rows.items()}


def _stored(place: Path, classes: bool) -> ArrayPart:
    """The images of a file, channels first, and their classes where they are asked for."""
    if not place.is_file():
        raise DataError(f"{place} does not exist; give a folder or zip file of images, or an .npy or .npz file")
    try:
        if place.suffix.lower() == ".npy":
            found = {"images": np.load(place, mmap_mode="r", allow_pickle=False)}
        else:
            found = _members(place)
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise many types on damaged files
        raise DataError(f"{place} can not be read as an array file: {error}") from error
    images = _channels_first(_only_images(found, place), place)
    return ArrayPart(images, _classes(found, len(images), place) if classes else None)


def _members(place: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            check_member(place, member, most=None)
    with np.load(place, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _only_images(found: Mapping[str, np.ndarray], place: Path) -> np.ndarray:
    images = {name: array for name, array in found.items() if array.ndim in (3, 4)}
    if len(images) != 1:
        held = ", ".join(f"{name} {array.shape}" for name, array in found.items()) or "nothing"
        raise DataError(f"{place} must hold one array of images (n, height, width[, channels]); it holds {held}")
    return next(iter(images.values()))


def _channels_first(array: np.ndarray, place: Path) -> np.ndarray:
    """(n, channels, height, width), by the axis that has 1 or 3 entries."""
    if array.ndim == 3:
        return array[:, None]
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first == last:
        why = "both axis 1 and the last" if first else "neither axis 1 nor the last"
        raise DataError(f"{place} holds an array {array.shape}: {why} has 1 or 3 channels; store (n, channels, h, w)")
    return array if first else array.transpose(0, 3, 1, 2)


def _classes(found: Mapping[str, np.ndarray], count: int, place: Path) -> np.ndarray:
    labels = next((found[name] for name in LABELS if name in found), None)
    if labels is None:
        raise DataError(f"{place} holds no array {' or '.join(LABELS)} for classes=true; it holds {', '.join(found)}")
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(f"{place}: labels must be whole numbers from 0, one for each of the {count} images")
    return labels


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
    scale = 2 / (range[1] - range[0])
    return Scaling(scale, -1 - scale * range[0])


def _check_range(array: np.ndarray, range: Sequence[float], place: Path) -> None:
    low, high = range
    for start in np.arange(0, len(array), ROWS_CHECKED):
        rows = array[start : start + ROWS_CHECKED]
        outside = ~((rows >= low) & (rows <= high))
        if outside.any():
            row = int(start + outside.reshape(len(rows), -1).any(1).argmax())
            raise DataError(f"{place}: image {row} has values outside the declared range [{low}, {high}], or NaN")
