"""The structure of YAML text: mappings and lists of scalars as they were written; what they mean is decided elsewhere.

Keys that stand twice, tags of other types, aliases within themselves and texts that grow without end are refused.
"""

from __future__ import annotations

from typing import Any

from genflow.scalars import Scalar

MOST_VALUES = 20_000
"""Values that a text may hold once its aliases are put in."""

SIMPLE_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null")}


class StructureError(ValueError):
    """YAML that no options are made of; the message begins with the line."""


class Section(dict[str, Any]):
    """A mapping, with the line on which each key stands."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}

    def put(self, key: str, value: Any, line: int) -> None:
        self[key], self.lines[key] = value, line


def parse(text: str) -> Any:
    """Sections, lists and scalars of a text; None where it is empty.

    Raises:
        ValueError: It is not YAML.
        StructureError: It is, but not of the kind that options are written in.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return None if node is None else _Reader().value(node, "")


class _Reader:
    """Makes values of YAML's nodes; counts them, so that aliases of aliases end."""

    def __init__(self) -> None:
        self.count = 0
        self.open: list[Any] = []

    def value(self, node: Any, path: str) -> Any:
        """A scalar, list or section; `path` are the keys above it, for messages."""
        import yaml

        self.count += 1
        if self.count > MOST_VALUES:
            raise StructureError(f"line {_line(node)}: there are over {MOST_VALUES} values here")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if any(node is other for other in self.open) or len(self.open) > 50:
            raise StructureError(
                f"line {_line(node)}: an alias stands within what it stands for, or lists are too deep"
            )
        self.open.append(node)
        found = (
            [self.value(one, path) for one in node.value]
            if isinstance(node, yaml.SequenceNode)
            else self._section(node, path)
        )
        self.open.pop()
        return found

    def _section(self, node: Any, path: str) -> Section:
        """A mapping; what << merges in gives way to its own keys."""
        import yaml

        own, merged = Section(), Section()
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                kind = "a list" if isinstance(key_node, yaml.SequenceNode) else "a mapping"
                raise StructureError(f"line {line}: a key is a word, not {kind}")
            key = f"{path}.{key_node.value}" if path else key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                value = self.value(value_node, path)
                for one in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(one, Section):
                        raise StructureError(f"line {line}: << takes a mapping, or a list of mappings")
                    merged.update(one)
                    merged.lines.update(one.lines)
            elif key_node.value in own:
                raise StructureError(f"line {line}: the key {key} stands twice")
            else:
                own.put(key_node.value, self.value(value_node, key), line)
        merged.update(own)
        merged.lines.update(own.lines)
        return merged


def _scalar(node: Any) -> Scalar:
    """What is written; a tag other than those of text, numbers and switches is refused."""
    import yaml

    implied = yaml.SafeLoader("").resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
    if node.style is None and node.tag == implied:
        return Scalar(node.value, "bare")
    if node.tag not in SIMPLE_TAGS and node.tag != implied:
        raise StructureError(f"line {_line(node)}: the tag {node.tag} is not known here; quote the value")
    return Scalar(node.value, "quoted" if SIMPLE_TAGS.get(node.tag, "str") == "str" else "bare")


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
