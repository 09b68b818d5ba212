"""Plots of measured numbers: quality against NFE, likelihoods, norms, pushes, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from genflow.bench.cells import REAL
from genflow.bench.rows import Row
from genflow.bench.tables import estimate, real_name, star
from genflow.estimates import of_rows, short
from genflow.evaluate.facts import SHARED, Number, axis, facts
from genflow.report.palette import GREY
from genflow.report.style import (
    INK,
    LINES,
    MARKERS,
    SOFT,
    handles,
    legend_above,
    log_axis,
    new_axes,
    panels,
    save_figure,
    spans,
    styled,
)

MOST_LINES = 8
"""More curves than this in one panel are hard to distinguish; then each solver has a panel of its own."""


def unique(values: Any) -> list[Any]:
    """Values in order, each once."""
    return list(dict.fromkeys(values))


def known(rows: Sequence[Row]) -> list[Row]:
    """Rows that have a number."""
    return [r for r in rows if r["value"] is not None and np.isfinite(r["value"])]


@styled
def nfe_plot(rows: Sequence[Row], metric: str, path: Path, colours: Mapping[str, str]) -> bool:
    """A metric against NFE: colour is the process, line and marker the solver; adaptive solvers are points.

    With more than MOST_LINES curves, each solver has a panel, and markers stand for the process.

    Bands (over training seeds) and bars (of one training seed, over samples) are one standard error.

    Arguments:
        rows: All rows of a bench.
        metric: Which to draw.
        path: PNG file to write.
        colours: By process.

    Returns:
        Whether there was anything to draw.
    """
    found = [r for r in known(rows) if r["metric"] == metric and r["process"] != REAL and r["nfe"] is not None]
    if not found:
        return False
    real = next((r for r in known(rows) if r["metric"] == metric and r["process"] == REAL), None)
    solvers, names = unique(r["solver"] for r in found), unique(r["process"] for r in found)
    several = len({(r["process"], r["solver"]) for r in found}) > MOST_LINES
    groups = solvers if several else [""]
    styles = _styles(names) if several else _styles(solvers)
    figure, axes = panels(len(groups), *((3.9, 3.1) if several else (8.8, 4.2)), sharex=True, sharey=True)
    for panel, group in zip(axes, groups, strict=True):
        for process, solver in product(names, [group] if several else solvers):
            own = [r for r in found if (r["process"], r["solver"]) == (process, solver)]
            line, marker = styles[process] if several else styles[solver]
            draw_curve(panel, own, colours.get(process, GREY), "-" if several else line, marker)
        panel.set_title(group)
    scale_axes(axes[0], found, [r["value"] for r in [*found, *([real] if real else [])]])
    for panel in axes:
        _real(panel, real)
    figure.supxlabel("NFE (backbone calls per sample)", fontsize=9, color=SOFT)
    figure.supylabel(f"{described(metric, facts(found[0]))}, n = {found[0]['n']}", fontsize=9, color=SOFT)
    legend_above(figure, _legend(names, colours, styles, several))
    save_figure(figure, path)
    return True


def _legend(
    names: Sequence[str], colours: Mapping[str, str], styles: Mapping[str, tuple[Any, str]], several: bool
) -> list[Line2D]:
    """Colours of processes, with their markers in several panels; in one panel, markers and lines of the solvers."""
    if several:
        return [Line2D([], [], color=colours.get(n, GREY), marker=styles[n][1], ms=4.5, label=n) for n in names]
    solvers = [Line2D([], [], color=SOFT, ls=ls, marker=m, ms=4.5, label=solver) for solver, (ls, m) in styles.items()]
    return [*handles(names, colours), *solvers]


def _styles(solvers: Sequence[str]) -> dict[str, tuple[Any, str]]:
    return {s: (LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]) for i, s in enumerate(solvers)}


def draw_curve(axes: Any, rows: Sequence[Row], colour: str, line: Any, marker: str) -> None:
    """One process and solver against NFE: rows of all its budgets and seeds; nothing where there are none."""
    if not rows:
        return
    at: dict[Any, list[Row]] = {b: [r for r in rows if r["budget"] == b] for b in unique(r["budget"] for r in rows)}
    at = dict(sorted(at.items(), key=lambda pair: pair[0] or 0))
    x = np.array([of_rows(group, "nfe").value for group in at.values()])
    known = [estimate(group) for group in at.values()]
    y, every = np.array([one.value for one in known]), np.nan_to_num([one.error for one in known])
    several = np.array([len(group) > 1 for group in at.values()])
    spread, error = every * several, every * ~several
    axes.plot(x, y, ls=line, marker=marker, color=colour, markersize=4.5, linewidth=1.7, zorder=3)
    if spread.any() and len(x) > 1:
        axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.16, linewidth=0, zorder=1)
    bars = error if len(x) > 1 else error + spread
    if bars.any():
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5, zorder=2)


def scale_axes(axes: Any, rows: Sequence[Row], values: Sequence[float]) -> None:
    """Logarithmic axes where the numbers span enough, NFE's with a tick at every budget."""
    groups = unique((r["process"], r["solver"], r["budget"]) for r in rows)
    places = [[r["nfe"] for r in rows if (r["process"], r["solver"], r["budget"]) == group] for group in groups]
    nfes = sorted({round(sum(calls) / len(calls)) for calls in places})
    if spans([r["nfe"] for r in rows], 2.5):
        log_axis(axes.xaxis, nfes)
    elif len(nfes) == 1:
        axes.set_xlim(nfes[0] * 0.5, nfes[0] * 1.5)
        axes.set_xticks(nfes, [f"{n:g}" for n in nfes])
    if spans(values, 4):
        log_axis(axes.yaxis)


