"""Metrics: what a bench measures. This page lists them; it imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genflow.registry import Entry

if TYPE_CHECKING:
    from genflow.evaluate.frechet import frechet_distance
    from genflow.evaluate.metrics import fd

__all__ = ["fd", "frechet_distance"]

_QUALITY = "genflow.evaluate.quality:QualityMetric"


def _quality(name: str, summary: str, source: str, **preset: Any) -> Entry:
    """One or all of the numbers that come from a pass through Inception or another extractor."""
    return Entry(name, _QUALITY, summary, source, preset=preset, tags={"needs": "samples", "weights": "inception"})


CATALOG = [
    Entry(
        "fd",
        "genflow.evaluate.metrics:FrechetMetric",
        "Fréchet distance of features to the training split, with a real-against-real floor",
        "Heusel et al. 2017, arXiv:1706.08500 (there with Inception features)",
        tags={"needs": "samples"},
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
        tags={"needs": "samples", "floor": "training split"},
    ),
    Entry(
        "norm_z",
        "genflow.evaluate.metrics:NormMetric",
        "norm against noise level: spread, correlation, and FD after the norm is pushed off mid-way",
        "Xu et al. 2022, arXiv:2209.11178",
        tags={"needs": "model", "asks": "norm"},
    ),
    Entry(
        "bpd",
        "genflow.evaluate.likelihood:LikelihoodMetric",
        "bits/dim of the test split by the ODE, with standard error; nats where data have no grey levels",
        "Song et al. 2021, arXiv:2011.13456",
        tags={"needs": "model", "asks": "likelihood"},
    ),
    Entry(
        "kl",
        "genflow.evaluate.vectors:DivergenceMetric",
        "KL divergence of the model from data with an exact density, nats, with standard error",
        tags={"needs": "model", "asks": "likelihood"},
    ),
]

_LAZY = {"fd": "genflow.evaluate.metrics", "frechet_distance": "genflow.evaluate.frechet"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'genflow.evaluate' has no attribute '{name}'")
