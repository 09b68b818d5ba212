"""Configurations in YAML files: values by dotted path, each with the line where it stands. Imports no torch.

YAML is taken for its structure alone. What a scalar means is up to the option that it is for: text options get the
characters that stand in the file, quoted or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genflow.config import ConfigError, Leaf, coerce, leaves
from genflow.kinds import Scalar
from genflow.registry import unknown

MOST_BYTES = 200_000
"""A longer file is no configuration."""

MOST_NODES = 20_000
"""Values that a file may hold once its aliases are put in."""

SIMPLE_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null")}


class _NodeError(ValueError):
    """YAML that no configuration is made of; the message begins with the line."""


def read_yaml(path: Path, config: type) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by dotted path from a YAML file, and where each one stands ("file:line").

    Raises:
        ConfigError: The file cannot be read, is not YAML, is no mapping, or has an unknown key or a bad value.
    """
    node = _compose(path)
    known = {leaf.path: leaf for leaf in leaves(config)}
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    reader = _Reader()
    try:
        for key, raw, line in reader.walk(node, known, ""):
            where = f"{path}:{line}"
            try:
                if key not in known:
                    raise unknown("config key", key, known)
                values[key], lines[key] = coerce(known[key], raw), where
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from None
    except _NodeError as error:
        raise ConfigError(f"{path}, {error}") from None
    return values, lines


def parse(text: str) -> Any:
    """Lists and mappings of scalars, as they are written in one line of YAML.

    Raises:
        ValueError: It is not YAML.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return _Reader().raw(node)


def _compose(path: Path) -> Any:
    """The root node of a file, a mapping."""
    import yaml

    if path == Path():
        raise ConfigError("the config has no name; give --config a YAML file, or leave it out")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"the config {path} has over {MOST_BYTES} bytes: it is no configuration")
        node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read: {error.strerror}") from None
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config {path} is not YAML: it is not text in UTF-8 ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"the config {path} is {_kind(node)}, not a mapping of keys to values")
    return node


def _kind(node: Any) -> str:
    import yaml

    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return "empty"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a str"


class _Reader:
    """Makes raw values of YAML's nodes; counts them, so that aliases of aliases end."""

    def __init__(self) -> None:
        self.count = 0
        self.open: list[Any] = []

    def walk(self, node: Any, known: Mapping[str, Leaf], prefix: str) -> Iterator[tuple[str, Any, int]]:
        """(dotted path, raw value, line) of every key below a mapping node; nested sections are entered."""
        import yaml

        for key, value_node, line in self.pairs(node, prefix):
            path = f"{prefix}{key}"
            if path in known or not any(k.startswith(f"{path}.") for k in known):
                yield path, self.raw(value_node), line
            elif isinstance(value_node, yaml.MappingNode):
                self._enter(value_node)
                yield from self.walk(value_node, known, f"{path}.")
                self.open.pop()
            elif not _is_nothing(value_node):  # a section whose keys are all commented out is nothing
                keys = ", ".join(k.removeprefix(f"{path}.") for k in known if k.startswith(f"{path}."))
                what = "a list" if isinstance(value_node, yaml.SequenceNode) else repr(self.raw(value_node))
                raise _NodeError(f"line {line}: {path} = {what} is not a section; give its keys below it: {keys}")

    def raw(self, node: Any) -> Any:
        """A scalar as it is written, or a list or mapping of such."""
        import yaml

        self.count += 1
        if self.count > MOST_NODES:
            raise _NodeError(f"line {_line(node)}: there are over {MOST_NODES} values here")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        self._enter(node)
        if isinstance(node, yaml.SequenceNode):
            found: Any = [self.raw(one) for one in node.value]
        else:
            found = {key: self.raw(value) for key, value, _ in self.pairs(node, "")}
        self.open.pop()
        return found

    def _enter(self, node: Any) -> None:
        if any(node is other for other in self.open) or len(self.open) > 50:
            raise _NodeError(f"line {_line(node)}: an alias stands within what it stands for, or lists are too deep")
        self.open.append(node)

    def pairs(self, node: Any, prefix: str) -> list[tuple[str, Any, int]]:
        """(key, value node, line) of a mapping, those that << merges in coming first unless they are given again."""
        import yaml

        own: dict[str, tuple[Any, int]] = {}
        merged: dict[str, tuple[Any, int]] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise _NodeError(f"line {line}: a key is a word, not {_kind(key_node)}")
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                for one in reversed(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]):
                    if not isinstance(one, yaml.MappingNode):
                        raise _NodeError(f"line {line}: << takes a mapping, or a list of mappings")
                    self._enter(one)
                    merged |= {k: (v, at) for k, v, at in self.pairs(one, prefix)}
                    self.open.pop()
            elif key in own:
                raise _NodeError(f"line {line}: the key {prefix}{key} stands twice")
            else:
                own[key] = (value_node, line)
        return [(key, value, line) for key, (value, line) in {**merged, **own}.items()]


def _scalar(node: Any) -> Scalar:
    """What is written; a tag other than those of text, numbers and switches is refused."""
    import yaml

    implied = yaml.SafeLoader("").resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
    if node.style is None and node.tag == implied:
        return Scalar(node.value, "bare")
    if node.tag not in SIMPLE_TAGS and node.tag != implied:
        raise _NodeError(f"line {_line(node)}: the tag {node.tag} is not known here; quote the value")
    return Scalar(node.value, "quoted" if SIMPLE_TAGS.get(node.tag, "str") == "str" else "bare")


def _is_nothing(node: Any) -> bool:
    """Whether nothing stands after a key, or null."""
    raw = _scalar(node) if hasattr(node, "style") else None
    return raw is not None and raw.style == "bare" and raw.text in ("", "~", "null")


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
