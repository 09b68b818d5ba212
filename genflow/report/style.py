"""One style for every picture of a report: colours, type, axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib
from matplotlib.figure import Figure

from genflow.report.palette import GREY

LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, GRID = "#1b2430", "#5a6675", "#e4e8ee"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9,
    "axes.edgecolor": "#aab3bf",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#aab3bf",
    "ytick.color": "#aab3bf",
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.dpi": 110,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "savefig.dpi": 160,
}


Draw = TypeVar("Draw", bound=Callable[..., Any])


def styled(draw: Draw) -> Draw:
    """A drawing function in the style of reports, whatever the program's own style is."""

    @functools.wraps(draw)
    def inner(*given: Any, **named: Any) -> Any:
        with matplotlib.rc_context(STYLE):
            return draw(*given, **named)

    return cast(Draw, inner)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure, laid out once: `savefig` by itself would draw it twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # "none" would leave a placeholder, for which it is drawn twice, too
    figure.savefig(path, pil_kwargs={"compress_level": 4})


def new_axes(
    width: float = 6.4, height: float = 4.0, columns: int = 1, rows: int = 1, **more: Any
) -> tuple[Figure, Any]:
    """A figure with `columns` axes side by side in each of `rows` rows, in the style of reports."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **more)
    return figure, (axes[0, 0] if rows * columns == 1 else axes.reshape(-1))


def panels(count: int, width: float = 4.2, height: float = 3.4, most: int = 3, **more: Any) -> tuple[Figure, list[Any]]:
    """A figure with `count` axes in rows of at most `most`; places left over stay empty."""
    columns = min(count, most)
    rows = math.ceil(count / columns)
    figure, axes = new_axes(width * columns, height * rows, columns, rows, **more)
    found = [axes] if rows * columns == 1 else list(axes)
    for spare in found[count:]:
        spare.set_axis_off()
    for panel in found[:count][-columns:]:
        panel.tick_params(labelbottom=True)  # also where the place below is empty and the axis is shared
    return figure, found[:count]


def spans(values: Iterable[float], ratio: float) -> bool:
    """Whether a logarithmic axis fits: all values above zero, and the largest at least `ratio` times the least."""
    known = [v for v in values if math.isfinite(v)]
    return bool(known) and min(known) > 0 and max(known) / min(known) >= ratio


def log_axis(axis: Any, places: Sequence[float] | None = None) -> None:
    """A logarithmic axis with plain numbers, at `places` where given; of places closer than a fifth, the first."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high / max(low, 1e-300) < 300 else (1,)
    axis.set_major_locator(FixedLocator(_apart(places)) if places else LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _apart(places: Sequence[float]) -> list[float]:
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place > 1.2 * kept[-1]:
            kept.append(place)
    return kept


def handles(names: Sequence[str], colours: Mapping[str, str]) -> list[Any]:
    """Legend entries of a colour each."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=colours.get(n, GREY), linewidth=2.4, label=n) for n in names]


def legend_above(figure: Figure, entries: Sequence[Any]) -> None:
    """A legend between the top and the axes, in as many rows as the width asks for."""
    letters = max(len(entry.get_label()) for entry in entries)
    fitting = int(figure.get_size_inches()[0] / (0.5 + 0.075 * letters))
    figure.legend(handles=entries, loc="outside upper left", ncols=max(1, min(len(entries), fitting)))
