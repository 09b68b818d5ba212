"""The invariants of the design, read from the source."""

import ast
import re
from pathlib import Path

import genflow

ROOT = Path(genflow.__file__).parent
LAYERS = (
    ("registry", "__init__"),
    ("config", "config_file", "cache"),
    ("process", "data", "backbone", "solver", "devices"),
    ("checkpoint",),
    (
        "training",
        "sampling",
        "likelihood",
        "latent",
        "control",
        "transport",
        "testing",
        "signals",
        "distributed",
        "memory",
        "published",
    ),
    ("evaluate",),
    ("bench",),
    ("report", "study"),
    ("reproduce",),
    ("doctor", "commands", "cli", "__main__"),
)
"""Lowest first; a module imports from its own layer or below."""


def layer(module):
    part = module.split(".")[1] if "." in module else "__init__"
    return next(i for i, names in enumerate(LAYERS) if part in names)


def modules():
    for file in sorted(ROOT.rglob("*.py")):
        name = ".".join(("genflow", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        yield name, file


def imports(file):
    """Modules of this package that a file imports when it is imported, type checking left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genflow"):
            yield node.module
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("genflow"))


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {other}"
        for name, file in modules()
        for other in imports(file)
        if other != "genflow" and layer(other) > layer(name)
    ]
    assert wrong == []


def test_no_process_is_named_outside_its_package():
    """A default of a command line is the one exception: it stands in config.py and commands/model.py."""
    names = "|".join(genflow.registry.registries()["processes"].entries()) + "|vp|ve|subvp|poisson"
    compared = re.compile(rf"""(==|!=|\bin\b)\s*\(?\s*["']({names})["']|["']({names})["']\s*(==|!=)""")
    leaf = re.compile(r"isinstance\([^)]*\b(PFGM|VP|VE|SubVP|PoissonField)\b")
    for name, file in modules():
        if not name.startswith("genflow.process"):
            text = file.read_text(encoding="utf-8")
            assert not compared.search(text), name
            assert not leaf.search(text), name


def test_the_network_is_called_in_one_place():
    calls = [
        f"{name}:{node.lineno}"
        for name, file in modules()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and re.search(r"(^|\.)backbone$", ast.unparse(node.func))
    ]
    calls = [c for c in calls if "testing" not in c]
    assert len(calls) == 1, calls
    assert calls[0].startswith("genflow.process.field:")


def test_functions_and_files_stay_small():
    for name, file in modules():
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 60, f"{name}.{node.name}"


def test_public_functions_have_docstrings():
    for name, file in modules():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name}"
