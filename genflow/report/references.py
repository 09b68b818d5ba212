"""Works that genflow builds on, read from references.bib."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Work(NamedTuple):
    """A BibTeX entry.

    Arguments:
        kind: "article", "misc", ...
        fields: By name, as they are printed.
        names: Words of a catalogue's `source` that stand for it: its arXiv id, or a short form such as "Kutta 1901".
    """

    kind: str
    fields: dict[str, str]
    names: tuple[str, ...]


@cache
def works() -> dict[str, Work]:
    """All works by their BibTeX keys."""
    text = Path(__file__).with_name("references.bib").read_text("utf-8")
    found = {}
    for kind, key, body in re.findall(r"^@(\w+)\{(\w+),\n(.*?)^\}", text, re.DOTALL | re.MULTILINE):
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE))
        names = tuple(filter(None, (fields.get("eprint"), fields.pop("source", ""))))
        found[key] = Work(kind, fields, names)
    return found
