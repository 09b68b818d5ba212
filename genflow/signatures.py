"""What constructors take, read from their source, so that options are understood before torch is imported."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

BUILT_IN = {"bool", "int", "float", "str", "list", "tuple", "dict", "None", "Any", "object"}


class _Unreadable(Exception):
    """A source that says too little."""


@cache
def written(target: str) -> dict[str, str] | None:
    """Option -> annotation of "package.module:Class" or a function, by its source; None where that does not say."""
    module, _, name = target.partition(":")
    try:
        return _parameters(module, name)
    except (_Unreadable, OSError, SyntaxError, ValueError, ImportError, RecursionError):
        return None


def imported(factory: Callable[..., Any]) -> dict[str, str] | None:
    """The same of a class or function that is there; None where it takes any option."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    homes = [c.__module__ for c in getattr(factory, "__mro__", (factory,))]
    return {p.name: _named(p.annotation, homes) for p in parameters if p.kind is not p.VAR_POSITIONAL}


def _named(annotation: Any, homes: list[str]) -> str:
    """An annotation as text, with the aliases of the modules it was written in put in."""
    if annotation is inspect.Parameter.empty:
        return ""
    if not isinstance(annotation, str):
        return (
            annotation.__name__
            if isinstance(annotation, type) and not hasattr(annotation, "__args__")
            else str(annotation)
        )

    def alias(name: str) -> ast.expr | None:
        found = next((vars(m)[name] for h in homes if (m := sys.modules.get(h)) and name in vars(m)), None)
        if found is None or (isinstance(found, type) and not hasattr(found, "__args__")):
            return None
        return ast.parse(found if isinstance(found, str) else str(found), mode="eval").body

    try:
        return _expanded(ast.parse(annotation, mode="eval").body, alias)
    except SyntaxError:
        return annotation


def _expanded(node: ast.expr, alias: Callable[[str], ast.expr | None]) -> str:
    class Expand(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            found = None if name.id in BUILT_IN else alias(name.id)
            return name if found is None else found

    return ast.unparse(Expand().visit(node))


# ---- from the source ---------------------------------------------------------------------------------------


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise _Unreadable(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _find(module: str, name: str) -> tuple[str, ast.stmt]:
    """Where a name is defined, imports followed: (module, statement)."""
    for statement in _tree(module).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return module, statement
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            return module, statement
        if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            for one in statement.names:
                # finding modules of other packages, such as torch, would import those
                near = statement.module.partition(".")[0] in (module.partition(".")[0], "genflow")
                if (one.asname or one.name) == name and near:
                    return _find(statement.module, one.name)
    raise _Unreadable(name)


def _parameters(module: str, name: str) -> dict[str, str]:
    home, statement = _find(module, name)
    if isinstance(statement, ast.FunctionDef):
        return _arguments(home, statement, skip=0)
    if not isinstance(statement, ast.ClassDef):
        raise _Unreadable(name)
    own = next((s for s in statement.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
    if own is not None:
        return _arguments(home, own, skip=1)
    if any(isinstance(s, ast.FunctionDef) and s.name == "__new__" for s in statement.body):
        raise _Unreadable(name)
    inherited = _inherited(home, statement)
    return inherited | dict(_fields(home, statement)) if _is_dataclass(statement) else inherited


def _inherited(module: str, statement: ast.ClassDef) -> dict[str, str]:
    """What the bases take: for a class without bases in sight, nothing."""
    found: dict[str, str] = {}
    for base in reversed(statement.bases):
        if isinstance(base, ast.Subscript):
            base = base.value
        if not isinstance(base, ast.Name):
            raise _Unreadable(statement.name)
        if base.id in ("ABC", "Protocol", "Generic", "NamedTuple", "object"):
            continue
        found |= _parameters(module, base.id)
    return found


def _is_dataclass(statement: ast.ClassDef) -> bool:
    names = [d.func if isinstance(d, ast.Call) else d for d in statement.decorator_list]
    return any(isinstance(n, ast.Name) and n.id == "dataclass" for n in names)


def _fields(module: str, statement: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for one in statement.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            text = ast.unparse(one.annotation)
            if "ClassVar" not in text and "KW_ONLY" not in text and "init=False" not in ast.unparse(one):
                yield one.target.id, _text(module, one.annotation)


def _arguments(module: str, function: ast.FunctionDef, skip: int) -> dict[str, str]:
    if function.args.kwarg is not None:
        raise _Unreadable(function.name)
    given = [*function.args.posonlyargs, *function.args.args][skip:] + function.args.kwonlyargs
    return {a.arg: _text(module, a.annotation) if a.annotation else "" for a in given}


def _text(module: str, annotation: ast.expr) -> str:
    def alias(name: str) -> ast.expr | None:
        try:
            home, statement = _find(module, name)
        except (_Unreadable, OSError, SyntaxError, ImportError, ValueError):
            return None
        return ast.parse(_text(home, statement.value), mode="eval").body if isinstance(statement, ast.Assign) else None

    return _expanded(annotation, alias)
