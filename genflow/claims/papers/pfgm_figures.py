"""The figures of PFGM (Xu et al. 2022) that are studies: norms, latents, the 2-D heart, the collapse without z."""

from __future__ import annotations

from pathlib import Path

from genflow.claims.claim import Claim, Judge, Verdict
from genflow.claims.judge import Ends, asked, below, less, loses_least_of, of, of_numbers
from genflow.claims.papers import pfgm_latents, pfgm_plane
from genflow.claims.papers.sources import POISSON, VE_ODE, XU
from genflow.claims.recipe import Recipe, both, unpublished
from genflow.claims.results import Number, Results
from genflow.estimates import all_of, any_of, exact, ratio
from genflow.estimates import below as is_below

PFGM, VP, VE = ("PFGM", "pfgm"), ("VP", "vp_ode"), ("VE", "ve_ode")
"""Processes: in words, and by name."""

# ---- norms -----------------------------------------------------------------------------------------------------------


def _draw_norms(results: Results, folder: Path) -> dict[str, str]:
    from genflow.report.curves import norm_plot, push_plot
    from genflow.report.palette import palette

    studies = {name: one for part in results.arrays.values() for name, one in part.items() if "push_time" in one}
    colours = palette(studies)
    pictures = {}
    if norm_plot(studies, folder / "norm_z.png", colours):
        words = "|x| in training draws (grey) and along sampling paths: median and 10 to 90 % band"
        pictures["norm_z.png"] = words
    if push_plot(results.rows, folder / "push.png", colours):
        pictures["push.png"] = "Fréchet distance after |x| is multiplied mid-way"
    return pictures


def _robust(other: str, factor: str, ratios: bool = True) -> Judge:
    """Claims that a push of |x| harms PFGM less than another process."""

    def ends(process: str, results: Results) -> Ends | None:
        named = [m for m in results.values("metric", process=process) if m.endswith("@norm*1")]
        found = [asked(of(process, m.removesuffix("1") + f), results) for m in named[:1] for f in (factor, "1")]
        return None if not found or None in found else (found[0], found[1])  # type: ignore[return-value]

    text = f"distance after |x| is multiplied by {factor} mid-way, for that of the path left alone: "
    return loses_least_of("pfgm", (other,), ends, lambda results: text, ratios)


