"""PFGM's speed (Xu et al. 2022): calls and wall clock of ODEs and SDE samplers to the same quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genflow.bench.rows import Row
from genflow.claims.claim import Claim, Judge, Verdict, unmeasured
from genflow.claims.judge import distance
from genflow.claims.papers.sources import POISSON, SUBVP, VP, XU, score_sde
from genflow.claims.recipe import Recipe, Variant, Work, both, unpublished
from genflow.claims.results import Results, row
from genflow.estimates import Estimate, difference, exact, judge, ratio
from genflow.evaluate.protocol import MISSING
from genflow.report.speed import MARGIN, Curve, best_sde, calls_words, curves_of, log_calls

CALLS, SECONDS, NETWORK = "calls to the quality", "s/1,000 to the quality", "s/1,000 in the network"
"""Names of what is measured, in the rows."""
FAMILIES = {what: (f"{name}_ode", f"{name}_sde") for what, name in (("VP", "vp"), ("sub-VP", "subvp"), ("VE", "ve"))}
FAMILIES = {"PFGM": ("pfgm", ""), **FAMILIES}
"""Names of each process by its ODE and by its SDE, where it has one."""
ODES, SDES = ("euler", "rk45"), ("euler_maruyama", "pc", "ancestral")
_FID = "metric=[fid]", "metric_options={fid: {mode: legacy_tensorflow}}"
_BUDGETS = "nfe=[10, 20, 50, 100, 200, 500, 1000]"


def _of(rows: Sequence[Row], names: tuple[str, str]) -> list[Row]:
    return [one for one in rows if one["process"] in names]


def speeds(work: Work) -> list[Row]:
    """Calls and seconds of every sampler to within a tenth of the best SDE sampler's distance."""
    metric = distance(work.results)
    reference = best_sde(work.results.rows, metric)
    if reference is None:
        return []
    found: list[Row] = []
    for curve in curves_of(work.results.rows, metric):
        log = log_calls(curve, reference.last)
        calls = math.exp(log.value)
        words = f"to {MARGIN:g} times the distance of {reference.name} at {reference.calls[-1]:g} calls"
        process, solver = curve.name.split(", ")
        fields: dict[str, Any] = {"process": process, "solver": solver, "n": 1, "backbone": "of the bench"}
        shown = f"{words}: {calls_words(log, curve)}; [ ] at 95 %"
        if math.isinf(calls):
            found.append(row(CALLS, math.nan, protocol=f"{MISSING}not reached, {words}", **fields))
            continue
        found.append(row(CALLS, calls, protocol=shown, stderr=calls * log.error, **fields))
        for name, cost in ((SECONDS, curve.seconds), (NETWORK, curve.network)):
            found.append(
                row(name, 1000 * curve.at(calls, cost), protocol=f"seconds of 1,000 samples {words}", **fields)
            )
    return found


def _draw(results: Results, folder: Path) -> dict[str, str]:
    from genflow.report.curves import nfe_plot
    from genflow.report.palette import palette

    metric = distance(results)
    rows = [one for one in results.rows if one["metric"] == metric]
    names = dict.fromkeys(str(one["process"]) for one in rows if one["process"] != "data")
    if not nfe_plot(rows, metric, folder / "speed.png", palette(names)):
        return {}
    return {"speed.png": f"{metric} against network calls, ODEs and SDE samplers; bands are one standard error"}


# ---- claims ----------------------------------------------------------------------------------------------------------


def _fastest(curves: Sequence[Curve], target: Estimate) -> tuple[Curve, Estimate]:
    """The sampler that is there in the fewest calls; where none is, the one of the least distance."""
    found = [(one, log_calls(one, target)) for one in curves]
    return min(found, key=lambda pair: (pair[1].value, min(v.value for v in pair[0].values)))


