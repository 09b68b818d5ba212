"""Rows, tables and files of a study."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genflow.bench.cells import REAL
from genflow.bench.tables import Table
from genflow.claims.claim import Finding
from genflow.claims.studies.measure import Blocks, Ruler
from genflow.claims.studies.subjects import Subject
from genflow.solver.ending import words_of

COLUMNS = (
    "study", "process", "backbone", "dataset", "solver", "nfe", "setting", "level", "metric", "value", "stderr",
    "n", "seed", "protocol", "seconds",
)  # fmt: skip
Row = dict[str, Any]


@dataclass
class Found:
    """What a study found.

    Arguments:
        rows: Of results.csv.
        tables: Of table.md.
        claim: What a paper says, with its source.
        findings: What was found of it, a sentence each, made of the numbers.
        draw: Draws the pictures into a folder, and returns their names with captions.
        notes: What else has to be said of the protocol.
        files: More to write, text by name.
    """

    rows: list[Row]
    tables: list[Table]
    claim: str
    findings: list[Finding]
    draw: Callable[[Path], dict[str, str]]
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def row(study: str, ruler: Ruler, **given: Any) -> Row:
    """A row of results.csv; columns that are not given are empty."""
    return {**dict.fromkeys(COLUMNS, ""), "study": study, "dataset": ruler.config.dataset, **given}


def distance_row(study: str, ruler: Ruler, subject: Subject, blocks: Blocks, **given: Any) -> Row:
    """The row of a distance; `protocol` is what it has beside the ruler's and the subject's."""
    more, pushed = given.pop("protocol", ""), given.get("setting") == "push"  # which runs to the plain end
    end = "" if pushed else words_of(ruler.config.solver_options.get(given.get("solver", ""), {}))
    protocol = "; ".join(filter(None, (ruler.protocol, subject.how, f"seed {subject.seed}", more, end)))
    numbers = {"value": blocks.mean.value, "stderr": blocks.mean.error, "nfe": blocks.nfe, "n": ruler.size}
    made = {"metric": ruler.name, "protocol": protocol, "seconds": round(blocks.seconds, 2)}
    return row(study, ruler, **subject.label, **numbers, **made, **given)


def floor_row(study: str, ruler: Ruler) -> Row:
    """What real data gets."""
    numbers = {"metric": ruler.name, "value": ruler.floor, "n": ruler.size}
    return row(study, ruler, process=REAL, protocol=ruler.floor_protocol, **numbers)


def to_csv(rows: Sequence[Row]) -> str:
    """results.csv; numbers in full precision, what is not known empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in one.items()})
    return buffer.getvalue()


def grid_table(
    title: str, head: str, columns: Mapping[str, Sequence[str]], places: Sequence[str], caption: str
) -> Table:
    """A table with a row for each name and a column for each place."""
    return Table(title, [head, *places], [[name, *cells] for name, cells in columns.items()], caption)
