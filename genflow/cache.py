"""Where genflow keeps what it may fetch again: weights, statistics, published data sets."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from genflow.places import expand


class CacheError(RuntimeError):
    """No folder for cached files can be written."""

    exit_code = 2


def folder(kind: str) -> Path:
    """The cache folder for files of a kind ("data", "weights", "statistics", ...); made where it is missing.

    The first of these that can be written: `$GENFLOW_CACHE`; `$XDG_CACHE_HOME/genflow`; `~/.cache/genflow`; a folder
    `genflow-<user>` in the temporary directory, which only its owner may write. Whatever was passed over is named once
    on the standard error stream.

    Raises:
        CacheError: `$GENFLOW_CACHE` is set and can not be written (a choice is never replaced), or no place can.
    """
    if not kind or not all(part.isidentifier() for part in kind.split("/")):
        raise ValueError(f"a kind of cached file must be a plain name such as 'weights', not {kind!r}")
    chosen = os.environ.get("GENFLOW_CACHE")
    if chosen:
        root = expand(chosen)
        reason = _why_not(root / kind)
        if reason:
            raise CacheError(
                f"the cache folder {root} of GENFLOW_CACHE can not be written: {reason}; set it to another"
            )
        return root / kind
    passed: list[str] = []
    for name, place in _places():
        reason = _why_not(place / kind) if place is not None else "unset"
        if place is not None and reason is None:
            _tell(tuple(passed), str(place))
            return place / kind
        passed.append(f"{name}: {reason}")
    raise CacheError(f"no cache folder can be written ({'; '.join(passed)}); set GENFLOW_CACHE to a folder that can")


def _places() -> Iterator[tuple[str, Path | None]]:
    """Default places in order of preference, with the names they are told by; None where there is no such place."""
    if os.environ.get("XDG_CACHE_HOME"):
        yield "XDG_CACHE_HOME", Path(os.environ["XDG_CACHE_HOME"]) / "genflow"
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
    yield "HOME", Path(home) / ".cache" / "genflow" if home else None
    yield "the temporary directory", Path(tempfile.gettempdir()) / f"genflow-{_user()}"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _why_not(path: Path) -> str | None:
    """Makes a folder; why files can not be written there, or None where they can.

    A folder below the temporary directory that belongs to somebody else is refused: what it holds was not put there
    by this user.
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
def _tell(passed: tuple[str, ...], root: str) -> None:
    """One note on the standard error stream where a preferred place could not be used."""
    if passed:
        print(f"genflow: caching in {root} ({'; '.join(passed)}); GENFLOW_CACHE chooses a folder", file=sys.stderr)
