"""PFGM++ (Xu et al. 2023): the dimension D between Poisson flow (D = 1) and diffusion (D → ∞)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from genflow.claims.claim import Claim, Judge, Verdict, unmeasured
from genflow.claims.judge import NOT_MEASURED, asked, distance
from genflow.claims.recipe import Comparison, Published, Recipe, Variant
from genflow.claims.results import Number, Results
from genflow.estimates import FAILS, UNDECIDED, Estimate, Judgement, below, ratio

PAPER = "Xu, Liu, Tian, Tong, Tegmark & Jaakkola 2023, arXiv:2302.04265"
README = "README of the authors' repository pfgmpp"
_HOW = "CIFAR-10 without classes, NCSN++, Heun in 18 steps (NFE 35), least FID; protocol of EDM"

NAMED = {"1": 1.0, "2": 2.0, "8": 8.0, "32": 32.0, "128": 128.0, "2048": 2048.0, "∞": 1e6}
"""D by its name; a Student-t of a million degrees of freedom stands for the Gaussian."""

SMALL = tuple(NAMED)
FULL = ("128", "2048", "∞")
BUDGETS = (9, 17, 35)


def part(scale: str, name: str) -> str:
    """The part of a D at a scale."""
    return f"pfgmpp_d_{scale}_{'inf' if name == '∞' else name}"


def _variants(scale: str, names: tuple[str, ...]) -> tuple[Variant, ...]:
    return tuple(
        Variant(part(scale, name), f"pfgmpp_d_{scale}", (f"process_options={{pfgmpp: {{D: {NAMED[name]:.0f}}}}}",))
        for name in names
    )


def at(results: Results, name: str, budget: int = 35) -> Number | None:
    """The distance at a D and a budget; None where it was not measured."""
    where = {"part": part(results.scale, name), "solver": "heun", "budget": budget}
    return asked(lambda r: {**where, "metric": distance(r, part=where["part"])}, results)


def _line(name: str, budget: int, published: float | None) -> Comparison:
    known = None if published is None else Published(published, "FID", _HOW, README)
    find = {}
    if name in SMALL:
        find["small"] = {"part": part("small", name), "metric": "FD[digits]", "budget": budget, "process": "pfgmpp"}
    if name in FULL and budget == 35:
        find["full"] = {"part": part("full", name), "metric": "FID", "budget": budget, "process": "pfgmpp"}
    return Comparison(f"D = {name}, Heun, NFE {budget}", known, find)


_PUBLISHED = {"128": 1.92, "2048": 1.91, "∞": 1.98}


def _known(results: Results, budget: int = 35) -> dict[str, Number]:
    found = {name: at(results, name, budget) for name in NAMED}
    return {name: one for name, one in found.items() if one is not None}


def _words(known: Mapping[str, Estimate]) -> str:
    return ", ".join(f"D = {name}: {one}" for name, one in known.items())


def _inner_best(end: str) -> Judge:
    """Claims that the best D between the ends beats an end."""

    def judge(results: Results) -> Verdict:
        known = _known(results)
        inner = {name: one for name, one in known.items() if name not in ("1", "∞")}
        if end not in known or not inner:
            return unmeasured(f"D = {end} or what is between: not measured")
        best = min(inner, key=lambda name: inner[name].value)
        text = _words({best: inner[best], end: known[end]})
        text += f"; the best of {len(inner)} was picked by the same numbers, which favours it"
        return Verdict(below(inner[best], known[end]), text)

    return judge


def _few_calls(results: Results) -> Verdict:
    """Claims that a finite D that is not clearly behind D → ∞ loses less when the budget is cut."""
    few, many = (_known(results, budget) for budget in (BUDGETS[0], BUDGETS[-1]))
    lost = {name: ratio(few[name], many[name]) for name in NAMED if name in few and name in many}
    if "∞" not in lost:
        return NOT_MEASURED
    finite = [name for name in lost if name != "∞" and below(many[name], many["∞"]).word != FAILS]
    if not finite:
        return NOT_MEASURED
    text = f"distance at NFE {BUDGETS[0]} over that at {BUDGETS[-1]}: {_words({k: lost[k] for k in (*finite, '∞')})}"
    behind = [name for name in lost if name not in (*finite, "∞")]
    text += f"; D = {', '.join(behind)} left out, clearly behind at {BUDGETS[-1]}" if behind else ""
    if max(one.value for one in lost.values()) <= 1:
        return Verdict(Judgement(UNDECIDED), f"{text}; none loses anything")
    best = min(finite, key=lambda name: lost[name].value)
    text += f"; D = {best}, the best of {len(finite)}, was picked by the same numbers, which favours it"
    return Verdict(below(lost[best], lost["∞"]), text)


def _draw(results: Results, folder: Path) -> dict[str, str]:
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS

    places, known = list(NAMED), {budget: _known(results, budget) for budget in BUDGETS}
    lines = [
        Curve(f"NFE {budget}", [places.index(name) for name in found], list(found.values()), COLOURS[i], i)
        for i, (budget, found) in enumerate(known.items())
        if found
    ]
    if not lines:
        return {}
    curves(folder / "dimension.png", {"": lines}, Axes("D", distance(results), names=places))
    return {"dimension.png": f"{distance(results)} against D by Heun; bars are one standard error over seeds"}


sweep = Recipe(
    name="pfgmpp_d",
    title="PFGM++: the dimension D from 1 to infinity",
    paper=PAPER,
    claim="Between Poisson flow (D = 1) and diffusion (D → ∞) lies a D with better samples than either: small D "
    "tolerates errors better, large D is easier to learn.",
    comparisons=(
        *(_line(name, 35, _PUBLISHED.get(name)) for name in NAMED),
        *(_line(name, budget, None) for budget in BUDGETS[:-1] for name in NAMED),
        *(
            Comparison(f"D = {name}, {what}", Published(value, "FID", how, README), {})
            for name, what, value, how in (
                ("2048", "CIFAR-10 with classes", 1.74, "CIFAR-10 with classes, NCSN++, NFE 35, least FID"),
                ("128", "FFHQ 64", 2.43, "FFHQ at 64 pixels, DDPM++, Heun in 40 steps (NFE 79), least FID"),
                ("∞", "FFHQ 64", 2.53, "FFHQ at 64 pixels, DDPM++, Heun in 40 steps (NFE 79), least FID"),
            )
        ),
    ),
    claims=(
        Claim("The best D between 1 and infinity beats D → ∞, i.e. diffusion.", _inner_best("∞")),
        Claim("The best D between 1 and infinity beats D = 1, i.e. Poisson flow.", _inner_best("1")),
        Claim("A finite D loses less than D → ∞ when Heun's budget is cut from 35 calls to 9.", _few_calls),
    ),
    parts={"small": _variants("small", SMALL), "full": _variants("full", FULL)},
    draw=_draw,
    notes=(
        "The small scale has digits (N = 64) for CIFAR-10 (N = 3,072) and a small NCSNv2: what counts as a large D "
        "depends on N, so the best D of the two scales need not agree.",
        "That small D tolerates errors better is `genflow study noise` and `genflow study quantise`'s matter.",
    ),
)

RECIPES = (sweep,)
