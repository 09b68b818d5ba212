"""Scalars as they were written on the command line or in YAML, and the numbers, switches and words that are read from
them.

Text is never guessed at: it keeps every character, and a number has one spelling (12, 0.5, 1e-4, inf, nan).
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

LARGEST = 2**63 - 1
"""The largest whole number that the arrays behind the options can hold."""

WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
UNBOUNDED = re.compile(r"([-+]?)\.?(inf|nan)", re.IGNORECASE)
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True, repr=False)
class Scalar:
    """A value as it was written, before anything is made of it.

    Arguments:
        text: Its characters.
        style: "typed" on the command line; in YAML "bare", or "quoted".
    """

    text: str
    style: Literal["typed", "bare", "quoted"] = "typed"

    @property
    def is_nothing(self) -> bool:
        """Whether it is YAML's null, or nothing at all."""
        return self.style == "bare" and self.text in ("", "~", "null")

    def __repr__(self) -> str:
        found = guess(self)
        return self.text if isinstance(found, int | float) and not isinstance(found, bool) else repr(found)


# ---- reading ----------------------------------------------------------------------------------


def whole(value: Any) -> int:
    """A whole number, also written as 1e3 or 3.0; raises ValueError for anything else, or beyond 64 bits."""
    if isinstance(value, Scalar | str):
        text = str(getattr(value, "text", value)).strip()
        if not DECIMAL.fullmatch(text):
            raise ValueError(text)
        exact = Decimal(text)
        if exact and exact.adjusted() > 30:
            raise ValueError(text)
        value = int(exact) if exact == exact.to_integral_value() else math.nan
    elif isinstance(value, bool):
        raise ValueError(value)
    found = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(found, int) or abs(found) > LARGEST:
        raise ValueError(value)
    return found


def decimal(value: Any) -> float:
    """A number, infinities and nan among them; raises ValueError for anything else."""
    if isinstance(value, Scalar | str):
        text = str(getattr(value, "text", value)).strip()
        unbounded = UNBOUNDED.fullmatch(text)
        if not unbounded and not DECIMAL.fullmatch(text):
            raise ValueError(text)
        return float("".join(unbounded.groups()) if unbounded else text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(value)
    return float(value)


def switch(value: Any) -> bool:
    """true or false, also as yes, no, on and off; raises ValueError for anything else."""
    if isinstance(value, Scalar | str):
        value = SWITCHES.get(str(getattr(value, "text", value)).strip().lower())
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def word_of(value: Any) -> str:
    """Text, every character of it; raises ValueError for anything else."""
    if isinstance(value, Scalar) and value.style == "bare" and value.text == "":
        raise ValueError
    text = value.text if isinstance(value, Scalar) else os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ValueError
    return text


def spelling(value: Any) -> str:
    """What to add to a refusal of what looks like a number: how they are written, or how large they may be."""
    text = getattr(value, "text", value)
    if not isinstance(text, str) or not re.fullmatch(r"[-+]?[0-9][0-9_:.a-fA-FxXoO]*", text.strip()):
        return ""
    if not DECIMAL.fullmatch(text.strip()):
        return "; numbers are written like 12, 0.5 or 1e-4"
    return f"; the largest is {LARGEST}" if abs(float(text)) > LARGEST else ""


def guess(raw: Scalar) -> Any:
    """A value of no declared type by what it looks like: quoted text stays text, a number is one, as are true, false
    and null; anything else is text."""
    if raw.style == "quoted":
        return raw.text
    if raw.text == "null" or raw.is_nothing:
        return None
    if raw.text in ("true", "false"):
        return raw.text == "true"
    try:
        return whole(raw) if WHOLE.fullmatch(raw.text) else decimal(raw)
    except ValueError:
        return raw.text
