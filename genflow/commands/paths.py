"""Where commands write: checked before hours are spent."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from genflow.config import ConfigError


def check_folder(path: Path) -> None:
    """Raises ConfigError where a folder stands on a file, before hours are spent."""
    check_parents(path, path)


def check_parents(path: Path, first: Path) -> None:
    """Raises ConfigError naming `path` where `first` or a folder above it is a file."""
    for part in (first, *first.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"out = '{path}': {part} is a file, not a folder; choose another folder")


def make_folder(path: Path) -> None:
    """Makes a folder, or raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out = '{path}' cannot be written: {error.strerror}; choose another folder") from None


def check_out(out: str, endings: Sequence[str]) -> Path:
    """The path of a file to write.

    Raises:
        ConfigError: Another ending, a folder, a place below a file, or one that cannot be written.
    """
    path = Path(out)
    if path.suffix not in endings:
        known = " or ".join((", ".join(endings[:-1]), endings[-1]) if len(endings) > 1 else endings)
        raise ConfigError(f"out = '{path}': the ending says what to write; give a {known} file")
    if path.is_dir():
        raise ConfigError(f"out = '{path}' is a folder; give a file")
    check_parents(path, path.parent)
    check_writable(path)
    return path


def check_writable(path: Path) -> None:
    """Raises ConfigError where a file, or files in a folder, cannot be written; leaves everything as it was."""
    try:
        if path.exists() and not path.is_dir():
            path.open("r+b").close()
        else:
            there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
            with tempfile.TemporaryFile(dir=there):
                pass
    except OSError as error:
        raise ConfigError(f"out = '{path}' cannot be written: {error.strerror}; choose another place") from None
