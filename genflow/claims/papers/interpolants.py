"""Stochastic interpolants (Albergo & Vanden-Eijnden 2023): tables, images, the checkerboard, shorter paths.

The paper's own tables were not at hand and no number of theirs could be checked, so none stands here. Rows of the
flow-matching paper do, which has the same linear path: those were read in its Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.claims.claim import Claim, Verdict
from genflow.claims.judge import fewer_calls, less, near, of
from genflow.claims.papers import interpolants_measures, interpolants_plane
from genflow.claims.papers.interpolants_measures import GAUSSIAN, fitted_gaussians
from genflow.claims.recipe import Comparison, Published, Recipe, Variant, unpublished
from genflow.claims.results import Results
from genflow.estimates import all_of

PAPER = interpolants_plane.PAPER
_LIPMAN = "Table 1 of Lipman et al. 2022, arXiv:2210.02747"
_LIPMAN_HOW = "one U-Net for all rows of that table, dopri5 at 1e-5"
PROCESSES = (("trigonometric interpolant", "si_trig"), ("linear interpolant", "si_linear"), ("VP, ODE", "vp_ode"))

# ---- tables ----------------------------------------------------------------------------------------------------------

SMALL_TABLES = ("iris", "wine", "breast_cancer")
FULL_TABLES = ("power", "gas", "hepmass", "miniboone", "bsds300")
_BATCHES = {"power": 10000, "gas": 10000, "hepmass": 10000, "miniboone": 2000, "bsds300": 2000}
NATS = interpolants_measures.NATS


def _tables(scale: str) -> tuple[Variant, ...]:
    names = SMALL_TABLES if scale == "small" else FULL_TABLES
    batch = {name: (f"train.batch_size={_BATCHES[name]}",) if scale == "full" else () for name in names}
    return tuple(
        Variant(f"si_tabular_{name}_{scale}", f"si_tabular_{scale}", (f"dataset={name}", *batch[name]))
        for name in names
    )


def _nats(process: str, table: str) -> dict[str, str]:
    return {**of(process, NATS), "dataset": table}


def _on_each(name: str, other: str, title: str, word: str) -> Claim:
    """That one process has fewer nats than another on every table of the scale."""

    def judge(results: Results) -> Verdict:
        tables = SMALL_TABLES if results.scale == "small" else FULL_TABLES
        found = {
            table: less(_nats(name, table), _nats(other, table), (name, other), f"{table}, nats")(results)
            for table in tables
        }
        evidence = "; ".join(f"{one.evidence} ({one.word})" for one in found.values())
        return Verdict(all_of(one.judgement for one in found.values()), evidence)

    return Claim(f"{title} {word} on every table.", judge)


tabular = Recipe(
    name="si_tabular",
    title="Interpolants: density estimation on tables",
    paper=PAPER,
    claim="Trained without solving an ODE, interpolants reach likelihoods like those of continuous flows that are "
    "trained by maximum likelihood, or better.",
    comparisons=unpublished(
        (f"{table}: {what}", {scale: _nats(process, table)})
        for scale, tables, count in (("small", SMALL_TABLES, 3), ("full", FULL_TABLES, 2))
        for table in tables
        for what, process in (*PROCESSES[:count], ("a fitted Gaussian", GAUSSIAN))
    ),
    claims=(
        _on_each("si_trig", GAUSSIAN, "The trigonometric interpolant", "has fewer nats than a fitted Gaussian"),
        _on_each("si_trig", "vp_ode", "The trigonometric interpolant", "has fewer nats than VP's ODE"),
        _on_each("si_trig", "si_linear", "The trigonometric interpolant", "has fewer nats than the linear one"),
    ),
    parts={"small": _tables("small"), "full": _tables("full")},
    study=fitted_gaussians,
    notes=(
        "The paper's table could not be checked, so no published number stands here; flows trained by maximum "
        "likelihood are not part of genflow, so the paper's comparison with them is not judged.",
        "The small scale has scikit-learn's tables of 120 to 456 training rows, measured in round numbers: a network "
        "can overfit them, and likelihoods have no upper bound. The Gaussian is fitted by maximum likelihood to the "
        "same rows.",
        "At full scale width, depth, steps and learning rate are this project's choice: the paper's were not at hand.",
    ),
)

# ---- images ----------------------------------------------------------------------------------------------------------


def _image(name: str, process: str, metric: str) -> dict[str, Mapping[str, str]]:
    """Where a number is: at the small scale FD of the data's own features stands for FID."""
    own = {"si_cifar10": "FD[digits]", "si_imagenet32": "FD[mnist]"}[name]
    return {"small": of(process, own if metric == "FID" else metric), "full": of(process, metric)}


