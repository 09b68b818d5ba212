"""Stochastic interpolants in the plane (Albergo & Vanden-Eijnden 2023): the checkerboard, and shorter paths."""

from __future__ import annotations

from genflow.claims.claim import Claim, Verdict, unmeasured
from genflow.claims.judge import below, less, near, of, of_numbers
from genflow.claims.papers import interpolants_measures as studies
from genflow.claims.recipe import Recipe, Variant, both, unpublished
from genflow.claims.results import Number, Results
from genflow.estimates import FAILS, all_of, exact, ratio
from genflow.estimates import below as is_below

PAPER = "Albergo & Vanden-Eijnden 2023, arXiv:2209.15571"


def _at(process: str, metric: str, part: str) -> dict[str, dict[str, str]]:
    return {scale: {"process": process, "metric": metric, "part": f"{part}_{scale}"} for scale in ("small", "full")}


# ---- the checkerboard ------------------------------------------------------------------------------------------------

_BOARD, _MAP = "si_checkerboard", "si_checkerboard_map"


def _few_outside(process: str) -> Claim:
    def decide(found: Number) -> Verdict:
        return below(found, 10, f"{found} % of samples lie on light squares")

    text = f"{process}: fewer than a tenth of the samples lie off the dark squares."
    return Claim(text, of_numbers({process: of(process, studies.OUTSIDE)}, decide))


def _map_is_as_good(results: Results) -> Verdict:
    mapped, plain = (_at("si_trig", "sliced_W2", part)[results.scale] for part in (_MAP, _BOARD))
    return near(mapped, plain, ("from eight Gaussians", "from a Gaussian"), 1.25)(results)


_MODELS = (("trigonometric", "si_trig"), ("linear", "si_linear"), ("VP, ODE", "vp_ode"))
_MAPPED = "trigonometric, from eight Gaussians"

checkerboard = Recipe(
    name="si_checkerboard",
    title="Interpolants: the checkerboard, from a Gaussian and from other data",
    paper=PAPER,
    claim="Interpolants learn 2-D densities with sharp edges, and maps between any two densities that can be sampled.",
    comparisons=unpublished(
        [
            *(
                (f"{title}: {what}", _at(process, metric, _BOARD))
                for what, metric in (("KL from the data", "KL[nats]"), ("sliced W2", "sliced_W2"))
                for title, process in _MODELS
            ),
            (f"{_MAPPED}: sliced W2", _at("si_trig", "sliced_W2", _MAP)),
            ("as many real points: sliced W2", _at("data", "sliced_W2", _BOARD)),
            *(
                (f"{title}: on light squares, %", both(of(process, studies.OUTSIDE)))
                for title, process in (*_MODELS, (_MAPPED, studies.MAPPED))
            ),
        ]
    ),
    claims=(
        _few_outside("si_trig"),
        _few_outside("si_linear"),
        Claim(
            "The trigonometric interpolant's KL divergence is below VP's.",
            less(of("si_trig", "KL[nats]"), of("vp_ode", "KL[nats]"), ("interpolant", "VP")),
        ),
        Claim("A map from other data is as good as one from a Gaussian, up to a quarter.", _map_is_as_good),
    ),
    parts={
        scale: (
            f"{_BOARD}_{scale}",
            Variant(
                f"{_MAP}_{scale}",
                f"{_BOARD}_{scale}",
                ("process=[si_trig]", "process_options={si_trig: {source: eight_gaussians}}", "metric=[two_sample]"),
            ),
        )
        for scale in ("small", "full")
    },
    study=studies.board,
    notes=(
        "The paper shows pictures; the numbers are this project's. The full scale has the numbers of steps and points "
        "of the notebooks of the authors' later repository (7,000 steps of 2,000 points), this project's MLP and its "
        "learning-rate schedule.",
    ),
)

# ---- shorter paths ---------------------------------------------------------------------------------------------------


def _above_bound(learnt: Number, possible: Number) -> Verdict:
    found = ratio(learnt, possible)
    text = f"learnt path {learnt}, least possible about {possible}: ratio {found}, allowed 0.9 to 1.1"
    above, beneath = is_below(exact(0.9), found), is_below(found, exact(1.1))
    if above.word == FAILS:
        return unmeasured(f"{text}: the network is not trained, it answers less than is possible")
    return Verdict(all_of([above, beneath]), text)


within_a_tenth = of_numbers(
    {"learnt path": of("learnt path", studies.LENGTH), "least length": of("data", studies.BOUND)}, _above_bound
)


path_length = Recipe(
    name="si_path_length",
    title="Interpolants: a path of least length by max-min",
    paper=PAPER,
    claim="Maximising over the path what the network minimises makes the path shorter, towards optimal transport, and "
    "the likelihood better.",
    comparisons=unpublished(
        [
            *(
                (f"{process}: {metric}", both(of(process, metric)))
                for metric in (studies.LENGTH, studies.FUNCTIONAL, studies.DIVERGENCE, studies.CALLS)
                for process in ("fixed path", "learnt path")
            ),
            ("least possible length", both(of("data", studies.BOUND))),
        ]
    ),
    claims=(
        *(
            Claim(text, less(of("learnt path", metric), of("fixed path", metric), ("learnt", "fixed")))
            for text, metric in (
                ("The learnt path is shorter than the trigonometric one.", studies.LENGTH),
                ("Its density is better: the KL divergence from the data is smaller.", studies.DIVERGENCE),
            )
        ),
        Claim("The learnt path's length comes within a tenth of the least possible.", within_a_tenth),
    ),
    parts={},
    study=studies.shorter_paths,
    notes=(
        "On the checkerboard from a Gaussian; the path is the trigonometric one with four Fourier terms in each "
        "coefficient. Both paths have the same network, steps, data and seeds. The least possible length is the "
        "squared "
        "Wasserstein distance of as many draws of base and data by exact assignment, an overestimate for few points.",
        "The full scale has 7,000 steps of 2,000 points, the small one 3,000 of 256.",
    ),
)
