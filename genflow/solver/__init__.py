"""Solvers: from a field and a start to a solution, with an exact count. This page lists them; it imports no torch."""

from __future__ import annotations

from genflow.registry import Entry

CATALOG = [
    Entry(
        "euler",
        "genflow.solver.ode:Euler",
        "order 1, one call a step",
        tags={"mode": "ode", "order": 1, "budget": True},
    ),
    Entry(
        "heun",
        "genflow.solver.ode:Heun",
        "order 2 (improved Euler), two calls a step, one on the last; an even budget has one on the last two",
        tags={"mode": "ode", "order": 2, "budget": True},
    ),
    Entry(
        "midpoint",
        "genflow.solver.ode:Midpoint",
        "order 2, two calls a step; an odd budget ends on an Euler step",
        tags={"mode": "ode", "order": 2, "budget": True},
    ),
    Entry(
        "rk4",
        "genflow.solver.ode:RK4",
        "order 4, four calls a step; a budget's last one to four calls are steps of two and one",
        "Kutta 1901",
        tags={"mode": "ode", "order": 4, "budget": True},
    ),
    Entry(
        "ddim",
        "genflow.solver.ode:DDIM",
        "order 1, posterior means held fixed over a step; one call a step",
        "Song, Meng & Ermon 2021, arXiv:2010.02502",
        tags={"mode": "ode", "order": 1, "budget": True},
    ),
    Entry(
        "ab2",
        "genflow.solver.multistep:AB2",
        "order 2 (Adams–Bashforth on uneven grids), one call a step",
        tags={"mode": "ode", "order": 2, "budget": True},
    ),
    Entry(
        "ab3",
        "genflow.solver.multistep:AB3",
        "order 3 (Adams–Bashforth on uneven grids), one call a step; the first takes two where the budget allows",
        tags={"mode": "ode", "order": 3, "budget": True},
    ),
    Entry(
        "ab4",
        "genflow.solver.multistep:AB4",
        "order 4 (Adams–Bashforth on uneven grids), one call a step; the first three take more where the budget allows",
        tags={"mode": "ode", "order": 4, "budget": True},
    ),
    Entry(
        "rk45",
        "genflow.solver.adaptive:RK45",
        "order 5(4), steps chosen per sample by tolerance; its NFE is a result",
        "Dormand & Prince 1980",
        tags={"mode": "ode", "order": 5, "budget": False},
    ),
    Entry(
        "torchdiffeq/dopri5",
        "genflow.solver.backends:TorchDiffEq",
        "order 5(4) of torchdiffeq, one sample at a time; other methods by the option method",
        "Chen 2018",
        preset={"method": "dopri5"},
        tags={"mode": "ode", "order": 5, "budget": False},
    ),
    Entry(
        "scipy/RK45",
        "genflow.solver.backends:Scipy",
        "order 5(4) of scipy, one sample at a time; other methods by the option method",
        "Virtanen et al. 2020",
        preset={"method": "RK45"},
        tags={"mode": "ode", "order": 5, "budget": False},
    ),
    Entry(
        "euler_maruyama",
        "genflow.solver.sde:EulerMaruyama",
        "strong order 1/2 (1 for additive noise), one call a step; needs a score",
        tags={"mode": "sde", "order": 1, "budget": True},
    ),
]
