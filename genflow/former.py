"""Former names of modules and of what they hold: they work for one version, with a warning."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "genflow.control": "genflow.inpainting",
    "genflow.doctor": "genflow.commands.doctor",
    "genflow.published": "genflow.convert",
    "genflow.data.archives": "genflow.data.sources",
    "genflow.data.array_files": "genflow.data.image_arrays",
    "genflow.data.files": "genflow.data.downloads",
    "genflow.data.images": "genflow.data.own_images",
    "genflow.data.pictures": "genflow.data.image_files",
    "genflow.data.published_tables": "genflow.data.maf_tables",
    "genflow.data.small_tables": "genflow.data.sklearn_tables",
    "genflow.data.tables": "genflow.data.table_files",
}
"""Former module -> what it is called now; modules below it keep their own names."""

_CHECKS = dict.fromkeys(("require", "is_count", "is_number", "is_positive", "is_above"), "genflow.checks")
_FREE_HEADS = dict.fromkeys(
    ("FREE_HEADS", "FreeVelocity", "VelocityDenoiser", "VelocityScore"), "genflow.process.free_heads"
)
_SHAPES = dict.fromkeys(("over", "like_rows", "dimension"), "genflow.process.shapes")
NAMES = {
    "genflow.data.decoding": {"Recipe": "genflow.data.decoding:Decoder"},
    "genflow.data.downloads": {"Published": "genflow.data.downloads:DataFile"},
    "genflow.data.table_files": {"Table": "genflow.data.table_files:TableDataset"},
    "genflow.inpainting": {"Known": "genflow.inpainting:Measurement"},
    "genflow.process.base": {**_CHECKS, **_SHAPES},
    "genflow.process.heads": _FREE_HEADS,
    "genflow.solver.base": {
        "CallableField": "genflow.solver.fields",
        "Scheduled": "genflow.solver.fields",
        "scheduled": "genflow.solver.fields",
        "sample_generator": "genflow.solver.noise",
    },
}
"""Module -> names that it no longer has, and the module that has them, with ":NAME" where that is another."""


def current(name: str) -> str | None:
    """What a former module is called now; None for any other."""
    old = next((old for old in MODULES if name == old or name.startswith(f"{old}.")), None)
    return None if old is None else MODULES[old] + name[len(old) :]


class _Loader:
    """Makes a former module, whose attributes are those of the module under its present name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        now = current(spec.name)
        warnings.warn(f"{spec.name} is now {now}; the old name goes with the next version", FutureWarning, stacklevel=2)
        module, real = ModuleType(spec.name), importlib.import_module(str(now))
        module.__path__ = []  # else modules below it would be found, and run, a second time
        module.__getattr__ = lambda name: getattr(real, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def spec_of(name: str) -> ModuleSpec | None:
    """How a former module is imported; None for any other name."""
    now = current(name)
    if now is None or importlib.util.find_spec(now) is None:
        return None
    return ModuleSpec(name, _Loader(), is_package=True)  # type: ignore[arg-type]


def moved(module: str) -> Callable[[str], Any]:
    """A module's `__getattr__` for the names that have left it."""

    def find(name: str) -> Any:
        place = NAMES[module].get(name)
        if place is None:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        owner, _, now = place.partition(":")
        text = f"{module}.{name} is now {owner}.{now or name}; the old name goes with the next version"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return getattr(importlib.import_module(owner), now or name)

    return find
