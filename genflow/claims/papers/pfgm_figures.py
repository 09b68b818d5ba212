"""The figures of PFGM (Xu et al. 2022) that are studies: norms, latents, the 2-D heart, the collapse without z."""

from __future__ import annotations

from pathlib import Path

from genflow.claims.claim import Claim, Judge, Verdict
from genflow.claims.judge import NOT_MEASURED, asked, below, least, less
from genflow.claims.papers import pfgm_latents, pfgm_plane
from genflow.claims.papers.sources import POISSON, VE_ODE
from genflow.claims.recipe import Comparison, Recipe
from genflow.claims.results import Number, Results
from genflow.estimates import all_of, any_of, exact, ratio
from genflow.estimates import below as is_below

PAPER = "Xu, Liu, Tegmark & Jaakkola 2022, arXiv:2209.11178"

# ---- norms -----------------------------------------------------------------------------------------------------------


def _draw_norms(results: Results, folder: Path) -> list[tuple[str, str]]:
    from genflow.report.curves import norm_plot, push_plot
    from genflow.report.palette import palette

    studies = {name: one for part in results.arrays.values() for name, one in part.items() if "push_time" in one}
    colours = palette(studies)
    pictures = []
    if norm_plot(studies, folder / "norm_z.png", colours):
        words = "|x| in training draws (grey) and along sampling paths: median and 10 to 90 % band"
        pictures.append(("norm_z.png", words))
    if push_plot(results.rows, folder / "push.png", colours):
        pictures.append(("push.png", "Fréchet distance after |x| is multiplied mid-way"))
    return pictures


def _pushed(process: str, factor: str) -> dict[str, str]:
    return {"process": process, "metric": f"FD[digits]@norm*{factor}"}


def _push_ends(process: str, results: Results, factor: str) -> tuple[Number, Number] | None:
    """Distances of a process's samples pushed by a factor, and left alone; None where not measured."""
    named = [m for m in results.values("metric", process=process) if m.endswith("@norm*1")]
    if not named:
        return None
    stem = named[0].removesuffix("1")
    ends = [asked({"process": process, "metric": stem + f}, results) for f in (factor, "1")]
    return None if None in ends else (ends[0], ends[1])  # type: ignore[return-value]


def _robust(other: str, factor: str) -> Judge:
    def judge(results: Results) -> Verdict:
        found = {name: _push_ends(name, results, factor) for name in ("pfgm", other)}
        known = {name: ends for name, ends in found.items() if ends}
        if len(known) < 2:
            return NOT_MEASURED
        text = f"distance after |x| is multiplied by {factor} mid-way, for that of the path left alone: "
        return least("pfgm", known, text)

    return judge


def _norm(process: str, what: str) -> dict[str, str]:
    return {"process": process, "metric": what}


def _norm_lines() -> list[Comparison]:
    lines = []
    for what, process in (("PFGM", "pfgm"), ("VE", "ve_ode"), ("VP", "vp_ode")):
        for metric in ("norm_tied[train]", "norm_tied[path]", "norm_spread[train]", "norm_spread[path]"):
            scales = ("small",) if what == "VP" else ("small", "full")
            lines.append(Comparison(f"{what}: {metric}", None, {scale: _norm(process, metric) for scale in scales}))
    return lines


norm_z = Recipe(
    name="pfgm_norm_z",
    title="PFGM: norm against noise level",
    paper=PAPER,
    claim="Along score models' paths |x| is tied closely to the noise level, so that an error of the norm leaves the "
    "states that the network knows; for PFGM |x| and z are tied weakly, which forgives errors.",
    comparisons=(
        *_norm_lines(),
        *(
            Comparison(f"{what}: |x| times {factor} mid-way", None, {"small": _pushed(process, factor)})
            for what, process in (("PFGM", "pfgm"), ("VE", "ve_ode"), ("VP", "vp_ode"))
            for factor in ("0.5", "1", "2")
        ),
    ),
    claims=(
        Claim(
            "In training, the norm tells less of the time for PFGM than for VE.",
            less(_norm("pfgm", "norm_tied[train]"), _norm("ve_ode", "norm_tied[train]"), ("PFGM", "VE")),
        ),
        Claim(
            "Along sampling paths, the norm tells less of the time for PFGM than for VE.",
            less(_norm("pfgm", "norm_tied[path]"), _norm("ve_ode", "norm_tied[path]"), ("PFGM", "VE")),
        ),
        Claim(
            "PFGM's norms spread wider at given time than VE's.",
            less(_norm("ve_ode", "norm_spread[path]"), _norm("pfgm", "norm_spread[path]"), ("VE", "PFGM")),
        ),
        *(
            Claim(f"A norm pushed by {factor} harms PFGM less than {what}.", _robust(process, factor))
            for what, process in (("VE", "ve_ode"), ("VP", "vp_ode"))
            for factor in ("0.5", "2")
        ),
    ),
    parts={"small": ("pfgm_norm_z_small",), "full": ("pfgm_norm_z_full", "pfgm_norm_z_ve_full")},
    weights={"pfgm_norm_z_full": (POISSON,), "pfgm_norm_z_ve_full": (VE_ODE,)},
    draw=_draw_norms,
    notes=(
        "The figure has no printed numbers; here its bands are summed up by the share of ln|x|'s variance that "
        "time explains (tied) and by the quartiles' distance at given time (spread).",
    ),
)


