"""PFGM (Xu et al. 2022) on larger images, and how many calls its adaptive solver takes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.claims.claim import Claim, Verdict
from genflow.claims.judge import NOT_MEASURED, asked, below, less, of, of_numbers, quality
from genflow.claims.papers.pfgm_latents import SIDES, calls_against_size
from genflow.claims.papers.sources import INCEPTION, POISSON_BEDROOM, POISSON_CELEBA, XU, XU_README
from genflow.claims.recipe import Comparison, Published, Recipe, both
from genflow.claims.results import Number, Results
from genflow.claims.results import calls as calls_of
from genflow.estimates import ratio


def calls(what: str, value: float, find: Mapping[str, Mapping[str, Any]], how: str) -> Comparison:
    """The NFE of a row, which its column NFE has; the published one is about that."""
    return Comparison(f"{what}: NFE (see its column)", Published(value, "NFE ≈", how, XU_README), find)


def calls_do_not_grow(results: Results) -> Verdict:
    """NFE of RK45 with the exact field at the largest side over that at the smallest."""
    found = {side: asked(_side(side), results) for side in SIDES}
    known = {side: one for side, one in found.items() if one}
    if len(known) < 2:
        return NOT_MEASURED
    grown = ratio(known[max(known)], known[min(known)])
    text = ", ".join(f"{side}x{side}: {one}" for side, one in known.items())
    return below(grown, 1.5, f"NFE of RK45 at 1e-4, exact field, {text}: {grown} times, allowed 1.5")


def _network_as_exact(learnt: Number, exact: Number) -> Verdict:
    """RK45's calls with the trained network over those with the exact field of images of about that size."""
    spent = calls_of(learnt)
    more = ratio(spent, exact)
    text = f"NFE of RK45: {spent} with the network, {exact} with an exact field at 32x32: {more} times, allowed 1.5"
    return below(more, 1.5, text)


def _side(side: int) -> dict[str, str]:
    return of(f"pfgm, {side}x{side}", "NFE")


network_as_exact = of_numbers({"network": quality("pfgm", solver="rk45"), "exact field": _side(32)}, _network_as_exact)


def _larger(metric: str) -> dict[str, object]:
    return {"process": "pfgm", "solver": "rk45", "metric": metric}


celeba64 = Recipe(
    name="pfgm_celeba64",
    title="PFGM: CelebA at 64 pixels",
    paper=XU,
    claim="PFGM scales to larger images, and its adaptive solver takes about as many calls there as on CIFAR-10.",
    comparisons=(
        Comparison(
            "PFGM, DDPM++, RK45: Fréchet distance",
            Published(3.68, "FID", f"CelebA 64, RK45 at 1e-4; {INCEPTION}; number of samples not said", XU_README),
            {"small": _larger("FD[mnist]"), "full": _larger("FID")},
        ),
        calls(
            "PFGM, DDPM++, RK45",
            110,
            {"small": _larger("FD[mnist]"), "full": _larger("FID")},
            "CelebA 64, RK45 at 1e-4",
        ),
        Comparison("VP, RK45: Fréchet distance", None, {"small": {**_larger("FD[mnist]"), "process": "vp_ode"}}),
    ),
    claims=(
        Claim(
            "At a larger size PFGM's samples are better than those of VP's ODE.",
            less(quality("pfgm"), quality("vp_ode"), ("PFGM", "VP ODE")),
        ),
        Claim(
            "RK45 takes about as many calls as on small images: at most half more, with the exact field.",
            calls_do_not_grow,
        ),
        Claim("So it does with the trained network: at most half more than with an exact field.", network_as_exact),
    ),
    weights={"pfgm_celeba64_full": (POISSON_CELEBA,)},
    study=calls_against_size,
    notes=("The small scale has 28x28 digits and a DDPM++ of width 8.",),
)

lsun256 = Recipe(
    name="pfgm_lsun256",
    title="PFGM: LSUN bedrooms at 256 pixels",
    paper=XU,
    claim="PFGM scales to 256 pixels, and its adaptive solver takes about as many calls there as on CIFAR-10.",
    comparisons=(
        Comparison(
            "PFGM, DDPM++, RK45: Fréchet distance",
            Published(
                13.66, "FID", f"LSUN bedroom 256, RK45 at 1e-4; {INCEPTION}; number of samples not said", XU_README
            ),
            {"full": _larger("FID")},
        ),
        calls("PFGM, DDPM++, RK45", 122, {"full": _larger("FID")}, "LSUN bedroom 256, RK45 at 1e-4"),
        *(Comparison(f"exact field, {side}x{side}, RK45: NFE", None, both(_side(side))) for side in SIDES),
    ),
    claims=(
        Claim(
            "RK45 takes about as many calls at 256 pixels as at 8: at most half more, with the exact field.",
            calls_do_not_grow,
        ),
    ),
    parts={"small": (), "full": ("pfgm_lsun256_full",)},
    weights={"pfgm_lsun256_full": (POISSON_BEDROOM,)},
    study=calls_against_size,
    notes=(
        "No 256-pixel data ship, and no network of that size trains here: the small scale asks the solver alone, "
        "with the exact field of 300 digits enlarged to that many pixels.",
    ),
)
