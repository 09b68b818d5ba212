"""All figures of a bench: which there are, their captions, and the data they are drawn from."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genflow.bench.cells import REAL, Cell
from genflow.bench.factorial import Design
from genflow.bench.rows import Row
from genflow.bench.store import Store
from genflow.bench.tables import by_setting, estimate
from genflow.config import BenchConfig
from genflow.estimates import meaning
from genflow.evaluate.facts import MODEL, NFE, axis, facts, headline, settings, title
from genflow.report.palette import GREY, palette

if TYPE_CHECKING:
    import numpy as np

GRID = 60
"""Images of a sample grid."""


@dataclass(frozen=True)
class Figure:
    """A figure and its caption.

    Arguments:
        title: Heading, also the alternative text.
        path: PNG or GIF file.
        caption: How to read it.
        kind: Its place in the page.
        still: PNG in place of a GIF, for print and for readers who prefer no motion.
    """

    title: str
    path: Path
    caption: str
    kind: Literal["wide", "plot", "samples", "points", "path"] = "plot"
    still: Path | None = None


def slug(words: str) -> str:
    """A file name from any words: letters, digits, points, hyphens, underscores."""
    return re.sub(r"[^\w.-]+", "-", words).strip("-") or "x"


def draw(
    config: BenchConfig, store: Store, cells: Sequence[Cell], rows: Sequence[Row], effects: Sequence[Design] = ()
) -> list[Figure]:
    """Draws everything into plots/, in the order of the page; `effects` are the designs of a bench that varies axes."""
    folder = store.root / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    colours = palette([*config.process, *(r["process"] for r in rows if r["process"] != REAL)])
    studies = norm_studies(store, cells)
    return [
        *quality_figures(rows, folder, colours),
        *effects_figures(effects, rows, folder),
        *_model_figures(rows, studies, loss_curves(store, cells), folder, colours),
        *sample_figures(config, store, cells, folder, colours),
        *nearest_figures(config, store, cells, folder),
        *path_figures(config, studies, folder, colours),
    ]


def quality_figures(rows: Sequence[Row], folder: Path, colours: Mapping[str, str]) -> list[Figure]:
    """A plot against NFE of every metric of samples; the first Fréchet distance's is fd_nfe.png."""
    from genflow.report.curves import nfe_plot

    first = headline(rows)
    own = [r for r in rows if r["process"] != REAL]
    metrics = dict.fromkeys(r["metric"] for r in own if facts(r).table == NFE)
    found = []
    for metric in sorted(metrics, key=lambda m: m != first):
        path = folder / ("fd_nfe.png" if metric == first else f"{slug(metric)}_nfe.png")
        if nfe_plot(rows, metric, path, colours):
            spread = spread_words(r for r in own if r["metric"] == metric)
            caption = f"{spread} Solvers that choose their own steps are points at their mean NFE.".lstrip()
            name = title(metric, facts(next(r for r in own if r["metric"] == metric)))
            found.append(Figure(f"{name} against NFE", path, caption, "wide" if metric == first else "plot"))
    return found


def effects_figures(effects: Sequence[Design], rows: Sequence[Row], folder: Path) -> list[Figure]:
    """A plot of every balanced design."""
    from genflow.report.effects import effects_plot

    found = []
    for one in effects:
        fact = facts(next(row for row in rows if row["metric"] == one.metric))
        path = folder / f"effects_{slug(f'{one.metric} {one.where}'.strip())}.png"
        if effects_plot(one, axis(one.metric, fact), path):
            heading = f"Effects on {title(one.metric, fact)}" + (f" ({one.where})" if one.where else "")
            caption = (
                "Filled dots are main effects, open ones interactions; bars are 95 % intervals over training seeds, "
                "where there are several. Dark: differs from 0 after Holm's correction. "
                f"{fact.better.capitalize()} is better."
            )
            found.append(Figure(heading, path, caption, "wide"))
    return found


Maker = Callable[[Path], bool]


def spread_words(rows: Iterable[Row]) -> str:
    """What the bands and bars of rows against NFE are, as a sentence; "" where there are none."""
    words = meaning(estimate(group) for group in by_setting(list(rows)).values())
    return words.replace("± is", "Bands and bars are") + "." if words else ""


def _model_figures(
    rows: Sequence[Row],
    studies: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Any],
    folder: Path,
    colours: Mapping[str, str],
) -> list[Figure]:
    """Likelihoods, norms, pushes and losses."""
    from genflow.report import curves as plots

    likelihoods = {r["metric"]: title(r["metric"], facts(r)) for r in rows if facts(r).table == MODEL}
    makers: list[tuple[str, str, str, Literal["wide", "plot"], Maker]] = [
        (
            name,
            f"{slug(metric)}.png",
            "A point for each seed with one standard error over its examples; on the right, the mean over seeds.",
            "plot",
            lambda path, metric=metric: plots.error_plot(rows, metric, path, colours),  # type: ignore[misc]
        )
        for metric, name in likelihoods.items()
    ]
    makers += [
        (
            "Norm against noise level",
            "norm_z.png",
            "Median and 10 to 90 % band of |x|: grey for training draws, coloured along sampling paths (first seed).",
            "wide",
            lambda path: plots.norm_plot(studies, path, colours),
        ),
        (
            "After the norm is pushed off mid-way",
            "norm_push.png",
            "Paths are stopped mid-way, |x| is multiplied by the factor, and they go on; factor 1 changes nothing.",
            "plot",
            lambda path: plots.push_plot(rows, path, colours),
        ),
        (
            "Class balance",
            "class_balance.png",
            "Share of each class in the samples of each process at its largest budget (first seed); black: real test "
            "examples. Bars are one standard error.",
            "plot",
            lambda path: plots.balance_plot(rows, path, colours),
        ),
        (
            "Training loss",
            "loss.png",
            "Each process has its own loss: compare the shapes of the curves, not their heights.",
            "plot",
            lambda path: plots.loss_plot(curves, path, colours),
        ),
    ]
    return [
        Figure(title, folder / name, caption, kind)
        for title, name, caption, kind, make in makers
        if make(folder / name)
    ]


