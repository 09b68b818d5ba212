"""Metrics: what a bench measures. The catalogue of all metrics and their facts; imports no torch.

Whether lower or higher is better, and how a number is shown: `genflow.evaluate.facts`. What a metric is:
`genflow.evaluate.base.Metric`.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from genflow.evaluate.facts import OWN_NFE, SHARED, Number
from genflow.registry import Entry

if TYPE_CHECKING:
    from genflow.evaluate.frechet import frechet_distance
    from genflow.evaluate.metrics import fd

__all__ = ["fd", "frechet_distance"]

_FD = Number("FD", better="lower", bias=True, order=0)
_beside = partial(Number, table=SHARED, ranked=False, group="Beside the Fréchet distance")
_balance = partial(Number, table=SHARED, ranked=False, group="Class balance")
_WITH_FD = (
    _FD,
    *(_beside(kind, better="lower") for kind in ("FD∞", "FD∞_test", "FD_test", "KD")),
    _beside("nearer_train"),
    _balance("share", column="{star}"),
    _balance("balance_p", column="p", error=False),
)
_SCORES = (
    _FD,
    Number("FID", better="lower", bias=True, order=1),
    Number("KD", better="lower"),
    Number("KID", better="lower", error=False),
    *(Number(kind, better="higher", error=False) for kind in ("CS", "IS")),
    *(Number(kind, better="higher") for kind in ("precision", "recall", "density", "coverage")),
)
_TWO_SAMPLE = (
    Number("sliced_W2", better="lower", error=False),
    *(Number(kind, better="lower") for kind in ("MMD²", "energy")),
    Number("C2ST"),
)
_NORMS = (
    *(Number(kind, table=SHARED, group="Norm against noise level") for kind in ("norm_spread", "norm_tied")),
    Number(
        "FD@norm",
        table=SHARED,
        group="{metric} after the norm is pushed off mid-way",
        column="|x| × {star}",
        bias=True,
    ),
)
_NORM_OPTIONS = {
    "section": "norm",
    "reads": ("samples", "solvers", "reference"),
    "cost": lambda config, own: 0.5 * config.samples * own.nfe * (1 + len(own.factors)),
}
_LIKELIHOOD_OPTIONS = {"section": "bpd", "cost": lambda config, own: 3.0 * own.examples * OWN_NFE}
"""`section`: the part of BenchConfig that has the metric's options under their older names; `reads`: what else of a
bench its numbers depend on; `cost`: network evaluations, from the bench and the metric's settings."""
_QUALITY = "genflow.evaluate.quality:QualityMetric"


def _quality(name: str, summary: str, source: str, **preset: Any) -> Entry:
    """One or all of the numbers that come from a pass through Inception or another extractor."""
    return Entry(
        name,
        _QUALITY,
        summary,
        source,
        preset=preset,
        tags={"needs": "samples", "weights": "inception", "numbers": _SCORES},
    )


CATALOG = [
    Entry(
        "fd",
        "genflow.evaluate.metrics:FrechetMetric",
        "Fréchet distance of features, at n and at infinity, to both splits, with real against real; class balance",
        "Heusel et al. 2017, arXiv:1706.08500 (there with Inception features)",
        tags={"needs": "samples", "numbers": _WITH_FD},
    ),
    _quality("fid", "Fréchet Inception distance", "Heusel et al. 2017, arXiv:1706.08500", measures=("fid",)),
    _quality("kid", "kernel Inception distance", "Bińkowski et al. 2018, arXiv:1801.01401", measures=("kid",)),
    _quality("is", "Inception Score", "Salimans et al. 2016, arXiv:1606.03498", measures=("is",)),
    _quality(
        "prdc",
        "precision, recall, density and coverage in the data's own feature space",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797",
        measures=("prdc",),
        features="own",
    ),
    _quality(
        "inception",
        "FID, KID, Inception Score and precision/recall/density/coverage from one pass",
        "clean-fid's protocols: Parmar et al. 2022, arXiv:2104.11222",
        measures=("fid", "kid", "is", "prdc"),
    ),
    Entry(
        "two_sample",
        "genflow.evaluate.vectors:TwoSampleMetric",
        "vectors: sliced Wasserstein, MMD, energy distance and classifier tests against the test split",
        "Gretton et al. 2012, JMLR 13; Lopez-Paz & Oquab 2017, arXiv:1610.06545",
        tags={"needs": "samples", "real": "training split", "numbers": _TWO_SAMPLE},
    ),
    Entry(
        "norm_z",
        "genflow.evaluate.metrics:NormMetric",
        "norm against noise level: spread, correlation, and FD after the norm is pushed off mid-way",
        "Xu et al. 2022, arXiv:2209.11178",
        tags={"needs": "model", "asks": "norm", "numbers": _NORMS, **_NORM_OPTIONS},
    ),
    Entry(
        "bpd",
        "genflow.evaluate.likelihood:LikelihoodMetric",
        "bits/dim of the test split by the ODE, with standard error; nats where data have no grey levels",
        "Song et al. 2021, arXiv:2011.13456",
        tags={
            "needs": "model",
            "asks": "likelihood",
            "numbers": (
                Number("bits/dim", better="lower", unit="bits/dim"),
                Number("nll", better="lower", unit="nats"),
            ),
            **_LIKELIHOOD_OPTIONS,
        },
    ),
    Entry(
        "kl",
        "genflow.evaluate.vectors:DivergenceMetric",
        "KL divergence of the model from data with an exact density, nats, with standard error",
        tags={
            "needs": "model",
            "asks": "likelihood",
            "numbers": (Number("KL", better="lower", unit="nats"),),
            **_LIKELIHOOD_OPTIONS,
        },
    ),
]

_LAZY = {"fd": "genflow.evaluate.metrics", "frechet_distance": "genflow.evaluate.frechet"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'genflow.evaluate' has no attribute '{name}'")
