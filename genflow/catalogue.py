"""Objects by their registered names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genflow.memory import TO_WORK, check_weights, is_out_of_memory, limit_left
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
    """A backbone by its registered name, e.g. `get_backbone("ncsnv2", shape=(1, 8, 8), extra_channels=1)`.

    Raises:
        ValueError: Unknown name or option, a value the backbone refuses, or more parameters than there is memory for.
    """
    registry = registries()["backbones"]
    if registry.entry(name).origin == "genflow":
        _check_room(name, options)
    return registry.get(name, **options)


def _check_room(name: str, options: Mapping[str, Any]) -> None:
    """Refuses a network that is too large, by its parameters counted without making any.

    Raises:
        ValueError: There is no memory for it.
    """
    import torch

    values = ", ".join(f"{k} = {v!r}" for k, v in options.items() if k not in ("shape", "extra_channels"))
    what = f"backbone '{name}'{f' with {values}' if values else ''}"
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = registries()["backbones"].get(name, **options)
    except RuntimeError as error:
        if not is_out_of_memory(error) or limit_left() < TO_WORK:
            raise
        raise ValueError(f"{what} is too large for any machine; take a smaller one") from error
    check_weights(what, sum(p.numel() for p in network.parameters()), 4)


def get_solver(name: str, **options: Any) -> Solver:
    """A solver by its registered name, e.g. `get_solver("rk45", rtol=1e-5)`."""
    return registries()["solvers"].get(name, **options)


def get_dataset(name: str, **options: Any) -> Dataset:
    """A data set by its registered name, e.g. `get_dataset("digits")`."""
    return registries()["datasets"].get(name, **options)
