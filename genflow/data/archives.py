"""Where images come from, by name: a folder, a zip file, an LMDB. Nothing is ever unpacked to a disk."""

from __future__ import annotations

import os
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from genflow.data.files import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MEMBER_BYTES = 2**28
"""Most bytes that an image of a zip file may unpack to (256 MiB)."""
RATIO, RATIO_BYTES = 200, 2**24
"""A member above RATIO_BYTES that unpacks to more than RATIO times its packed size is refused."""


class BadImageError(ValueError):
    """One image that can not be used, without its name."""


class Source(ABC):
    """Named image files, read one at a time from any thread or process.

    Arguments:
        place: The folder or file that they are in.
    """

    names: list[str]
    """Paths below the place, sorted, so that rows do not depend on the machine."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @abstractmethod
    def read(self, name: str, most: int = -1) -> bytes:
        """The bytes of one image, or the first `most` of them.

        Raises:
            BadImageError: It is not there any more, or its archive is damaged there.
        """

    def title(self, name: str) -> str:
        """An image's full name for messages."""
        return f"{self.place}/{name}"

    def classes(self) -> tuple[list[str], list[int]]:
        """Names of the top folders, sorted, and each image's.

        Raises:
            DataError: An image lies in no folder.
        """
        tops = [PurePosixPath(name).parts[0] if "/" in name else "" for name in self.names]
        if "" in tops:
            loose = self.title(self.names[tops.index("")])
            raise DataError(f"{loose} is in no sub-folder, so it has no class; move it to one, or give classes=false")
        known = sorted(set(tops))
        places = {top: k for k, top in enumerate(known)}
        return known, [places[top] for top in tops]


def open_source(path: Path) -> Source:
    """The source that a path stands for: an LMDB, a folder, or a zip file.

    Raises:
        DataError: There is nothing of the kind, or no image in it.
    """
    if path.is_dir():
        return LmdbSource(path) if (path / "data.mdb").is_file() else FolderSource(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder or zip file of images, or an .npy or .npz file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no zip file (or a truncated one); give a folder or zip file of images")
    return ZipSource(path)


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _images(place: Path, found: Iterable[str]) -> list[str]:
    found = list(found)
    images = sorted(filter(_is_image, found))
    if not images:
        held = f"{len(found)} other files, such as {min(found)}" if found else "nothing"
        raise DataError(f"{place} has no images ({', '.join(SUFFIXES)}): it holds {held}")
    return images


class FolderSource(Source):
    """All images below a folder; hidden files are passed over, links to folders are not followed."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        walked = ((Path(folder).relative_to(place), files) for folder, _, files in os.walk(place))
        self.names = _images(place, ((folder / name).as_posix() for folder, files in walked for name in files))

    def read(self, name: str, most: int = -1) -> bytes:
        try:
            with (self.place / name).open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            raise BadImageError("has vanished since the data set was opened") from None
        except OSError as error:
            raise BadImageError(f"can not be read: {error.strerror or error}") from error


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
        return {"place": self.place, "names": self.names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def check_member(archive: Path, member: zipfile.ZipInfo, most: int | None = MEMBER_BYTES) -> None:
    """Refuses a member whose name leaves the archive, or that unpacks to far more than it should.

    Raises:
        DataError: With the member's name.
    """
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if ".." in parts or parts[:1] == ("/",) or (parts and parts[0].endswith(":")):
        raise DataError(f"{archive} is refused: its member {member.filename!r} points outside the archive")
    size, packed = member.file_size, max(member.compress_size, 1)
    if (most is not None and size > most) or (size > RATIO_BYTES and size > RATIO * packed):
        raise DataError(
            f"{archive} is refused: its member {member.filename!r} would unpack from {packed} to {size} bytes"
        )


class ZipSource(ArchiveSource):
    """All images of a zip file. Every name and declared size is checked before anything is read."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        try:
            members = [m for m in self.archive().infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{place} can not be read as a zip file: {error}") from error
        for member in members:
            check_member(place, member)
        self.names = _images(place, (member.filename for member in members))

    def _opened(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.place)

    def read(self, name: str, most: int = -1) -> bytes:
        try:
            with self.archive().open(name) as member:
                return member.read(most)
        except FileNotFoundError:
            raise BadImageError("is in an archive that has vanished") from None
        except Exception as error:  # zlib, CRC, encryption, unknown methods: many types, one meaning
            raise BadImageError(f"can not be unpacked: {error}") from error


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
            raise DataError(f"{self.place} can not be read as an LMDB: {error}") from error

    def read(self, name: str, most: int = -1) -> bytes:
        with self.archive().begin() as view:
            value = view.get(name.encode("latin1"))
        if value is None:
            raise BadImageError("has vanished from the database")
        return bytes(value if most < 0 else value[:most])
