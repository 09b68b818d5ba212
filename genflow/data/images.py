"""Your own images: a folder or a zip file; array files are in `array_files`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genflow.checks import is_count, is_number, require
from genflow.data.archives import open_source
from genflow.data.array_files import ArrayImages
from genflow.data.arrays import split_rows
from genflow.data.bad_images import OnBadImage
from genflow.data.base import Dataset
from genflow.data.decoding import Recipe
from genflow.data.files import DataError
from genflow.data.pictures import PictureDataset, Pictures

ARRAY_SUFFIXES = (".npy", ".npz")


def load_images(
    path: str = "",
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    classes: bool = False,
    test_share: float = 0.1,
    test_path: str | None = None,
    flip: bool = False,
    on_bad_image: str = "stop",
    bad_limit: int = 100,
    range: Sequence[float] | None = None,
) -> Dataset:
    """The data set `images`.

    Arguments:
        path: A folder (with all below it) or zip file of images, or an .npy or .npz file of
            (n, height, width, channels) or (n, channels, height, width).
        size: Resize the largest centred box to this, S or (height, width). Without it all must have one size.
        channels: Convert to 1 (grey) or 3 (RGB) channels. Without it all must be grey or all RGB.
        classes: Whether the top folders below `path` are classes (images), or the array "labels" holds them (.npz).
        test_share: Share of the images held out: the last of a permutation of the sorted names, seed 0.
        test_path: Where the held-out images are; then all of `path` trains.
        flip: Whether training mirrors images left to right.
        on_bad_image: "stop" or "skip".
        bad_limit: Most images that are skipped.
        range: (low, high) of an array of floats, which becomes [−1, 1]; whole numbers of 8 bits need none.

    Raises:
        DataError: What is at `path` can not be used; the message names the file.
        ValueError: An option that is not allowed.
    """
    require(
        "images",
        {
            "path": (path, isinstance(path, str | Path) and bool(str(path)), "a folder, zip, .npy or .npz file"),
            "size": (size, size is None or _pair(size) is not None, "a whole number above 0, or [height, width]"),
            "channels": (channels, channels in (None, 1, 3), "1 or 3"),
            "classes": (classes, isinstance(classes, bool), "true or false"),
            "test_share": (test_share, is_number(test_share) and 0 < test_share < 1, "a number between 0 and 1"),
            "range": (range, range is None or _is_range(range), "[low, high]"),
        },
    )
    places = {"train": Path(path).expanduser(), **({"test": Path(test_path).expanduser()} if test_path else {})}
    if places["train"].suffix.lower() in ARRAY_SUFFIXES:
        declared = [name for name, given in (("size", size), ("channels", channels)) if given is not None]
        if declared:
            raise ValueError(f"images: {declared[0]} is for image files; {path} is an array, convert it beforehand")
        return ArrayImages(places, range, classes=classes, test_share=test_share, flip=flip)
    if range is not None:
        raise ValueError("images: range is for arrays of floats; image files have grey levels 0 to 255")
    recipe = Recipe(channels, _pair(size) if size is not None else None)
    splits = _pictures(places, classes, test_share)
    bad = OnBadImage(on_bad_image, bad_limit)
    return FolderImages(splits, recipe, flip, bad)


def _pair(size: Any) -> tuple[int, int] | None:
    """(height, width), or None where that is not what came."""
    values = [size, size] if is_count(size) else size
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or len(values) != 2
        or not all(map(is_count, values))
    ):
        return None
    return int(values[0]), int(values[1])


def _is_range(range: Any) -> bool:
    return isinstance(range, Sequence) and len(range) == 2 and all(map(is_number, range)) and range[0] < range[1]


def _pictures(places: Mapping[str, Path], classes: bool, share: float) -> dict[str, Pictures]:
    sources = {split: open_source(place) for split, place in places.items()}
    labelled = {split: source.classes() if classes else ([], None) for split, source in sources.items()}
    first = labelled["train"][0]
    if any(names != first for names, _ in labelled.values()):
        other = sorted(set(first) ^ set(labelled["test"][0]))
        raise DataError(f"the classes of {places['train']} and {places['test']} differ: {', '.join(other[:5])}")
    if "test" in sources:
        return {split: Pictures(sources[split], sources[split].names, labelled[split][1]) for split in sources}
    source, labels = sources["train"], labelled["train"][1]
    return {
        split: Pictures(source, [source.names[k] for k in rows], [labels[k] for k in rows] if labels else None)
        for split, rows in split_rows(len(source.names), share, source.place).items()
    }


class FolderImages(PictureDataset):
    """Image files in a folder or zip file."""

    def __init__(self, splits: dict[str, Pictures], recipe: Recipe, flip: bool, bad: OnBadImage) -> None:
        super().__init__("images", splits, recipe, flip, bad)
        self.classes = max((1 + max(part.labels) for part in splits.values() if part.labels), default=0)
