"""Hashes of a data set's files for a cell's key: other files under the same name are other data. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from genflow.evaluate.weight_files import sha256
from genflow.places import expand


def contents(options: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the files and folders that a data set's options name.

    Arguments:
        options: Of the data set's constructor.

    Returns:
        Path as it was given -> hash: of a file's content; of a folder, all names and sizes below it, since the contents
        of a million images take minutes to read.
    """
    named = {value: expand(value) for value in options.values() if isinstance(value, str) and value}
    return {value: _digest(path) for value, path in named.items() if path.exists()}


def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else listing(path)


@cache
def listing(folder: Path) -> str:
    """Hash of the names and sizes of all files below a folder; read once, until `listing.cache_clear()`."""
    found = []
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        found += [((below / name).as_posix(), (Path(place) / name).stat().st_size) for name in names]
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()
