"""Pictures of the norm study: bands of |x| against σ, and what becomes of pushed paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genflow.claims.studies.norm_numbers import Norms, band
from genflow.report.palette import GREY, palette
from genflow.report.style import SOFT, legend_above, log_axis, new_axes, panels, save_figure, styled

FACTORS = ("#0072B2", "#56B4E9", "#000000", "#E69F00", "#D55E00", "#CC79A7", "#009E73")


@styled
def draw_bands(found: Mapping[str, Norms], folder: Path) -> dict[str, str]:
    """Median and 10 to 90 % of |x| against σ: training draws grey, paths in colour; native above, rescaled below."""
    both = any(norms.moves for norms in found.values())
    width = max(6.4, 3.7 * len(found))
    figure, axes = new_axes(width, 3.3 * (1 + both) + 0.4, len(found), 1 + both, sharey="row")
    places = [axes] if len(found) * (1 + both) == 1 else list(axes)
    for row in range(1 + both):
        for (name, norms), panel in zip(found.items(), places[row * len(found) :]):
            _band_panel(panel, norms, row == 1, palette(found)[name])
            panel.set_title(name)
            panel.set_ylabel(("|x|/a, rescaled" if row else "|x|, native") if name == next(iter(found)) else "")
    figure.supxlabel("noise to signal σ = b/a (z for Poisson flow), data units", fontsize=9, color=SOFT)
    legend_above(figure, _legend())
    save_figure(figure, folder / "norms.png")
    return {
        "norms.png": "Norm against noise level: median and the middle 80 % of training draws (grey) and of sampling "
        "paths (coloured). Sampling runs from right to left."
    }


def _band_panel(panel: Any, norms: Norms, rescaled: bool, colour: str) -> None:
    sigma = norms.sigma.numpy()
    for which, tone, line in (("train", GREY, (0, (4, 2))), ("path", colour, "-")):
        _, _, low, middle, high = band(norms.in_coordinates(which, rescaled)).T.numpy()
        panel.fill_between(sigma, low, high, color=tone, alpha=0.25, linewidth=0)
        panel.plot(sigma, middle, color=tone, ls=line, lw=1.7)
    log_axis(panel.xaxis)
    log_axis(panel.yaxis)


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=GREY, ls=(0, (4, 2)), label="training draws of x_t"),
        Line2D([], [], color="#222222", label="sampling paths"),
    ]


@styled
def draw_fates(found: Mapping[str, Norms], folder: Path) -> dict[str, str]:
    """Median of |x| over that of the unpushed path, from the push to the data's end."""
    from matplotlib.lines import Line2D

    figure, places = panels(len(found), 3.9, 3.4, sharey=True)
    factors = list(next(iter(found.values())).fates)
    for (name, norms), panel in zip(found.items(), places, strict=True):
        kept = (norms.sigma_after.isfinite() & (norms.sigma_after > 0)).numpy()
        for i, factor in enumerate(factors):
            middle = norms.fates[factor].median(dim=1).values.numpy()
            panel.plot(norms.sigma_after.numpy()[kept], middle[kept], color=FACTORS[i % len(FACTORS)], lw=1.7)
        panel.set_title(name)
        log_axis(panel.xaxis)
        log_axis(panel.yaxis, factors)
        panel.invert_xaxis()
    figure.supxlabel("noise to signal σ, falling as sampling goes on", fontsize=9, color=SOFT)
    figure.supylabel("|x| over the unpushed path's, median", fontsize=9, color=SOFT)
    entries = [Line2D([], [], color=FACTORS[i % len(FACTORS)], label=f"× {f:g}") for i, f in enumerate(factors)]
    legend_above(figure, entries)
    save_figure(figure, folder / "fates.png")
    return {"fates.png": "Norm of paths after |x| was multiplied, over that of the same paths left alone; median."}
