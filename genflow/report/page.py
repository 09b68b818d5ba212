"""The HTML page of a bench: one file, images inside, no network."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genflow import __version__
from genflow.bench.cells import REAL, Cell
from genflow.bench.external import EXTERNAL
from genflow.bench.rows import Row
from genflow.bench.store import Store
from genflow.bench.tables import Table, real_of, real_text
from genflow.config import BenchConfig, flatten, leaves
from genflow.estimates import HOLDS, ONE_SEED, chance, short
from genflow.evaluate.facts import direction, headline
from genflow.report.cautions import cautions
from genflow.report.citations import bibtex, cite, used
from genflow.report.figures import Figure, one_file
from genflow.report.measures import LEADER_COLUMNS, Lead, best_of_each, groups, leaders, measured
from genflow.report.palette import palette
from genflow.report.record import OUTPUTS, Record
from genflow.report.words import REAL_SPLIT, WORDS, is_real

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Content:
    """Everything that a page shows; `missing` are planned cells that are not finished."""

    config: BenchConfig
    store: Store
    cells: Sequence[Cell]
    missing: Sequence[Cell]
    rows: Sequence[Row]
    tables: Sequence[Table]
    figures: Sequence[Figure]
    record: Record


def page(content: Content) -> str:
    """The page as text; every value is escaped by the template engine."""
    config, rows = content.config, content.rows
    ahead, apart = leaders(rows, config.allow_mixed), groups(rows, config.allow_mixed)
    citations = cite(used(config))
    seconds = [cell_seconds(content.store, cell) for cell in content.cells]
    return render(
        "page.html",
        palette([*config.process, *(r["process"] for r in rows if r["process"] != REAL)]),
        title=f"{', '.join(config.process)} with {config.backbone} on {config.dataset}",
        name=Path(config.out).name,
        config=config,
        cells=list(zip(content.cells, seconds, strict=True)),
        seconds=sum(seconds),
        one_seed=len(config.seed) == 1,
        cards=cards(rows, config.allow_mixed),
        lead=summary(rows, ahead, list(apart)),
        leaders=Table("Who is ahead", LEADER_COLUMNS, [one.cells() for one in ahead], ""),
        cautions=cautions(config, rows, content.missing, content.record.notes),
        tables=[(table, marked(table)) for table in content.tables],
        samples=[shown(f) for f in content.figures if f.kind in ("samples", "points")],
        paths=[shown(f) for f in content.figures if f.kind == "path"],
        plots=[shown(f) for kind in ("wide", "plot") for f in content.figures if f.kind == kind],
        solvers=list(dict.fromkeys(r["solver"] for r in rows if r.get("of") == "samples" and r["solver"])),
        settings=configuration(config, content.record.origin),
        environment=content.record.environment,
        commands=content.record.commands,
        citations=citations,
        bibtex=bibtex(citations),
        outputs=OUTPUTS,
    )


def render(template: str, colours: Mapping[str, str], **values: Any) -> str:
    """A page from a template of this folder, with style and script inside; a policy in its head forbids all else."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(autoescape=True, loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = code
    classes = {name: f"p{i}" for i, name in enumerate(colours)}
    dots = "".join(f".p{i} {{ --dot: {colour}; }}\n" for i, colour in enumerate(colours.values()))
    style, script = HERE.joinpath("page.css").read_text("utf-8") + dots, HERE.joinpath("page.js").read_text("utf-8")
    return environment.get_template(template).render(
        version=__version__,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        classes=classes,
        words=WORDS,
        is_real=is_real,
        **values,
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def code(text: str) -> Any:
    """Words in backticks as code; everything else escaped."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def shown(figure: Figure) -> dict[str, Any]:
    """A figure with its pictures as data."""
    pixels = int.from_bytes(figure.path.read_bytes()[16:20], "big")  # the width in a PNG file's header
    return {
        "title": figure.title,
        "caption": figure.caption,
        "kind": figure.kind,
        "uri": _uri(figure.path),
        "still": _uri(figure.still) if figure.still else "",
        "width": round(pixels * SCREEN_DPI / PLOT_DPI) if figure.kind in ("wide", "plot") else 0,
        "process": figure.title.partition(",")[0] if figure.kind in ("samples", "points", "path") else "",
    }


SCREEN_DPI, PLOT_DPI = 96, 160
"""Plots are shown at their own size, so that text is as large in all of them."""


def _uri(path: Path) -> str:
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def cell_seconds(store: Store, cell: Cell) -> float:
    """Seconds that a finished cell took; 0 where it does not record them."""
    content = one_file(store, cell.key, "cell.json") or one_file(store, cell.key, "config.json") or b"{}"
    return float(json.loads(content).get("seconds", 0.0))


def marked(table: Table) -> set[tuple[int, int]]:
    """(row, column) of the best number of each NFE column, where lower or higher is known to be better."""
    sign, found = table.sign, set()
    for column, name in enumerate(table.header):
        if sign and name.startswith(("NFE ", "own NFE")):
            values = {i: _leading(row[column]) for i, row in enumerate(table.rows) if is_ranked(row)}
            known = {i: v for i, v in values.items() if v is not None}
            if len(known) > 1:
                found.add((min(known, key=lambda i: sign * known[i]), column))
    return found


def is_ranked(row: Sequence[str]) -> bool:
    """Whether a line of a table is a process that genflow sampled, not real data or samples of others."""
    return not is_real(row[0]) and row[1] != EXTERNAL


def _leading(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None


def cards(rows: Sequence[Row], mixed: bool = False) -> list[dict[str, str]]:
    """The headline: each process's best setting on the first metric, the best first, beside real against real; rows
    that are not ranked together come one group after the other."""
    metric = headline(rows)
    real = real_of(rows, metric)
    real = real if real and real["value"] else None
    result = []
    sign, apart = direction(rows, metric), groups(rows, mixed).values()
    for best in (one for own in apart for one in best_of_each(measured(own, metric), sign)):
        times = f"{short(best.value / real['value'])} × real against real" if real else ""
        how = ". ".join(filter(None, (f"best {metric}: {best.how}", times)))
        result.append({"what": best.process, "value": best.text, "how": how})
    if real:
        result.append(
            {
                "what": REAL_SPLIT,
                "value": real_text(real),
                "how": f"{metric} of real data in place of samples",
            }
        )
    return result


MOST_GROUPS = 3
"""More groups than this have no sentence each."""


def summary(rows: Sequence[Row], ahead: Sequence[Lead], apart: Sequence[str]) -> str:
    """A verdict in words for each group of rows that are ranked together; where they are many, where to look."""
    if len(apart) > MOST_GROUPS:
        return (
            f"Processes are ranked within each of {len(apart)} settings of the varied axes, not across them; the "
            "tables of effects say what each axis changes."
        )
    said = [(group, lead(rows, ahead, group)) for group in apart]
    return " ".join(f"With {group}: {words}" if group and words else words for group, words in said)


def lead(rows: Sequence[Row], ahead: Sequence[Lead] | None = None, group: str = "") -> str:
    """A verdict in words on the first metric, by the tests of `ahead` or of the rows; in one of the `groups`."""
    metric, ahead = headline(rows), leaders(rows) if ahead is None else ahead
    own = groups(rows).get(group, rows)
    ranked = best_of_each(measured(own, metric), direction(rows, metric))
    if not ranked:
        return ""
    ahead = [one for one in ahead if one.metric == metric and one.group == group]
    name = ahead[0].name if ahead else metric
    first, *others = (f"{e.process} ({e.how}) with {e.text}" for e in ranked)
    if not others:
        return f"{name}: {first}. There is no other process to compare it with."
    found = ahead[-1]  # the last place has each process at its best
    word, gap = found.judgement.word, found.gap
    if word == HOLDS:
        words = f"On {name}, {first} is ahead of {others[0]}"
    elif word == ONE_SEED:
        words = f"On {name}, {first} has the best mean, then {others[0]}. One training seed allows no verdict"
    else:
        words = f"On {name}, there is no significant difference between {first} and {others[0]}"
    known = not math.isnan(found.p)
    p = chance(found.p) if found.p < 0.001 else f"= {chance(found.p)}"
    test = f" (p {p}; significant from {short(found.least_seen)})" if known else ""
    return f"{words}. The difference is {gap}{test}. Each process is at its best setting."


def configuration(config: BenchConfig, origin: Mapping[str, str]) -> list[tuple[str, str, str, bool]]:
    """Every key: name, value, origin, and whether it differs from its default."""
    defaults = {leaf.path: leaf.default for leaf in leaves(type(config))}
    found = []
    for key, value in flatten(config).items():
        default = defaults[key]
        changed = value != (list(default) if isinstance(default, tuple) else default)
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        found.append((key, text, origin.get(key, "set" if changed else "default"), changed))
    return found
