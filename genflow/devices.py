"""Torch devices: which are there, and the ways to run a network faster that leave its numbers alone or nearly so."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genflow.checks import require
from genflow.memory import check_limit

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What the layers of a network may compute in; its weights, its input and its output stay as they are."""

COMPILERS = ("g++", "clang++", "c++", "cl")


def check_device(name: str) -> None:
    """Raises ValueError for a torch device that is not there, with those that are; MemoryError where none is left."""
    check_limit()
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        float(torch.zeros(1, device=name))  # "meta" is there, but holds no numbers
    except (RuntimeError, AssertionError):
        raise ValueError(f"device = '{name}' is not here; found: {', '.join(found)}") from None


@dataclass(frozen=True)
class Fast:
    """How a network is run. The defaults are plain float32, and what is measured against.

    Arguments:
        precision: "float32", or layers in "bfloat16" or "float16" by autocast. float16 overflows in training without
            the `loss_scaler`.
        channels_last: Weights and maps of images with the channels next to each other in memory.
        compile: `torch.compile` the network; needs a C++ compiler on a CPU, and Triton on a GPU.
        tf32: Let a GPU multiply float32 with 10 bits of mantissa. False forbids it, also where torch's own default
            allows it (convolutions). No effect on a CPU.
        cuda_graphs: Compile it to CUDA graphs, which spare a small network the launches of its kernels. A CUDA device
            only. While gradients are recorded, each call must be followed by its backward pass before the next.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        require("Fast", {"precision": (self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))})

    def why_not(self, device: str) -> str | None:
        """None where this device can do it, else the reason and what to do."""
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


def prepare(backbone: nn.Module, fast: Fast, device: str) -> Prepared:
    """The network on a device as `fast` says: a callable like itself, with its attributes.

    The network itself stays the owner of its weights, under their names: train, save and average that one, and call
    the one that comes back. channels_last lays its weights out anew, in place.

    Raises:
        ValueError: The device can not do it (`Fast.why_not`).
    """
    reason = fast.why_not(device)
    if reason:
        raise ValueError(reason)
    backbone.to(device)
    if fast.channels_last or torch.device(device).type != "cpu":  # on a CPU a backbone has the layout that suits it
        backbone.to(memory_format=torch.channels_last if fast.channels_last else torch.contiguous_format)
    return Prepared(backbone, fast, torch.device(device).type)


class Prepared:
    """A network that is called as `fast` says; everything but the call is the network's own, or its `module`'s where
    it is wrapped (DistributedDataParallel).

    The output has x's dtype, so that losses, velocities and steps are computed in it whatever the layers use. A
    network in float64 keeps to it: autocast is for float32.

    Arguments:
        network: A backbone on its device.
        fast: How it is run.
        kind: The device's type, "cpu" or "cuda".
    """

    def __init__(self, network: nn.Module, fast: Fast, kind: str) -> None:
        self.network, self.fast, self.kind = network, fast, kind
        self._call: Any = network
        if fast.compile or fast.cuda_graphs:
            self._call = torch.compile(network, mode="reduce-overhead" if fast.cuda_graphs else None)

    def __call__(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        inner = x.contiguous(memory_format=torch.channels_last) if self.fast.channels_last and x.ndim == 4 else x
        inputs = (inner, condition) if labels is None else (inner, condition, labels)
        dtype = PRECISIONS[self.fast.precision]
        if self.fast.cuda_graphs and not torch.is_grad_enabled():
            torch.compiler.cudagraph_mark_step_begin()
        with multiplying(self.fast), torch.autocast(self.kind, dtype=dtype, enabled=dtype is not None):
            output = self._call(*inputs)
        output = output.to(x.dtype).contiguous()
        return output.clone() if self.fast.cuda_graphs else output  # a graph writes its next output to the same place

    def __getattr__(self, name: str) -> Any:
        if name == "network":  # before __init__ has run
            raise AttributeError(name)
        own = hasattr(self.network, name)
        return getattr(self.network if own else getattr(self.network, "module", self.network), name)


@contextmanager
def multiplying(fast: Fast) -> Iterator[None]:
    """TF32 as `fast` says, and as it was afterwards. Training puts it around the backward pass as well."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def loss_scaler(fast: Fast, device: str) -> torch.amp.GradScaler:
    """What training scales its loss by before the backward pass: it does nothing except for float16."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=fast.precision == "float16")
