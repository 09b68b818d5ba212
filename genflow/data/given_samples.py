"""Samples that were drawn elsewhere, as raw examples of a data set."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genflow.data.base import Dataset, Scaling
from genflow.data.containers import container
from genflow.data.decoding import Decoder
from genflow.data.downloads import DataError, reading
from genflow.data.image_arrays import channels_first
from genflow.data.notes import shown
from genflow.data.own_table import column_values, read_frame
from genflow.data.sources import BadImageError, open_source

ARRAYS = "array file"


def read_samples(place: Path, dataset: Dataset) -> tuple[Tensor, str]:
    """All samples at a place, raw (n, *shape), float32, and what was done to them in words.

    Images: a folder or zip file of image files with the data's size and channels, or an array (.npy, or .npz with an
    array "x" or a single one) of whole levels as uint8. Floats are data units, as `genflow sample` writes them. Vectors
    of a CSV or parquet file are in the units of the data set's own file and preprocessed as its rows are.

    Raises:
        DataError: There is nothing there, or something that does not fit the data set.
    """
    shape = tuple(dataset.shape)
    if len(shape) == 1:
        x, how = _vectors(place, dataset)
    elif (kind := container(place)) == ARRAYS:
        x, how = _images_of(_array(place), place, dataset)
    else:
        x, how = _pictures(place, dataset), f"image files of a {kind}"
    if not len(x):
        raise DataError(f"{shown(place)} holds no samples")
    if tuple(x.shape[1:]) != shape:
        raise DataError(
            f"{shown(place)} holds samples of shape {tuple(x.shape[1:])}, and examples of '{dataset.name}' have {shape}"
        )
    bad = (~x.flatten(1).isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise DataError(f"{shown(place)}: sample {int(bad[0])} is not finite ({len(bad)} of {len(x)}); leave them out")
    return x, how


def _array(place: Path) -> np.ndarray:
    with reading(shown(place), "cannot be read as an array file", "give an .npy file, or an .npz file with an array x"):
        found = np.load(place, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as file:
            names = file.files
            if "x" not in names and len(names) != 1:
                raise DataError(f"{shown(place)} has no array 'x'; it has {', '.join(names) or 'none'}")
            return file["x" if "x" in names else names[0]]


def _in_data_units(x: np.ndarray, dataset: Dataset) -> Tensor:
    return dataset.scaling.decode(torch.from_numpy(x.astype(np.float32)))


def _images_of(x: np.ndarray, place: Path, dataset: Dataset) -> tuple[Tensor, str]:
    if x.dtype.kind == "f":
        return _in_data_units(x, dataset), "an array in data units"
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise DataError(
            f"{shown(place)} holds {x.dtype} of shape {x.shape}; give levels as uint8 (n, height, width[, channels]), "
            "or floats in data units"
        )
    whole = torch.from_numpy(np.ascontiguousarray(channels_first(x, place)).astype(np.float32))
    return _levels(whole, dataset, place), "an array of levels"


def _levels(levels: Tensor, dataset: Dataset, place: Path) -> Tensor:
    """Levels 0 to 255 as the data set's own."""
    if dataset.scaling.levels is None:
        raise DataError(
            f"{shown(place)} holds levels 0 to 255, and '{dataset.name}' has none; give floats in data units"
        )
    return dataset.scaling.decode(Scaling.grey(256).encode(levels))


def _pictures(place: Path, dataset: Dataset) -> Tensor:
    """Image files, in the order of their names."""
    if dataset.shape[0] not in (1, 3):
        raise DataError(f"{shown(place)} holds image files, and '{dataset.name}' has {dataset.shape[0]} channels")
    source, decoder, found = open_source(place), Decoder(dataset.shape[0], None), []
    for name in source.names:
        try:
            image = decoder.decode(source.read(name))
        except BadImageError as error:
            raise DataError(f"{source.title(name)}: {error}") from None
        if image.shape != tuple(dataset.shape):
            raise DataError(
                f"{source.title(name)} has shape {image.shape}, and examples of '{dataset.name}' have "
                f"{tuple(dataset.shape)}; resize it as the data were"
            )
        found.append(image)
    if not found:
        raise DataError(f"{shown(place)} holds no images")
    return _levels(torch.from_numpy(np.stack(found).astype(np.float32)), dataset, place)


def _vectors(place: Path, dataset: Dataset) -> tuple[Tensor, str]:
    """A table, its columns in the data set's order where both have names."""
    if place.is_file() and (_is_npy(place) or zipfile.is_zipfile(place)):
        x = _array(place)
        if x.dtype.kind not in "fiu" or x.ndim != 2:
            raise DataError(f"{shown(place)} holds {x.dtype} of shape {x.shape}; give numbers (n, {dataset.shape[0]})")
        return _in_data_units(x, dataset), "an array in data units"
    frame: Any = read_frame(place)
    names, own = [str(name) for name in frame.columns], getattr(dataset, "column_names", None)
    if own and set(own) <= set(names) and len(set(names)) == len(names):
        frame, names = frame[own], list(own)
    columns = [column_values(frame.iloc[:, k], k, name, place) for k, name in enumerate(names)]
    x = np.stack(columns, axis=1)
    if x.shape[1:] == tuple(dataset.shape) and hasattr(dataset, "preprocessed"):
        return torch.from_numpy(dataset.preprocessed(x)), "a table in the units of the data's file"
    return torch.from_numpy(x.astype(np.float32)), "a table in raw units"


def _is_npy(place: Path) -> bool:
    with place.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"
