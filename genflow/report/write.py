"""Everything a bench leaves in its folder beside the cells: results.csv, tables.md, plots, report.html, config.yaml."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genflow.bench.cells import REAL, Cell
from genflow.bench.store import Store
from genflow.bench.tables import collect, gaps_table, tables, to_csv, to_markdown
from genflow.checkpoint import write_file
from genflow.config import BenchConfig, to_dict

STAMP = "report.json"


@dataclass(frozen=True)
class Outcome:
    """The tables as text, and whether anything had to be written."""

    text: str
    written: bool


def write_outputs(
    config: BenchConfig, store: Store, cells: Sequence[Cell], command: str, again: bool = False
) -> Outcome:
    """Writes all outputs of the finished cells; where they are up to date nothing is drawn again.

    Arguments:
        config: The bench.
        store: Its folder.
        cells: Finished cells.
        command: The command that made them, for tables and page.
        again: Write even where nothing changed.
    """
    rows = collect(store, cells)
    gaps = gaps_table(config.process, config.metric)
    found = [*tables(rows), *([gaps] if gaps else [])]
    text = to_markdown(found, command)
    if not again and _stamp(store) == digest(config, cells) and _whole(store.root):
        return Outcome((store.root / "tables.md").read_text(), False)
    write_file(store.root / "results.csv", to_csv(rows))
    write_file(store.root / "tables.md", text)
    write_file(store.root / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    plots = draw(config, store, cells, rows)
    from genflow.report.page import page

    write_file(store.root / "report.html", page(config, found, rows, plots, cells, store, command))
    write_file(store.root / STAMP, json.dumps({"digest": digest(config, cells)}))
    return Outcome(text, True)


def _stamp(store: Store) -> str:
    try:
        return str(json.loads((store.root / STAMP).read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _whole(root: Path) -> bool:
    return all((root / name).is_file() for name in ("results.csv", "tables.md", "config.yaml", "report.html"))


def digest(config: BenchConfig, cells: Sequence[Cell]) -> str:
    """Hash of what the outputs show and of the code that draws them."""
    here = Path(__file__).parent
    sources = sorted([*here.iterdir(), here.parent / "bench" / "tables.py"])
    content = b"".join(path.read_bytes() for path in sources if path.is_file())
    facts = json.dumps([to_dict(config), [cell.key for cell in cells]]).encode()
    return hashlib.sha256(content + facts).hexdigest()


def draw(config: BenchConfig, store: Store, cells: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> dict[str, Path]:
    """All plots as PNG files: title -> path, in the order of the page."""
    from genflow.report import pictures
    from genflow.report.page import NORM_TITLE

    folder = store.root / "plots"
    folder.mkdir(exist_ok=True)
    studies = norm_studies(store, cells)
    curves = loss_curves(store, cells)
    wanted = {
        "Fréchet distance against NFE": ("fd_nfe.png", lambda p: pictures.quality_plot(rows, p)),
        "After the norm is pushed off mid-way": ("norm_push.png", lambda p: pictures.push_plot(rows, p)),
        NORM_TITLE: ("norm_z.png", lambda p: pictures.norm_plot(studies, p)),
        "Training loss": ("loss.png", lambda p: pictures.loss_plot(curves, p)),
    }
    plots = {title: folder / name for title, (name, make) in wanted.items() if make(folder / name)}
    return plots | sample_pictures(config, store, cells, folder)


def _arrays(content: bytes) -> dict[str, Any]:
    import numpy as np

    return dict(np.load(io.BytesIO(content)))


def norm_studies(store: Store, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Arrays of the norm studies by process, of the first seed."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.spec.get("metric") != "norm_z" or cell.labels["process"] == REAL:
            continue
        arrays = store.files(cell.key).get("arrays.npz")  # none where the process has no norm study
        if arrays is not None:
            found.setdefault(cell.labels["process"], _arrays(arrays))
    return found


def loss_curves(store: Store, cells: Sequence[Cell]) -> dict[str, list[dict[str, float]]]:
    """Lines of stats.jsonl by trained model."""
    trained = [cell for cell in cells if cell.kind == "train"]
    several = len({cell.labels["seed"] for cell in trained}) > 1
    lines = {}
    for cell in trained:
        name = f"{cell.labels['process']} seed {cell.labels['seed']}" if several else cell.labels["process"]
        lines[name] = [json.loads(x) for x in store.files(cell.key)["stats.jsonl"].decode().splitlines()]
    return lines


def sample_pictures(config: BenchConfig, store: Store, cells: Sequence[Cell], folder: Path) -> dict[str, Path]:
    """A grid of the first samples of each process: its largest budget with each solver, first seed."""
    from genflow.report.pictures import save_samples

    chosen: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if cell.kind == "sample":
            pair = (cell.labels["process"], cell.labels["solver"])
            best = chosen.get(pair)
            if best is None or (
                cell.labels["seed"] == best.labels["seed"] and (cell.labels["nfe"] or 0) > (best.labels["nfe"] or 0)
            ):
                chosen[pair] = cell
    pictures = {}
    for (process, solver), cell in chosen.items():
        files = store.files(cell.key)
        nfe = json.loads(files["facts.json"])["nfe"]
        raw = _arrays(files["samples.npz"])["raw"]
        path = folder / f"samples_{process}_{solver}.png"
        save_samples(path, raw[:60] if raw.ndim == 4 else raw, _levels(config))
        pictures[f"Samples: {process}, {solver}, NFE {nfe:.4g}"] = path
    return pictures


def _levels(config: BenchConfig) -> int | None:
    """Grey levels of the data set. Every image data set says so in its list entry; others have none."""
    from genflow.registry import registries

    return registries()["datasets"].entry(config.dataset).tags.get("levels")
