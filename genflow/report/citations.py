"""What to cite for a bench: BibTeX for the processes, backbones, solvers, metrics and data that it used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from genflow import __version__
from genflow.config import BenchConfig
from genflow.evaluate.facts import settings
from genflow.registry import Entry, UnknownNameError, registries
from genflow.report.latex import latex_safe
from genflow.report.references import works

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Citation:
    """A work: its BibTeX entry, authors, year and title for reading, and the registered names based on it."""

    key: str
    text: str
    short: str
    used_for: tuple[str, ...]


def used(config: BenchConfig) -> list[Entry]:
    """Catalogue entries of everything a bench names; unknown names are left out."""
    solvers = [*config.solver, *([settings(config, "norm_z").solver] if "norm_z" in config.metric else [])]
    named = [("processes", n) for n in config.process] + [("backbones", config.backbone)]
    named += [("solvers", n) for n in solvers] + [("metrics", n) for n in config.metric]
    found = []
    for plural, name in dict.fromkeys([*named, ("datasets", config.dataset)]):
        try:
            found.append(registries()[plural].entry(name))
        except UnknownNameError:
            continue
    return found


def cite(entries: Iterable[Entry]) -> list[Citation]:
    """The sources of the entries, each once, genflow itself first."""
    users: dict[str, list[str]] = {}
    for entry in entries:
        for source in _sources(entry.source):
            users.setdefault(source, []).append(entry.name)
    itself = {"author": "{The genflow authors}", "title": "genflow", "version": __version__}
    first = _entry("misc", "genflow", itself, ("this report",))
    return [first, *(_citation(source, tuple(dict.fromkeys(names))) for source, names in users.items())]


def bibtex(citations: Iterable[Citation]) -> str:
    """The content of a .bib file."""
    return "\n".join(c.text for c in citations)


def _sources(words: str) -> list[str]:
    """Keys of the known works that a catalogue's `source` names; where it names none, the text itself."""
    known = [key for key, work in works().items() if any(name in words for name in work.names)]
    return known or ([words] if words else [])


def _citation(source: str, names: tuple[str, ...]) -> Citation:
    if source in works():
        return _entry(works()[source].kind, source, works()[source].fields, names)
    arxiv = ARXIV.search(source)  # a plugin's: its own words are all that is known
    key = re.sub(r"\W+", "", source.lower())[:24] or "source"
    fields = {"title": latex_safe(source), "note": "as its catalogue entry gives it; complete it from the work itself"}
    return _entry("misc", key, fields | ({"eprint": arxiv[1], "archiveprefix": "arXiv"} if arxiv else {}), names)


def _entry(kind: str, key: str, fields: dict[str, str], names: tuple[str, ...]) -> Citation:
    body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return Citation(key, f"@{kind}{{{key},\n{body}}}\n", _short(fields), names)


def _short(fields: dict[str, str]) -> str:
    """Authors, year, title and arXiv id in plain words."""
    people = fields.get("author", "").split(" and ")
    last = [p.partition(",")[0] for p in people if p]
    who = " & ".join(last) if len(last) < 3 else f"{last[0]} et al."
    arxiv = f", arXiv:{fields['eprint']}" if "eprint" in fields else ""
    text = ". ".join(filter(None, (" ".join(filter(None, (who, fields.get("year", "")))), fields.get("title", ""))))
    return _plain(text) + arxiv


def _plain(text: str) -> str:
    """BibTeX markup as plain letters."""
    accents = {'\\"a': "ä", '\\"e': "ë", '\\"o': "ö", '\\"u': "ü", "\\'e": "é", "\\'n": "ń", "\\l": "ł"}
    for mark, letter in accents.items():
        text = text.replace(f"{{{mark}}}", letter)
    return text.replace("{", "").replace("}", "").replace("--", "–")
