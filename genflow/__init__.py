"""genflow: Poisson flow, score SDEs and stochastic interpolants behind one interface, compared on equal terms.

`import genflow` is lazy: torch is imported by the first call that needs it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # that of `typing`, whose import would delay the moment from which Ctrl-C ends quietly
if TYPE_CHECKING:
    from typing import Any

    from genflow.catalogue import get_backbone, get_dataset, get_process, get_solver
    from genflow.checkpoint import load
    from genflow.likelihood import log_likelihood
    from genflow.sampling import sample
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
    "get_backbone": "genflow.catalogue",
    "get_dataset": "genflow.catalogue",
    "get_process": "genflow.catalogue",
    "get_solver": "genflow.catalogue",
    "sample": "genflow.sampling",
    "log_likelihood": "genflow.likelihood",
    "load": "genflow.checkpoint",
    "train": "genflow.training",
}


class _FormerModules:
    """Asked last of all for a module that nothing finds: it may have another name now."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith("genflow."):
            return None
        from genflow.former import spec_of

        return spec_of(name)


sys.meta_path.append(_FormerModules)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "registry":
        import importlib

        return importlib.import_module("genflow.registry")
    raise AttributeError(f"module 'genflow' has no attribute '{name}'")
