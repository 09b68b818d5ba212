"""What a path holds, recognised by its contents, not by its suffix."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from genflow.data.downloads import DataError
from genflow.data.image_formats import image_format, image_suffixes
from genflow.data.notes import shown

ALLOWED = "give a folder or zip file of images, or an .npy or .npz file"
PACKED = (
    (b"\x1f\x8b", "a gzip file (.gz, .tar.gz)"),
    (b"BZh", "a bzip2 file (.bz2, .tar.bz2)"),
    (b"\xfd7zXZ\0", "an xz file (.xz, .tar.xz)"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file (.zst)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)
OTHERS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x80", "a pickle"),
)


def container(path: Path) -> str:
    """ "folder", "array file" or "zip file" (of images).

    Raises:
        DataError: There is nothing at the path, or something else; the message names it and what is allowed.
    """
    try:
        if path.is_dir():
            return "folder"
        if not path.exists():
            raise DataError(f"{shown(path)} does not exist; {ALLOWED}")
        if not path.is_file():
            raise DataError(f"{shown(path)} is not a regular file; {ALLOWED}")
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"\x93NUMPY"):
            return "array file"
        if zipfile.is_zipfile(path):
            return "array file" if _holds_arrays(path) else "zip file"
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror or error}; {ALLOWED}") from error
    raise DataError(f"{shown(path)} {_otherwise(path, head)}")


def _holds_arrays(path: Path) -> bool:
    """Whether a zip file is an .npz: it holds .npy files and no images."""
    try:
        with zipfile.ZipFile(path) as archive:
            suffixes = {PurePosixPath(name.replace("\\", "/")).suffix.lower() for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return path.suffix.lower() == ".npz"
    if suffixes & image_suffixes():
        return False
    return ".npy" in suffixes or path.suffix.lower() == ".npz"


def _otherwise(path: Path, head: bytes) -> str:
    """What a file is that is no container of images, and what to do."""
    if path.suffix.lower() in (".npy", ".npz"):
        return f"cannot be read as an array file: it is truncated or damaged; {ALLOWED}"
    if not head:
        return f"is empty; {ALLOWED}"
    if image_format(head):
        return "is one image; give the folder that holds your images"
    if head.startswith(b"PK") or path.suffix.lower() == ".zip":
        return f"cannot be read as a zip file: it is truncated or damaged; {ALLOWED}"
    packed = next((name for start, name in PACKED if head.startswith(start)), "")
    packed = packed or ("a tar archive" if head[257:262] == b"ustar" else "")
    if packed:
        return f"is {packed}; unpack it and give the folder, or pack the images as a zip file"
    other = next((f" but {name}" for start, name in OTHERS if head.startswith(start)), "")
    return f"is neither a zip file nor an array file{other}; {ALLOWED}"
