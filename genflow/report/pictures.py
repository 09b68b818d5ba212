"""Pictures of samples, likelihoods and latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from genflow.report.palette import COLOURS, GREY
from genflow.report.style import log_axis, new_axes, panels, save_figure, styled

ABSENT = (0.95, 0.80, 0.55)
"""Colour of missing pixels (NaN): a pale orange, unlike any grey."""


def as_rgb(raw: np.ndarray, levels: int | None) -> np.ndarray:
    """Images (..., C, H, W) as (..., 3, H, W) in [0, 1], dark on light for one channel; NaN has the colour ABSENT.

    Raw values are whole levels 0 .. levels − 1 or, where `levels` is None, continuous from 0 to 1.
    """
    top = levels - 1 if levels else 1
    shades = np.clip(np.asarray(raw, dtype=np.float64) / top, 0, 1)
    if shades.shape[-3] == 1:
        shades = np.repeat(1 - shades, 3, axis=-3)
    return np.where(np.isnan(shades[..., :3, :, :]), np.array(ABSENT)[:, None, None], shades[..., :3, :, :])


def tiled(images: np.ndarray, columns: int, scale: int = 1, gap: int = 1, shade: float = 0.87) -> np.ndarray:
    """Images (n, 3, H, W) in rows as one picture (rows, columns, 3), enlarged, with `gap` pixels of a shade between."""
    height, width = images.shape[2] + gap, images.shape[3] + gap
    rows = -(-len(images) // columns)
    canvas = np.full((rows * height - gap, columns * width - gap, 3), shade)
    for i, image in enumerate(images):
        y, x = i // columns * height, i % columns * width
        canvas[y : y + height - gap, x : x + width - gap] = image.transpose(1, 2, 0)
    return np.kron(canvas, np.ones((scale, scale, 1)))


def grid_image(raw: np.ndarray, levels: int | None, columns: int = 10, scale: int = 4) -> np.ndarray:
    """A grid of images (n, C, H, W) as one uint8 picture (rows, columns, 3), dark on light for one channel."""
    return (255 * tiled(as_rgb(raw, levels), columns, scale)).astype(np.uint8)


@styled
def save_samples(path: Path, raw: np.ndarray, levels: int | None, colour: str = COLOURS[0]) -> None:
    """A picture of samples: a grid of images; for vectors a scatter plot of the first pairs of entries, at most three.

    Arguments:
        path: PNG file to write.
        raw: Images (n, C, H, W) or vectors (n, d).
        levels: Grey levels of images; None where values are continuous from 0 to 1.
        colour: Of the points.
    """
    if raw.ndim == 4:
        Image.fromarray(grid_image(raw, levels, scale=max(1, -(-32 // raw.shape[-1])))).save(path)
        return
    flat = raw.reshape(len(raw), -1)
    pairs = [(i, i + 1) for i in range(0, min(flat.shape[1], 6) - 1, 2)]
    figure, axes = panels(max(1, len(pairs)), 3.6, 3.6)
    if not pairs:
        axes[0].hist(flat[:, 0], bins=40, color=colour)
    for panel, (i, k) in zip(axes, pairs, strict=False):
        panel.scatter(flat[:, i], flat[:, k], s=5, alpha=0.5, color=colour, linewidths=0)
        middle, reach = _frame(flat[:, [i, k]])
        panel.set(xlim=middle[0] + reach, ylim=middle[1] + reach, aspect="equal")
        panel.set(xlabel=f"entry {i + 1}", ylabel=f"entry {k + 1}")
    save_figure(figure, path)


def _frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle (2,) and reach (−r, r) of a square that holds nearly all points (n, 2)."""
    low, high = np.quantile(points[np.isfinite(points).all(1)], [0.01, 0.99], axis=0)
    half = 0.6 * float(np.max(high - low)) or 1.0
    return (low + high) / 2, np.array([-half, half])


def save_rows(path: Path, groups: Mapping[str, np.ndarray], levels: int | None, size: int = 32) -> None:
    """A picture of images in rows: groups of columns, each under its name, all on one light background.

    Arguments:
        path: File to write.
        groups: Name -> raw images (rows, columns, C, H, W).
        levels: Grey levels of the data; None where values are continuous from 0 to 1.
        size: Least height of an image in the picture, pixels.
    """
    height = next(iter(groups.values())).shape[-2]
    scale = max(1, -(-size // height))
    flat = {name: images.reshape(-1, *images.shape[2:]) for name, images in groups.items()}
    blocks = {name: tiled(as_rgb(flat[name], levels), images.shape[1], scale) for name, images in groups.items()}
    gap, edge = max(4 * scale, 24), 12
    titles = {
        name: fill(name, max(8, (block.shape[1] + gap - 8) // 6), break_long_words=False)
        for name, block in blocks.items()
    }
    head = 12 + 12 * max(title.count("\n") + 1 for title in titles.values())
    wide = 2 * edge + sum(block.shape[1] for block in blocks.values()) + gap * (len(blocks) - 1)
    tall = head + next(iter(blocks.values())).shape[0] + edge
    canvas, x = np.ones((tall, wide, 3)), edge
    figure = Figure(figsize=(wide / 100, tall / 100), dpi=100)
    for name, block in blocks.items():
        canvas[head : tall - edge, x : x + block.shape[1]] = block
        middle = (x + block.shape[1] / 2) / wide
        figure.text(middle, 1 - head / 2 / tall, titles[name], ha="center", va="center", fontsize=8)
        x += block.shape[1] + gap
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto", zorder=-1)
    axes.axis("off")
    figure.savefig(path, dpi=200)


@styled
def likelihood_plot(path: Path, values: np.ndarray, unit: str, raw: np.ndarray, levels: int | None) -> None:
    """Histogram of a likelihood over examples; for images, the most and the least likely beside it."""
    order = np.argsort(values)
    images = raw.ndim == 4
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


@styled
def norms_plot(path: Path, latents: np.ndarray, prior: np.ndarray, name: str) -> None:
    """Shares of latents and of prior draws with a norm below the abscissa: alike where the model fits the data."""
    figure, axes = new_axes(5.2, 3.6)
    for norms, words, line, colour in (
        (prior, f"draws of the prior (n = {len(prior)})", "--", GREY),
        (latents, f"latents of test examples (n = {len(latents)})", "-", COLOURS[0]),
    ):
        axes.step(np.sort(norms), np.arange(1, len(norms) + 1) / len(norms), line, color=colour, label=words)
    both = np.quantile(np.concatenate([latents, prior]), [0.005, 0.995])
    axes.set(xlim=both * [0.95, 1.05], ylim=(0, 1.02), xlabel="norm, data units", ylabel="share below", title=name)
    if both[1] > 10 * both[0]:
        log_axis(axes.xaxis)
    axes.legend(loc="lower right")
    save_figure(figure, path)
