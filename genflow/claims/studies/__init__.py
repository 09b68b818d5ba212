"""Robustness studies of any process: numbers, tables and plots, and what they say of a paper's claim. No torch here.

What a recipe claims is judged in the recipe alone, from its configuration; its study measures the same of whatever is
asked and says where the verdict is. A study judges what no recipe does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genflow.bench.rows import Row
from genflow.bench.tables import Table
from genflow.claims.claim import Verdict
from genflow.claims.papers import get_recipe
from genflow.registry import unknown


@dataclass(frozen=True)
class StudyEntry:
    """A study in the catalogue.

    Arguments:
        module: Where its function `run` is, and CODE: what its stored points depend on.
        summary: One line for the help.
        defaults: Configuration that it starts from, by dotted key, where that is not the common one.
        recipe: The recipe that judges the paper's claim; "" where none does.
        claim: What a paper says, where no recipe has it.
    """

    module: str
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    claim: str = ""

    @property
    def claimed(self) -> str:
        """What a paper says, and where that is judged."""
        if not self.recipe:
            return self.claim
        recipe = get_recipe(self.recipe)
        return (
            f"{recipe.claim.rstrip('.')} ({recipe.paper}). This is judged by `genflow reproduce {self.recipe}` alone."
        )


@dataclass
class Outcome:
    """What a study found.

    Arguments:
        rows: Of results.csv.
        tables: Of table.md.
        draw: Draws the pictures into a folder, and returns their names with captions.
        remarks: What the numbers say, a sentence each.
        verdicts: On what the study claims itself.
        notes: What else belongs to the protocol.
        files: More to write, text by name.
    """

    rows: list[Row]
    tables: list[Table]
    draw: Callable[[Path], dict[str, str]]
    remarks: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


_TOLERANCE = (
    "Poisson flow tolerates the estimation errors of a weak network better than score-based models (Xu et al. 2022, "
    "arXiv:2209.11178, abstract). The paper does not {0}"
)
STUDIES = {
    "norm_z": StudyEntry(
        "genflow.claims.studies.norm_z",
        "norm against noise level in training and on sampling paths, and paths that are pushed off",
        {"solver": ("heun",), "nfe": (20,)},
        recipe="pfgm_norm_z",
    ),
    "step_size": StudyEntry(
        "genflow.claims.studies.step_size",
        "distance against the number of steps at exactly equal budgets",
        {"solver": ("euler",), "nfe": (5, 10, 20, 50, 100)},
        recipe="pfgm_nfe",
    ),
    "noise": StudyEntry(
        "genflow.claims.studies.noise",
        "noise of given relative size injected into the drift",
        {"solver": ("heun",), "nfe": (35,)},
        claim=_TOLERANCE.format("inject noise; here an error of known size stands for theirs."),
    ),
    "quantise": StudyEntry(
        "genflow.claims.studies.quantise",
        "weights of few bits, and models from early in training",
        {"solver": ("heun",), "nfe": (35,)},
        claim=_TOLERANCE.format("quantise; here coarse weights and too little training make a network weak."),
    ),
    "backbone": StudyEntry(
        "genflow.claims.studies.backbone",
        "a weak network against a strong one",
        {"solver": ("heun",), "nfe": (35,)},
        recipe="pfgm_ncsnv2",
    ),
    "dimension": StudyEntry(
        "genflow.claims.studies.dimension",
        "augmented dimensions D of Poisson flow, from 1 to the Gaussian limit",
        {"process": ("pfgmpp",), "solver": ("heun",), "nfe": (10, 35)},
        recipe="pfgmpp_d",
    ),
    "split": StudyEntry(
        "genflow.claims.studies.split",
        "the error in two: the solver's, with the exact field, and the network's",
        {"solver": ("heun",), "nfe": (5, 10, 20, 35)},
        claim="No paper splits its error so. The study says which of the two decides what is claimed of step sizes and "
        "of weak networks (Xu et al. 2022, arXiv:2209.11178).",
    ),
}
"""Name -> where it is, what it is, and what it starts from."""


def entry(name: str) -> StudyEntry:
    """A study by name; raises UnknownNameError with the nearest one."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]
