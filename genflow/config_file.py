"""Configurations in YAML files: values by dotted path, each with the line where it stands. Imports no torch.

YAML gives structure alone. What a scalar means is up to the option that it is for: text options get the characters
that stand in the file, quoted or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genflow.config import ConfigError, Leaf, coerce, leaves
from genflow.registry import unknown
from genflow.scalars import Scalar
from genflow.yaml_nodes import Section, StructureError, parse

MOST_BYTES = 200_000
"""A longer file is not a configuration."""


def read_yaml(path: Path, config: type) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by dotted path from a YAML file, and where each one stands ("file:line").

    Raises:
        ConfigError: The file cannot be read, is not YAML, is not a mapping, or has an unknown key or a bad value.
    """
    known = {leaf.path: leaf for leaf in leaves(config)}
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    try:
        for key, raw, line in _walk(_root(path), known, ""):
            lines[key] = f"{path}:{line}"
            try:
                if key not in known:
                    raise unknown("config key", key, known)
                values[key] = coerce(known[key], raw)
            except ValueError as error:
                raise ConfigError(f"{path}:{line}: {error}") from None
    except StructureError as error:
        raise ConfigError(f"{path}, {error}") from None
    return values, lines


def _root(path: Path) -> Section:
    """What a file holds, a mapping."""
    if path == Path():
        raise ConfigError("the config has no name; give --config a YAML file, or leave it out")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"the config {path} has over {MOST_BYTES} bytes: it is not a configuration")
    try:
        found = parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config {path} is not YAML: it is not text in UTF-8 ({error})") from None
    except StructureError:
        raise
    except ValueError as error:
        raise ConfigError(f"the config {path} is not YAML: {error}") from None
    if not isinstance(found, Section):
        empty = found is None or (isinstance(found, Scalar) and not found.text)
        kind = "empty" if empty else "a list" if isinstance(found, list) else "a str"
        raise ConfigError(f"the config {path} is {kind}, not a mapping of keys to values")
    return found


def _walk(section: Section, known: Mapping[str, Leaf], prefix: str) -> Iterator[tuple[str, Any, int]]:
    """(dotted path, raw value, line) of every key; sections within it are entered, and empty ones passed over."""
    for key, value in section.items():
        path, line = f"{prefix}{key}", section.lines[key]
        below = [k.removeprefix(f"{path}.") for k in known if k.startswith(f"{path}.")]
        if path in known or not below:
            yield path, value, line
        elif isinstance(value, Section):
            yield from _walk(value, known, f"{path}.")
        elif not (isinstance(value, Scalar) and value.is_nothing):  # its keys may all be commented out
            what = "a list" if isinstance(value, list) else repr(value)
            raise StructureError(
                f"line {line}: {path} = {what} is not a section; give its keys below it: {', '.join(below)}"
            )
