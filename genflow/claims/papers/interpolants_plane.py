"""Stochastic interpolants in the plane (Albergo & Vanden-Eijnden 2023): the checkerboard, and shorter paths."""

from __future__ import annotations

from genflow.claims.claim import Claim, Verdict, unmeasured
from genflow.claims.judge import NOT_MEASURED, asked, below, less, near
from genflow.claims.papers import interpolants_measures as studies
from genflow.claims.recipe import Comparison, Recipe, Variant
from genflow.claims.results import Results
from genflow.estimates import FAILS, all_of, exact, ratio
from genflow.estimates import below as is_below

PAPER = "Albergo & Vanden-Eijnden 2023, arXiv:2209.15571"


def _both(query: dict[str, str]) -> dict[str, dict[str, str]]:
    return dict.fromkeys(("small", "full"), query)


def _at(process: str, metric: str, part: str) -> dict[str, dict[str, str]]:
    return {scale: {"process": process, "metric": metric, "part": f"{part}_{scale}"} for scale in ("small", "full")}


# ---- the checkerboard ------------------------------------------------------------------------------------------------

_BOARD, _MAP = "si_checkerboard", "si_checkerboard_map"


def _outside(process: str) -> dict[str, str]:
    return {"process": process, "metric": studies.OUTSIDE}


def _few_outside(process: str) -> Claim:
    def judge(results: Results) -> Verdict:
        found = asked(_outside(process), results)
        if found is None:
            return NOT_MEASURED
        return below(found, 10, f"{found} % of samples lie on light squares")

    return Claim(f"{process}: fewer than a tenth of the samples lie off the dark squares.", judge)


def _map_is_as_good(results: Results) -> Verdict:
    mapped, plain = (_at("si_trig", "sliced_W2", part)[results.scale] for part in (_MAP, _BOARD))
    return near(mapped, plain, ("from eight Gaussians", "from a Gaussian"), 1.25)(results)


def _metric(what: str, metric: str) -> list[Comparison]:
    names = (("trigonometric", "si_trig"), ("linear", "si_linear"), ("VP, ODE", "vp_ode"))
    return [Comparison(f"{title}: {what}", None, _at(process, metric, _BOARD)) for title, process in names]


checkerboard = Recipe(
    name="si_checkerboard",
    title="Interpolants: the checkerboard, from a Gaussian and from other data",
    paper=PAPER,
    claim="Interpolants learn 2-D densities with sharp edges, and maps between any two densities that can be sampled.",
    comparisons=(
        *_metric("KL from the data", "KL[nats]"),
        *_metric("sliced W2", "sliced_W2"),
        Comparison("trigonometric, from eight Gaussians: sliced W2", None, _at("si_trig", "sliced_W2", _MAP)),
        Comparison("as many real points: sliced W2", None, _at("data", "sliced_W2", _BOARD)),
        *(
            Comparison(f"{title}: on light squares, %", None, _both(_outside(process)))
            for title, process in (
                ("trigonometric", "si_trig"),
                ("linear", "si_linear"),
                ("VP, ODE", "vp_ode"),
                ("trigonometric, from eight Gaussians", studies.MAPPED),
            )
        ),
    ),
    claims=(
        _few_outside("si_trig"),
        _few_outside("si_linear"),
        Claim(
            "The trigonometric interpolant's KL divergence is below VP's.",
            less(
                {"process": "si_trig", "metric": "KL[nats]"},
                {"process": "vp_ode", "metric": "KL[nats]"},
                ("interpolant", "VP"),
            ),
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


def _path(process: str, metric: str) -> dict[str, str]:
    return {"process": process, "metric": metric}


def _above_bound(results: Results) -> Verdict:
    learnt, possible = (
        asked(_path(*where), results) for where in (("learnt path", studies.LENGTH), ("data", studies.BOUND))
    )
    if learnt is None or possible is None:
        return NOT_MEASURED
    found = ratio(learnt, possible)
    text = f"learnt path {learnt}, least possible about {possible}: ratio {found}, allowed 0.9 to 1.1"
    above, beneath = is_below(exact(0.9), found), is_below(found, exact(1.1))
    if above.word == FAILS:
        return unmeasured(f"{text}: the network is not trained, it answers less than is possible")
    return Verdict(all_of([above, beneath]), text)


path_length = Recipe(
    name="si_path_length",
    title="Interpolants: a path of least length by max-min",
    paper=PAPER,
    claim="Maximising over the path what the network minimises makes the path shorter, towards optimal transport, and "
    "the likelihood better.",
    comparisons=(
        *(
            Comparison(f"{process}: {metric}", None, _both(_path(process, metric)))
            for metric in (studies.LENGTH, studies.FUNCTIONAL, studies.DIVERGENCE, studies.CALLS)
            for process in ("fixed path", "learnt path")
        ),
        Comparison("least possible length", None, _both(_path("data", studies.BOUND))),
    ),
    claims=(
        Claim(
            "The learnt path is shorter than the trigonometric one.",
            less(_path("learnt path", studies.LENGTH), _path("fixed path", studies.LENGTH), ("learnt", "fixed")),
        ),
        Claim(
            "Its density is better: the KL divergence from the data is smaller.",
            less(
                _path("learnt path", studies.DIVERGENCE), _path("fixed path", studies.DIVERGENCE), ("learnt", "fixed")
            ),
        ),
        Claim("The learnt path's length comes within a tenth of the least possible.", _above_bound),
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
