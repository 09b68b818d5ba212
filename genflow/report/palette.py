"""Colours of processes, the same in every plot and table of a report. Imports no matplotlib.

Okabe and Ito's colours for up to seven names, Paul Tol's muted scheme for up to nine: both are made for colour-blind
readers. With more names the second scheme starts again, and markers and labels distinguish them.
"""

from __future__ import annotations

from collections.abc import Iterable

from genflow.registry import registries

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#999933", "#AA4499", "#44AA99", "#DDCC77")
GREY = "#7a8594"
"""For real data, training draws, and names that are not in the palette."""


def palette(processes: Iterable[str]) -> dict[str, str]:
    """Name -> colour, in the order given; a family (the name of a trained model) has the colour of its first member.

    Where a process is there with axes varied, "pfgm head=noise", its bare name has no colour.
    """
    given = list(dict.fromkeys(processes))
    names = [name for name in given if not any(other.startswith(f"{name} ") for other in given)]  # none of its own
    wheel = COLOURS if len(names) <= len(COLOURS) else MUTED
    colours = {name: wheel[i % len(wheel)] for i, name in enumerate(names)}
    entries = registries()["processes"].entries()
    for name in names:
        base, _, variant = name.partition(" ")
        family = entries[base].family if base in entries else ""
        colours.setdefault(f"{family} {variant}".rstrip() if family else name, colours[name])
    return colours
