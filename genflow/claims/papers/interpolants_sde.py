"""Stochastic interpolants as SDEs (Albergo, Boffi & Vanden-Eijnden 2023): recipes of its kinds of figures and tables.

The paper's figures are pictures and its tables were not at hand, so no number of it stands here. The studies are in
`interpolants_exact`: Gaussian mixtures in the plane, whose b and s are known exactly.
"""

from __future__ import annotations

import math

from genflow.claims.claim import Claim, Judge, Verdict, unmeasured
from genflow.claims.judge import below, every, less, of, of_numbers
from genflow.claims.papers import interpolants_exact as studies
from genflow.claims.recipe import Comparison, Recipe, both, unpublished
from genflow.claims.results import Number, Results
from genflow.estimates import below as is_below
from genflow.estimates import exact, judge

PAPER = "Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797"
SMALL_KL = 0.1
"""Nats below which samples count as the data's; of draws of the density itself 2,000 get 0.03, the estimate's bias."""
_NOTE = (
    "Points of five lumps in the plane; both scales differ in the numbers of samples, calls and steps alone (small: "
    "2,000 samples, 200 calls; full: 20,000 and 500). KL divergences are estimated by nearest neighbours."
)


def _lines(processes: tuple[str, ...], metrics: tuple[str, ...]) -> tuple[Comparison, ...]:
    return unpublished((f"{name}: {metric}", both(of(name, metric))) for metric in metrics for name in processes)


def _small(process: str, metric: str, limit: float = SMALL_KL) -> Judge:
    """Claims that a number of an exact field is below a bound."""

    def decide(found: Number) -> Verdict:
        return below(found, limit, f"{process}: {metric} {found}, allowed {limit:g}")

    return of_numbers({process: of(process, metric)}, decide)


# ---- KL against ε ----------------------------------------------------------------------------------------------------


def _best_epsilon(name: str) -> Judge:
    """Claims that the ε of the least bound, √(∫E|δb|²/∫E|δs|²), beats the ODE and the largest ε."""
    of_b, of_s = studies.FIELDS[name]
    best = min(studies.EPSILONS[1:], key=lambda e: abs(math.log(e * of_s / of_b)))
    ends = (studies.EPSILONS[0], studies.EPSILONS[-1])
    return every(
        [
            less(
                of(name, studies.at_epsilon(best)),
                of(name, studies.at_epsilon(end)),
                (f"ε = {best:g}", f"ε = {end:g}"),
                "KL",
            )
            for end in ends
        ]
    )


def _under_the_bound(results: Results) -> Verdict:
    """The KL of every wrong field at every ε against the bound of its errors."""
    judged = []
    for name in list(studies.FIELDS)[1:]:
        for epsilon in studies.EPSILONS[1:]:
            found = results.find(**of(name, studies.at_epsilon(epsilon)))
            bound = results.find(**of(name, f"bound at ε = {epsilon:g}"))
            if found is None or bound is None:
                return unmeasured()
            judged.append(_gap(name, epsilon, found, bound))
    return every([lambda _, one=one: one for one in judged])(results)  # type: ignore[misc]


def _gap(name: str, epsilon: float, found: Number, bound: Number) -> Verdict:
    words = f"{name}, ε = {epsilon:g}: {found}, bound {bound.value:.3g}"
    return Verdict(is_below(found, exact(bound.value + SMALL_KL)), words)


epsilon = Recipe(
    name="si_epsilon",
    title="Interpolants: KL divergence against ε of the SDE",
    paper=PAPER,
    claim="With exact b and s every ε gives the same law; with errors the KL divergence of the SDE is bounded by them, "
    "that of the ODE is not, and there is a best ε above zero.",
    comparisons=_lines(tuple(studies.FIELDS), tuple(map(studies.at_epsilon, studies.EPSILONS))),
    claims=(
        Claim(
            "With the exact field samples are the data's at every ε.",
            every([_small("exact", studies.at_epsilon(e)) for e in studies.EPSILONS]),
        ),
        Claim("With errors in b and s there is a best ε between the ODE and a large one.", _best_epsilon("both wrong")),
        Claim(
            "An error of b alone is healed by a large ε.",
            less(
                of("b wrong", studies.at_epsilon(studies.EPSILONS[-1])),
                of("b wrong", studies.at_epsilon(0.0)),
                ("ε = 3", "ε = 0"),
                "KL",
            ),
        ),
        Claim("The KL divergence is under the bound of the errors at every ε > 0.", _under_the_bound),
    ),
    parts={},
    study=studies.against_epsilon,
    notes=(
        "The errors are smooth waves of known size, so the bound is known as well. The bound is of the SDE itself: "
        "a tenth of a nat is allowed on top for its steps and for the estimate.",
        _NOTE,
    ),
)

# ---- shapes of γ, kinds of interpolants ------------------------------------------------------------------------------

