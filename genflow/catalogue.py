"""Objects by their registered names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genflow.registry import registries

if TYPE_CHECKING:
    from genflow.backbone.base import Backbone
    from genflow.data.base import Dataset
    from genflow.process.base import Process
    from genflow.solver.base import Solver


def get_process(name: str, **options: Any) -> Process:
    """A process by its registered name, e.g. `get_process("pfgm", dim=64, norm=6.0)`.

    Raises:
        ValueError: Unknown name or option (the nearest is named), or a value the process refuses.
    """
    return registries()["processes"].get(name, **options)


def get_backbone(name: str, **options: Any) -> Backbone:
    """A backbone by its registered name, e.g. `get_backbone("ncsnv2", shape=(1, 8, 8), extra_channels=1)`."""
    return registries()["backbones"].get(name, **options)


def get_solver(name: str, **options: Any) -> Solver:
    """A solver by its registered name, e.g. `get_solver("rk45", rtol=1e-5)`."""
    return registries()["solvers"].get(name, **options)


def get_dataset(name: str, **options: Any) -> Dataset:
    """A data set by its registered name, e.g. `get_dataset("digits")`."""
    return registries()["datasets"].get(name, **options)