# ---- latents ---------------------------------------------------------------------------------------------------------


def _midpoint(process: str, kind: str) -> dict[str, str]:
    return {"process": process, "metric": f"{pfgm_latents.MIDPOINTS}{kind}"}


def _both(query: dict[str, str]) -> dict[str, dict[str, str]]:
    return dict.fromkeys(("small", "full"), query)


def _returns(results: Results) -> Verdict:
    found = asked({"process": "pfgm", "metric": pfgm_latents.ROUND_TRIP}, results)
    if found is None:
        return NOT_MEASURED
    level = pfgm_latents.level_of(results)
    return below(found, level, f"root mean square difference {found} data units; a grey level is {level:.3g}")


interpolation = Recipe(
    name="pfgm_interpolation",
    title="PFGM: interpolation between real images",
    paper=PAPER,
    claim="PFGM's ODE can be run backwards, so real images have latents, and paths between latents pass through "
    "realistic images.",
    comparisons=(
        *(
            Comparison(f"{what}: midpoints between latents", None, _both(_midpoint(process, "latent")))
            for what, process in (("PFGM", "pfgm"), ("VP", "vp_ode"))
        ),
        Comparison("midpoints of pixels", None, _both(_midpoint("data", "pixel"))),
        Comparison("as many real test images", None, _both(_midpoint("data", "real"))),
        *(
            Comparison(
                f"{what}: there and back, rms", None, _both({"process": process, "metric": pfgm_latents.ROUND_TRIP})
            )
            for what, process in (("PFGM", "pfgm"), ("VP", "vp_ode"))
        ),
    ),
    claims=(
        Claim("Encoding and decoding gives the image back, within a grey level.", _returns),
        Claim(
            "Midpoints between latents are more realistic than midpoints of pixels.",
            less(_midpoint("pfgm", "latent"), _midpoint("data", "pixel"), ("latents", "pixels")),
        ),
        Claim(
            "They are at least as realistic as with VP's latents.",
            less(_midpoint("pfgm", "latent"), _midpoint("vp_ode", "latent"), ("PFGM", "VP")),
        ),
    ),
    weights={"pfgm_interpolation_full": (POISSON,)},
    study=pfgm_latents.interpolations,
    notes=(
        "The paper shows pictures; the distance of midpoints is this study's. Errors are a jackknife's over pairs.",
    ),
)


def _warm(process: str, what: str, factor: float) -> dict[str, str]:
    return {"process": process, "metric": f"{what} at |latent| × {factor:g}"}


temperature = Recipe(
    name="pfgm_temperature",
    title="PFGM: temperature by the latent's norm",
    paper=PAPER,
    claim="Scaling the norm of latents acts as a temperature: smaller norms give less varied images.",
    comparisons=tuple(
        Comparison(f"{title}: {what}, |latent| times {factor:g}", None, _both(_warm(process, what, factor)))
        for title, process in (("PFGM", "pfgm"), ("VP", "vp_ode"))
        for what in (pfgm_latents.DISTANCE, pfgm_latents.VARIETY)
        for factor in pfgm_latents.FACTORS
    ),
    claims=(
        Claim(
            "Half the norm gives less varied samples.",
            less(_warm("pfgm", pfgm_latents.VARIETY, 0.5), _warm("pfgm", pfgm_latents.VARIETY, 1), ("half", "whole")),
        ),
        Claim(
            "Twice the norm gives more varied samples.",
            less(_warm("pfgm", pfgm_latents.VARIETY, 1), _warm("pfgm", pfgm_latents.VARIETY, 2), ("whole", "twice")),
        ),
        *(
            Claim(
                f"At {factor:g} times the norm PFGM stays closer to the data than VP.",
                less(
                    _warm("pfgm", pfgm_latents.DISTANCE, factor),
                    _warm("vp_ode", pfgm_latents.DISTANCE, factor),
                    ("PFGM", "VP"),
                ),
            )
            for factor in (0.5, 2)
        ),
    ),
    weights={"pfgm_temperature_full": (POISSON,)},
    study=pfgm_latents.temperatures,
    notes=(
        "The paper shows pictures; variety (the trace of the samples' covariance over the data's) and distance "
        "are this study's. Errors are a jackknife's over samples.",
    ),
)


# ---- in the plane ----------------------------------------------------------------------------------------------------


