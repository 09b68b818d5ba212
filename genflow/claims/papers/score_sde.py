"""Score SDEs (Song et al. 2021): sample quality, predictors and correctors, likelihoods, inpainting, colouring.

Published numbers are those of the authors' README. The table of the predictor–corrector ablation was not at hand, so
its numbers are left out but for the two that the README repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.claims.claim import Claim, Verdict
from genflow.claims.judge import Query, distance, less, of_numbers, quality
from genflow.claims.papers import score_sde_control, score_sde_samplers
from genflow.claims.papers.sources import (
    CORRECTED,
    EULER,
    FD,
    FLOW,
    LIKELIHOOD,
    SONG,
    SONG_README,
    SUBVP,
    SUBVP_ODE,
    VE_ODE,
    VP,
    VP_ODE,
    quality_lines,
    score_sde,
)
from genflow.claims.recipe import Comparison, Published, Recipe, Variant, at_scales, unpublished
from genflow.claims.results import Number, Results
from genflow.estimates import all_of, below, lowest

VE = score_sde("ve/cifar10_ncsnpp_continuous", "ve_sde")
_DEEP = "backbone={0}_deep", "backbone_options={{{0}_deep: {1}}}"
_VP_NET = "{size: cifar10, time_scale: 999, normalise: false}"
_VE_NET = (
    "{size: cifar10, scale_by_sigma: true, conditioning: log_noise_level, time_shift: -0.6931471805599453, "
    "normalise: false}"
)


def _deep(part: str, config: str, backbone: str, options: str) -> Variant:
    """A configuration with the network of twice the depth."""
    return Variant(part, config, tuple(word.format(backbone, options) for word in _DEEP))


# ---- sample quality --------------------------------------------------------------------------------------------------

_FULL, _FULL_VE = "sde_cifar10_full", "sde_cifar10_ve_full"
_FULL_DEEP, _FULL_VE_DEEP = "sde_cifar10_deep_full", "sde_cifar10_ve_deep_full"
_TABLE = (
    *quality_lines("VE, NCSN++, predictor–corrector", ("ve_sde", "pc", _FULL_VE), 2.38, 9.83, CORRECTED),
    *quality_lines("VP, DDPM++, reverse SDE", ("vp_sde", "euler_maruyama", _FULL), 2.55, 9.58, EULER),
    *quality_lines("sub-VP, DDPM++, reverse SDE", ("subvp_sde", "euler_maruyama", _FULL), 2.61, 9.56, EULER),
    *quality_lines("VP, DDPM++, ODE", ("vp_ode", "rk45", _FULL), 3.93, None, FLOW),
    *quality_lines("sub-VP, DDPM++, ODE", ("subvp_ode", "rk45", _FULL), 3.16, None, FLOW),
    *(
        line
        for what, process, solver, part, fid, score, how in (
            ("VE, NCSN++ deep, predictor–corrector", "ve_sde", "pc", _FULL_VE_DEEP, 2.20, 9.89, CORRECTED),
            ("VP, DDPM++ deep, reverse SDE", "vp_sde", "euler_maruyama", _FULL_DEEP, 2.41, 9.68, EULER),
            ("sub-VP, DDPM++ deep, reverse SDE", "subvp_sde", "euler_maruyama", _FULL_DEEP, 2.41, 9.57, EULER),
            ("VP, DDPM++ deep, ODE", "vp_ode", "rk45", _FULL_DEEP, 3.08, None, FLOW),
            ("sub-VP, DDPM++ deep, ODE", "subvp_ode", "rk45", _FULL_DEEP, 2.92, None, FLOW),
        )
        for line in quality_lines(what, (process, solver, part), fid, score, how, small=False)
    ),
    *unpublished(
        (f"{what}: Fréchet distance", {"small": {"process": process, "solver": solver, "metric": FD}})
        for what, process, solver in (
            ("VE, reverse SDE", "ve_sde", "euler_maruyama"),
            ("VE, ODE", "ve_ode", "rk45"),
            ("VP, predictor–corrector", "vp_sde", "pc"),
            ("sub-VP, predictor–corrector", "subvp_sde", "pc"),
        )
    ),
)


_PART_OF = {"ve_sde": _FULL_VE}
_LIKELIHOOD_PART_OF = {"ve_ode": "sde_likelihood_ve_full"}
"""Parts of the full scale that a process has to itself, since its network is another."""


def _of(process: str, solver: str) -> Query:
    """The distance of a process by a solver, in the part of the plain networks."""
    return quality(process, {"full": _PART_OF.get(process, _FULL)}, solver=solver)


cifar10 = Recipe(
    name="sde_cifar10",
    title="Score SDEs: sample quality on CIFAR-10",
    paper=SONG,
    claim="VE with predictor–corrector sampling has the best samples, VP's and sub-VP's reverse SDEs come close, and "
    "their ODEs, which take far fewer network calls, are somewhat worse.",
    comparisons=_TABLE,
    claims=(
        Claim(
            "VE's predictor–corrector samples are better than those of VP's reverse SDE.",
            less(_of("ve_sde", "pc"), _of("vp_sde", "euler_maruyama"), ("VE", "VP")),
        ),
        Claim(
            "VP's samples are better than sub-VP's.",
            less(_of("vp_sde", "euler_maruyama"), _of("subvp_sde", "euler_maruyama"), ("VP", "sub-VP")),
        ),
        *(
            Claim(
                f"{what}'s reverse SDE makes better samples than its ODE.",
                less(_of(f"{name}_sde", "euler_maruyama"), _of(f"{name}_ode", "rk45"), ("SDE", "ODE")),
            )
            for what, name in (("VP", "vp"), ("sub-VP", "subvp"))
        ),
    ),
    parts={
        "small": ("sde_cifar10_small",),
        "full": (
            _FULL,
            _FULL_VE,
            _deep(_FULL_DEEP, _FULL, "ddpmpp", _VP_NET),
            _deep(_FULL_VE_DEEP, _FULL_VE, "ncsnpp", _VE_NET),
        ),
    },
    weights={
        _FULL: (VP, SUBVP),
        _FULL_VE: (VE,),
        _FULL_DEEP: tuple(
            score_sde(f"{name}/cifar10_ddpmpp_deep_continuous", f"{name}_ode", f"{name}_sde")
            for name in ("vp", "subvp")
        ),
        _FULL_VE_DEEP: (score_sde("ve/cifar10_ncsnpp_deep_continuous", "ve_sde"),),
    },
    notes=(
        "The authors take the checkpoint of best FID for SDEs and the last one for ODEs; here one file serves both.",
        "The small scale has digits for CIFAR-10, one DDPM++ of 0.19 million parameters for all, 100 network calls for "
        "every SDE, FD[digits] for FID and CS[digits] for the Inception Score.",
    ),
)

# ---- likelihood ------------------------------------------------------------------------------------------------------


def _bpd(process: str) -> Any:
    """Bits/dim of a process, of the plain networks."""

    def query(results: Results) -> Mapping[str, Any]:
        part = _LIKELIHOOD_PART_OF.get(process, "sde_likelihood_full")
        return {"process": process, "metric": "bits/dim", **({"part": part} if results.scale == "full" else {})}

    return query


def _bits(what: str, process: str, value: float | None, part: str, small: bool) -> Comparison:
    known = None if value is None else Published(value, "bits/dim", LIKELIHOOD, SONG_README)
    return Comparison(what, known, at_scales("bits/dim" if small else "", "bits/dim", part, process=process))


_NLL_FULL, _NLL_DEEP, _NLL_DDPM = "sde_likelihood_full", "sde_likelihood_deep_full", "sde_likelihood_ddpm_full"
likelihood = Recipe(
    name="sde_likelihood",
    title="Score SDEs: bits per dimension on CIFAR-10",
    paper=SONG,
    claim="The probability-flow ODE gives exact likelihoods, competitive ones without being trained for them; sub-VP's "
    "are best.",
    comparisons=(
        _bits("sub-VP, DDPM++", "subvp_ode", 3.02, _NLL_FULL, True),
        _bits("VP, DDPM++", "vp_ode", 3.16, _NLL_FULL, True),
        _bits("VE, NCSN++", "ve_ode", None, "sde_likelihood_ve_full", True),
        _bits("sub-VP, DDPM++ deep", "subvp_ode", 2.99, _NLL_DEEP, False),
        _bits("VP, DDPM++ deep", "vp_ode", 3.13, _NLL_DEEP, False),
        _bits("sub-VP, DDPM", "subvp_ode", 3.05, _NLL_DDPM, False),
        _bits("VP, DDPM", "vp_ode", 3.21, _NLL_DDPM, False),
    ),
    claims=(
        Claim("sub-VP has fewer bits than VP.", less(_bpd("subvp_ode"), _bpd("vp_ode"), ("sub-VP", "VP"))),
        Claim("sub-VP has fewer bits than VE.", less(_bpd("subvp_ode"), _bpd("ve_ode"), ("sub-VP", "VE"))),
        Claim(
            "Likelihood and sample quality rank differently: the fewest bits are not with the best samples.",
            lambda results: _ranks_differ(results),
        ),
    ),
    parts={
        "small": ("sde_likelihood_small",),
        "full": (
            _NLL_FULL,
            "sde_likelihood_ve_full",
            _deep(_NLL_DEEP, _NLL_FULL, "ddpmpp", _VP_NET),
            Variant(_NLL_DDPM, _NLL_FULL, ("backbone=ddpm", f"backbone_options={{ddpm: {_VP_NET}}}")),
        ),
    },
    weights={
        _NLL_FULL: (VP_ODE, SUBVP_ODE),
        "sde_likelihood_ve_full": (VE_ODE,),
        _NLL_DEEP: tuple(
            score_sde(f"{name}/cifar10_ddpmpp_deep_continuous", f"{name}_ode") for name in ("vp", "subvp")
        ),
        _NLL_DDPM: (
            score_sde("vp/ddpm/cifar10_continuous", "vp_ode"),
            score_sde("subvp/cifar10_ddpm_continuous", "subvp_ode"),
        ),
    },
    notes=("VE's likelihood is not in the README.",),
)


def _ranks_differ(results: Results) -> Verdict:
    """Whether the best of three by bits is another than the best by samples (small scale: of the same models)."""
    names = ("ve_ode", "vp_ode", "subvp_ode")

    def decide(*found: Number) -> Verdict:
        bits, samples = (dict(zip(names, own, strict=True)) for own in (found[:3], found[3:]))
        known = (("bits/dim", bits), (f"{distance(results)} at NFE 10", samples))
        text = "; ".join(f"{what}: " + ", ".join(f"{name} {own[name]}" for name in names) for what, own in known)
        first, second = (min(names, key=lambda name: own[name].value) for _, own in known)
        if first == second:
            return Verdict(all_of(lowest(first, own) for _, own in known).opposite, text)
        gaps = [below(bits[first], bits[second]), below(samples[second], samples[first])]
        return Verdict(all_of(gaps), text)

    queries: dict[str, Query] = {f"{name}, bits": _bpd(name) for name in names}
    return of_numbers(queries | {f"{name}, samples": quality(name) for name in names}, decide)(results)


RECIPES = (cifar10, score_sde_samplers.pc, likelihood, score_sde_control.inpainting, score_sde_control.colourisation)
