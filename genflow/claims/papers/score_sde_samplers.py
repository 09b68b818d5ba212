"""Score SDEs (Song et al. 2021): predictors and correctors at equal numbers of network calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genflow.claims.claim import Claim
from genflow.claims.judge import distance, every, less
from genflow.claims.papers.sources import BEST, CORRECTED, FD, SONG, SONG_README, score_sde
from genflow.claims.recipe import Comparison, Published, Recipe, Variant, Weights
from genflow.claims.results import Results
from genflow.estimates import Estimate

PREDICTORS = (("ancestral", "ancestral"), ("reverse diffusion", "reverse_diffusion"))
FAMILIES = (("VP", "vp"), ("sub-VP", "subvp"), ("VE", "ve"))
_BASED_ON = {"vp": "vp", "subvp": "vp", "ve": "ve"}
"""Whose configuration file a family's bench begins with."""
_NCSNPP, _DDPM = (score_sde(f, f"{f[:2]}_sde", f"{f[:2]}_ode") for f in ("ve/cifar10_ncsnpp", "vp/ddpm/cifar10"))
_SUBVP_DDPM = score_sde("subvp/cifar10_ddpm_continuous", "subvp_sde", "subvp_ode")
_README_PC = {
    ("vp", "ancestral", "", 1): Published(
        3.24, "FID", f"{BEST}; DDPM's network at 1,000 levels, ancestral sampling", SONG_README
    ),
    ("ve", "pc", "", 2): Published(2.45, "FID", f"{CORRECTED}; NCSN++ at 1,000 levels", SONG_README),
}


def pc_query(family: str, solver: str, variant: str = "", doubled: int = 2) -> dict[str, dict[str, Any]]:
    """Where a sampler's number is: at the small scale 100 calls, at the full one 1,000, or twice as many."""
    process = f"{family}_{'ode' if solver == 'euler' else 'sde'}"
    return {
        scale: {
            "part": f"sde_pc_{family}{variant}_{scale}",
            "process": process,
            "solver": solver,
            "metric": metric,
            "budget": calls * doubled,
        }
        for scale, metric, calls in (("small", FD, 100), ("full", "FID", 1000))
    }


def _ask(family: str, solver: str, variant: str = "", doubled: int = 2) -> Any:
    return lambda results: pc_query(family, solver, variant, doubled)[results.scale]


def _pc_lines() -> list[Comparison]:
    lines = []
    for title, family in FAMILIES:
        samplers = [(name, solver, "", n) for n in (1, 2) for name, solver in PREDICTORS]
        samplers += [("Euler of the ODE", "euler", "", n) for n in (1, 2)]
        samplers += [
            ("corrector alone", "pc", "_corrector", 2),
            ("ancestral with corrector", "pc", "_ancestral", 2),
            ("Euler of the ODE with corrector", "pc", "_flow", 2),
            ("reverse diffusion with corrector", "pc", "", 2),
        ]
        for name, solver, variant, n in samplers:
            known = _README_PC.get((family, solver, variant, n))
            what = f"{title}, {name}, {'N' if n == 1 else '2N'} calls"
            lines.append(Comparison(what, known, pc_query(family, solver, variant, n)))
    return lines


def _pc_parts(scale: str) -> tuple[str | Variant, ...]:
    norms = ", snr: 0.16, norms: batch" if scale == "full" else ""
    parts: list[str | Variant] = []
    for _, family in FAMILIES:
        base = f"sde_pc_{_BASED_ON[family]}_{scale}"
        own = f"sde_pc_{family}_{scale}"
        parts.append(base if base == own else Variant(own, base, _SUBVP[scale]))
        for variant, predictor in (("ancestral", "ancestral"), ("corrector", "none"), ("flow", "probability_flow")):
            changes = [f"process=[{family}_sde]", "solver=[pc]"]
            more = _ANCESTRAL.get(family, "") if variant == "ancestral" else ""
            changes.append(f"solver_options={{pc: {{predictor: {predictor}{more}{norms}}}}}")
            if scale == "full":
                changes += ["nfe=[2000]", f"process_options={{{family}_sde: {_FULL_OPTIONS[family]}}}"]
            parts.append(Variant(f"sde_pc_{family}_{variant}_{scale}", base, tuple(changes)))
    return tuple(parts)


_ANCESTRAL = {"ve": ", variance: posterior"}
"""Options of the published ancestral predictor of a family, beyond the defaults."""

