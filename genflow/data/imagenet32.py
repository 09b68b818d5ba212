"""ImageNet at 32x32: published batches, laid out once as an array on the disk that rows are read from."""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genflow import cache
from genflow.data import unpickle
from genflow.data.arrays import ArrayPart
from genflow.data.downloads import DataError, DataFile, reading
from genflow.data.small_images import SIDE, PublishedImages
from genflow.data.sources import check_member

HEADER = 128
"""Bytes kept free for the header of an .npy file."""
URL = "https://image-net.org/download-images"
BY_HAND = "image-net.org asks for a login"


class ImageNet32(PublishedImages):
    """1,281,167 training and 50,000 validation images of 1,000 classes; the validation images are the test split.

    Published as .npz batches or as pickled ones, zipped or not; all are read. On first use the batches of a split are
    written to one array in the cache folder (3.7 GiB for training), from which rows are then read, so that any number
    of processes share one copy.

    Source: Chrabaszcz et al. 2017, arXiv:1707.08819. The published labels 1 to 1000 are 0 to 999 here.
    """

    name = "imagenet32"
    classes = 1000
    held = False
    BATCHES = {"train": [f"train_data_batch_{k}" for k in range(1, 11)], "test": ["val_data"]}
    ARCHIVES = {"train": "Imagenet32_train", "test": "Imagenet32_val"}

    def __init__(self, root: str | None = None, download: bool = False, flip: bool = False) -> None:
        super().__init__(root, download, flip)
        self.places = {
            split: self.folders.need(
                DataFile(f"{archive}_npz.zip", URL, by_hand=BY_HAND),
                DataFile(f"{archive}.zip", URL, by_hand=BY_HAND),
                DataFile(f"{self.BATCHES[split][0]}.npz"),
                DataFile(self.BATCHES[split][0]),
            )
            for split, archive in self.ARCHIVES.items()
        }

    def _read(self, split: str) -> ArrayPart:
        place = self.places[split]
        about = place.stat()
        key = hashlib.sha256(f"{place.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:16]
        images, labels = (
            cache.folder("data") / f"{self.name}-{split}-{key}-{part}.npy" for part in ("images", "labels")
        )
        if not (images.exists() and labels.exists()):
            self._lay_out(split, images, labels)
        return ArrayPart(np.load(images, mmap_mode="r"), np.load(labels))

    def _lay_out(self, split: str, images: Path, labels: Path) -> None:
        """Writes a split's arrays under temporary names and moves them to their own."""
        parts = [path.with_name(f".{path.name}.part-{os.getpid()}") for path in (images, labels)]
        try:
            known = _write_array(parts[0], (3, SIDE, SIDE), self._batches(split))
            with parts[1].open("wb") as out:
                np.save(out, known)
            for part, path in zip(parts, (images, labels)):
                part.replace(path)
        except OSError as error:
            raise DataError(
                f"the batches of {self.places[split]} could not be laid out in {images.parent}: "
                f"{error.strerror or error}; GENFLOW_CACHE chooses another folder"
            ) from error
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    def _batches(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and classes of one batch after the other."""
        for title, data in _files(self.places[split], self.BATCHES[split]):
            yield self.batch(_fields(data, title), title, first=1)


def _files(place: Path, batches: list[str]) -> Iterator[tuple[str, bytes]]:
    """Titles and bytes of all batches, from an archive or beside the first one.

    Raises:
        DataError: A batch is missing or its archive is damaged.
    """
    if place.suffix != ".zip":
        for name in batches:
            path = place.with_name(name + place.suffix)
            if not path.is_file():
                raise DataError(f"{path} is missing beside {place.name}; fetch it again")
            yield str(path), path.read_bytes()
        return
    with reading(place), zipfile.ZipFile(place) as archive:
        members = {re.sub(r"\.npz$", "", Path(m.filename).name): m for m in archive.infolist()}
        for name in batches:
            if name not in members:
                raise DataError(f"{place} lacks {name}; fetch it again")
            check_member(place, members[name], most=2**31)
            yield f"{place}: {name}", archive.read(members[name])


def _fields(data: bytes, title: str) -> dict[str, np.ndarray]:
    """The arrays of one batch, .npz or pickled."""
    if not data.startswith(b"PK"):
        return unpickle.load_fields(data, title)
    with reading(title), np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name in ("data", "labels")}


def _write_array(path: Path, shape: tuple[int, ...], batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Images to an .npy file whose length is known only at its end; all classes, (n,)."""
    known = []
    with path.open("wb") as out:
        out.write(bytes(HEADER))
        for images, labels in batches:
            out.write(np.ascontiguousarray(images).data)
            known.append(labels)
        about = {"descr": "|u1", "fortran_order": False, "shape": (sum(map(len, known)), *shape)}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, about)
        assert header.tell() == HEADER
        out.seek(0)
        out.write(header.getvalue())
        out.flush()
        os.fsync(out.fileno())
    return np.concatenate(known)
