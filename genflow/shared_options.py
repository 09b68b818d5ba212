"""A field of a configuration class, and the fields that several classes share. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from genflow.accelerators import AUTO, chosen


def option(default: Any, help: str, *, above: float | None = None, least: float | None = None, **more: Any) -> Any:
    """A field with its help text and range (`above` is exclusive, `least` inclusive; for lists, of each entry)."""
    metadata = {"help": help, "above": above, "least": least, **more}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


def interval_option() -> Any:
    """The option `guidance_interval` of a command."""
    return option((), "LOW,HIGH: noise levels σ in data units between which guidance acts; elsewhere w is 1", least=0)


def reference_option() -> Any:
    """The option `reference` of a command."""
    return option("", "file of reference statistics (genflow statistics) in place of the training split's", place=True)


def check_interval(guidance: float, interval: Sequence[float], guide: object) -> None:
    """Raises ValueError for an interval that is none, or parts of guidance where there is no guidance."""
    if interval and (len(interval) != 2 or interval[0] >= interval[1]):
        shown = ",".join(f"{level:g}" for level in interval)
        raise ValueError(f"guidance_interval = {shown} is not an interval; give LOW,HIGH with LOW below HIGH")
    for name, given in {"guidance_interval": interval, "guide": guide}.items():
        if given and guidance == 1:
            raise ValueError(f"{name} was given, but guidance = 1 is none; give --guidance W, e.g. 2")


PRECISION_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What layers may compute in, as people spell it and by torch's name; either may be given."""


def precision_name(word: str) -> str:
    """Torch's name of a precision; another word as it is."""
    return PRECISION_NAMES.get(word, word)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How a network is executed; see `genflow.devices.Execution`."""

    precision: str = option(
        "float32",
        "of the network: fp32, bf16 or fp16 (also float32, bfloat16, float16)",
        among=(*PRECISION_NAMES, *PRECISION_NAMES.values()),
    )
    channels_last: bool = option(False, "keep image channels innermost in memory")
    compile: bool = option(False, "compile the network with torch.compile")
    tf32: bool = option(False, "TensorFloat-32 products on a GPU")

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_name(self.precision))


def device_option() -> Any:
    """The option `device` of a command; "auto" is settled by `chosen` where the configuration is made."""
    return option(AUTO, "torch device; auto is the first of cuda, mps and cpu that is here")


@dataclass(frozen=True, kw_only=True)
class TrainedNetworkConfig(NetworkConfig):
    """The same for a network that is trained, and where it runs."""

    cuda_graphs: bool = option(False, "compile the network to CUDA graphs")
    device: str = device_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "device", chosen(self.device))

    @property
    def network(self) -> dict[str, Any]:
        """The options of its execution, by name."""
        names = (f.name for f in dataclasses.fields(TrainedNetworkConfig) if f.name != "device")
        return {name: getattr(self, name) for name in names}
