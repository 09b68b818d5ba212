"""Notes on the data for the user; each is printed once per process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

LOG = logging.getLogger("genflow")
_SAID: set[str] = set()


def note(text: str) -> None:
    """Logs a line as a warning, unless this process has said it."""
    if text not in _SAID:
        _SAID.add(text)
        LOG.warning("%s", text)


def shown(name: object) -> str:
    """A file's name as it can stand in a line: what cannot be printed (newlines, bytes of no encoding) is escaped."""
    text = str(name)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names in a row, the first ones where they are many."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + rest


def counted(kinds: Counter[str]) -> str:
    """Kinds with their numbers, the most frequent first: "3 .txt, 1 hidden"."""
    return listed([f"{count:,} {kind}" for kind, count in kinds.most_common()])
