"""The text of a number, of one with its error, and of a p value; by way of `genflow.estimates`."""

from __future__ import annotations

import math


def short(value: float) -> str:
    """Three significant digits, whole numbers in full; – where it is not known."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value).replace("inf", "∞")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def text(value: float, error: float = math.nan, signed: bool = False) -> str:
    """A number to the second digit of its standard error, 12.34 ± 0.56; three digits where none is known."""
    sign, shown = ("−" if value < 0 else "+" if value > 0 else "", abs(value)) if signed else ("", value)
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return sign + short(shown)
    power = math.floor(math.log10(max(abs(value), error)))
    scale = 10.0**power if power < -6 else 1.0  # small numbers as (1.2 ± 0.3)e-8
    places = min(max(0, 1 - math.floor(math.log10(error / scale))), 15)
    both = f"{round(shown / scale, places) + 0.0:.{places}f} ± {error / scale:.{places}f}"
    return f"{sign}{both}" if scale == 1 else f"{sign}({both})e{power}"


def chance(p: float) -> str:
    """A p value in words for a table: 0.032, < 0.001, –."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"
