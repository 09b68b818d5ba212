"""Checks of arguments: what came, what is allowed, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_count(value: Any, least: int = 1) -> bool:
    """A whole number (2.0 included) of at least `least`."""
    return is_number(value) and float(value).is_integer() and value >= least


def is_number(value: Any) -> bool:
    """A finite number, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """A finite number above 0."""
    return is_number(value) and value > 0


def is_above(value: Any, bound: Any) -> bool:
    """A finite number above another."""
    return is_number(value) and is_number(bound) and value > bound


def require(owner: str, checks: Mapping[str, tuple[Any, bool, str]]) -> None:
    """Raises ValueError for the first option whose check failed: name -> (value, passed, what is allowed)."""
    for name, (value, passed, allowed) in checks.items():
        if not passed:
            raise ValueError(f"{owner}: {name} = {value!r} is not allowed; give {allowed}")
