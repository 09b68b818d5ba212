"""Torch devices, and faster ways to execute a network that leave its numbers the same or nearly so."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genflow.checks import require
from genflow.memory import check_limit

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What layers may compute in; weights, input and output keep their own dtype."""

COMPILERS = ("g++", "clang++", "c++", "cl")


def check_device(name: str) -> None:
    """Raises ValueError for a torch device that is not available, with those that are; MemoryError without memory."""
    check_limit()
    claim_card(name)
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        float(torch.zeros(1, device=name))  # "meta" exists, but holds no numbers
    except (RuntimeError, AssertionError):
        raise ValueError(f"device = '{name}' is not available; found: {', '.join(found)}") from None


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def claim_card(device: str) -> None:
    """Makes this rank's card the current one, where torchrun started several and the device is CUDA.

    Done before anything else is asked of CUDA, so that no rank opens a context on the first card beside its own.
    """
    if launched() and device.startswith("cuda"):
        if device != "cuda":
            raise ValueError(f"device = '{device}' would be shared by all ranks; give device = 'cuda', one card a rank")
        torch.cuda.set_device(local_rank())


def launched() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True)
class Execution:
    """How a network is executed. The default is plain float32, the reference for every other way.

    Arguments:
        precision: "float32", or layers in "bfloat16" or "float16" by autocast. In training float16 overflows without
            the `loss_scaler`.
        channels_last: Lay out weights and maps of images with the channels adjacent in memory.
        compile: `torch.compile` the network; needs a C++ compiler on a CPU, and Triton on a GPU.
        tf32: Let a GPU multiply float32 with 10 bits of mantissa. False forbids it even where torch allows it by
            default (convolutions). No effect on a CPU.
        cuda_graphs: Compile to CUDA graphs, which save a small network the launches of its kernels. CUDA only. While
            gradients are recorded, each call must be followed by its backward pass before the next.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        require("Execution", {"precision": (self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))})

    def why_not(self, device: str) -> str | None:
        """None where the device supports it, else the reason and what to do."""
        kind = torch.device(device).type
        if self.cuda_graphs and kind != "cuda":
            return f"cuda_graphs needs a CUDA device, and this is '{device}'; leave it out"
        if not (self.compile or self.cuda_graphs):
            return None
        if kind == "cuda" and importlib.util.find_spec("triton") is None:
            return "compile needs Triton on a CUDA device, which is not installed; install triton, or leave it out"
        if kind == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
            return (
                f"compile needs a C++ compiler on a CPU, and none of {', '.join(COMPILERS)} is on the PATH; install "
                "one (Debian: apt install g++), name one in the variable CXX, or leave compile out"
            )
        return None


def prepare(backbone: nn.Module, execution: Execution, device: str) -> Prepared:
    """The network on a device, ready to be called in a given way, with its attributes.

    The network itself still owns its weights, under their names: train, save and average the network, and call what
    this returns. channels_last changes the layout of its weights in place.

    Raises:
        ValueError: The device does not support it (`Execution.why_not`).
    """
    reason = execution.why_not(device)
    if reason:
        raise ValueError(reason)
    kind = torch.device(device).type
    backbone.to(device)
    if execution.channels_last or kind != "cpu":  # on a CPU a backbone keeps the layout that suits it
        backbone.to(memory_format=torch.channels_last if execution.channels_last else torch.contiguous_format)
    return Prepared(backbone, execution, kind)


class Prepared:
    """A network that is called as an `Execution` says. Its attributes are the network's, or those of its `module`
    where it is wrapped (DistributedDataParallel).

    The output has x's dtype, so losses, velocities and steps are computed in that dtype whatever the layers use. A
    network in float64 stays in float64: autocast is for float32.

    Arguments:
        network: A backbone on its device.
        execution: How it is called.
        kind: The device's type, "cpu" or "cuda".
    """

    def __init__(self, network: nn.Module, execution: Execution, kind: str) -> None:
        self.network, self.execution, self.kind = network, execution, kind
        self._call: Any = network
        if execution.compile or execution.cuda_graphs:
            self._call = torch.compile(network, mode="reduce-overhead" if execution.cuda_graphs else None)

    def __call__(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        inner = x.contiguous(memory_format=torch.channels_last) if self.execution.channels_last and x.ndim == 4 else x
        inputs = (inner, condition) if labels is None else (inner, condition, labels)
        dtype = PRECISIONS[self.execution.precision]
        if self.execution.cuda_graphs and not torch.is_grad_enabled():
            torch.compiler.cudagraph_mark_step_begin()
        with multiplying(self.execution), torch.autocast(self.kind, dtype=dtype, enabled=dtype is not None):
            output = self._call(*inputs)
        output = output.to(x.dtype).contiguous()
        return output.clone() if self.execution.cuda_graphs else output  # a graph reuses the memory of its output

    def __getattr__(self, name: str) -> Any:
        if name == "network":  # before __init__ has run
            raise AttributeError(name)
        own = hasattr(self.network, name)
        return getattr(self.network if own else getattr(self.network, "module", self.network), name)


@contextmanager
def multiplying(execution: Execution) -> Iterator[None]:
    """Sets TF32 for a block and restores it afterwards. Training needs it around the backward pass too."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = execution.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def loss_scaler(execution: Execution, device: str) -> torch.amp.GradScaler:
    """The scaler of the loss before the backward pass; it acts for float16 only."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=execution.precision == "float16")


def __getattr__(name: str) -> Any:
    if name != "Fast":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "genflow.devices.Fast is now Execution; the old name is removed in the next version", FutureWarning, 2
    )
    return Execution
