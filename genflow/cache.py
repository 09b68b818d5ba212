"""The folder of files that can be fetched or computed again: weights, statistics, published data sets."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from genflow.places import expand


class CacheError(RuntimeError):
    """No folder for cached files is writable."""

    exit_code = 2


def folder(kind: str) -> Path:
    """The cache folder for files of a kind ("data", "weights", "statistics", ...); created if missing.

    The first writable one of: `$GENFLOW_CACHE`; `$XDG_CACHE_HOME/genflow`; `~/.cache/genflow`; a folder
    `genflow-<user>` in the temporary directory, which only its owner may write to. The ones that were skipped are
    reported once on standard error.

    Raises:
        CacheError: `$GENFLOW_CACHE` is set but not writable (an explicit choice is never replaced), or no place is.
    """
    if not kind or not all(part.isidentifier() for part in kind.split("/")):
        raise ValueError(f"a kind of cached file must be a plain name such as 'weights', not {kind!r}")
    chosen = os.environ.get("GENFLOW_CACHE")
    if chosen:
        root = expand(chosen)
        reason = _why_not(root / kind)
        if reason:
            raise CacheError(f"the cache folder {root} of GENFLOW_CACHE is not writable: {reason}; set it to another")
        return root / kind
    passed: list[str] = []
    for name, place in _places():
        reason = _why_not(place / kind) if place is not None else "unset"
        if place is not None and reason is None:
            _report(tuple(passed), str(place))
            return place / kind
        passed.append(f"{name}: {reason}")
    raise CacheError(f"no cache folder is writable ({'; '.join(passed)}); set GENFLOW_CACHE to one that is")


def _places() -> Iterator[tuple[str, Path | None]]:
    """Default places in order of preference, each with the name that messages use; None where it is unset."""
    if os.environ.get("XDG_CACHE_HOME"):
        yield "XDG_CACHE_HOME", Path(os.environ["XDG_CACHE_HOME"]) / "genflow"
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
    yield "HOME", Path(home) / ".cache" / "genflow" if home else None
    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield "the temporary directory", Path(tempfile.gettempdir()) / f"genflow-{user}"


def _why_not(path: Path) -> str | None:
    """Creates a folder; None where files can be written there, else the reason.

    A folder in the temporary directory that belongs to another user is refused, since its files are not this user's.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if hasattr(os, "getuid") and path.parent.name.startswith("genflow-") and path.stat().st_uid != os.getuid():
        return f"{path} belongs to another user"
    return None


@cache
def _report(passed: tuple[str, ...], root: str) -> None:
    """Reports once, on standard error, that a preferred place could not be used."""
    if passed:
        print(f"genflow: caching in {root} ({'; '.join(passed)}); GENFLOW_CACHE chooses a folder", file=sys.stderr)
