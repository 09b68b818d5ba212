"""Configurations in YAML files: values by dotted path, each with the line where it stands. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genflow.config import ConfigError, Leaf, coerce, leaves
from genflow.registry import unknown


def read_yaml(path: Path, config: type) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by dotted path from a YAML file, and where each one stands ("file:line").

    Raises:
        ConfigError: The file can not be read, is not YAML, is no mapping, or has an unknown key or a bad value.
    """
    import yaml

    if path == Path():
        raise ConfigError("the config has no name; give --config a YAML file, or leave it out")
    try:
        text = path.read_text()
        node, data = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"the config {path} can not be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"the config {path} is {_kind(data)}, not a mapping of keys to values")
    known = {leaf.path: leaf for leaf in leaves(config)}
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    for key, value, line in _pairs(path, node, known):
        where = f"{path}:{line}"
        try:
            if key not in known:
                raise unknown("config key", key, known)
            values[key], lines[key] = coerce(known[key], value), where
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
    return values, lines


def _pairs(path: Path, node: Any, known: Mapping[str, Leaf]) -> Iterator[tuple[str, Any, int]]:
    import yaml

    try:
        yield from _walk(node, known, "")
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from None
    except yaml.YAMLError as error:  # an alias within what it stands for
        raise ConfigError(f"the config {path} can not be used: {' '.join(str(error).split())}") from None


def _kind(data: Any) -> str:
    return "empty" if data is None else f"a {type(data).__name__}"


def _walk(node: Any, known: Mapping[str, Leaf], prefix: str) -> Iterator[tuple[str, Any, int]]:
    """(dotted path, value, line) of every key below a mapping node; nested sections are entered."""
    import yaml

    seen: set[str] = set()
    for key_node, value_node in node.value:
        path, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if path in seen:
            raise ConfigError(f"line {line}: the key {path} stands twice")
        seen.add(path)
        if isinstance(value_node, yaml.MappingNode) and any(k.startswith(f"{path}.") for k in known):
            yield from _walk(value_node, known, f"{path}.")
        else:
            loader = yaml.SafeLoader("")
            yield path, loader.construct_object(value_node, deep=True), line
