"""The HTML page of a bench: one file, images inside, no network."""

from __future__ import annotations

import base64
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import yaml

from genflow import __version__
from genflow.bench.cells import Cell
from genflow.bench.store import Store
from genflow.bench.tables import Row, Table, floor_of, is_frechet
from genflow.config import BenchConfig, to_dict
from genflow.registry import registries

NORM_TITLE = "Norm against noise level"
"""The plot with a panel for each process, which gets a row of its own."""

WORDS = ("process", "solver", "metric")
"""Columns of words, set to the left."""


def page(
    config: BenchConfig,
    found: Sequence[Table],
    rows: Sequence[Row],
    plots: Mapping[str, Path],
    cells: Sequence[Cell],
    store: Store,
    command: str,
) -> str:
    """The page as text; every value is escaped by the template engine."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(Path(__file__).with_name("page.html").read_text("utf-8"))
    images = [(title, _uri(path)) for title, path in plots.items()]
    return template.render(
        title=f"{', '.join(config.process)} with {config.backbone} on {config.dataset}",
        version=__version__,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        cells=cells,
        seconds=f"{sum(cell_seconds(store, cell) for cell in cells):.0f}",
        cards=cards(rows),
        tables=found,
        words=WORDS,
        wide=NORM_TITLE,
        plots=[image for image in images if not image[0].startswith("Samples")],
        samples=[image for image in images if image[0].startswith("Samples")],
        config=yaml.safe_dump(to_dict(config), sort_keys=False),
        environment=environment(),
        sources=sources(config),
    )


def _uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def cell_seconds(store: Store, cell: Cell) -> float:
    """Seconds that a finished cell took."""
    files = store.files(cell.key)
    return float(json.loads(files.get("cell.json") or files["config.json"]).get("seconds", 0.0))


def cards(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The headline: each process's best Fréchet distance, set against the floor."""
    real = floor_of(rows)
    best: dict[str, Row] = {}
    for row in rows:
        if is_frechet(row["metric"]) and row["backbone"]:
            kept = best.get(row["process"])
            if kept is None or row["value"] < kept["value"]:
                best[row["process"]] = row
    result = []
    for process, row in best.items():
        times = f", {row['value'] / real['value']:.2f} x the floor" if real and real["value"] else ""
        how = f"best {row['metric']}: {row['solver']}, NFE {row['nfe']:.4g}{times}"
        result.append({"what": process, "value": f"{row['value']:.2f}", "how": how})
    if real:
        result.append(
            {
                "what": "real test split",
                "value": f"{real['value']:.2f}",
                "how": f"the floor of {real['metric']}",
            }
        )
    return result


def environment() -> str:
    """Versions of what the numbers depend on, without importing any of it."""
    lines = [f"Python {platform.python_version()}, {platform.platform()}"]
    for name in ("torch", "numpy", "scipy", "scikit-learn", "matplotlib"):
        lines.append(f"{name} {metadata.version(name)}")
    return "\n".join(lines)


def sources(config: BenchConfig) -> list[tuple[str, str]]:
    """Papers of everything the bench used."""
    named = [("processes", n) for n in config.process] + [
        ("backbones", config.backbone),
        ("datasets", config.dataset),
    ]
    named += [("metrics", n) for n in config.metric]
    entries = [registries()[plural].entry(name) for plural, name in named]
    return [(entry.name, entry.source) for entry in entries if entry.source]