def _even(height: float | None) -> Judge:
    """Claims equal shares up to a tenth, by χ² per degree of freedom of the counts.

    Shares that differ by a relative standard deviation v raise it from 1 to 1 + v² n/charges in the mean, n draws. Its
    standard error is √(2/(charges − 1)), by which the charges are known.
    """

    def judge(results: Results) -> Verdict:
        found = asked({"metric": pfgm_plane.evenness(height)}, results)
        if found is None or not found.error > 0:
            return NOT_MEASURED
        limit = 1 + 0.1**2 * found.rows[0]["n"] / (1 + 2 / found.error**2)
        text = f"χ² per degree of freedom of the counts {found}, 1 for equal shares, {limit:.3g} for a tenth"
        return below(found, limit, text)

    return judge


def _everywhere(metric: str, process: str) -> dict[str, dict[str, str]]:
    return _both({"process": process, "metric": metric})


heart = Recipe(
    name="pfgm_heart",
    title="PFGM: a heart in the plane",
    paper=PAPER,
    claim="The field lines of charges on the plane z = 0 carry a uniform distribution on a large hemisphere onto the "
    "charges' distribution.",
    comparisons=(
        *(
            Comparison(
                f"exact field: {pfgm_plane.evenness(height)}", None, _both({"metric": pfgm_plane.evenness(height)})
            )
            for height in pfgm_plane.HEIGHTS
        ),
        *(
            Comparison(f"{what}, MLP: {label}", None, _everywhere(metric, process))
            for what, process in (("PFGM", "pfgm"), ("VP", "vp_ode"))
            for label, metric in (
                ("KL from the data", "KL[nats]"),
                ("sliced W2", "sliced_W2"),
                ("outside the heart, %", pfgm_plane.OUTSIDE),
            )
        ),
        Comparison("as many real test points: sliced W2", None, _everywhere("sliced_W2", "data")),
    ),
    claims=(
        Claim(
            "Uniform on a very large hemisphere becomes uniform over the charges, up to a tenth.",
            _even(pfgm_plane.HEIGHTS[1]),
        ),
        Claim("So it does from the height that the authors' rule gives.", _even(pfgm_plane.HEIGHTS[0])),
        Claim(
            "A network learns it as well as VP's: its KL divergence is at most VP's.",
            less(
                {"process": "pfgm", "metric": "KL[nats]"}, {"process": "vp_ode", "metric": "KL[nats]"}, ("PFGM", "VP")
            ),
        ),
    ),
    study=pfgm_plane.heart,
    notes=("The figure is a picture; the count of charges reached is its test here.",),
)


def _end(process: str, metric: str, case: tuple[int, float]) -> dict[str, str]:
    return {"process": process, "metric": pfgm_plane.end_name(metric, *case)}


def _ends(results: Results, metric: str, case: tuple[int, float]) -> tuple[Number, Number] | None:
    """A number of the two flows, without and with z; None where it was not measured."""
    found = [asked(_end(flow, metric, case), results) for flow in pfgm_plane.FLOWS]
    return None if None in found else (found[0], found[1])  # type: ignore[return-value]


def _collapsed(case: tuple[int, float]) -> Judge:
    """Claims that the flow without z loses the spread or most charges, and that the one with z keeps both."""

    def judge(results: Results) -> Verdict:
        spread, reached = (_ends(results, metric, case) for metric in (pfgm_plane.SPREAD, pfgm_plane.REACHED))
        if spread is None or reached is None:
            return NOT_MEASURED
        text = (
            f"spread over the data's: {spread[0]} without z, {spread[1]} with z, half is lost and kept; "
            f"charges reached: {reached[0]} % and {reached[1]} %"
        )
        half = exact(0.5)
        lost = any_of([is_below(spread[0], half), is_below(ratio(*reached), half)])
        return Verdict(all_of([lost, is_below(half, spread[1])]), text)

    return judge


collapse = Recipe(
    name="pfgm_collapse",
    title="PFGM: why the extra dimension",
    paper=PAPER,
    claim="Without the extra dimension the field of the data themselves leads everything to few points (for one body, "
    "to its middle); with it, samples have the data's distribution.",
    comparisons=tuple(
        Comparison(f"{process}: {pfgm_plane.end_name(metric, *case)}", None, _both(_end(process, metric, case)))
        for case in pfgm_plane.CASES
        for metric in (pfgm_plane.SPREAD, pfgm_plane.REACHED, pfgm_plane.SLICED)
        for process in pfgm_plane.FLOWS
    ),
    claims=tuple(
        Claim(
            f"With {case[0]} charges of width ε = {case[1]:g} the flow collapses without z, and does not with it.",
            _collapsed(case),
        )
        for case in pfgm_plane.CASES
    ),
    parts={},
    study=pfgm_plane.collapse,
    notes=(
        "ε is the width of a charge: what a network that does not resolve single data points sees. With z the path "
        "ends at z = ε, so both see the data equally blurred. The last case, a few charges that are resolved one by "
        "one, is ours: there field lines can end on charges alone. The study needs no network and no data files; "
        "both scales are the same.",
    ),
)