def one_file(store: Store, key: str, name: str) -> bytes | None:
    """One file of a finished cell, whose hashes have been checked; None where it has no such file."""
    for folder in (store.folder(key), store.folder(f"{key}.old")):
        try:
            return (folder / name).read_bytes()
        except OSError:
            continue
    return None


def _arrays(content: bytes) -> dict[str, Any]:
    import numpy as np

    return dict(np.load(io.BytesIO(content))) if content else {}


def norm_studies(store: Store, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Arrays of the norm studies by process, of the first seed."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        name = cell.labels["process"]
        if cell.spec.get("metric") != "norm_z" or name == REAL or name in found:
            continue
        arrays = one_file(store, cell.key, "arrays.npz")  # none where the process has no norm study
        if arrays is not None:
            found[name] = _arrays(arrays)
    return found


def loss_curves(store: Store, cells: Sequence[Cell]) -> dict[str, list[dict[str, float]]]:
    """Lines of stats.jsonl by trained model."""
    trained = [cell for cell in cells if cell.kind == "train"]
    several = len({cell.labels["seed"] for cell in trained}) > 1
    lines = {}
    for cell in trained:
        name = f"{cell.labels['process']} seed {cell.labels['seed']}" if several else cell.labels["process"]
        lines[name] = [json.loads(x) for x in (one_file(store, cell.key, "stats.jsonl") or b"").decode().splitlines()]
    return lines


def sample_figures(
    config: BenchConfig, store: Store, cells: Sequence[Cell], folder: Path, colours: Mapping[str, str]
) -> list[Figure]:
    """The first samples of each process with each solver at its largest budget, of the first seed."""
    from genflow.report.pictures import save_samples

    figures = []
    for (process, solver), cell in _largest(cells).items():
        facts, content = (one_file(store, cell.key, name) for name in ("facts.json", "samples.npz"))
        if facts is None or content is None:
            continue
        raw = _arrays(content)["raw"]
        path = folder / f"samples_{slug(process)}_{slug(solver)}.png"
        save_samples(path, raw[:GRID] if raw.ndim == 4 else raw, _levels(config, raw), colours.get(process, GREY))
        title = f"{process}, {solver}, NFE {json.loads(facts)['nfe']:.4g}"
        figures.append(Figure(title, path, f"seed {cell.labels['seed']}", "samples" if raw.ndim == 4 else "points"))
    return figures


def nearest_figures(config: BenchConfig, store: Store, cells: Sequence[Cell], folder: Path) -> list[Figure]:
    """The first samples of each process above their nearest training examples, at the largest budget, first seed."""
    from genflow.report.pictures import save_samples

    figures: dict[str, Figure] = {}
    for (process, solver), sampled in _largest(cells).items():
        measured = [
            c for c in cells if c.spec.get("metric") == "fd" and sampled.key in c.parents and process not in figures
        ]
        arrays = _arrays(one_file(store, measured[0].key, "arrays.npz") or b"") if measured else {}
        if "nearest" not in arrays:
            continue
        pair, path = arrays["nearest"], folder / f"nearest_{slug(process)}.png"
        save_samples(path, pair.reshape(-1, *pair.shape[2:]), _levels(config, pair))
        words = f"{solver}. Above samples, below for each the training example nearest in the features of FD."
        figures[process] = Figure(f"{process}: samples and their nearest training examples", path, words, "plot")
    return list(figures.values())


def _largest(cells: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
    chosen: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if cell.kind == "sample":
            pair = (cell.labels["process"], cell.labels["solver"])
            best = chosen.get(pair, cell)
            same = cell.labels["seed"] == best.labels["seed"]
            chosen[pair] = cell if same and (cell.labels["nfe"] or 0) >= (best.labels["nfe"] or 0) else best
    return chosen


def _levels(config: BenchConfig, raw: np.ndarray) -> int | None:
    """Grey levels of the data set, from the catalogue; None where values are not whole numbers."""
    import numpy as np

    from genflow.registry import registries

    if not np.array_equal(raw, np.round(raw)):
        return None
    return registries()["datasets"].entry(config.dataset).tags.get("levels")


def path_figures(
    config: BenchConfig, studies: Mapping[str, Mapping[str, Any]], folder: Path, colours: Mapping[str, str]
) -> list[Figure]:
    """Paths of the first samples from the prior to the data: those of the norm study without a push."""
    from genflow.report.motion import moving

    figures = []
    for process, study in studies.items():
        if "states" not in study:
            continue
        path = folder / f"path_{slug(process)}.gif"
        if moving(study["states"], study["times"], path, colours.get(process, GREY)):
            norm = settings(config, "norm_z")
            caption = f"{norm.solver}, NFE {norm.nfe} at most, first seed"
            figures.append(Figure(process, path, caption, "path", path.with_suffix(".png")))
    return figures
