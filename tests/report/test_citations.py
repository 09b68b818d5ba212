"""BibTeX: every work once, whole entries, and no catalogue entry whose source is not known."""

import re
from pathlib import Path

import pytest

from genflow.config import BenchConfig
from genflow.registry import Entry, registries
from genflow.report import references
from genflow.report.citations import ARXIV, bibtex, cite, used
from genflow.report.references import works


def parse(text):
    """(kind, key, fields) of every entry, by counting braces."""
    entries, at = [], 0
    while (at := text.find("@", at)) >= 0:
        kind, _, rest = text[at + 1 :].partition("{")
        depth, end = 1, 0
        while depth:
            depth += {"{": 1, "}": -1}.get(rest[end], 0)
            end += 1
        body = rest[: end - 1]
        key, _, fields = body.partition(",")
        pairs = dict(re.findall(r"(\w+)\s*=\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", fields))
        entries.append((kind, key, pairs))
        at += len(kind) + end
    return entries


def every_entry():
    return [entry for registry in registries().values() for entry in registry.entries().values() if entry.source]


def test_the_works_of_a_bench():
    config = BenchConfig(process=("pfgm", "vp_ode"), solver=("heun", "rk45"), metric=("fd", "norm_z", "bpd"))
    found = cite(used(config))
    keys = [c.key for c in found]
    assert len(set(keys)) == len(keys)
    assert {"genflow", "xu2022pfgm", "song2021sde", "song2020improved", "dormand1980family", "heusel2017ttur"} <= set(
        keys
    )
    assert next(c for c in found if c.key == "xu2022pfgm").used_for == ("pfgm", "norm_z")
    parsed = parse(bibtex(found))
    assert [key for _, key, _ in parsed] == keys
    assert all(fields["title"] and (fields.get("author") or kind == "misc") for kind, _, fields in parsed)
    assert next(f for _, k, f in parsed if k == "xu2022pfgm")["eprint"] == "2209.11178"


def test_every_source_of_the_catalogues_gives_whole_entries():
    entries = [e for e in every_entry() if e.origin == "genflow"]
    found = cite(entries)
    assert len(parse(bibtex(found))) == len(found)
    assert len({c.key for c in found}) == len(found)
    unknown = {i for e in entries for i in ARXIV.findall(e.source)} - {
        name for work in works().values() for name in work.names
    }
    assert unknown == set(), "add these to genflow/report/references.bib"


@pytest.mark.parametrize("key", [key for key, work in works().items() if "eprint" in work.fields])
def test_preprints_are_well_formed(key):
    fields = works()[key].fields
    assert re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"])
    assert re.fullmatch(r"[a-z]+\d{4}[a-z]+", key)
    assert fields["year"] in key
    assert all("," in name for name in fields["author"].split(" and "))
    assert int(fields["year"]) - 2000 - int(fields["eprint"][:2]) in (0, 1)  # the preprint's year or the next


def test_references_are_read_whole():
    text = Path(references.__file__).with_name("references.bib").read_text("utf-8")
    parsed = parse(text)
    assert list(works()) == [key for _, key, _ in parsed]
    for kind, key, fields in parsed:
        assert (works()[key].kind, {**works()[key].fields, "source": fields.get("source")}) == (
            kind,
            {"source": None, **fields},
        )
        assert works()[key].names, f"{key} is found by no source"


def test_a_plugins_source_is_given_in_its_own_words():
    entry = Entry("mine", "x:Y", source="Doe & Roe 2031, arXiv:3101.00001, 100% new", origin="my-package")
    _, (kind, key, fields) = parse(bibtex(cite([entry])))
    assert (kind, key) == ("misc", "doeroe2031arxiv310100001")
    assert fields["eprint"] == "3101.00001"
    assert fields["title"] == r"Doe \& Roe 2031, arXiv:3101.00001, 100\% new"


def test_short_forms_are_plain_words():
    text = {c.key: c.short for c in cite(every_entry())}
    assert text["albergo2023interpolants"].startswith("Albergo & Vanden-Eijnden 2023. Building Normalizing Flows")
    assert text["xu2022pfgm"] == "Xu et al. 2022. Poisson Flow Generative Models, arXiv:2209.11178"
    assert not re.search(r"[{}\\]", "".join(text.values()))
