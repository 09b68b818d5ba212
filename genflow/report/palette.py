"""Colours of processes, the same in every plot and table of a report. Imports no matplotlib.

Okabe and Ito's colours for up to seven names, Paul Tol's muted scheme for up to nine: both are made for colour-blind
readers. More names than that take the second again, and markers and labels tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterable

from genflow.registry import registries

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#999933", "#AA4499", "#44AA99", "#DDCC77")
GREY = "#7a8594"
"""What belongs to no process: real data, training draws, and names that are not in the palette."""


def palette(processes: Iterable[str]) -> dict[str, str]:
    """Name -> colour, in the order given; a family (what a trained model is named by) has its first member's."""
    names = list(dict.fromkeys(processes))
    wheel = COLOURS if len(names) <= len(COLOURS) else MUTED
    colours = {name: wheel[i % len(wheel)] for i, name in enumerate(names)}
    entries = registries()["processes"].entries()
    for name in names:
        family = entries[name].family if name in entries else ""
        colours.setdefault(family or name, colours[name])
    return colours