def _image_lines(name: str, published: Mapping[str, tuple[float, float]]) -> list[Comparison]:
    """Rows of both metrics, with (FID, bits/dim) of the flow-matching paper for the processes that it has."""
    data = {"si_cifar10": "CIFAR-10", "si_imagenet32": "ImageNet 32x32"}[name]
    lines = []
    for what, process in PROCESSES:
        for k, metric in enumerate(("FID", "bits/dim")):
            known = None
            if process in published:
                known = Published(published[process][k], metric, f"{data}; {_LIPMAN_HOW}", _LIPMAN)
            lines.append(Comparison(f"{what}: {metric}", known, _image(name, process, metric)))
    return lines


def _image_claims(name: str) -> tuple[Claim, ...]:
    def at(process: str, metric: str) -> Any:
        return lambda results: _image(name, process, metric)[results.scale]

    trig, linear, vp = ((at(process, "FID"), at(process, "bits/dim")) for _, process in PROCESSES)
    flow = "(the flow-matching paper)"
    return (
        Claim(
            "The trigonometric interpolant's bits are within 1 % of VP's, or fewer.",
            near(trig[1], vp[1], ("interpolant", "VP"), 1.01),
        ),
        Claim(
            "Its samples are worse than the score model's: likelihood is what it is good at.",
            less(vp[0], trig[0], ("VP", "interpolant")),
        ),
        Claim(f"The linear path has better samples than VP's {flow}.", less(linear[0], vp[0], ("linear", "VP"))),
        Claim(f"The linear path has fewer bits than VP's {flow}.", less(linear[1], vp[1], ("linear", "VP"))),
        Claim(f"The linear path needs fewer network calls {flow}.", fewer_calls(linear[0], vp[0], ("linear", "VP"))),
    )


cifar10 = Recipe(
    name="si_cifar10",
    title="Interpolants: CIFAR-10",
    paper=PAPER,
    claim="An interpolant's likelihood is as good as the best score models'; its samples are good, if not the best.",
    comparisons=tuple(_image_lines("si_cifar10", {"si_linear": (6.35, 2.99), "vp_ode": (7.48, 3.12)})),
    claims=_image_claims("si_cifar10"),
    notes=(
        "The paper's own numbers could not be read in the paper, so none stands here.",
        "No checkpoint of the paper is published: the full scale trains, with --train. Its training numbers are those "
        "of the torchcfm repository's CIFAR-10 run (batch 128, 400,000 steps, rate 2e-4, average 0.9999), on DDPM++.",
        "The small scale has digits and three seeds of NCSNv2.",
    ),
)

imagenet32 = Recipe(
    name="si_imagenet32",
    title="Interpolants: ImageNet at 32 pixels",
    paper=PAPER,
    claim="On ImageNet 32x32 an interpolant has better likelihood and samples than score models of its time.",
    comparisons=tuple(_image_lines("si_imagenet32", {"si_linear": (5.02, 3.53), "vp_ode": (6.99, 3.54)})),
    claims=_image_claims("si_imagenet32"),
    notes=(
        "The paper's own numbers could not be read in the paper, so none stands here.",
        "No checkpoint of the paper is published: the full scale trains, with --train, by the numbers of the follow-up "
        "paper (arXiv:2303.08797): batch 512, 800,000 steps, rate 2e-4, average 0.9999; the network is DDPM++.",
        "The small scale has 28x28 digits and a narrow DDPM++, one seed.",
    ),
)

RECIPES = (tabular, cifar10, imagenet32, interpolants_plane.checkerboard, interpolants_plane.path_length)
