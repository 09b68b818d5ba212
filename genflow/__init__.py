"""genflow: Poisson flow, score SDEs and stochastic interpolants behind one interface, compared on equal terms.

`import genflow` is lazy: torch is imported by the first call that needs it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of `typing`, whose import would delay the moment from which Ctrl-C ends quietly
if TYPE_CHECKING:
    from typing import Any

    from genflow.backbone.base import Backbone
    from genflow.checkpoint import load
    from genflow.data.base import Dataset
    from genflow.likelihood import log_likelihood
    from genflow.process.base import Process
    from genflow.sampling import sample
    from genflow.solver.base import Solver
    from genflow.training import train

__version__ = "0.1.0"
__all__ = [
    "get_backbone",
    "get_dataset",
    "get_process",
    "get_solver",
    "load",
    "log_likelihood",
    "sample",
    "train",
]

_LAZY = {
    "sample": "genflow.sampling",
    "log_likelihood": "genflow.likelihood",
    "load": "genflow.checkpoint",
    "train": "genflow.training",
}


def _get(plural: str, name: str, options: dict[str, Any]) -> Any:
    from genflow.registry import registries

    return registries()[plural].get(name, **options)


def get_process(name: str, **options: Any) -> Process:
    """A process by its registered name, e.g. `get_process("pfgm", dim=64, norm=6.0)`.

    Raises:
        ValueError: Unknown name or option (the nearest is named), or a value the process refuses.
    """
    found: Process = _get("processes", name, options)
    return found


def get_backbone(name: str, **options: Any) -> Backbone:
    """A backbone by its registered name, e.g. `get_backbone("ncsnv2", shape=(1, 8, 8), extra_channels=1)`."""
    found: Backbone = _get("backbones", name, options)
    return found


def get_solver(name: str, **options: Any) -> Solver:
    """A solver by its registered name, e.g. `get_solver("rk45", rtol=1e-5)`."""
    found: Solver = _get("solvers", name, options)
    return found


def get_dataset(name: str, **options: Any) -> Dataset:
    """A data set by its registered name, e.g. `get_dataset("digits")`."""
    found: Dataset = _get("datasets", name, options)
    return found


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "registry":
        import importlib

        return importlib.import_module("genflow.registry")
    raise AttributeError(f"module 'genflow' has no attribute '{name}'")
