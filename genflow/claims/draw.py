"""Pictures of studies: distances against a level, in the house style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genflow.estimates import Estimate
from genflow.report.palette import GREY
from genflow.report.style import LINES, MARKERS, SOFT, legend_above, log_axis, panels, save_figure, spans, styled


@dataclass(frozen=True)
class Curve:
    """One line: its name, its place on the level axis, its numbers, and how it is drawn."""

    name: str
    levels: Sequence[float]
    values: Sequence[Estimate]
    colour: str
    line: int = 0


@dataclass(frozen=True)
class Axes:
    """Labels of the axes, and the level of real data, drawn across; None for none.

    Arguments:
        x, y: Labels.
        floor: A horizontal line.
        places: Ticks of the level axis.
        log_x: Whether that axis is logarithmic.
        names: Tick words, where the levels are places in a list.
    """

    x: str
    y: str
    floor: float | None = None
    places: Sequence[float] = ()
    log_x: bool = True
    names: Sequence[str] = ()


@styled
def curves(path: Path, groups: Mapping[str, Sequence[Curve]], axes: Axes) -> None:
    """Writes a picture with a panel for each group of curves; bars are one standard error."""
    from matplotlib.lines import Line2D

    size = (4.4, 3.3) if len(groups) > 1 else (7.6, 4.2)
    figure, places = panels(len(groups), *size, 2 if len(groups) == 4 else 3, sharex=True, sharey=True)
    shown: dict[tuple[str, str, int], Any] = {}
    for panel, (title, group) in zip(places, groups.items(), strict=True):
        panel.set_title(title)
        for curve in group:
            _curve(panel, curve)
            style = {"color": curve.colour, "ls": LINES[curve.line], "marker": MARKERS[curve.line], "ms": 4.5}
            shown[curve.name, curve.colour, curve.line] = Line2D([], [], label=curve.name, **style)
        if axes.floor is not None:
            panel.axhline(axes.floor, color=GREY, lw=1.2, ls=(0, (1, 2)))
    if axes.floor is not None:
        shown["real", GREY, 0] = Line2D([], [], color=GREY, lw=1.2, ls=(0, (1, 2)), label="real test split")
    _scale(places, groups, axes)
    figure.supxlabel(axes.x, fontsize=9, color=SOFT)
    figure.supylabel(axes.y, fontsize=9, color=SOFT)
    legend_above(figure, list(shown.values()))
    save_figure(figure, path)


def _curve(panel: Any, curve: Curve) -> None:
    y = np.array([one.value for one in curve.values])
    error = np.nan_to_num([one.error for one in curve.values])
    style = {"color": curve.colour, "ls": LINES[curve.line], "marker": MARKERS[curve.line]}
    panel.errorbar(curve.levels, y, yerr=error, markersize=4.5, linewidth=1.7, elinewidth=1, capsize=2.5, **style)


def _scale(places: Sequence[Any], groups: Mapping[str, Sequence[Curve]], axes: Axes) -> None:
    values = [one.value for group in groups.values() for curve in group for one in curve.values]
    values += [] if axes.floor is None else [axes.floor]
    for panel in places:
        if axes.names:
            panel.set_xticks(range(len(axes.names)), axes.names)
            panel.set_xlim(-0.4, len(axes.names) - 0.6)
        elif axes.log_x:
            log_axis(panel.xaxis, list(axes.places) or None)
        elif axes.places:
            panel.set_xticks(list(axes.places))
    if spans(values, 4):
        log_axis(places[0].yaxis)
        for panel in places[1:]:
            log_axis(panel.yaxis)
