"""The plot of effects: a dot for each with its interval."""

from __future__ import annotations

import math
from pathlib import Path

from genflow import estimates as es
from genflow.bench.factorial import SIGNIFICANT, Design
from genflow.report.palette import GREY
from genflow.report.style import INK, new_axes, save_figure, styled

MOST = 30
"""Effects of a plot: all main ones, and the largest interactions."""


@styled
def effects_plot(design: Design, name: str, path: Path) -> bool:
    """Main effects and interactions of a balanced design as dots with 95 % intervals, and a line at no effect.

    Arguments:
        design: What was measured.
        name: Of the metric, for the axis.
        path: PNG file to write.

    Returns:
        Whether there was anything to draw.
    """
    found = [] if design.lacking else design.effects()
    if not found:
        return False
    main = [one for one in found if len(one.levels) == 1]
    others = sorted((one for one in found if len(one.levels) > 1), key=lambda one: -abs(one.change.value))
    shown = [*main, *others[: max(0, MOST - len(main))]]
    figure, axes = new_axes(8.8, 1.1 + 0.29 * len(shown))
    for place, one in enumerate(shown):
        colour = INK if one.verdict == SIGNIFICANT else GREY
        low, high = es.interval(one.change)
        if not math.isnan(low):
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        filled = colour if len(one.levels) == 1 else "white"
        axes.plot(one.change.value, place, "o", color=colour, markerfacecolor=filled, markersize=5.5, zorder=3)
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=f"change of {name}")
    axes.set_yticks(range(len(shown)), [_wrapped(one.name) for one in shown])
    axes.grid(axis="y", visible=False)
    if 0 < len(main) < len(shown):
        axes.axhline(len(main) - 0.5, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
    save_figure(figure, path)
    return True


def _wrapped(name: str) -> str:
    factors, _, levels = name.partition(": ")
    return f"{factors}: {levels}" if len(name) < 56 else f"{factors}:\n{levels}"
