"""Kinds of values: what the annotation of an option takes, and how what was written is read as that.

Only options that declare nothing, as those inside another option's mapping, are read by what they look like. Imports
neither torch nor yaml.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from genflow.scalars import Scalar, decimal, guess, switch, whole
from genflow.yaml_nodes import parse

# ---- kinds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """The alternatives that an annotation allows.

    Arguments:
        names: Of none, bool, int, float, str, any, and other for what only Python can give.
        words: The words of a Literal.
        item: Kind of a list's entries; None where no list is taken.
        value: Kind of a mapping's values; None where no mapping is taken.
    """

    names: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    item: Kind | None = None
    value: Kind | None = None

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            self.names | other.names, self.words + other.words, self.item or other.item, self.value or other.value
        )

    @property
    def open(self) -> bool:
        """Whether nothing is known of it, so that anything is passed on."""
        return "any" in self.names or not (self.names - {"other", "None"} or self.words or self.item or self.value)

    def __str__(self) -> str:
        """What is allowed, in words."""
        parts = ["true or false"] if "bool" in self.names else []
        if self.names & {"int", "float"}:
            parts.append("a number" if "float" in self.names else "a whole number")
        parts += ["a word"] if "str" in self.names else list(self.words)
        parts += [f"a list ({self.item} each)"] if self.item else []
        parts += ["a mapping"] if self.value else []
        return " or ".join(parts) or "another value"


ANY = Kind(frozenset({"any"}))
_SIMPLE = {n: n for n in ("bool", "int", "float", "str", "None")} | {"Any": "any", "object": "any", "": "any"}
_SIMPLE |= {"Path": "str", "PathLike": "str"}
_LISTS, _MAPPINGS = {"Sequence", "list", "tuple", "Iterable"}, {"dict", "Mapping"}


@cache
def kind_of(annotation: str) -> Kind:
    """The kind that an annotation stands for; "" takes anything."""
    try:
        return _kind(ast.parse(annotation.strip(), mode="eval").body) if annotation.strip() else ANY
    except SyntaxError:
        return Kind(frozenset({"other"}))


def _kind(node: ast.expr) -> Kind:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _kind(node.left) | _kind(node.right)
    if isinstance(node, ast.Constant):
        return kind_of(node.value) if isinstance(node.value, str) else Kind(frozenset({"None"}))
    if isinstance(node, ast.Subscript):
        return _subscript(_last(node.value), node.slice)
    name = _last(node)
    if name in _LISTS:
        return Kind(item=ANY)
    return Kind(value=ANY) if name in _MAPPINGS else Kind(frozenset({_SIMPLE.get(name, "other")}))


def _subscript(name: str, inner: ast.expr) -> Kind:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return Kind(words=tuple(str(p.value) for p in parts if isinstance(p, ast.Constant)))
    if name in ("Optional", "Union"):
        found = Kind(frozenset({"None"})) if name == "Optional" else Kind()
        for part in parts:
            found |= _kind(part)
        return found
    if name in _LISTS and parts:
        return Kind(item=_kind(parts[0]))
    if name in _MAPPINGS:
        return Kind(value=_kind(parts[-1]))
    return _kind(parts[0]) if name in ("Annotated", "Final") else Kind(frozenset({"other"}))


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "other"


# ---- reading -----------------------------------------------------------------------------------------------


def read(kind: Kind, raw: Any) -> Any:
    """What was written as a value of a kind.

    Arguments:
        kind: What is allowed.
        raw: A `Scalar`, a list or mapping of such, or a plain value, of which text counts as quoted.

    Raises:
        ValueError: It is none of the alternatives.
    """
    if isinstance(raw, str):
        raw = Scalar(raw, "quoted")
    if not isinstance(raw, Scalar):
        return conform(kind, _plain(kind, raw))
    if kind.open:
        return _open(raw)
    nothing = raw.is_nothing or (raw.style == "typed" and raw.text == "null" and "str" not in kind.names)
    if "None" in kind.names and nothing:  # a "null" that was typed for a text option stays a word
        return None
    for name, reader in (("bool", switch), ("int", whole), ("float", decimal)):
        if name in kind.names:
            try:
                return reader(raw)
            except ValueError:
                continue
    return _read_words(kind, raw)


def _plain(kind: Kind, raw: Any) -> Any:
    """A list or mapping with its entries read; other values as they are."""
    if isinstance(raw, list | tuple):
        return [read(kind.item or ANY, one) for one in raw]
    if isinstance(raw, Mapping):
        return {str(key): read(kind.value or ANY, one) for key, one in raw.items()}
    return raw


def _read_words(kind: Kind, raw: Scalar) -> Any:
    if raw.text in kind.words:
        return raw.text
    if kind.item or kind.value:
        inner = structure(raw)
        try:
            if inner is not None:
                return read(kind, inner)
            if kind.item and "str" not in kind.names:
                parts = raw.text.split(",") if raw.style != "quoted" else [raw.text]
                return [read(kind.item, Scalar(part.strip(), raw.style)) for part in parts]
        except ValueError:
            if "str" not in kind.names:
                raise
    if "str" not in kind.names:
        raise ValueError(raw.text)
    return raw.text


def structure(raw: Scalar) -> Any:
    """The list or mapping that was typed as YAML writes it in one line; None where it is none."""
    if raw.style != "typed" or not raw.text.strip().startswith(("[", "{")):
        return None
    try:
        return parse(raw.text)
    except ValueError:
        return None


def _open(raw: Any) -> Any:
    """A value of no declared kind, by what it looks like."""
    inner = structure(raw) if isinstance(raw, Scalar) else raw
    if isinstance(inner, list | tuple | Mapping):
        return _plain(ANY, inner)
    return guess(raw) if isinstance(raw, Scalar) else raw


PLAIN = (bool, int, float, str, list, tuple, dict, os.PathLike, type(None))
"""What text can give; anything else comes from Python and is for the class to judge."""


def conform(kind: Kind, value: Any) -> Any:
    """A value in one of the kind's types: 3.0 becomes 3 where a whole number is wanted.

    Raises:
        ValueError: It is none of the alternatives.
    """
    if kind.open:
        return value
    if not isinstance(value, PLAIN):
        return operator.index(value) if "int" in kind.names and hasattr(value, "__index__") else value
    if value is None or isinstance(value, bool):
        if ("None" if value is None else "bool") not in kind.names:
            raise ValueError(value)
        return value
    if isinstance(value, int | float):
        return _conform_number(kind, value)
    if isinstance(value, str | os.PathLike):
        if "str" not in kind.names and value not in kind.words:
            raise ValueError(value)
        return value
    inner = kind.value if isinstance(value, dict) else kind.item
    if inner is None:
        raise ValueError(value)
    if isinstance(value, dict):
        return {key: conform(inner, one) for key, one in value.items()}
    return type(value)(conform(inner, one) for one in value)


def _conform_number(kind: Kind, value: float) -> Any:
    if "int" in kind.names:
        try:
            return whole(value)
        except ValueError:
            if "float" not in kind.names:
                raise
    if "float" not in kind.names:
        raise ValueError(value)
    return float(value) if isinstance(value, int) else value
