"""PFGM's studies in the plane: the heart, and the collapse without the extra dimension. Torch is imported inside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from genflow.bench.rows import Row
from genflow.claims.papers.measuring import Layers, drawn_points, outside_row, scatter
from genflow.claims.recipe import Work
from genflow.claims.results import EXACT, row
from genflow.estimates import bootstrap

if TYPE_CHECKING:
    from torch import Tensor

OUTSIDE = "outside the heart, %"
HEIGHTS = (None, 500.0)
"""z_max from which the hemisphere is followed: the rule's, some three hearts high, and a very large one."""
CASES = ((500, 0.3), (500, 0.1), (500, 0.01), (20, 0.01))
"""Charges and their width ε, data units. A charge holds what comes near where its own field, 1/(2nε) at most, is above
that of all others, about 1/R with R = 1.5 the heart's radius: where ε < R/2n, which is so for 20 charges alone."""
FLOWS = ("without z", "with z")
SPREAD, REACHED, SLICED = "spread", "charges reached, %", "sliced W2"
"""Names of what is measured, in the rows and in the recipes that read them."""
COUNT = 1000
"""Points that follow the two flows."""
VIEW: dict[str, Any] = {"xlim": (-2.6, 2.6), "ylim": (-2.4, 2.8), "box_aspect": 1}


# ---- the heart -------------------------------------------------------------------------------------------------------


def heart(work: Work) -> list[Row]:
    """How evenly the exact field spreads the hemisphere over charges, and what of the networks' samples is outside."""
    import genflow
    from genflow.report.palette import palette

    data = genflow.get_dataset("heart", size=500)
    charges = data.train
    rows = [_evenness(charges, height) for height in HEIGHTS]
    bench = next(iter(work.benches.values()))
    drawn: dict[str, np.ndarray] = {}
    for fields, x in drawn_points(bench):
        rows.append(outside_row(OUTSIDE, x, data, **fields))
        drawn.setdefault(fields["process"], x)
    words = f"Exact paths to {len(charges)} charges of a heart, and samples of trained networks"
    exact = ("charges and exact paths", [(charges.numpy(), {"s": 3, "color": "#D55E00", "zorder": 3})])
    colours = palette(drawn)
    networks = [
        (f"{name}, MLP", [(x[:2000], {"s": 3, "color": colours[name], "alpha": 0.6})]) for name, x in drawn.items()
    ]
    picture, paths = work.picture("heart.png", words), _exact_paths(charges)
    scatter(picture, [exact, *networks], size=(3.6, 4.0), lines=paths, **VIEW)
    return rows


def _evenness(charges: Tensor, height: float | None) -> Row:
    """χ² of the numbers of prior draws that the exact field leads to each charge, from a z_max or the rule's (None)."""
    import torch

    import genflow
    from genflow.sampling import sample
    from genflow.solver.adaptive import RK45

    process = genflow.get_process("pfgm", z_max=height).for_data(charges)
    oracle = process.oracle(charges)
    ends = sample(process, oracle, RK45(1e-4, 1e-4), 10_000, seed=0, batch_size=2500)
    counts = torch.bincount(torch.cdist(ends.x, charges).argmin(1), minlength=len(charges)).double()
    expected, dof = len(ends.x) / len(charges), len(charges) - 1
    chi2 = float(((counts - expected) ** 2 / expected).sum()) / dof
    protocol = (
        f"{len(ends.x)} draws of the prior, a uniform hemisphere seen from the plane z = {process.t_prior:.4g}, "
        f"led by the exact field of {len(charges)} charges, RK45 at 1e-4, counted by nearest charge; error: √(2/dof)"
    )
    more: dict[str, Any] = {"process": "pfgm", "backbone": EXACT, "dataset": "heart", "solver": "rk45", "nfe": ends.nfe}
    return row(evenness(height), chi2, protocol=protocol, n=len(ends.x), stderr=math.sqrt(2 / dof), **more)


def evenness(height: float | None) -> str:
    """The name of the χ² of a height."""
    return f"χ²/dof of charges reached, z_max {'of the rule' if height is None else f'= {height:g}'}"


def _exact_paths(charges: Tensor) -> np.ndarray:
    """Ways of 80 draws of the prior to the charges by the exact field, (times, 80, 2)."""
    import torch

    import genflow
    from genflow.sampling import sample

    process = genflow.get_process("pfgm").for_data(charges)
    states: list[Tensor] = []
    oracle = process.oracle(charges)
    sample(process, oracle, "heun", 80, nfe=200, seed=0, observer=lambda x, t: states.append(x.clone()))
    return torch.stack(states).numpy()


# ---- the collapse ----------------------------------------------------------------------------------------------------


