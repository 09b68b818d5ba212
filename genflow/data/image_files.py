"""Image files as a data set: decoded once and held, or read when they are asked for; bad ones are named or counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genflow.checks import require
from genflow.data.bad_images import BadImages
from genflow.data.base import Dataset, Scaling, check_split
from genflow.data.decoding import Decoder, frame_count, orientation
from genflow.data.downloads import DataError
from genflow.data.memory import check_room, check_size
from genflow.data.notes import note
from genflow.data.sources import BadImageError, Source

if TYPE_CHECKING:
    from PIL.Image import Image

THREADS = min(8, os.cpu_count() or 1)
HEAD_BYTES = 2**16
"""Bytes of a file that are read for its header."""
TODO = {
    "frames": "of your own images, frames=all reads every frame",
    "exif": "turn such images beforehand if they are to be upright",
}
"""What can be done about what is not read of an image."""


@dataclass
class Pictures:
    """The images of one split by row: name in the source, class, and frame of the file (None: all are the first)."""

    source: Source
    names: list[str]
    labels: list[int] | None = None
    frames: list[int] | None = None

    def frame(self, row: int) -> int:
        return 0 if self.frames is None else self.frames[row]

    def title(self, row: int) -> str:
        title = self.source.title(self.names[row])
        return title if self.frames is None else f"{title} (frame {self.frames[row] + 1})"

    def without(self, bad: Iterable[int]) -> Pictures:
        """The same without some rows."""
        left_out = set(bad)
        kept = [row for row in range(len(self.names)) if row not in left_out]
        return self.taken(kept)

    def taken(self, rows: Sequence[int], frames: list[int] | None = None) -> Pictures:
        """Some rows, with their frames where those are given."""
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        if frames is None and self.frames is not None:
            frames = [self.frames[row] for row in rows]
        return Pictures(self.source, [self.names[row] for row in rows], labels, frames)

    def stand_ins(self, row: int) -> Iterator[int]:
        """The rows after one, around to it, that are of its class."""
        total = len(self.names)
        for other in (k % total for k in range(row + 1, row + total)):
            if self.labels is None or self.labels[other] == self.labels[row]:
                yield other


class PictureDataset(Dataset):
    """Image files, decoded to grey levels 0 to 255.

    A set that fits in HELD_BYTES is decoded once and held as bytes; skipped images are left out of it. Images of a
    larger set are read when they are asked for, by a few threads; for one that turns out to be bad then, the next good
    one (of its class) stands in, so that rows keep their meaning.

    Arguments:
        name: Registered name, for messages.
        splits: Images of "train" and "test".
        decoder: What is done to an image; where it leaves channels or size open, all headers are read and must agree.
        flip: Whether training mirrors images.
        bad: What is done about images that cannot be used.
    """

    HELD_BYTES = 2**30
    scaling = Scaling.grey(256)

    def __init__(
        self, name: str, splits: dict[str, Pictures], decoder: Decoder, flip: bool = False, bad: BadImages | None = None
    ) -> None:
        require(name, {"flip": (flip, isinstance(flip, bool), "true or false")})
        self.name, self.flip, self.decoder, self._pictures = name, flip, decoder, dict(splits)
        self._bad = bad or BadImages()
        self._noted: dict[str, str] = {}
        if decoder.size:
            check_size(name, decoder.size)
        self.shape = self._common_shape()
        total = sum(len(part.names) for part in self._pictures.values())
        self.held = total * int(np.prod(self.shape)) <= self.HELD_BYTES
        check_room(name, self.shape, total if self.held else 1)
        self._held: dict[str, np.ndarray] = {}

    @property
    def skipped(self) -> int:
        """Images that could not be used so far."""
        return len(self._bad.reasons)

    def count(self, split: str) -> int:
        check_split(split)
        if self.held:
            self._levels(split)
        return len(self._pictures[split].names)

    def labels(self, split: str) -> Tensor | None:
        self.count(split)
        labels = self._pictures[split].labels
        return None if labels is None else torch.tensor(labels, dtype=torch.int64)

    def examples(self, split: str, rows: Tensor) -> Tensor:
        wanted = rows.tolist()
        levels = self._levels(split)[wanted] if self.held else self._decoded(split, wanted)
        return torch.from_numpy(levels.astype(np.float32))

    def declared(self) -> dict[str, str]:
        facts = {**super().declared(), "preprocessing": self.decoder.describe()}
        facts["source"] = ", ".join({str(part.source.place): 0 for part in self._pictures.values()})
        return {**facts, "skipped": str(self.skipped)} if self.skipped else facts

    def _common_shape(self) -> tuple[int, int, int]:
        """The shape of all images; headers are read where the decoder leaves it open.

        Raises:
            DataError: Two images differ, with their names, or a split is empty.
        """
        if self.decoder.channels and self.decoder.size:
            self._check_filled()
            return (self.decoder.channels, *self.decoder.size)
        first: tuple[str, tuple[int, int, int]] | None = None
        for split, part in list(self._pictures.items()):
            found = self._each(part, range(len(part.names)), self._measure)
            bad = [row for row, shape in enumerate(found) if shape is None]
            self._pictures[split] = part.without(bad)
            for row, shape in enumerate(found):
                if shape is not None:
                    first = first or (part.title(row), shape)
                    _check_alike(first, (part.title(row), shape))
        self._check_filled()
        assert first is not None
        return first[1]

    def _check_filled(self) -> None:
        for split, part in self._pictures.items():
            if not part.names:
                raise DataError(f"the {split} split of '{self.name}' has no image that can be used")

    def _levels(self, split: str) -> np.ndarray:
        """All images of a split, decoded once; the bad ones leave their rows."""
        if split not in self._held:
            part = self._pictures[split]
            found = self._each(part, range(len(part.names)), self._decode)
            self._pictures[split] = part.without(row for row, image in enumerate(found) if image is None)
            self._check_filled()
            self._held[split] = np.stack([image for image in found if image is not None])
        return self._held[split]

    def _decoded(self, split: str, rows: list[int]) -> np.ndarray:
        """Some images of a split, read now."""
        part = self._pictures[split]
        found = self._each(part, rows, self._decode)
        for place, row in enumerate(rows):
            others = part.stand_ins(row)
            while found[place] is None:
                other = next(others, None)
                if other is None:
                    raise DataError(f"no image can stand in for {part.title(row)}: none of its kind can be used")
                found[place] = self._each(part, [other], self._decode)[0]
        return np.stack(found) if found else np.empty((0, *self.shape), np.uint8)

    def _measure(self, part: Pictures, row: int) -> tuple[int, int, int]:
        """An image's shape, from the first bytes of its file where those suffice."""
        frame = part.frame(row)
        if not frame:
            with suppress(BadImageError):
                return self.decoder.measure(part.source.read(part.names[row], HEAD_BYTES))
        return self.decoder.measure(part.source.read(part.names[row]), frame)

    def _decode(self, part: Pictures, row: int) -> np.ndarray:
        data = part.source.read(part.names[row])
        image = self.decoder.decode(data, part.frame(row), lambda image: self._tell(part, row, image))
        if image.shape != self.shape:
            raise BadImageError(f"has shape {image.shape}, the data set {self.shape}")
        return image

    def _tell(self, part: Pictures, row: int, image: Image) -> None:
        """Says of the first image of each kind what is not read of it."""
        with suppress(BadImageError):
            if part.frames is None and (count := frame_count(image)) > 1:
                self._say_first("frames", part.title(row), f"has {count} frames; the first of each file is read")
            if (turned := orientation(image)) > 1:
                self._say_first("exif", part.title(row), f"has EXIF orientation {turned}, which is not applied")

    def _say_first(self, kind: str, title: str, what: str) -> None:
        if self._noted.setdefault(kind, title) is title:  # threads ask at the same time
            note(f"{title} {what}; {TODO[kind]}; further such images are not named")

    def _each(self, part: Pictures, rows: Iterable[int], work: Callable[[Pictures, int], Any]) -> list[Any]:
        """`work` on the images of some rows, in their order; None for each that is skipped."""

        def one(row: int) -> Any:
            try:
                return work(part, row)
            except BadImageError as error:
                return error

        rows, results = list(rows), []
        for row, found in zip(rows, _pool(os.getpid()).map(one, rows) if len(rows) > 1 else map(one, rows)):
            if isinstance(found, BadImageError):
                self._bad.add(part.title(row), found)
            results.append(None if isinstance(found, BadImageError) else found)
        return results


def _check_alike(first: tuple[str, tuple[int, int, int]], other: tuple[str, tuple[int, int, int]]) -> None:
    """Raises DataError naming two images of different shapes."""
    (one, shape), (two, found) = first, other
    if shape[0] != found[0]:
        what, values, todo = "channels", [f"{n} channels" for n in (shape[0], found[0])], "channels=1 or channels=3"
    elif shape != found:
        what, values, todo = "size", [f"{h}x{w}" for _, h, w in (shape, found)], "size=S (resizing and cropping)"
    else:
        return
    raise DataError(
        f"images differ in {what}: {one} has {values[0]}, {two} has {values[1]}; give {todo} to make them alike"
    )


_POOLS: dict[int, ThreadPoolExecutor] = {}


def _pool(process: int) -> ThreadPoolExecutor:
    """The decoding threads of a process: a forked one has none of its parent's."""
    if process not in _POOLS:
        _POOLS[process] = ThreadPoolExecutor(THREADS, thread_name_prefix="genflow-images")
    return _POOLS[process]
