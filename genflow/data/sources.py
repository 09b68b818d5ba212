"""Where images come from, by name: a folder, a zip file, an LMDB. Nothing is ever unpacked to a disk."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from genflow.data.containers import container
from genflow.data.downloads import DataError
from genflow.data.listing import HEAD_BYTES, FolderWalk, Listing, check_regular, class_folders
from genflow.data.notes import shown

MEMBER_BYTES = 2**28
"""Most bytes that an image of a zip file may unpack to (256 MiB)."""
RATIO, RATIO_BYTES = 200, 2**24
"""A member above RATIO_BYTES that unpacks to more than RATIO times its packed size is refused."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
"""How members may be packed."""


class BadImageError(ValueError):
    """One image that cannot be used, without its name."""


class Source(ABC):
    """Named image files, read one at a time from any thread or process.

    Arguments:
        place: The folder or file that they are in.
    """

    names: list[str]
    """Paths below the place, sorted, so that rows do not depend on the machine."""
    listing: Listing | None = None
    """How the names were found; None where every record of the place is an image."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @abstractmethod
    def read(self, name: str, most: int = -1) -> bytes:
        """The bytes of one image, or the first `most` of them.

        Raises:
            BadImageError: It is not there any more, or its archive is damaged there.
        """

    def head(self, name: str) -> bytes:
        """The first bytes of a file; none where it cannot be read."""
        try:
            return self.read(name, HEAD_BYTES)
        except BadImageError:
            return b""

    def title(self, name: str) -> str:
        """An image's full name for messages."""
        return shown(f"{self.place}/{name}")

    def classes(self) -> tuple[list[str], list[int]]:
        """Names of the class folders, sorted, and each image's; see `class_folders`.

        Raises:
            DataError: An image lies in no class folder.
        """
        if self.listing is None:
            raise DataError(f"{shown(self.place)} has no folders, so its images have no classes; give classes=false")
        return class_folders(self.listing, self.title)


def open_source(path: Path) -> Source:
    """The source that a path stands for: an LMDB, a folder, or a zip file.

    Raises:
        DataError: There is nothing of the kind, or no image in it.
    """
    kind = container(path)
    if kind == "zip file":
        return ZipSource(path)
    if kind == "folder":
        return LmdbSource(path) if (path / "data.mdb").is_file() else FolderSource(path)
    raise DataError(f"{shown(path)} is {kind}; give a folder or zip file of images")


class FolderSource(Source):
    """All images below a folder; `FolderWalk` says what is done about links."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        passed: Counter[str] = Counter()
        walk = FolderWalk(place, passed)
        self.listing = Listing(place, walk.files(), self.head, passed, walk.folders)
        self.names = self.listing.images

    def read(self, name: str, most: int = -1) -> bytes:
        path = f"{self.place}/{name}"
        try:
            check_regular(path)
            with open(path, "rb") as file:
                return file.read(most)
        except FileNotFoundError:
            linked = "is a link that leads nowhere" if os.path.islink(path) else ""
            raise BadImageError(linked or "has vanished since the data set was opened") from None
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error


class ArchiveSource(Source):
    """Images of one file that each process opens for itself: a forked one must not share its parent's position."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._reset()

    def _reset(self) -> None:
        self._lock, self._archive, self._owner = threading.Lock(), None, -1

    @abstractmethod
    def _opened(self) -> Any:
        """The archive, just opened."""

    def archive(self) -> Any:
        """The archive as this process has it open."""
        with self._lock:
            if self._archive is None or self._owner != os.getpid():
                self._archive, self._owner = self._opened(), os.getpid()
            return self._archive

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_archive", "_owner")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def check_member(archive: Path, member: zipfile.ZipInfo, most: int | None = MEMBER_BYTES) -> None:
    """Refuses a member whose name leaves the archive, or that unpacks to far more than it should.

    Raises:
        DataError: With the member's name.
    """
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    drive = re.match(r"[A-Za-z]:", parts[0]) if parts else None
    if ".." in parts or parts[:1] in (("/",), ("//",)) or drive:
        raise DataError(f"{archive} is refused: its member {member.filename!r} points outside the archive")
    size, packed = member.file_size, max(member.compress_size, 1)
    if (most is not None and size > most) or (size > RATIO_BYTES and size > RATIO * packed):
        raise DataError(
            f"{archive} is refused: its member {member.filename!r} would unpack from {packed} to {size} bytes"
        )


class ZipSource(ArchiveSource):
    """All images of a zip file. Every name and declared size is checked before anything is read.

    Windows separates folders by backslashes in some of its zip files, so a backslash is a separator here. Of members of
    one name the last counts, as it does when a file is unpacked over another.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        try:
            members = self.archive().infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{shown(place)} cannot be read as a zip file: {error}") from error
        passed: Counter[str] = Counter()
        folders: list[str] = []
        self._stored: dict[str, str] = {}
        """Members' own names by the names that they are known by here."""
        for member in members:
            check_member(place, member)
            name = _member_name(member)
            if member.is_dir() or member.filename.endswith("\\"):
                folders.append(name)
            elif stat.S_ISLNK(member.external_attr >> 16):
                passed["links"] += 1
            else:
                passed["earlier members of the same name"] += name in self._stored
                self._stored[name] = member.filename
        self.listing = Listing(place, self._stored, self.head, +passed, folders)
        self.names = self.listing.images
        for name in self.names:
            _check_packing(place, self.archive().getinfo(self._stored[name]))

    def _opened(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.place)

    def read(self, name: str, most: int = -1) -> bytes:
        try:
            with self.archive().open(self._stored[name]) as member:
                return member.read(most)
        except MemoryError:
            raise
        except FileNotFoundError:
            raise BadImageError("is in an archive that has vanished") from None
        except Exception as error:  # zlib, CRC, unknown methods: many types, one meaning
            raise BadImageError(f"cannot be unpacked: {error}") from error


def _member_name(member: zipfile.ZipInfo) -> str:
    """A member's path with "/" between its parts; UTF-8 also where the archive forgot to say so, as macOS does."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _check_packing(archive: Path, member: zipfile.ZipInfo) -> None:
    """Raises DataError for an image that needs a password, or a method that Python does not unpack."""
    if member.flag_bits & 1:
        problem = "is encrypted; pack the images without a password"
    elif member.compress_type not in METHODS:
        problem = f"is packed by method {member.compress_type}; pack the images by deflate, or not at all"
    else:
        return
    raise DataError(f"{shown(archive)} is refused: its member {member.filename!r} {problem}")


class LmdbSource(ArchiveSource):
    """All records of an LMDB, as LSUN is published: the key names the image, the value is its file."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        with self.archive().begin() as view:
            self.names = [key.decode("latin1") for key in view.cursor().iternext(values=False)]
        if not self.names:
            raise DataError(f"{place} has no records")

    def _opened(self) -> Any:
        try:
            import lmdb
        except ImportError:
            raise DataError(f"{self.place} is an LMDB; reading it needs pip install 'genflow[lsun]'") from None
        try:
            return lmdb.open(str(self.place), readonly=True, lock=False, readahead=False, max_readers=64)
        except lmdb.Error as error:
            raise DataError(f"{self.place} cannot be read as an LMDB: {error}") from error

    def read(self, name: str, most: int = -1) -> bytes:
        with self.archive().begin() as view:
            value = view.get(name.encode("latin1"))
        if value is None:
            raise BadImageError("has vanished from the database")
        return bytes(value if most < 0 else value[:most])