_GAMMAS = tuple(f"γ {shape}" for shape in studies.SHAPES)
gamma = Recipe(
    name="si_gamma",
    title="Interpolants: shapes of the latent's γ",
    paper=PAPER,
    claim="A latent γ z smooths the densities between two others; every shape ends at the data.",
    comparisons=unpublished(
        (f"{name}: KL at {calls} calls", {scale: of(name, studies.at_calls(calls)) for scale in ("small", "full")})
        for calls in studies.FEW
        for name in _GAMMAS
    ),
    claims=(
        Claim(
            "With the exact field every shape ends at the data.",
            lambda results: every(
                [_small(name, studies.at_calls(studies.SIZES[results.scale].calls)) for name in _GAMMAS]
            )(results),
        ),
        Claim(
            f"With {studies.FEW[0]} calls γ = √(t(1 − t)) loses less than no latent.",
            less(
                of("γ brownian", studies.at_calls(studies.FEW[0])),
                of("γ none", studies.at_calls(studies.FEW[0])),
                ("with γ", "without"),
            ),
        ),
    ),
    parts={},
    study=studies.gamma_shapes,
    notes=("From two lumps to five by the exact field's ODE.", _NOTE),
)

_KINDS = tuple(studies.KINDS)
kinds = Recipe(
    name="si_kinds",
    title="Interpolants: one-sided, two-sided, encoding-decoding, mirror",
    paper=PAPER,
    claim="Score models' paths are one-sided interpolants; encoding-decoding and mirror interpolants are others, and "
    "with an SDE all of them sample the same data.",
    comparisons=_lines((*_KINDS, "data"), (studies.KL,)),
    claims=tuple(
        Claim(f"The exact field of the {name} interpolant gives the data.", _small(name, studies.KL)) for name in _KINDS
    ),
    parts={},
    study=studies.kinds,
    notes=("By each process's own ε and grid (published terms), Euler–Maruyama; a tenth of a nat is allowed.", _NOTE),
)

# ---- laws, likelihoods, learning -------------------------------------------------------------------------------------

_LATENTS = _GAMMAS[1:]
mixtures = Recipe(
    name="si_mixtures",
    title="Interpolants: Gaussian mixtures, whose fields are known",
    paper=PAPER,
    claim="Between Gaussian mixtures b and s are known in closed form; b obeys the continuity equation, and it is "
    "v − γ γ' s.",
    comparisons=_lines(_LATENTS, studies.LAWS),
    claims=tuple(
        Claim(f"{law[0].upper()}{law[1:]}, for every γ.", every([_small(name, law, 1e-3) for name in _LATENTS]))
        for law in studies.LAWS
    ),
    parts={},
    study=studies.mixture_laws,
    notes=("Derivatives are central differences; nothing is sampled. A thousandth of the terms' size is allowed.",),
)


def _gap_at_most(limit: float) -> Judge:
    def decide(found: Number) -> Verdict:
        text = f"bound less log density {found} nats, at least {-limit:g} wanted"
        return Verdict(judge(found - exact(-limit)), text)

    return of_numbers({"exact": of("exact", studies.BOUND)}, decide)


bound = Recipe(
    name="si_bound",
    title="Interpolants: likelihood bounds of the SDE",
    paper=PAPER,
    claim="The SDE has a likelihood bound where the ODE has the likelihood itself; with exact fields both are the "
    "data's.",
    comparisons=(
        *_lines(("exact", "s wrong"), (studies.BOUND, studies.ODE)),
        *unpublished([("the density itself: mean log p", both(of("data", studies.TRUTH)))]),
    ),
    claims=(
        Claim("With exact fields the bound is within a tenth of a nat of the density.", _gap_at_most(0.1)),
        Claim("With exact fields the bound is no greater than the density.", _small("exact", studies.BOUND, 0.01)),
        Claim(
            "A wrong score lowers the bound.",
            less(of("s wrong", studies.BOUND), of("exact", studies.BOUND), ("wrong", "exact")),
        ),
    ),
    parts={},
    study=studies.likelihoods,
    notes=(
        "The bound is that of the discrete chain of Euler–Maruyama steps, run backwards as the proposal; numbers are"
        " differences from the known log density, so that 0 is exact.",
        _NOTE,
    ),
)

_B, _V, _S, _ETA = (of(name, metric) for name, metric in studies.LEARNT.items())
learning = Recipe(
    name="si_learning",
    title="Interpolants: b against v, score against η",
    paper=PAPER,
    claim="The denoiser η is better learnt than the score, and b is better learnt as such than put together from v.",
    comparisons=unpublished((metric, both(of(name, metric))) for name, metric in studies.LEARNT.items()),
    claims=(
        Claim(
            "The score from η has a smaller error than the score learnt as such.",
            less(_ETA, _S, ("η", "s"), "error of γ s"),
        ),
        Claim("b learnt as such has a smaller error than b from v and η.", less(_B, _V, ("b", "v"), "error of b")),
    ),
    parts={},
    study=studies.learnt,
    notes=("Four MLPs with the same steps, draws and seeds, each by its own quadratic loss; γ = √(t(1 − t)).", _NOTE),
)

RECIPES = (epsilon, learning, gamma, kinds, mixtures, bound)