norm_z = Recipe(
    name="pfgm_norm_z",
    title="PFGM: norm against noise level",
    paper=XU,
    claim="Along score models' paths |x| is tied closely to the noise level, so that an error of the norm leaves the "
    "states that the network was trained on; for PFGM |x| and z are tied weakly, which tolerates errors.",
    comparisons=(
        *unpublished(
            (f"{what}: {metric}", dict.fromkeys(("small",) if what == "VP" else ("small", "full"), of(process, metric)))
            for what, process in (PFGM, VE, VP)
            for metric in ("norm_tied[train]", "norm_tied[path]", "norm_spread[train]", "norm_spread[path]")
        ),
        *unpublished(
            (f"{what}: |x| times {factor} mid-way", {"small": of(process, f"FD[digits]@norm*{factor}")})
            for what, process in (PFGM, VE, VP)
            for factor in ("0.5", "1", "2")
        ),
    ),
    claims=(
        *(
            Claim(
                f"{where}, the norm tells less of the time for PFGM than for VE.",
                less(of("pfgm", f"norm_tied[{which}]"), of("ve_ode", f"norm_tied[{which}]"), ("PFGM", "VE")),
            )
            for where, which in (("In training", "train"), ("Along sampling paths", "path"))
        ),
        Claim(
            "PFGM's norms spread wider at given time than VE's.",
            less(of("ve_ode", "norm_spread[path]"), of("pfgm", "norm_spread[path]"), ("VE", "PFGM")),
        ),
        *(
            Claim(
                f"A norm pushed by {factor} harms PFGM less than {what}{'' if ratios else ', as a difference'}.",
                _robust(process, factor, ratios),
            )
            for ratios in (True, False)
            for what, process in (VE, VP)
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

LATENT, PIXEL, REAL = (f"{pfgm_latents.MIDPOINTS}{kind}" for kind in ("latent", "pixel", "real"))


def _returns(results: Results) -> Verdict:
    level = pfgm_latents.level_of(results)

    def decide(found: Number) -> Verdict:
        return below(found, level, f"root mean square difference {found} data units; a grey level is {level:.3g}")

    return of_numbers({"PFGM": of("pfgm", pfgm_latents.ROUND_TRIP)}, decide)(results)


interpolation = Recipe(
    name="pfgm_interpolation",
    title="PFGM: interpolation between real images",
    paper=XU,
    claim="PFGM's ODE can be run backwards, so real images have latents, and paths between latents pass through "
    "realistic images.",
    comparisons=unpublished(
        [
            *((f"{what}: midpoints between latents", both(of(process, LATENT))) for what, process in (PFGM, VP)),
            ("midpoints of pixels", both(of("data", PIXEL))),
            ("as many real test images", both(of("data", REAL))),
            *(
                (f"{what}: there and back, rms", both(of(process, pfgm_latents.ROUND_TRIP)))
                for what, process in (PFGM, VP)
            ),
        ]
    ),
    claims=(
        Claim("Encoding and decoding gives the image back, within a grey level.", _returns),
        Claim(
            "Midpoints between latents are more realistic than midpoints of pixels.",
            less(of("pfgm", LATENT), of("data", PIXEL), ("latents", "pixels")),
        ),
        Claim(
            "They are at least as realistic as with VP's latents.",
            less(of("pfgm", LATENT), of("vp_ode", LATENT), ("PFGM", "VP")),
        ),
    ),
    weights={"pfgm_interpolation_full": (POISSON,)},
    study=pfgm_latents.interpolations,
    notes=(
        "The paper shows pictures; the distance of midpoints is this study's. Errors are a jackknife's over pairs.",
    ),
)


def _warm(process: str, what: str, factor: float) -> dict[str, str]:
    return of(process, f"{what} at |latent| × {factor:g}")


def _varied(title: str, less_by: float, more_by: float, names: tuple[str, str]) -> Claim:
    low, high = (_warm("pfgm", pfgm_latents.VARIETY, factor) for factor in (less_by, more_by))
    return Claim(title, less(low, high, names))


def _closer(factor: float) -> Claim:
    ours, theirs = (_warm(process, pfgm_latents.DISTANCE, factor) for process in ("pfgm", "vp_ode"))
    text = f"At {factor:g} times the norm PFGM stays closer to the data than VP."
    return Claim(text, less(ours, theirs, ("PFGM", "VP")))


temperature = Recipe(
    name="pfgm_temperature",
    title="PFGM: temperature by the latent's norm",
    paper=XU,
    claim="Scaling the norm of latents acts as a temperature: smaller norms give less varied images.",
    comparisons=unpublished(
        (f"{title}: {what}, |latent| times {factor:g}", both(_warm(process, what, factor)))
        for title, process in (PFGM, VP)
        for what in (pfgm_latents.DISTANCE, pfgm_latents.VARIETY)
        for factor in pfgm_latents.FACTORS
    ),
    claims=(
        _varied("Half the norm gives less varied samples.", 0.5, 1, ("half", "whole")),
        _varied("Twice the norm gives more varied samples.", 1, 2, ("whole", "twice")),
        _closer(0.5),
        _closer(2),
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
    standard error is √(2/(charges − 1)), which gives the number of charges.
    """

    def decide(found: Number) -> Verdict:
        limit = 1 + 0.1**2 * found.rows[0]["n"] / (1 + 2 / found.error**2)
        text = f"χ² per degree of freedom of the counts {found}, 1 for equal shares, {limit:.3g} for a tenth"
        return below(found, limit, text)

    return of_numbers({"χ²": {"metric": pfgm_plane.evenness(height)}}, decide)


heart = Recipe(
    name="pfgm_heart",
    title="PFGM: a heart in the plane",
    paper=XU,
    claim="The field lines of charges on the plane z = 0 carry a uniform distribution on a large hemisphere onto the "
    "charges' distribution.",
    comparisons=unpublished(
        [
            *(
                (f"exact field: {metric}", both({"metric": metric}))
                for metric in map(pfgm_plane.evenness, pfgm_plane.HEIGHTS)
            ),
            *(
                (f"{what}, MLP: {title}", both(of(process, metric)))
                for what, process in (PFGM, VP)
                for title, metric in (
                    ("KL from the data", "KL[nats]"),
                    ("sliced W2", "sliced_W2"),
                    ("outside the heart, %", pfgm_plane.OUTSIDE),
                )
            ),
            ("as many real test points: sliced W2", both(of("data", "sliced_W2"))),
        ]
    ),
    claims=(
        Claim(
            "Uniform on a very large hemisphere becomes uniform over the charges, up to a tenth.",
            _even(pfgm_plane.HEIGHTS[1]),
        ),
        Claim("So it does from the height that the authors' rule gives.", _even(pfgm_plane.HEIGHTS[0])),
        Claim(
            "A network learns it as well as VP's: its KL divergence is at most VP's.",
            less(of("pfgm", "KL[nats]"), of("vp_ode", "KL[nats]"), ("PFGM", "VP")),
        ),
    ),
    study=pfgm_plane.heart,
    notes=("The figure is a picture; the count of charges reached is its test here.",),
)


def _end(process: str, metric: str, case: tuple[int, float]) -> dict[str, str]:
    return of(process, pfgm_plane.end_name(metric, *case))


def _collapsed(case: tuple[int, float]) -> Judge:
    """Claims that the flow without z loses the spread or most charges, and that the one with z keeps both."""

    def decide(flat: Number, lifted: Number, flat_reached: Number, reached: Number) -> Verdict:
        text = (
            f"spread over the data's: {flat} without z, {lifted} with z, half is lost and kept; "
            f"charges reached: {flat_reached} % and {reached} %"
        )
        half = exact(0.5)
        lost = any_of([is_below(flat, half), is_below(ratio(flat_reached, reached), half)])
        return Verdict(all_of([lost, is_below(half, lifted)]), text)

    kinds = [(metric, flow) for metric in (pfgm_plane.SPREAD, pfgm_plane.REACHED) for flow in pfgm_plane.FLOWS]
    return of_numbers({f"{metric}, {flow}": _end(flow, metric, case) for metric, flow in kinds}, decide)


collapse = Recipe(
    name="pfgm_collapse",
    title="PFGM: why the extra dimension",
    paper=XU,
    claim="Without the extra dimension the field of the data themselves leads everything to few points (for one body, "
    "to its middle); with it, samples have the data's distribution.",
    comparisons=unpublished(
        (f"{process}: {pfgm_plane.end_name(metric, *case)}", both(_end(process, metric, case)))
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
