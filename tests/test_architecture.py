"""The invariants of the design, read from the source."""

import ast
import functools
import re
from graphlib import TopologicalSorter
from pathlib import Path

import genflow

ROOT = Path(genflow.__file__).parent
LAYERS = (
    ("philox", "random"),
    (
        "accelerators",
        "chances",
        "number_text",
        "metric_options",
        "shared_options",
        "scalars",
        "yaml_nodes",
        "kinds",
        "places",
        "signatures",
        "checks",
        "memory",
        "signals",
        "former",
    ),
    ("placing",),
    ("registry",),
    ("config", "config_file", "cache", "estimates"),
    ("process", "data", "backbone", "solver", "devices"),
    ("catalogue",),
    ("checkpoint",),
    (
        "training",
        "sampling",
        "likelihood",
        "latent",
        "inpainting",
        "transport",
        "testing",
        "distributed",
        "convert",
    ),
    ("__init__",),
    ("evaluate",),
    ("bench",),
    ("report",),
    ("claims",),
    ("commands", "cli", "__main__"),
)
"""Lowest first; a module imports from its own layer or below, at its top, within functions or for types."""


def layer(module):
    part = module.split(".")[1] if "." in module else "__init__"
    return next(i for i, names in enumerate(LAYERS) if part in names)


def modules():
    for file in sorted(ROOT.rglob("*.py")):
        name = ".".join(("genflow", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        yield name, file


FILES = dict(modules())
FACTS = {"__version__"}
"""Names of the package's root that are no part of it: anybody may read them."""


def imports(file):
    """Modules of this package that a file imports anywhere, also within functions and for types."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genflow":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in FILES or alias.name not in FACTS:
                    yield inner if inner in FILES else node.module
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "genflow")


@functools.cache
def graph():
    """What every module imports of the others."""
    return {name: sorted({other for other in imports(file) if other != name}) for name, file in FILES.items()}


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {other}" for name, others in graph().items() for other in others if layer(other) > layer(name)
    ]
    assert wrong == []


def test_every_module_that_is_imported_exists():
    assert sorted({other for others in graph().values() for other in others} - {*FILES}) == []


def test_no_module_imports_itself_by_way_of_others():
    """Neither at the top, nor within functions, nor for types alone."""
    TopologicalSorter(graph()).prepare()  # raises CycleError, which names the circle


def assigned(node):
    """What an assignment writes to."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def hides(node):
    """Whether a node reads `vars(other)` or writes to a private attribute of an object other than self."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars":
        return bool(node.args)
    private = [t for t in assigned(node) if isinstance(t, ast.Attribute) and t.attr.startswith("_")]
    return any(ast.unparse(t.value) not in ("self", "cls") for t in private)


CORE = ("genflow.process", "genflow.solver", "genflow.sampling", "genflow.likelihood", "genflow.training")
MADE_HERE = {"again"}
"""Names of an object that its own class has just made: it may write to it."""


def test_no_state_is_hidden_in_another_object():
    hidden = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, file in FILES.items()
        if name.startswith(CORE)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if hides(node) and not any(f"{made}._" in ast.unparse(node) for made in MADE_HERE)
    ]
    assert hidden == []


def test_types_are_told_to_the_checker_truly():
    """`type: ignore[attr-defined]` says that an object has what its type has not."""
    assert [name for name, file in FILES.items() if "ignore[attr-defined]" in file.read_text(encoding="utf-8")] == []


def compared(node):
    """Strings that a comparison or a match case compares with, those in a tuple, list or set among them."""
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.value]
    items = [item for side in sides for item in getattr(side, "elts", [side])]
    return {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}


def test_no_process_is_named_outside_its_package():
    """Nothing is compared with a process's name, also not by `in` or `match`; a recipe of a paper may list names."""
    names = {*genflow.registry.registries()["processes"].entries(), "vp", "ve", "subvp", "poisson"}
    leaf = re.compile(r"isinstance\([^)]*\b(PFGM|VP|VE|SubVP|PoissonField)\b")
    for name, file in modules():
        if name.startswith("genflow.process"):
            continue
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Compare | ast.MatchValue):
                assert not compared(node) & names, f"{name}:{node.lineno}"
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
                said = len((ast.get_docstring(node, clean=False) or "").splitlines())
                assert node.end_lineno - node.lineno - said <= 60, f"{name}.{node.name}"


def test_public_functions_have_docstrings():
    for name, file in modules():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name}"


def caught(handler):
    """Names of the exceptions that a handler catches; a bare one catches all."""
    kinds = getattr(handler.type, "elts", [handler.type])
    return {"BaseException" if kind is None else ast.unparse(kind) for kind in kinds}


def raises_again(handler):
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def says_the_type(handler):
    return f"type({handler.name}).__name__" in ast.unparse(handler)


def test_what_catches_all_errors_lets_the_end_of_memory_through():
    """A handler of all errors names a damaged file or the like; memory that ends must not be called that.

    So it raises the same error again, comes after a handler that does so with MemoryError, or says the error's type,
    as workers do of a cell and the registry of a plugin.
    """
    wrong = []
    for name, file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            passed = False
            for handler in getattr(node, "handlers", []):
                passed = passed or ("MemoryError" in caught(handler) and raises_again(handler))
                broad = caught(handler) & {"Exception", "BaseException"}
                if broad and not (passed or raises_again(handler) or says_the_type(handler)):
                    wrong.append(f"{name}:{handler.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                hidden = {ast.unparse(kind) for kind in node.args} & {"Exception", "BaseException", "MemoryError"}
                wrong += [f"{name}:{node.lineno}"] if hidden else []
    assert wrong == []
