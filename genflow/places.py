"""Paths as people write them: home folders, and names that no file can have."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a file size limit that is used up."""


class PlaceError(ValueError):
    """A path that no file can have."""


def expand(path: str | os.PathLike[str]) -> Path:
    """A path with a leading ~ or ~user replaced by that home folder, where there is one.

    A ~ elsewhere, an unknown user's and environment variables stay as they are written: the shell replaces those. A
    folder whose name begins with ~ is reached as ./~name.
    """
    return Path(os.path.expanduser(path))


def home(what: str, text: str) -> str:
    """The text of a path with its home folder put in, other characters as they are.

    Raises:
        PlaceError: It holds a character that no path has; `what` is named.
    """
    if "\0" in text:
        raise PlaceError(f"{what} = {shorten(repr(text))} is not a path: it holds a null character")
    return os.path.expanduser(text)


def shorten(text: str, most: int = 120) -> str:
    """Text for a message, its middle left out where it is long, in one line."""
    text = " ".join(text.split()) if len(text.splitlines()) > 1 else text
    return text if len(text) <= most else f"{text[: most - 40]}...{text[-30:]} ({len(text)} characters)"
