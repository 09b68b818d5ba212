"""Score SDEs (Song et al. 2021) under a constraint: inpainting and colouring, by models not trained for it."""

from __future__ import annotations

from genflow.claims.claim import Claim, Judge, Verdict
from genflow.claims.judge import NOT_MEASURED, below, less, of, of_numbers
from genflow.claims.papers import score_sde_images as studies
from genflow.claims.papers.sources import SONG, score_sde
from genflow.claims.recipe import Recipe, both, unpublished
from genflow.claims.results import Number, Results
from genflow.estimates import exact, judge

_CONTROLLED = (("VP", "vp_sde"), ("sub-VP", "subvp_sde"), ("VE", "ve_sde"))


def _small(process: str, metric: str) -> dict[str, dict[str, str]]:
    return {"small": of(process, metric)}


inpainting = Recipe(
    name="sde_inpainting",
    title="Score SDEs: inpainting",
    paper=SONG,
    claim="One unconditional model completes images of which a part is known, without training for it, and in many "
    "ways that all fit.",
    comparisons=unpublished(
        [
            *(
                (f"{what}, {how}: {metric}", _small(process, f"{metric}, {how}"))
                for what, process in _CONTROLLED
                for metric in (studies.DISTANCE, studies.HIDDEN, studies.VARIETY)
                for how in studies.HOWS
            ),
            *(
                (f"{what}, unconditional samples pasted in: {studies.DISTANCE}", _small(process, studies.PASTED))
                for what, process in _CONTROLLED
            ),
            (f"as many real test images: {studies.DISTANCE}", _small("data", studies.DISTANCE)),
            (f"other real images: {studies.HIDDEN}", both(of("data", studies.HIDDEN))),
            *(
                (f"VE, bedrooms, {how}: {metric}", {"full": of("ve_sde", f"{metric}, {how}")})
                for metric in (studies.HIDDEN, studies.VARIETY)
                for how in studies.HOWS
            ),
        ]
    ),
    claims=(
        *(
            Claim(
                f"{what}: completed images are more like data than unconditional samples pasted in.",
                less(of(p, f"{studies.DISTANCE}, {studies.HOWS[0]}"), of(p, studies.PASTED), ("completed", "pasted")),
            )
            for what, p in _CONTROLLED
        ),
        *(
            Claim(
                f"{what}: completions are nearer to what was hidden than other images are.",
                less(
                    of(p, f"{studies.HIDDEN}, {studies.HOWS[0]}"), of("data", studies.HIDDEN), ("completions", "other")
                ),
            )
            for what, p in _CONTROLLED
        ),
        Claim(
            "Correctors, at as many calls, make completions more like data (VP).",
            less(
                of("vp_sde", f"{studies.DISTANCE}, {studies.HOWS[1]}"),
                of("vp_sde", f"{studies.DISTANCE}, {studies.HOWS[0]}"),
                ("with", "without"),
            ),
        ),
    ),
    weights={"sde_inpainting_full": (score_sde("ve/bedroom_ncsnpp_continuous", "ve_sde"),)},
    study=studies.inpaintings,
    notes=(
        "The paper shows pictures; the numbers are this study's. The right half of each image is hidden. Distances are "
        "not measured on bedrooms, whose millions are not held in memory. The method replaces the known part at every "
        "step, which is biased; correctors of the unknown part lessen that.",
    ),
)


def grey_is_kept(results: Results) -> Verdict:
    """The largest difference of all models against a hundredth of a level."""
    found = [one["value"] for one in results.select(metric=studies.GREY)]
    if not found:
        return NOT_MEASURED
    return below(exact(max(found)), 0.01, f"largest difference {max(found):.2g} levels, 0.01 allowed")


def beyond_chance(process: str) -> Judge:
    """Claims that more hues fit than would by chance, by standard errors over images."""

    def decide(found: Number) -> Verdict:
        return Verdict(judge(found - exact(studies.CHANCE)), f"{found} % fit, {studies.CHANCE:g} % by chance")

    return of_numbers({process: of(process, studies.FITTING)}, decide)


def both_occur(process: str) -> Judge:
    """Claims that both hues of a shape occur among the draws for most images."""

    def decide(found: Number) -> Verdict:
        text = f"for {found} % of the images among {studies.DRAWS} draws; the rule's own 99 %"
        return Verdict(judge(found - exact(50)), text)

    return of_numbers({process: of(process, studies.EITHER)}, decide)


_COLOURED = (_CONTROLLED[0], _CONTROLLED[2])
colourisation = Recipe(
    name="sde_colourisation",
    title="Score SDEs: colouring grey images",
    paper=SONG,
    claim="One unconditional model of colour images colours grey ones, without training for it, and in many ways that "
    "all fit.",
    comparisons=unpublished(
        [
            *(
                (f"{what}: {metric}", _small(process, metric))
                for what, process in _COLOURED
                for metric in (studies.FITTING, studies.EITHER, studies.VARIETY, studies.GREY)
            ),
            *((f"{what}, samples of its own: {studies.PURE}", _small(p, studies.PURE)) for what, p in _COLOURED),
            *(
                (f"VE, bedrooms: {metric}", {"full": of("ve_sde", metric)})
                for metric in (studies.VARIETY, studies.GREY)
            ),
        ]
    ),
    claims=(
        Claim("The grey image is kept, within a hundredth of a level.", grey_is_kept),
        *(
            Claim(f"{what}: the colours fit the shape, beyond chance.", beyond_chance(process))
            for what, process in _COLOURED
        ),
        *(
            Claim(f"{what}: draws differ, both colours of a shape occur.", both_occur(process))
            for what, process in _COLOURED
        ),
    ),
    parts={"small": (), "full": ("sde_colourisation_full",)},
    weights={"sde_colourisation_full": (score_sde("ve/bedroom_ncsnpp_continuous", "ve_sde"),)},
    study=studies.colourings,
    notes=(
        "The paper shows pictures; the numbers are this study's. No colour images ship: at the small scale digits are "
        "coloured by a rule. The digits k and k + 5 have the hue k/10 of a turn or the one opposite to it, by a coin; "
        "the mean of the channels is half the grey digit for all hues, so it tells of the hue by its shape only. "
        "What a right answer is, and that there are two, is therefore known.",
    ),
)