def collapse(work: Work) -> list[Row]:
    """Ends of the flow towards charges of a heart, along the plane's own field and along the one with z."""
    import genflow
    from genflow.report.palette import COLOURS, GREY

    every = genflow.get_dataset("heart", size=max(count for count, _ in CASES)).train.double()
    drawn, rows = {}, []
    for count, width in CASES:
        charges = every[:count]
        found = {FLOWS[0]: flat_ends(charges, width, COUNT), FLOWS[1]: lifted_ends(charges, width, COUNT)}
        for flow, ends in found.items():
            rows += _end_rows(flow, width, ends, charges)
            drawn[flow, count, width] = ends.numpy()
    words = f"Where {COUNT:,} points end up (colour) among charges (grey) without and with the extra dimension"
    panels = []
    for k, flow in enumerate(FLOWS):
        for count, width in CASES:
            grey = {"s": 4 if count > 100 else 14, "color": GREY, "alpha": 0.5}
            colour = {"s": 4, "color": COLOURS[k], "alpha": 0.6}
            layers: Layers = [(every[:count].numpy(), grey), (drawn[flow, count, width], colour)]
            panels.append((f"{flow}, {count} charges, ε = {width:g}", layers))
    scatter(work.picture("collapse.png", words), panels, size=(3.1, 3.3), most=len(CASES), **VIEW)
    return rows


def end_name(what: str, count: int, width: float) -> str:
    """The name of a number of a case."""
    return f"{what}, {count} charges of ε = {width:g}"


def flat_ends(charges: Tensor, width: float, count: int, steps: int = 1000, seed: int = 0) -> Tensor:
    """Where the field of charges in their own plane leads points that start evenly on a wide circle, (count, 2).

    dx/ds = −E/|E|, E = Σ (x − y)/(|x − y|² + ε²), N = 2: the Coulomb field of the plane, of charges as wide as ε. Euler
    steps of falling length, in all twice the distance of the start.

    Arguments:
        charges: (M, 2), float64.
        width: ε.
        count: Points.
        steps: Euler steps.
        seed: Of the angles.
    """
    import torch

    middle = charges.mean(0)
    radius = 4 * float((charges - middle).norm(dim=1).max())
    angle = 2 * math.pi * torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = middle + radius * torch.stack([angle.cos(), angle.sin()], 1)
    for k in range(steps):
        length = 2 * (2 * radius / steps) * (1 - k / steps)
        field = _plane_field(x, charges, width)
        x = x - length * field / field.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return x


def _plane_field(x: Tensor, charges: Tensor, width: float) -> Tensor:
    """Mean over charges of (x − y)/(|x − y|² + ε²) at points (n, 2), by matrix products."""
    distance2 = x.square().sum(1, keepdim=True) - 2 * x @ charges.T + charges.square().sum(1)
    weights = 1 / (distance2.clamp_min(0) + width**2)
    return (x * weights.sum(1, keepdim=True) - weights @ charges) / len(charges)


def lifted_ends(charges: Tensor, width: float, count: int) -> Tensor:
    """Where PFGM's exact field leads draws of its prior, stopped at z = ε."""
    import genflow
    from genflow.sampling import sample
    from genflow.solver.adaptive import RK45

    points = charges.float()
    process = genflow.get_process("pfgm", z_min=width).for_data(points)
    return sample(process, process.oracle(points), RK45(1e-4, 1e-4), count, seed=0).x.double()


def _end_rows(flow: str, width: float, ends: Tensor, charges: Tensor) -> list[Row]:
    """Spread, charges reached and sliced Wasserstein distance of the ends of a flow."""
    import torch

    import genflow
    from genflow.evaluate.two_sample import sliced_wasserstein

    real = genflow.get_dataset("heart", size=len(ends), seed=7).test.double()
    own = float(_central(real))
    spread = math.sqrt(float(_central(ends)) / own)
    nearest, gap = torch.cdist(ends, charges).min(1).indices, torch.cdist(charges, ends).min(1).values
    reached = 100 * len(nearest.unique()) / len(charges)
    far = sliced_wasserstein(real, ends, generator=torch.Generator().manual_seed(0))
    fields: dict[str, Any] = {"process": flow, "backbone": EXACT, "dataset": "heart", "n": len(ends)}
    even = 100 * (1 - math.exp(-len(ends) / len(charges)))
    how = {
        SPREAD: "root of the summed variance of the middle nine tenths of ends, over that of new data; bootstrap error",
        REACHED: f"charges that are the nearest of some end (of even shares: {even:.1f} %); median distance of a "
        f"charge to the nearest end {float(gap.median()):.3g}; error of a share",
        SLICED: "sliced Wasserstein distance of the ends to new data; error over directions",
    }
    hit = reached / 100
    wide = lambda x: math.sqrt(float(_central(torch.as_tensor(x))) / own)  # noqa: E731
    values = {
        SPREAD: (spread, bootstrap(ends.numpy(), wide, 200).error),
        REACHED: (reached, 100 * math.sqrt(hit * (1 - hit) / len(charges))),
        SLICED: (far.value, far.error),
    }
    return [
        row(end_name(k, len(charges), width), value, protocol=how[k], stderr=error, **fields)
        for k, (value, error) in values.items()
    ]


def _central(x: Tensor) -> Tensor:
    """Summed variance of the nine tenths of points that lie nearest to their median."""
    middle = x.median(0).values
    near = (x - middle).norm(dim=1).argsort()[: int(0.9 * len(x))]
    return x[near].var(0).sum()
