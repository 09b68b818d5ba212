"""Where published files lie, and how they are fetched where the user asks for it."""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genflow import cache
from genflow.former import moved
from genflow.places import expand

BLOCK = 2**20
"""Bytes read at a time."""


class DataError(ValueError):
    """Data that are missing, damaged, or not what was declared; the message names the file and what to do."""


@contextmanager
def reading(place: object, problem: str = "is damaged", todo: str = "fetch it again") -> Iterator[None]:
    """Raises DataError naming the file where reading it fails: libraries raise many types on damaged files."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{place} {problem}: {error}; {todo}") from error


def tar_members(
    archive: Path, wanted: Collection[str], optional: Collection[str] = (), most: int | None = None
) -> dict[str, bytes]:
    """Members of a .tar.gz by name; nothing is unpacked to a disk.

    Raises:
        DataError: The archive is damaged or lacks a wanted one, or a member is not a file of at most `most` bytes.
    """
    found: dict[str, bytes] = {}
    with reading(archive), tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name not in (*wanted, *optional):
                continue
            if not member.isreg() or (most is not None and member.size > most):
                kind = "not a regular file" if not member.isreg() else f"too large, {member.size:,} bytes"
                raise DataError(f"{archive} is refused: its member {member.name!r} is {kind}")
            found[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]  # a regular file
            if len(found) == len(wanted) + len(optional):
                break
    if missing := sorted(set(wanted) - set(found)):
        raise DataError(f"{archive} lacks {', '.join(missing)}; fetch it again")
    return found


@dataclass(frozen=True)
class DataFile:
    """One published file, or the folder that it unpacks to.

    Arguments:
        name: Path below the data folder.
        url: Where it is published.
        size: Its size, in words.
        md5: Published checksum of a file that may be fetched; "" where none is published.
        by_hand: Why it cannot be fetched from here; "" where it can.
    """

    name: str
    url: str = ""
    size: str = ""
    md5: str = ""
    by_hand: str = ""


class DataFolders:
    """The folder that a data set's published files are looked for in.

    Arguments:
        dataset: The data set's registered name.
        root: A folder; `$GENFLOW_DATA_DIR` by default, else the cache folder for data.
        download: Whether missing files may be fetched.

    Files are looked for in the folder itself and in its sub-folder of the data set's name.

    Raises:
        DataError: `root` is not a folder.
    """

    def __init__(self, dataset: str, root: str | None = None, download: bool = False) -> None:
        if not isinstance(download, bool):
            raise DataError(f"{dataset}: download = {download!r} is not allowed; give true or false")
        chosen = root or os.environ.get("GENFLOW_DATA_DIR")
        self.dataset, self.download = dataset, download
        self.root = expand(chosen) if chosen else cache.folder("data")
        if not self.root.is_dir():
            whose = "root" if root else "GENFLOW_DATA_DIR"
            raise DataError(f"{dataset}: {whose} = {str(self.root)!r} is not a folder; give the folder of the files")

    @property
    def places(self) -> tuple[Path, Path]:
        return self.root, self.root / self.dataset

    def find(self, wanted: Sequence[DataFile]) -> Path | None:
        """The first of several alternatives that is there."""
        candidates = (place / file.name for file in wanted for place in self.places)
        return next((path for path in candidates if path.exists()), None)

    def need(self, *wanted: DataFile) -> Path:
        """The first of several alternatives that is there, fetched where that is asked for and possible.

        Raises:
            DataError: None is there; the message names the files, the folders looked in, and what to do.
        """
        found = self.find(wanted)
        if found is not None:
            return found
        offered = next((file for file in wanted if file.url and not file.by_hand), None)
        if self.download and offered is not None:
            return self._fetch(offered)
        raise DataError(self.missing(wanted, offered))

    def missing(self, wanted: Sequence[DataFile], offered: DataFile | None) -> str:
        """The message for files that are not there."""
        names = " or ".join(file.name for file in wanted)
        source = next((file for file in wanted if file.url), None)
        text = f"the data set '{self.dataset}' needs {names}; looked in {' and '.join(map(str, self.places))}. "
        if source is not None:
            text += f"Published at {source.url}{f' ({source.size})' if source.size else ''}. "
        todo = f"Put it there, or give the folder it is in: --dataset-options {self.dataset}.root=FOLDER, "
        todo += "or GENFLOW_DATA_DIR"
        if offered is not None and not self.download:
            todo += f"; --dataset-options {self.dataset}.download=true fetches it"
        if self.download and source is not None and source.by_hand:
            todo += f". It cannot be fetched from here: {source.by_hand}"
        return text + todo

    def _fetch(self, file: DataFile) -> Path:
        """Fetches a file under a temporary name, checks it, and moves it to its own."""
        target = self.places[1] / file.name
        part = target.with_name(f".{target.name}.part-{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            found = _copy(file.url, part)
            if file.md5 and found != file.md5:
                raise DataError(f"{file.url} gave a file with MD5 {found}, published is {file.md5}; it was not kept")
            part.replace(target)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise DataError(f"{file.url} could not be fetched: {reason}. {self.missing([file], None)}") from error
        finally:
            part.unlink(missing_ok=True)
        return target


def _copy(url: str, path: Path) -> str:
    """Copies a URL to a file, synced; its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=60) as source, path.open("wb") as out:
        promised = source.headers.get("Content-Length")
        while block := source.read(BLOCK):
            digest.update(block)
            out.write(block)
        if promised is not None and out.tell() != int(promised):
            raise OSError(0, f"the connection ended after {out.tell()} of {promised} bytes")
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


__getattr__ = moved(__name__)
