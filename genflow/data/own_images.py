"""Your own images: a folder or a zip file; arrays are in `image_arrays`. What is made of them is said in notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from genflow.checks import is_count, is_number, require
from genflow.data.arrays import split_rows
from genflow.data.bad_images import BadImages
from genflow.data.base import Dataset
from genflow.data.containers import container
from genflow.data.decoding import Decoder
from genflow.data.decoding import frames as frames_of
from genflow.data.downloads import DataError
from genflow.data.image_arrays import ArrayImages
from genflow.data.image_files import PictureDataset, Pictures
from genflow.data.listing import SPLITS, empty_folders
from genflow.data.notes import counted, listed, note, shown
from genflow.data.sources import BadImageError, Source, open_source
from genflow.places import expand

FEW = 10
"""Held-out images below which it is said how few they are."""


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
    frames: str = "first",
    background: int | None = None,
) -> Dataset:
    """The data set `images`.

    Arguments:
        path: A folder (with all below it) or zip file of images, or an .npy or .npz file of
            (n, height, width, channels) or (n, channels, height, width).
        size: Resize the largest centred box to this, S or (height, width). Without it all must have one size.
        channels: Convert to 1 (grey) or 3 (RGB) channels. Without it all must be grey or all RGB.
        classes: Whether the top folders below `path` are classes (images; a folder around all of them is looked
            through), or the array "labels" holds them (.npz).
        test_share: Share of the images held out: the last of a permutation of the sorted names, seed 0.
        test_path: Where the held-out images are; then all of `path` trains.
        flip: Whether training mirrors images left to right.
        on_bad_image: "stop" or "skip".
        bad_limit: Most images that are skipped.
        range: (low, high) of an array of floats, which becomes [−1, 1]; whole numbers of 8 bits need none.
        frames: "first" reads one image of a file of several pages or frames, "all" each of them.
        background: Level, 0 to 255, put behind transparent pixels; without it the colours stored under them are kept.

    Raises:
        DataError: What is at `path` cannot be used; the message names the file.
        ValueError: An option that is not allowed.
    """
    level = background is None or (is_count(background, least=0) and background <= 255)
    require(
        "images",
        {
            "path": (path, _is_path(path), "a folder, zip, .npy or .npz file"),
            "test_path": (test_path, not test_path or _is_path(test_path), "a folder, zip, .npy or .npz file"),
            "size": (size, size is None or _pair(size) is not None, "a whole number above 0, or [height, width]"),
            "channels": (channels, channels is None or (is_count(channels) and channels in (1, 3)), "1 or 3"),
            "classes": (classes, isinstance(classes, bool), "true or false"),
            "test_share": (test_share, is_number(test_share) and 0 < test_share < 1, "a number between 0 and 1"),
            "range": (range, range is None or _is_range(range), "[low, high]"),
            "frames": (frames, frames in ("first", "all"), "'first' or 'all'"),
            "background": (background, level, "a whole number from 0 to 255"),
        },
    )
    bad = BadImages(on_bad_image, bad_limit)
    places = {"train": expand(path), **({"test": expand(test_path)} if test_path else {})}
    if test_path:
        _say_overlap(places)
    if _are_arrays(places):
        for name, given in {"size": size, "channels": channels, "background": background}.items():
            if given is not None:
                raise ValueError(f"images: {name} is for image files; {path} is an array, convert it beforehand")
        arrays = ArrayImages(places, range, classes=classes, test_share=test_share, flip=flip)
        _say_split(arrays.count("train"), arrays.count("test"), places, test_share)
        return arrays
    if range is not None:
        raise ValueError("images: range is for arrays of floats; image files have grey levels 0 to 255")
    decoder = Decoder(channels, _pair(size) if size is not None else None, background=background)
    splits, names = _pictures(places, classes, test_share)
    if frames == "all":  # after the split, so that no file is on both sides
        splits = {split: _every_frame(part, bad) for split, part in splits.items()}
    _say_split(len(splits["train"].names), len(splits["test"].names), places, test_share)
    found = PictureDataset("images", splits, decoder, flip, bad)
    found.classes, found.class_names, found.classes_asked = len(names), tuple(names), bool(names)
    return found


def _is_path(path: Any) -> bool:
    return isinstance(path, str | Path) and bool(str(path))


def _are_arrays(places: Mapping[str, Path]) -> bool:
    kinds = {split: container(place) for split, place in places.items()}
    arrays = {split: kind == "array file" for split, kind in kinds.items()}
    if len(set(arrays.values())) > 1:
        held = " and ".join(f"{shown(place)} is a {kinds[split]}" for split, place in places.items())
        raise DataError(f"{held.replace('a array', 'an array')}; give images for both path and test_path, or arrays")
    return arrays["train"]


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


def _pictures(places: Mapping[str, Path], classes: bool, share: float) -> tuple[dict[str, Pictures], list[str]]:
    """The images of both splits, and the names of their classes."""
    sources = {split: open_source(place) for split, place in places.items()}
    for source in sources.values():
        _say_others(source, classes)
    labelled = {split: source.classes() if classes else ([], None) for split, source in sources.items()}
    first = labelled["train"][0]
    if any(names != first for names, _ in labelled.values()):
        other = sorted(set(first) ^ set(labelled["test"][0]))
        raise DataError(f"the classes of {places['train']} and {places['test']} differ: {listed(other, 5)}")
    splits = {split: Pictures(source, source.names, labelled[split][1]) for split, source in sources.items()}
    if "test" not in splits:
        whole, place = splits["train"], sources["train"].place
        rows = split_rows(len(whole.names), share, place)
        splits = {split: whole.taken(kept.tolist()) for split, kept in rows.items()}
    _say_classes(first, splits["train"].labels or [])
    return splits, first


def _every_frame(part: Pictures, bad: BadImages) -> Pictures:
    """A row for each frame of each file; none for a file whose frames cannot be counted, since it is damaged."""
    rows, places = [], []
    for row, name in enumerate(part.names):
        try:
            count = frames_of(part.source.read(name))
        except BadImageError as error:
            bad.add(part.title(row), error)
            continue
        rows += [row] * count
        places += list(range(count))
    return part.taken(rows, places)


def _say_others(source: Source, classes: bool) -> None:
    """What lies at a place and is not read, and folders that could be classes and are not."""
    listing = source.listing
    if listing is None:
        return
    if total := listing.passed.total():
        found = f"{len(listing.images):,} images; {total:,} other files passed over"
        note(f"{shown(source.place)}: {found}: {counted(listing.passed)}")
    if classes:
        if empty := empty_folders(listing):
            note(f"{shown(source.place)}: folders without images are not classes: {listed(empty)}")
        return
    with suppress(DataError):
        names, _ = source.classes()
        if len(names) > 1:
            folders = f"{len(names):,} folders ({listed(names, 5)})"
            note(f"{shown(source.place)}: {folders} are not used as classes; classes=true uses them")


def _say_overlap(places: Mapping[str, Path]) -> None:
    train, test = (places[split].resolve() for split in ("train", "test"))
    if train == test or train in test.parents:
        note(
            f"images: test_path = {shown(places['test'])} lies within path = {shown(places['train'])}, "
            "so the held-out images are trained on too; keep them apart, or leave test_path out"
        )


def _say_split(train: int, test: int, places: Mapping[str, Path], share: float) -> None:
    held_out = f"test_path = {shown(places['test'])}" if "test" in places else f"test_share = {share:g}"
    few = "; too few for most metrics: a larger test_share or a test_path gives more" if test < FEW else ""
    note(f"images: {train:,} to train on, {test:,} held out ({held_out}){few}")


def _say_classes(names: Sequence[str], labels: Sequence[int]) -> None:
    if not names:
        return
    note(f"images: classes {listed([f'{k} {name}' for k, name in enumerate(names)], 20)}")
    if len(names) == 1:
        note(f"images: all images are in one class, {shown(names[0])}; give the folder above your class folders")
    if len(names) > 1 and {name.lower() for name in names} <= SPLITS:
        note("images: these classes have the names of splits; give one as path and the other as test_path")
    trained = set(labels)
    if absent := [name for k, name in enumerate(names) if k not in trained]:
        note(f"images: no training image of class {listed(absent)}; all its images are held out")
