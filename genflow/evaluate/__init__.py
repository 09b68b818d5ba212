"""Metrics: what a bench measures. This page lists them; it imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genflow.registry import Entry

if TYPE_CHECKING:
    from genflow.evaluate.frechet import frechet_distance
    from genflow.evaluate.metrics import fd

__all__ = ["fd", "frechet_distance"]

CATALOG = [
    Entry(
        "fd",
        "genflow.evaluate.metrics:FrechetMetric",
        "Fréchet distance of features to the training split, with a real-against-real floor",
        "Heusel et al. 2017, arXiv:1706.08500 (there with Inception features)",
        tags={"needs": "samples"},
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
        "genflow.evaluate.metrics:LikelihoodMetric",
        "bits/dim of the test split by the ODE, with standard error",
        "Song et al. 2021, arXiv:2011.13456",
        tags={"needs": "model", "asks": "likelihood"},
    ),
]

_LAZY = {"fd": "genflow.evaluate.metrics", "frechet_distance": "genflow.evaluate.frechet"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'genflow.evaluate' has no attribute '{name}'")