def _faster(names: tuple[str, str], factor: float) -> Judge:
    """Claims that an ODE needs `factor` times fewer calls than the best SDE sampler to the quality of the latter.

    PFGM is compared with the best SDE sampler of all, the others with the best of their own.
    """

    def decide(results: Results) -> Verdict:
        if not results.rows:
            return unmeasured()
        metric = distance(results)
        own = _of(results.rows, names)
        sde = best_sde(own if names[1] else results.rows, metric)
        odes = [one for one in curves_of(own, metric) if one.name.split(", ")[1] in ODES]
        if sde is None or not odes:
            return unmeasured("an ODE or an SDE sampler: not measured")
        ode, fast = _fastest(odes, sde.last)
        slow = log_calls(sde, sde.last)
        text = (
            f"calls until {metric} is within a tenth of {sde.last}, {sde.name} at {sde.calls[-1]:g} calls: {ode.name}: "
            f"{calls_words(fast, ode)}; {sde.name}: {calls_words(slow, sde)}; of {len(odes)} and of the SDE "
            "samplers the best was picked by the same numbers"
        )
        if math.isinf(fast.value):
            near = min(ode.values, key=lambda one: one.value)
            return Verdict(judge(difference(exact(MARGIN), ratio(near, sde.last))), text)
        gap = slow - fast
        return Verdict(judge(replace(gap, value=gap.value - math.log(factor))), text)

    return decide


def _poisson_s(results: Results) -> Verdict:
    """The question whose the factor is: PFGM's ODE against VP's, to the same quality."""
    if not results.rows:
        return unmeasured()
    metric = distance(results)
    sde = best_sde(results.rows, metric)
    ours, theirs = (
        [one for one in curves_of(_of(results.rows, FAMILIES[name]), metric) if one.name.split(", ")[1] in ODES]
        for name in ("PFGM", "VP")
    )
    if sde is None or not ours or not theirs:
        return unmeasured("PFGM, VP or an SDE sampler: not measured")
    (one, first), (two, second) = _fastest(ours, sde.last), _fastest(theirs, sde.last)
    text = f"calls to within a tenth of {sde.name}, {sde.last}: {one.name} {calls_words(first, one)}, "
    text += f"{two.name} {calls_words(second, two)}"
    if math.isinf(first.value) or math.isinf(second.value):
        return unmeasured(f"{text}; without both there is no factor")
    return Verdict(judge(second - first), text)


speed = Recipe(
    name="pfgm_speed",
    title="PFGM: speed to quality, ODE against SDE samplers up to 1,000 calls",
    paper=XU,
    claim="PFGM is 10 to 20 times faster than SDE samplers of about the same quality.",
    comparisons=unpublished(
        (f"{what}, {solver}: {title}", both({"process": process, "solver": solver, "metric": metric}))
        for title, metric in (
            ("calls", CALLS),
            ("seconds of 1,000 samples", SECONDS),
            ("of these in the network", NETWORK),
        )
        for what, names in FAMILIES.items()
        for process, solvers in zip(names, (ODES, SDES), strict=True)
        if process
        for solver in solvers
    ),
    claims=(
        *(
            Claim(
                f"{what}'s ODE needs at most a tenth of the calls of "
                f"{'its own best SDE sampler' if names[1] else 'the best SDE sampler'} to come within a tenth "
                "of its distance.",
                _faster(names, 10),
            )
            for what, names in FAMILIES.items()
        ),
        Claim("The factor is Poisson flow's: PFGM's ODE needs fewer calls for it than VP's ODE.", _poisson_s),
    ),
    parts={
        "small": ("pfgm_speed_small",),
        "full": (
            Variant("pfgm_speed_full", "pfgm_nfe_full", ("solver=[euler, rk45]", _BUDGETS)),
            Variant(
                "pfgm_speed_sde_full",
                "sde_cifar10_full",
                ("solver=[euler, rk45, euler_maruyama, pc, ancestral]", *_FID, _BUDGETS),
            ),
            Variant(
                "pfgm_speed_ve_full",
                "sde_cifar10_ve_full",
                (
                    "process=[ve_ode, ve_sde]",
                    "process_options={ve: {head: score, sigma_min: 0.02, sigma_max: 100}}",
                    "solver=[euler, rk45, euler_maruyama, pc, ancestral]",
                    *_FID,
                    _BUDGETS,
                ),
            ),
        ),
    },
    weights={
        "pfgm_speed_full": (POISSON,),
        "pfgm_speed_sde_full": (VP, SUBVP),
        "pfgm_speed_ve_full": (score_sde("ve/cifar10_ncsnpp_continuous", "ve_ode", "ve_sde"),),
    },
    study=speeds,
    draw=_draw,
    notes=(
        "Published terms: head, target, times and grid are each process's own; the controlled comparison is "
        "`genflow bench`'s default. A falling curve through the distances is interpolated in log calls; an interval is "
        "over training seeds, by jackknife. Seconds are of this machine, with whatever else ran on it; those in the "
        "network are of the same run. The small scale has digits and an MLP, whose calls are so cheap that much of the "
        "time is not the network's.",
    ),
)
