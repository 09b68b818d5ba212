"""Which files of a place are images, what else lies there, and which folders are classes."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath

from genflow.data.downloads import DataError
from genflow.data.image_formats import image_format, image_suffixes
from genflow.data.notes import counted, listed, shown

HEAD_BYTES = 64
"""First bytes of a file without a suffix, which show whether it is an image."""
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
"""Names of folders that are parts of a data set and not classes."""


class Listing:
    """The images among the files of a place.

    Arguments:
        place: The folder or file, for messages.
        found: Paths below it, with "/" between their parts.
        head: The first bytes of one of them.
        passed: Other things that were passed over, by kind.
        folders: All folders below it; those without an image are not classes.

    A file is an image where its suffix, in upper or lower case, is one of a format that Pillow reads, or where it has
    no suffix and begins as an image does. Hidden files and `__MACOSX` are passed over, and counted as all others are.

    Raises:
        DataError: There is no image.
    """

    def __init__(
        self,
        place: Path,
        found: Iterable[str],
        head: Callable[[str], bytes],
        passed: Counter[str] | None = None,
        folders: Iterable[str] = (),
    ) -> None:
        self.passed: Counter[str] = Counter() if passed is None else passed
        self.images: list[str] = []
        others = []
        for name in found:
            if kind := _other_kind(name, head):
                self.passed[kind] += 1
                others.append(name)
            else:
                self.images.append(name)
        self.images.sort()
        self.folders = list(folders)  # a walk knows them at its end
        if not self.images:
            raise DataError(self._nothing(place, others))

    def _nothing(self, place: Path, others: list[str]) -> str:
        suffixes = listed([".png", ".jpg", *sorted(image_suffixes() - {".png", ".jpg"})], 100)
        held = "nothing"
        if others:
            held = f"{len(others)} other files, such as {shown(min(others))} ({counted(self.passed)})"
        elif self.passed:
            held = counted(self.passed)
        packed = next((name for name in sorted(others) if PurePosixPath(name).suffix.lower() == ".zip"), None)
        todo = f"; unpack {shown(packed)}" if packed else ""
        return f"{shown(place)} has no images ({suffixes}): it holds {held}{todo}"


def _other_kind(name: str, head: Callable[[str], bytes]) -> str:
    """What a file is that is not an image, for counting; "" where it is one."""
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    suffix = path.suffix.lower()
    if suffix in image_suffixes():
        return ""
    if suffix:
        return suffix
    return "" if image_format(head(name)) else "without a suffix"


class FolderWalk:
    """The files below a folder, as paths relative to it.

    Links to files are files. A link to a folder is followed, after all real folders, unless that folder was read
    already: so a loop ends, and no file comes twice.

    Arguments:
        place: The folder.
        passed: Links that are not followed are counted here.

    Raises:
        DataError: A folder cannot be read.
    """

    def __init__(self, place: Path, passed: Counter[str]) -> None:
        self.place, self.passed = place, passed
        self.folders: list[str] = []

    def files(self) -> Iterator[str]:
        real, linked, read = [""], list[str](), set[tuple[int, int]]()
        while real or linked:
            below = real.pop() if real else linked.pop(0)
            identity, entries = self._opened(below)
            if identity in read:
                self.passed["links to folders that are read already"] += 1
                continue
            read.add(identity)
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if not _is_folder(entry):
                    yield name
                    continue
                self.folders.append(name)
                (linked if entry.is_symlink() else real).append(name)
            linked.sort()

    def _opened(self, below: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
        """Which folder it is, whatever its name, and what is in it."""
        folder = self.place / below
        try:
            found = os.stat(folder)
            with os.scandir(folder) as entries:
                return (found.st_dev, found.st_ino), list(entries)
        except OSError as error:
            raise DataError(
                f"the folder {shown(folder)} cannot be read: {error.strerror}; allow it, or move it away"
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads in a circle or nowhere is no folder; it is found out when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def check_regular(path: str | Path) -> None:
    """Raises OSError for what exists and is not a regular file: reading a pipe would never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "it is not a regular file")


def class_folders(listing: Listing, title: Callable[[str], str]) -> tuple[list[str], list[int]]:
    """Names of the classes, sorted, and each image's: the first folders below what wraps all images.

    Folders that hold nothing but one other folder with all images are wrappers, at any depth.

    Arguments:
        listing: The images.
        title: An image's full name, for messages.

    Raises:
        DataError: An image lies beside the class folders, or there are no folders.
    """
    parents = [PurePosixPath(name).parent.parts for name in listing.images]
    wrapped = _wrappers(parents)
    tops = [parts[wrapped] if len(parts) > wrapped else "" for parts in parents]
    if "" in tops:
        loose = title(listing.images[tops.index("")])
        beside = sorted({top for top in tops if top})
        others = f", beside the class folders {listed(beside)}" if beside else ""
        raise DataError(
            f"{loose} is in no sub-folder{others}, so it has no class; move it to one, or give classes=false"
        )
    tops = [unicodedata.normalize("NFC", top) for top in tops]  # macOS stores accents apart from their letters
    known = sorted(set(tops))
    places = {top: k for k, top in enumerate(known)}
    return known, [places[top] for top in tops]


def _wrappers(parents: list[tuple[str, ...]]) -> int:
    """How many folders all images have in common, without the last one where they are all in it."""
    common = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*set(parents))))
    return max(common - 1, 0) if set(parents) == {parents[0]} else common


def empty_folders(listing: Listing) -> list[str]:
    """Folders beside the class folders that hold no image."""
    parents = [PurePosixPath(name).parent.parts for name in listing.images]
    wrapped = _wrappers(parents)
    above = parents[0][:wrapped]
    filled = {parts[wrapped] for parts in parents if len(parts) > wrapped}
    folders = (PurePosixPath(name).parts for name in listing.folders)
    beside = {parts[wrapped] for parts in folders if len(parts) > wrapped and parts[:wrapped] == above}
    return sorted(name for name in beside - filled if not name.startswith(".") and name != "__MACOSX")
