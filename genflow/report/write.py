"""Writes what a bench's folder holds beside the cells: results.csv, tables, plots, report.html, config.yaml."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from genflow.bench.axes import differing, named, named_rows
from genflow.bench.cells import Cell, plan
from genflow.bench.factorial import designs, effects_tables
from genflow.bench.rows import collect, to_csv
from genflow.bench.store import Store
from genflow.bench.tables import gaps_table, tables, terms_table, to_markdown
from genflow.bench.tune import search_table
from genflow.checkpoint import write_file
from genflow.config import BenchConfig, to_dict
from genflow.evaluate.protocol import check_protocols
from genflow.report.record import OUTPUTS, joined, late, read_record, write_record
from genflow.report.speed import speed_table


@dataclass(frozen=True)
class Outcome:
    """The tables as text, and whether anything had to be written."""

    text: str
    written: bool


def write_outputs(
    config: BenchConfig,
    store: Store,
    cells: Sequence[Cell],
    command: str,
    again: bool = False,
    origin: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Outcome:
    """Writes all outputs of the finished cells; where they are up to date, nothing is drawn again.

    Numbers, settings and the record of the run are written first, so that they are there even if mixed protocols are
    refused.

    Arguments:
        config: The bench.
        store: Its folder.
        cells: Finished cells.
        command: The command that made them, for tables and page.
        again: Write even where nothing changed, and keep the record of the run that filled the folder.
        origin: Origin of each configured value, from `genflow.commands.options.resolve`.
        notes: Sentences of the bench, e.g. on damaged cells.

    Raises:
        ValueError: Numbers of one metric were made in different ways, and the bench does not allow that.
    """
    rows = collect(store, cells)
    gaps = gaps_table(config.process, config.metric)
    extra = (speed_table(rows), gaps, terms_table(config), search_table(config))
    shown = named_rows(rows)
    found = [*tables(shown, config.allow_mixed), *effects_tables(rows), *(table for table in extra if table)]
    record, held = read_record(store.root)
    text = to_markdown(found, record.commands[-1] if again and record.commands else command)
    stamp = digest(config, store, cells)
    if not (again or notes) and held == stamp and all((store.root / name).is_file() for name in OUTPUTS):
        return Outcome((store.root / "tables.md").read_text(), False)
    if not again:
        record = joined(record, config, command, origin, notes)
    elif not record.commands:
        record = late(config, command)
    write_file(store.root / "results.csv", to_csv(rows))
    write_file(store.root / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    write_record(store.root, record, "")
    check_protocols(rows, config.allow_mixed)
    from genflow.report.citations import bibtex, cite, used
    from genflow.report.figures import draw
    from genflow.report.latex import to_latex
    from genflow.report.page import Content, page

    write_file(store.root / "tables.md", text)
    write_file(store.root / "tables.tex", to_latex(found, record.commands[-1]))
    write_file(store.root / "citations.bib", bibtex(cite(used(config))))
    axes = differing(rows)
    seen = [replace(cell, labels=named(dict(cell.labels), axes)) for cell in cells]
    figures = draw(config, store, seen, shown, designs(rows))
    content = Content(config, store, seen, unfinished(config, cells), shown, found, figures, record)
    write_file(store.root / "report.html", page(content))
    write_record(store.root, record, stamp)
    return Outcome(text, True)


def unfinished(config: BenchConfig, cells: Sequence[Cell]) -> list[Cell]:
    """Planned cells that are not among the finished ones."""
    done = {cell.key for cell in cells}
    return [cell for cell in plan(config) if cell.key not in done]


def digest(config: BenchConfig, store: Store, cells: Sequence[Cell]) -> str:
    """Hash of what the outputs show, which includes the contents of the cells, and of the code that draws them."""
    here = Path(__file__).parent
    shared = (
        "bench/tables.py",
        "bench/axes.py",
        "bench/factorial.py",
        "estimates.py",
        "evaluate/__init__.py",
        "evaluate/facts.py",
    )
    sources = sorted([*here.iterdir(), *(here.parent / name for name in shared)])
    content = b"".join(path.read_bytes() for path in sources if path.is_file())
    facts: Any = json.dumps([to_dict(config), [[cell.key, store.contents(cell.key)] for cell in cells]]).encode()
    return hashlib.sha256(content + facts).hexdigest()
