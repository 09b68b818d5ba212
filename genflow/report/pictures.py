"""Plots and sample grids, in one style. Colours are from Okabe & Ito's palette, safe for colour-blind readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from genflow.bench.cells import REAL
from genflow.bench.tables import Row, floor_of, is_frechet, mean_over_seeds

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
}


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure and frees it."""
    figure.savefig(path)
    plt.close(figure)


def new_axes(width: float = 6.4, height: float = 4.0, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A figure with `columns` axes side by side in each of `rows` rows, in the house style."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, (axes[0, 0] if rows * columns == 1 else axes.reshape(-1))


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order; from a larger palette where the house's would not do."""
    from matplotlib.colors import to_hex

    palette = COLOURS if len(names) <= len(COLOURS) else [to_hex(c) for c in plt.get_cmap("tab20").colors]  # type: ignore[attr-defined]
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def unique(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def quality_plot(rows: Sequence[Row], path: Path) -> bool:
    """Fréchet distance against NFE: colour is the process, line the solver; adaptive solvers are single points."""
    found = [r for r in rows if is_frechet(r["metric"]) and r["process"] != REAL]
    if not found:
        return False
    colours = colour_of(unique(r["process"] for r in found))
    solvers = unique(r["solver"] for r in found)
    with plt.rc_context(STYLE):
        figure, axes = new_axes()
        for process, solver in unique((r["process"], r["solver"]) for r in found):
            own = [r for r in found if (r["process"], r["solver"]) == (process, solver)]
            i = solvers.index(solver)
            _curve(axes, own, f"{process}, {solver}", colours[process], LINES[i % 4], MARKERS[i % 5])
        real = floor_of(rows)
        if real:
            axes.axhline(real["value"], color="#666666", linewidth=1)
            label = f"real test split ({real['value']:.1f})"
            axes.annotate(
                label,
                (0.995, real["value"]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color="#444444",
            )
        nfes = sorted({r["nfe"] for r in found if r["budget"] is not None})
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="NFE (backbone calls per sample)",
            ylabel=f"{found[0]['metric']}, n = {found[0]['n']}",
        )
        _plain_ticks(axes.xaxis, nfes)
        _plain_ticks(axes.yaxis)
        handles, labels = axes.get_legend_handles_labels()
        if len(labels) <= 10:
            axes.legend(fontsize=8, loc="upper right", ncols=2)
        else:  # as many lines would hide the curves
            figure.set_size_inches(8.0, 4.4 + 0.17 * math.ceil(len(labels) / 3))
            figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=3)
        save_figure(figure, path)
    return True


def _plain_ticks(axis: Any, places: Sequence[float] | None = None) -> None:
    """Plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high / max(low, 1e-300) < 300 else (1,)
    axis.set_major_locator(FixedLocator(list(places)) if places else LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _curve(axes: Any, rows: Sequence[Row], label: str, colour: str, line: str, marker: str) -> None:
    groups = unique(r["budget"] for r in rows)
    at = {b: [r for r in rows if r["budget"] == b] for b in groups}
    x = [mean_over_seeds([r["nfe"] for r in group])[0] for group in at.values()]
    stats = [mean_over_seeds([r["value"] for r in group]) for group in at.values()]
    y = np.array([mean for mean, _ in stats])
    errors = [
        group[0].get("stderr") or 0.0 if len(group) == 1 else spread for group, (_, spread) in zip(at.values(), stats)
    ]
    band = np.array(errors)
    axes.plot(x, y, line, marker=marker, color=colour, label=label, markersize=5, linewidth=1.6)
    if band.any():
        axes.errorbar(x, y, yerr=band, fmt="none", ecolor=colour, elinewidth=1, capsize=2)


def norm_plot(studies: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> bool:
    """|x| against time for each process: median and 10 to 90 % band, in training and along paths."""
    if not studies:
        return False
    with plt.rc_context(STYLE):
        columns = min(len(studies), 3)
        rows = math.ceil(len(studies) / columns)
        figure, axes = new_axes(4.4 * columns, 3.8 * rows, columns, rows)
        panels = [axes] if len(studies) == 1 else list(axes)
        for panel, (process, study) in zip(panels, studies.items(), strict=False):
            _norm_panel(panel, process, study)
        for spare in panels[len(studies) :]:
            spare.set_axis_off()
        for panel in panels[::columns]:
            panel.set_ylabel("|x|, data units")
        figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
        save_figure(figure, path)
    return True


def _norm_panel(axes: Any, process: str, study: Mapping[str, np.ndarray]) -> None:
    times = study["times"]
    for kind, words, colour in (
        ("train", "training perturbations", COLOURS[0]),
        ("path", "sampling paths", COLOURS[1]),
    ):
        low, _, middle, _, high = study[kind].T
        axes.plot(times, middle, color=colour, label=f"{words}: median")
        axes.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0, label="10 to 90 %")
    axes.axvline(float(study["push_time"]), color="#666666", linewidth=1, linestyle=":")
    axes.set(title=process, xlabel="native time t, data end on the left; dotted: where the norm is pushed")
    axes.xaxis.label.set_size(8)
    if study["train"].max() / study["train"].min() > 10:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    if times.min() > 0 and times.max() / times.min() > 1e3 and _even_in_log(times):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    if times[0] < times[-1]:
        axes.invert_xaxis()


def _even_in_log(times: np.ndarray) -> bool:
    steps = np.diff(np.log(times))
    return bool(np.median(np.abs(steps - np.median(steps))) < 0.05 * abs(np.median(steps)))


def push_plot(rows: Sequence[Row], path: Path) -> bool:
    """Fréchet distance against the factor by which the norm was pushed."""
    found = [r for r in rows if "@norm*" in r["metric"]]
    if not found:
        return False
    colours = colour_of(unique(r["process"] for r in found))
    with plt.rc_context(STYLE):
        figure, axes = new_axes(5.2, 3.6)
        for i, process in enumerate(colours):
            own = [r for r in found if r["process"] == process]
            factors = sorted({float(r["metric"].split("*")[1]) for r in own})
            values = [mean_over_seeds([r["value"] for r in own if r["metric"].endswith(f"*{f:g}")])[0] for f in factors]
            axes.plot(factors, values, LINES[i % 4], marker=MARKERS[i % 5], color=colours[process], label=process)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="factor on |x| mid-way",
            ylabel=found[0]["metric"].split("@")[0],
        )
        _plain_ticks(axes.xaxis, factors)
        _plain_ticks(axes.yaxis)
        axes.legend(fontsize=8)
        save_figure(figure, path)
    return True


def loss_plot(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> bool:
    """Training loss against images seen. Losses of different heads are not comparable with each other."""
    curves = {name: lines for name, lines in curves.items() if lines}
    if not curves:
        return False
    colours = colour_of(list(curves))
    with plt.rc_context(STYLE):
        figure, axes = new_axes(5.2, 3.2)
        for name, lines in curves.items():
            images = [line["images"] / 1000 for line in lines]
            axes.plot(images, [line["smoothed_loss"] for line in lines], color=colours[name], label=name)
        axes.set(yscale="log", xlabel="thousand examples seen", ylabel="training loss (smoothed)")
        axes.legend(fontsize=8)
        save_figure(figure, path)
    return True


ABSENT = (0.95, 0.80, 0.55)
"""Colour of pixels that are not given (NaN): a pale orange, unlike any grey."""


def as_rgb(raw: np.ndarray, levels: int | None) -> np.ndarray:
    """Images (..., C, H, W) as (..., 3, H, W) in [0, 1], dark on light for one channel; NaN is shown as absent."""
    top = (levels or 256) - 1
    shades = np.clip(np.asarray(raw, dtype=np.float64) / top, 0, 1)
    if shades.shape[-3] == 1:
        shades = np.repeat(1 - shades, 3, axis=-3)
    return np.where(np.isnan(shades[..., :3, :, :]), np.array(ABSENT)[:, None, None], shades[..., :3, :, :])


def grid_image(raw: np.ndarray, levels: int | None, columns: int = 10, scale: int = 4) -> np.ndarray:
    """A grid of images (n, C, H, W) as one uint8 picture (rows, columns, 3), dark on light for one channel."""
    images = as_rgb(raw, levels)
    height, width = images.shape[2:]
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 0.87)
    for i, image in enumerate(images):
        y, x = divmod(i, columns)
        canvas[y * (height + 1) : y * (height + 1) + height, x * (width + 1) : x * (width + 1) + width] = (
            image.transpose(1, 2, 0)
        )
    return (255 * np.kron(canvas, np.ones((scale, scale, 1)))).astype(np.uint8)


def save_samples(path: Path, raw: np.ndarray, levels: int | None) -> None:
    """A picture of samples: a grid of images, or a scatter plot of 2-D points."""
    if raw.ndim == 4:
        plt.imsave(path, grid_image(raw, levels))
        return
    with plt.rc_context(STYLE):
        figure, axes = new_axes(4.2, 4.2)
        axes.scatter(raw[:, 0], raw[:, 1], s=4, alpha=0.5, color=COLOURS[0], linewidths=0)
        edge = np.quantile(np.abs(raw), 0.99) * 1.15
        axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
        save_figure(figure, path)


def save_rows(path: Path, groups: Mapping[str, np.ndarray], levels: int | None, size: int = 32) -> None:
    """A picture of images in rows: groups of columns, each under its name, all on one light ground.

    Arguments:
        path: File to write.
        groups: Name -> raw images (rows, columns, C, H, W).
        levels: Grey levels of the data.
        size: Least height of an image in the picture, pixels.
    """
    height = next(iter(groups.values())).shape[-2]
    scale = max(1, -(-size // height))
    blocks = {name: _block(as_rgb(images, levels), scale) for name, images in groups.items()}
    gap, edge, head = max(4 * scale, 24), 12, 24
    wide = 2 * edge + sum(block.shape[1] for block in blocks.values()) + gap * (len(blocks) - 1)
    tall = head + next(iter(blocks.values())).shape[0] + edge
    canvas, x = np.ones((tall, wide, 3)), edge
    figure = plt.figure(figsize=(wide / 100, tall / 100), dpi=100)
    for name, block in blocks.items():
        canvas[head : tall - edge, x : x + block.shape[1]] = block
        figure.text((x + block.shape[1] / 2) / wide, 1 - head / 2 / tall, name, ha="center", va="center", fontsize=8)
        x += block.shape[1] + gap
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto", zorder=-1)
    axes.axis("off")
    figure.savefig(path, dpi=200)
    plt.close(figure)


def _block(images: np.ndarray, scale: int) -> np.ndarray:
    """Images (rows, columns, 3, H, W) enlarged, with one image pixel of light grey between them."""
    rows, columns, _, height, width = images.shape
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 0.87)
    for i in range(rows):
        for k in range(columns):
            y, x = i * (height + 1), k * (width + 1)
            canvas[y : y + height, x : x + width] = images[i, k].transpose(1, 2, 0)
    return np.kron(canvas, np.ones((scale, scale, 1)))


def likelihood_plot(path: Path, values: np.ndarray, unit: str, raw: np.ndarray, levels: int | None) -> None:
    """Histogram of a likelihood over examples; for images, the most and the least likely beside it."""
    order = np.argsort(values)
    images = raw.ndim == 4
    with plt.rc_context(STYLE):
        figure, axes = new_axes(8.0 if images else 5.2, 3.4, 2 if images else 1)
        panel = axes[0] if images else axes
        panel.hist(values, bins=min(40, max(8, len(values) // 10)), color=COLOURS[0])
        panel.axvline(values.mean(), color=COLOURS[1], linewidth=1.5)
        panel.annotate(
            f" mean {values.mean():.3f}",
            (values.mean(), 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            color=COLOURS[1],
        )
        panel.set(xlabel=unit, ylabel=f"examples (of {len(values)})")
        panel.yaxis.get_major_locator().set_params(integer=True)
        if images:
            _extremes(axes[1], raw, order, levels)
        save_figure(figure, path)


def _extremes(axes: Any, raw: np.ndarray, order: np.ndarray, levels: int | None, count: int = 16) -> None:
    """Two rows each of the most and the least likely examples."""
    each = min(count, len(order) // 2)
    grids = [grid_image(raw[rows], levels, columns=max(1, -(-each // 2))) for rows in (order[:each], order[-each:])]
    gap = np.full((grids[0].shape[0] // 3, grids[0].shape[1], 3), 255, dtype=np.uint8)
    axes.imshow(np.concatenate([grids[0], gap, grids[1]]), interpolation="nearest")
    axes.axis("off")
    for y, words in ((0, "most likely"), (grids[0].shape[0] + len(gap), "least likely")):
        axes.annotate(words, (0, y), xytext=(0, 3), textcoords="offset points", va="bottom", fontsize=9)


def norms_plot(path: Path, latents: np.ndarray, prior: np.ndarray, name: str) -> None:
    """Shares of latents and of prior draws with a norm below the abscissa: alike where the model fits the data."""
    with plt.rc_context(STYLE):
        figure, axes = new_axes(5.2, 3.6)
        for norms, words, line, colour in (
            (prior, f"draws of the prior (n = {len(prior)})", "--", "#666666"),
            (latents, f"latents of test examples (n = {len(latents)})", "-", COLOURS[0]),
        ):
            axes.step(np.sort(norms), np.arange(1, len(norms) + 1) / len(norms), line, color=colour, label=words)
        both = np.quantile(np.concatenate([latents, prior]), [0.005, 0.995])
        axes.set(xlim=both * [0.95, 1.05], ylim=(0, 1.02), xlabel="norm, data units", ylabel="share below", title=name)
        if both[1] > 10 * both[0]:
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis)
        axes.legend(fontsize=8, loc="lower right")
        save_figure(figure, path)
