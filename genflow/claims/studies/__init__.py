"""Robustness studies: each a table, plots, what a paper claims, and what was found. This page imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A study in the catalogue.

    Arguments:
        module: Where its class `Study` is.
        summary: One line for the help.
        defaults: Configuration that it starts from, by dotted key, where that is not the common one.
    """

    module: str
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)


STUDIES = {
    "norm_z": Entry(
        "genflow.claims.studies.norm_z",
        "norm against noise level in training and on sampling paths, and paths that are pushed off",
        {"solver": ("heun",), "nfe": (20,)},
    ),
    "step_size": Entry(
        "genflow.claims.studies.step_size",
        "distance against the number of steps at exactly equal budgets",
        {"solver": ("euler",), "nfe": (5, 10, 20, 50, 100)},
    ),
    "noise": Entry(
        "genflow.claims.studies.noise",
        "noise of given relative size injected into the drift",
        {"solver": ("heun",), "nfe": (35,)},
    ),
    "quantise": Entry(
        "genflow.claims.studies.quantise",
        "weights of few bits, and models from early in training",
        {"solver": ("heun",), "nfe": (35,)},
    ),
    "backbone": Entry(
        "genflow.claims.studies.backbone",
        "a weak network against a strong one",
        {"solver": ("heun",), "nfe": (35,)},
    ),
    "dimension": Entry(
        "genflow.claims.studies.dimension",
        "augmented dimensions D of Poisson flow, from 1 to the Gaussian limit",
        {"process": ("pfgmpp",), "solver": ("heun",), "nfe": (10, 35)},
    ),
    "split": Entry(
        "genflow.claims.studies.split",
        "the error in two: the solver's, with the exact field, and the network's",
        {"solver": ("heun",), "nfe": (5, 10, 20, 35)},
    ),
}
"""Name -> where it is, what it is, and what it starts from."""