def described(metric: str, fact: Number) -> str:
    """An axis label: the number with its unit, and which way is better."""
    return axis(metric, fact) + (f" ({fact.better} is better)" if fact.better else "")


def _real(axes: Any, real: Row | None) -> None:
    """A line for real data, with a band for its interval."""
    if real is None:
        return
    if real.get("low") is not None:
        axes.axhspan(real["low"], real["high"], color=GREY, alpha=0.15, linewidth=0, zorder=0)
    axes.axhline(real["value"], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"{real_name(real)} {short(real['value'])}",
        (0.995, real["value"]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=SOFT,
    )


@styled
def pair_plot(sides: Mapping[str, Sequence[Row]], metric: str, path: Path, colours: Mapping[str, str]) -> bool:
    """A metric of two benches against NFE, a panel for each solver: colour is the process, line style the bench."""
    rows = {name: [r for r in known(own) if r["nfe"] is not None] for name, own in sides.items()}
    every = [r for own in rows.values() for r in own]
    solvers = unique(r["solver"] for r in every)
    if not solvers:
        return False
    figure, axes = panels(len(solvers), 4.2, 3.4, sharex=True, sharey=True)
    styles = _styles(list(rows))
    for panel, solver in zip(axes, solvers, strict=True):
        for (name, own), process in product(rows.items(), unique(r["process"] for r in every)):
            mine = [r for r in own if (r["solver"], r["process"]) == (solver, process)]
            draw_curve(panel, mine, colours.get(process, GREY), *styles[name])
        panel.set_title(solver)
    scale_axes(axes[0], every, [r["value"] for r in every])
    figure.supxlabel("NFE (backbone calls per sample)", fontsize=9, color=SOFT)
    figure.supylabel(described(metric, facts(every[0])), fontsize=9, color=SOFT)
    runs = [Line2D([], [], color=SOFT, ls=ls, marker=m, ms=4.5, label=name) for name, (ls, m) in styles.items()]
    legend_above(figure, [*handles(unique(r["process"] for r in every), colours), *runs])
    save_figure(figure, path)
    return True


@styled
def error_plot(rows: Sequence[Row], metric: str, path: Path, colours: Mapping[str, str]) -> bool:
    """A number for each process and seed with its standard error, e.g. bits/dim: a line for each process."""
    found = [r for r in known(rows) if r["metric"] == metric and r["process"] != REAL]
    if not found:
        return False
    names = unique(r["process"] for r in found)
    figure, axes = new_axes(5.4, 1.0 + 0.42 * len(names))
    for i, name in enumerate(names):
        own = [r for r in found if r["process"] == name]
        for k, row in enumerate(own):
            y, error = i + 0.14 * (k - (len(own) - 1) / 2), float(np.nan_to_num(estimate([row]).error))
            axes.errorbar(row["value"], y, xerr=error, fmt="o", ms=5, color=colours.get(name, GREY), capsize=3)
        axes.annotate(str(estimate(own)), (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set(yticks=range(len(names)), ylim=(len(names) - 0.45, -0.55), xlabel=described(metric, facts(found[0])))
    axes.set_yticklabels(names, color="#1b2430")
    axes.grid(axis="y", visible=False)
    save_figure(figure, path)
    return True


TRAINED = (0, (4, 2))
"""Line style of training draws."""


@styled
def norm_plot(studies: Mapping[str, Mapping[str, np.ndarray]], path: Path, colours: Mapping[str, str]) -> bool:
    """|x| against time for each process: median and 10 to 90 % band, in training (grey) and along paths."""
    if not studies:
        return False
    figure, axes = panels(len(studies), 4.2, 3.3)
    for i, (panel, (process, study)) in enumerate(zip(axes, studies.items(), strict=True)):
        _norm_panel(panel, study, colours.get(process, GREY))
        panel.set_title(process)
        if i % 3 == 0:
            panel.set_ylabel("|x|, data units")
    both = [
        Line2D([], [], color=GREY, ls=TRAINED, label="training draws"),
        Line2D([], [], color=INK, label="sampling paths, in the process's colour"),
    ]
    legend_above(figure, both)
    figure.supxlabel(
        "native time t, the data's end on the left; dotted: where the norm is pushed", fontsize=9, color=SOFT
    )
    save_figure(figure, path)
    return True


def _norm_panel(axes: Any, study: Mapping[str, np.ndarray], colour: str) -> None:
    times = study["times"]
    for kind, shade, line in (("train", GREY, TRAINED), ("path", colour, "-")):
        low, _, middle, _, high = study[kind].T
        axes.fill_between(times, low, high, color=shade, alpha=0.18, linewidth=0)
        axes.plot(times, middle, color=shade, linewidth=1.8, linestyle=line)
    axes.axvline(float(study["push_time"]), color=GREY, linewidth=1, linestyle=":")
    if spans([*study["train"].ravel(), *study["path"].ravel()], 10):
        log_axis(axes.yaxis)
    if times.min() > 0 and times.max() / times.min() > 1e3:
        steps = np.diff(np.log(times))
        if np.median(np.abs(steps - np.median(steps))) < 0.05 * abs(np.median(steps)):  # even in log t
            log_axis(axes.xaxis)
    if times[0] < times[-1]:  # the data's end is the later one
        axes.invert_xaxis()


@styled
def push_plot(rows: Sequence[Row], path: Path, colours: Mapping[str, str]) -> bool:
    """Fréchet distance against the factor by which the norm was pushed."""
    found = [r for r in known(rows) if facts(r).table == SHARED and "@" in r["metric"]]
    if not found:
        return False
    names = unique(r["process"] for r in found)
    figure, axes = new_axes(5.4, 3.6)
    for i, process in enumerate(names):
        own = [r for r in found if r["process"] == process]
        factors = sorted({star(r["metric"]) for r in own})
        stats = [estimate([r for r in own if star(r["metric"]) == f]) for f in factors]
        y, band = (np.array(part) for part in zip(*((one.value, one.error) for one in stats)))
        colour = colours.get(process, GREY)
        axes.plot(factors, y, ls=LINES[i % 4], marker=MARKERS[i % 7], ms=4.5, color=colour, label=process)
        if len(factors) > 1 and np.isfinite(band).all():
            axes.fill_between(factors, y - band, y + band, color=colour, alpha=0.16, linewidth=0)
    axes.set(xlabel="factor on |x| mid-way", ylabel=f"{found[0]['metric'].split('@')[0]}, n = {found[0]['n']}")
    log_axis(axes.xaxis, sorted({star(r["metric"]) for r in found}))
    if spans([r["value"] for r in found], 4):
        log_axis(axes.yaxis)
    legend_above(figure, axes.get_legend_handles_labels()[0])
    save_figure(figure, path)
    return True


@styled
def balance_plot(rows: Sequence[Row], path: Path, colours: Mapping[str, str]) -> bool:
    """Shares of classes: real data, and each process's samples at the largest budget of the first seed."""
    found = [r for r in known(rows) if r["metric"].startswith("share[")]
    names = unique(r["process"] for r in found if r["process"] != REAL)
    if not names:
        return False
    figure, axes = new_axes(5.4, 3.0)
    for i, name in enumerate([REAL, *names]):
        own = [r for r in found if r["process"] == name]
        last = max(own, key=lambda r: r.get("budget") or 0, default={})
        own = [r for r in own if all(r.get(k) == last.get(k) for k in ("budget", "solver", "seed"))]
        x = np.array([star(r["metric"]) for r in own]) + 0.6 * (i / len(names) - 0.5)
        y, error = ([r[k] for r in own] for k in ("value", "stderr"))
        label = "real data" if name == REAL else name
        style = {"color": INK if name == REAL else colours.get(name, GREY), "fmt": MARKERS[i % 7], "ms": 4}
        axes.errorbar(x, y, yerr=error, label=label, capsize=2, elinewidth=1, **style)
    axes.set(xlabel="class", ylabel="share", xticks=sorted({int(star(r["metric"])) for r in found}))
    axes.set_ylim(bottom=0)
    legend_above(figure, axes.get_legend_handles_labels()[0])
    save_figure(figure, path)
    return True


@styled
def loss_plot(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path, colours: Mapping[str, str]) -> bool:
    """Training loss against examples seen, by "name" or "name seed k". Losses of different heads are not comparable."""
    curves = {name: lines for name, lines in curves.items() if lines}
    if not curves:
        return False
    named = unique(name.partition(" seed ")[0] for name in curves)
    figure, axes = new_axes(5.4, 3.6)
    for name, lines in curves.items():
        model = name.partition(" seed ")[0]
        images = [line["images"] / 1000 for line in lines]
        losses = [line["smoothed_loss"] for line in lines]
        axes.plot(images, losses, color=colours.get(model, GREY), linewidth=1.3, alpha=0.9)
    axes.set(xlabel="thousand examples seen", ylabel="training loss (smoothed)")
    if spans([line["smoothed_loss"] for lines in curves.values() for line in lines], 3):
        log_axis(axes.yaxis)
    legend_above(figure, handles(named, colours))
    save_figure(figure, path)
    return True


__all__ = ["balance_plot", "error_plot", "loss_plot", "nfe_plot", "norm_plot", "pair_plot", "push_plot", "unique"]
