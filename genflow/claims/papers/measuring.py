"""What the papers' own studies share: models of a recipe, errors, and rows. Torch is imported inside."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genflow.bench.rows import Row
from genflow.claims.recipe import Bench, Work
from genflow.claims.results import row
from genflow.estimates import mean

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.config import TrainConfig
    from genflow.data.base import Dataset
    from genflow.process.base import Process


def opened(work: Work, part: str | None = None) -> Iterator[tuple[str, int, Process, Any, Dataset]]:
    """(process, seed, process object, network, data) of every model of a part, or of the first."""
    import genflow

    part = part or next(iter(work.benches))
    config = work.benches[part].config
    data = genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))
    for name, seed, folder in work.models(part):
        process, backbone = genflow.load(folder)
        yield name, seed, process.for_data(data.fitting_points()), backbone.to(config.device), data


def train_config(work: Work, **defaults: Any) -> TrainConfig:
    """Numbers of a training that a study does itself, with the changes of the command line."""
    from genflow.config import TrainConfig, build

    pairs = (change.partition("=") for change in work.changes)
    given = {key.removeprefix("train."): value for key, _, value in pairs if key.startswith("train.")}
    found = build(TrainConfig, {**defaults, **given})
    assert isinstance(found, TrainConfig)
    return found


def jackknife(x: Tensor, measure: Callable[[Tensor], float], blocks: int = 8) -> tuple[float, float]:
    """A number of rows x (n, *), and its delete-a-block jackknife error: √[(k − 1)/k Σ (θ_i − mean θ)²]."""
    import torch

    parts = x.tensor_split(blocks)
    without = [measure(torch.cat([p for k, p in enumerate(parts) if k != i])) for i in range(blocks)]
    middle = math.fsum(without) / blocks
    spread = math.fsum((value - middle) ** 2 for value in without)
    return measure(x), math.sqrt(spread * (blocks - 1) / blocks)


def mean_row(metric: str, values: Tensor, protocol: str, **more: Any) -> Row:
    """The row of a mean over examples (n,), with its standard error."""
    found = mean(values.tolist())
    return row(metric, float(values.mean()), protocol=protocol, n=len(values), stderr=found.error, **more)


def distance_row(metric: str, x: Tensor, data: Dataset, what: str, **more: Any) -> Row:
    """The row of the Fréchet distance of states x (n, *shape), data units, with a jackknife's error.

    Arguments:
        metric: What the row calls it.
        x, data: Whose, and from what.
        what: What x is, for the protocol.
        more: Fields of the row.
    """
    from genflow.evaluate.metrics import fd

    name, _ = fd(x, data)
    value, error = jackknife(x, lambda kept: fd(kept, data)[1])
    return row(metric, value, protocol=f"{name} of {what}; error by jackknife", n=len(x), stderr=error, **more)


def drawn_points(bench: Bench) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """(fields of its rows, points (n, 2)) of every sample cell of a bench of points in the plane."""
    for cell in (c for c in bench.cells if c.kind == "sample"):
        fields = {name: cell.labels[name] for name in ("process", "solver", "seed")}
        fields |= {"dataset": bench.config.dataset, "backbone": bench.config.backbone}
        yield fields, np.load(io.BytesIO(bench.store.files(cell.key)["samples.npz"]))["raw"]


def outside_row(metric: str, x: np.ndarray, data: Dataset, **more: Any) -> Row:
    """The row of the share of points (n, 2) where the data have no density, in per cent."""
    import torch

    share = float((~torch.isfinite(data.log_prob(torch.from_numpy(x)))).double().mean())
    error = 100 * math.sqrt(share * (1 - share) / len(x))
    words = "share of samples where the data have no density, in per cent; error of a share"
    return row(metric, 100 * share, protocol=words, n=len(x), stderr=error, **more)


Layers = list[tuple[np.ndarray, dict[str, Any]]]
"""Points (n, 2) of a panel with their style, from the back to the front."""


def scatter(path: Path, panels: list[tuple[str, Layers]], **more: Any) -> None:
    """Draws panels of points in the plane.

    Arguments:
        path: Of the picture.
        panels: Title and points.
        more: `size` of a panel in inches, `most` panels of a line, `lines` (times, n, 2) drawn in the first, and what
            axes are set to.
    """
    from genflow.report.palette import GREY
    from genflow.report.style import panels as new_panels
    from genflow.report.style import save_figure

    figure, axes = new_panels(len(panels), *more.pop("size"), **({"most": more.pop("most")} if "most" in more else {}))
    lines = more.pop("lines", None)
    if lines is not None:
        for k in range(lines.shape[1]):
            axes[0].plot(lines[:, k, 0], lines[:, k, 1], color=GREY, linewidth=0.5, alpha=0.6)
    for panel, (title, layers) in zip(axes, panels, strict=True):
        for x, style in layers:
            panel.scatter(*x.T, linewidths=0, **style)
        panel.set_title(title)
        panel.set(**more)
    save_figure(figure, path)
