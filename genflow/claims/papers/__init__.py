"""The papers' tables and figures, each one command. This page lists them; it imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from genflow.registry import unknown

if TYPE_CHECKING:
    from genflow.claims.recipe import Recipe

MODULES = ("pfgm", "pfgmpp", "score_sde", "interpolants", "interpolants_sde", "exact_digits", "model_figures")
"""Modules of this package that have a tuple RECIPES, one for each paper."""


def recipes() -> dict[str, Recipe]:
    """Every recipe by name, in the order of the papers."""
    found = [recipe for name in MODULES for recipe in importlib.import_module(f"{__name__}.{name}").RECIPES]
    return {recipe.name: recipe for recipe in found}


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UnknownNameError: There is none; the nearest is named.
    """
    known = recipes()
    if name not in known:
        raise unknown("recipe", name, known)
    return known[name]