_SUBVP = {
    "small": ("process=[subvp_sde, subvp_ode]",),
    "full": ("process=[subvp_sde, subvp_ode]", "process_options={subvp_sde: {}}"),
}
_FULL_OPTIONS = {
    "vp": "{levels: 1000}",
    "subvp": "{}",
    "ve": "{head: score, sigma_min: 0.02, sigma_max: 100, levels: 1000}",
}


_SAMPLERS = (
    ("ancestral", "ancestral", ""),
    ("reverse diffusion", "reverse_diffusion", ""),
    ("ancestral, corrected", "pc", "_ancestral"),
    ("reverse diffusion, corrected", "pc", ""),
    ("corrector alone", "pc", "_corrector"),
    ("Euler of the ODE", "euler", ""),
    ("Euler of the ODE, corrected", "pc", "_flow"),
)


def _draw_pc(results: Results, folder: Path) -> dict[str, str]:
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS

    panels: dict[str, list[Curve]] = {}
    for title, family in FAMILIES:
        for k, (name, solver, variant) in enumerate(_SAMPLERS):
            found = _by_budget(results, family, solver, variant)
            if found:
                curve = Curve(name, list(found), list(found.values()), COLOURS[k], k % 4)
                panels.setdefault(title, []).append(curve)
    if not panels:
        return {}
    curves(folder / "samplers.png", panels, Axes("network calls", distance(results)))
    return {"samplers.png": f"{distance(results)} against network calls; bars are one standard error over seeds"}


def _by_budget(results: Results, family: str, solver: str, variant: str) -> dict[float, Estimate]:
    """A sampler's distance at every budget that was run."""
    wanted = pc_query(family, solver, variant)[results.scale]
    del wanted["budget"]
    budgets = [budget for budget in results.values("budget", **wanted) if budget]
    found = {float(budget): results.find(**wanted, budget=budget) for budget in sorted(budgets)}
    return {budget: one for budget, one in found.items() if one}


pc = Recipe(
    name="sde_pc",
    title="Score SDEs: predictors and correctors",
    paper=SONG,
    claim="A corrector after each predictor step does more than twice as many predictor steps, correctors alone do "
    "worse than either, and reverse diffusion is a little better than ancestral sampling.",
    comparisons=tuple(_pc_lines()),
    claims=(
        *(
            Claim(
                f"{title}: reverse diffusion is better than ancestral sampling.",
                every(
                    [
                        less(_ask(f, "reverse_diffusion", "", n), _ask(f, "ancestral", "", n), ("rev.", "anc."))
                        for n in (1, 2)
                    ]
                ),
            )
            for title, f in FAMILIES
        ),
        *(
            Claim(
                f"{title}, {name}: a corrector is worth more than twice the steps.",
                less(_ask(f, "pc", v), _ask(f, solver), ("with corrector", "twice the steps")),
            )
            for title, f in FAMILIES
            for name, solver, v in (
                ("ancestral", "ancestral", "_ancestral"),
                ("reverse diffusion", "reverse_diffusion", ""),
                ("Euler of the ODE", "euler", "_flow"),
            )
        ),
        *(
            Claim(
                f"{title}: correctors alone are worse than a predictor with as many calls.",
                less(_ask(f, "reverse_diffusion"), _ask(f, "pc", "_corrector"), ("predictor", "corrector")),
            )
            for title, f in FAMILIES
        ),
    ),
    parts={scale: _pc_parts(scale) for scale in ("small", "full")},
    weights={
        f"sde_pc_{family}{variant}_full": (Weights(one.file, one.preset, modes, one.origin),)
        for family, one in (("vp", _DDPM), ("subvp", _SUBVP_DDPM), ("ve", _NCSNPP))
        for variant, modes in (
            ("", one.process),
            ("_ancestral", (f"{family}_sde",)),
            ("_corrector", (f"{family}_sde",)),
            ("_flow", (f"{family}_sde",)),
        )
    },
    draw=_draw_pc,
    notes=(
        "All at equal numbers of network calls: N is 100 at the small scale and 1,000 at the full one; a predictor "
        "with a corrector makes N steps of two calls.",
        "The probability flow is Euler's step of the ODE. VE's ancestral sampler "
        "has the variance of the published one: of the next level, given the data as well.",
        "At full scale VP's file has DDPM's network, as the paper's table; VE's is NCSN++, for want of the other file "
        "among the presets. Sub-VP's is the continuous one.",
    ),
)
