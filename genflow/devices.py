"""Torch devices, and faster ways to execute a network that leave its numbers the same or nearly so."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genflow import accelerators
from genflow.checks import require
from genflow.memory import check_limit
from genflow.shared_options import precision_name

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What layers may compute in; weights, input and output keep their own dtype."""

COMPILERS = ("g++", "clang++", "c++", "cl")


def check_device(name: str) -> None:
    """Raises ValueError for a torch device that is not available, with those that are and why others are missing;
    MemoryError without memory."""
    check_limit()
    claim_card(name)
    try:
        float(torch.zeros(1, device=name))  # "meta" exists, but holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        missing = "".join(f"; no {reason}" for reason in accelerators.missing() if reason.startswith(name[:3]))
        here = ", ".join(accelerators.found())
        raise ValueError(f"device = '{name}' is not available; found: {here}{missing}") from None


def device_of(
    network: Any,
    asked: str | torch.device | None = None,
    owner: str = "sample",
    default: str | torch.device = "cpu",
) -> torch.device:
    """Where a network computes, which is where its states must be.

    Arguments:
        network: A module, or any callable; one without parameters computes wherever its input is.
        asked: The device that the caller wants; None takes the network's own.
        owner: Who asks, for the message.
        default: Where one without parameters computes if nothing is asked.

    Raises:
        ValueError: The network is elsewhere.
    """
    parameters = getattr(network, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    if first is None:
        return torch.device(default if asked is None else asked)
    wanted = first.device if asked is None else torch.device(asked)
    if wanted.type != first.device.type or wanted.index not in (None, first.device.index):
        raise ValueError(
            f"{owner}: the network is on {first.device} and device = '{asked}'; move it with network.to('{asked}'), "
            "or leave device out"
        )
    return first.device


def synchronise(device: str | torch.device) -> None:
    """Waits until a device has done what it was given, so that a clock on the host measures it."""
    found = torch.device(device)
    if found.type == "cuda":
        torch.cuda.synchronize(found)
    elif found.type == "mps":
        torch.mps.synchronize()


@contextmanager
def network_clock(network: Any, device: str) -> Iterator[Callable[[], float | None]]:
    """Times the calls of a network within a block.

    Yields a function that gives their seconds so far: by the host's clock on a CPU, by the card's own on CUDA. None for
    compiled networks, whose calls cannot be watched, and on other devices.
    """
    kind, owner = torch.device(device).type, getattr(network, "network", network)
    compiled = getattr(network, "_plain", owner) is not owner or getattr(network, "_graphed", None) is not None
    if compiled or kind not in ("cpu", "cuda") or not isinstance(owner, nn.Module):
        yield lambda: None
        return
    marks: list[Any] = []

    def mark(*_: Any) -> None:
        marks.append(torch.cuda.Event(enable_timing=True) if kind == "cuda" else time.perf_counter())
        if kind == "cuda":
            marks[-1].record()

    def seconds() -> float:
        synchronise(device)
        pairs = list(zip(marks[::2], marks[1::2], strict=False))
        return math.fsum(a.elapsed_time(b) / 1000 if kind == "cuda" else b - a for a, b in pairs)

    hooks = [owner.register_forward_pre_hook(mark), owner.register_forward_hook(mark)]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


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
        precision: "float32" (fp32), or layers in "bfloat16" (bf16) or "float16" (fp16) by autocast. In training
            float16 overflows without the `loss_scaler`.
        channels_last: Lay out weights and maps of images with the channels adjacent in memory.
        compile: `torch.compile` the network; needs a C++ compiler on a CPU, and Triton on a GPU.
        tf32: Let a GPU multiply float32 with 10 bits of mantissa, in the network and around it, forwards and backwards
            (`computing`). False forbids it even where torch allows it by default (convolutions). No effect on a CPU.
        cuda_graphs: Compile to CUDA graphs, which save a small network the launches of its kernels. CUDA only. In
            training each call must be followed by its backward pass before the next; a network in eval mode runs
            without them where gradients are recorded, since a second backward pass would overwrite the first's.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_name(self.precision))
        require("Execution", {"precision": (self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))})

    def why_not(self, device: str) -> str | None:
        """None where the device supports it, else the reason and what to do."""
        kind = torch.device(device).type
        if self.cuda_graphs and kind != "cuda":
            return f"cuda_graphs needs a CUDA device, and this is '{device}'; leave it out"
        if self.precision == "bfloat16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
            return f"bfloat16 is not supported by {torch.cuda.get_device_name(device)}; take fp16 or fp32"
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

    @property
    def words(self) -> str:
        """For protocols: how the network is run, "" for plain float32."""
        parts = {
            self.precision: self.precision != "float32",
            "TF32": self.tf32,
            "channels last": self.channels_last,
            "compiled": self.compile and not self.cuda_graphs,
            "CUDA graphs": self.cuda_graphs,
        }
        said = [word for word, so in parts.items() if so]
        return f"network in {', '.join(said)}" if said else ""


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


def trained_network(backbone: nn.Module, execution: Execution, device: str) -> Any:
    """A network whose weights no longer change, on a device and ready to be called; itself where nothing is to be done.

    Weights that a lower precision would convert at every call are converted once, in a copy: the numbers are the same.

    Raises:
        ValueError: The device does not support it (`Execution.why_not`).
    """
    if execution == Execution() and torch.device(device).type == "cpu":
        return backbone
    ready, dtype = prepare(backbone, execution, device), PRECISIONS[execution.precision]
    return ready if dtype is None else Prepared(converted(backbone, dtype), execution, ready.kind)


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights autocast converts."""


def converted(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network in eval mode whose layers hold the weights that autocast would convert them to."""
    copied = copy.deepcopy(network).requires_grad_(False)
    for layer in copied.modules():
        if isinstance(layer, LAYERS) and not hasattr(layer, "parametrizations"):
            for name, weight in layer.named_parameters(recurse=False):
                if weight.dtype == torch.float32:  # autocast leaves float64 alone
                    setattr(layer, name, nn.Parameter(weight.to(dtype), requires_grad=False))
    return copied


class Prepared:
    """A network that is called as an `Execution` says. Its attributes are the network's, or those of its `module`
    where it is wrapped (DistributedDataParallel).

    The output has x's dtype, so losses, velocities and steps are computed in that dtype whatever the layers use. A
    network in float64 stays in float64: autocast is for float32.

    Arguments:
        network: A backbone on its device.
        execution: How it is called.
        kind: The device's type: "cpu", "cuda" or "mps".
    """

    def __init__(self, network: nn.Module, execution: Execution, kind: str) -> None:
        self.network, self.execution, self.kind = network, execution, kind
        compiled = execution.compile or execution.cuda_graphs
        self._plain: Any = torch.compile(network, mode=None) if compiled else network
        self._graphed: Any = torch.compile(network, mode="reduce-overhead") if execution.cuda_graphs else None

    def __call__(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        inner = x.contiguous(memory_format=torch.channels_last) if self.execution.channels_last and x.ndim == 4 else x
        inputs = (inner, condition) if labels is None else (inner, condition, labels)
        dtype, alone = PRECISIONS[self.execution.precision], not torch.is_grad_enabled()
        # a trained network's gradients are a likelihood's, which may take several backward passes of one call
        graphed = self._graphed is not None and (alone or self.network.training)
        compiling = nullcontext() if self._plain is self.network or self.network.training else _without_donation()
        if graphed and alone:
            torch.compiler.cudagraph_mark_step_begin()
        with multiplying(self.execution), compiling, torch.autocast(self.kind, dtype=dtype, enabled=dtype is not None):
            output = (self._graphed if graphed else self._plain)(*inputs)
        output = output.to(x.dtype).contiguous()
        return output.clone() if graphed else output  # a graph reuses the memory of its output

    def __getattr__(self, name: str) -> Any:
        if name == "network":  # before __init__ has run
            raise AttributeError(name)
        own = hasattr(self.network, name)
        return getattr(self.network if own else getattr(self.network, "module", self.network), name)


def _without_donation() -> Any:
    """A block in which a network is compiled so that its backward pass leaves the memory that a second one needs."""
    from torch._functorch import config

    return config.patch(donated_buffer=False)


_SET: list[bool] = []
"""TF32 as the blocks of `multiplying` that are open have set it, the innermost last."""


@contextmanager
def multiplying(execution: Execution) -> Iterator[None]:
    """Sets TF32 for a block, through torch's old and new switches alike, and restores both afterwards."""
    if _SET[-1:] == [execution.tf32]:
        yield
        return
    switches, before = _switches(), _read_switches()
    _SET.append(execution.tf32)
    try:
        for _, write, values in switches.values():
            write(values[execution.tf32])
        yield
    finally:
        _SET.pop()
        for name, value in before.items():
            switches[name][1](value)


Switch = tuple[Callable[[], Any], Callable[[Any], None], tuple[Any, Any]]
"""A switch of torch: how it is read and written, and what it says without and with TF32."""


def _switches() -> dict[str, Switch]:
    """All switches of float32's precision: the old ones, then those of torch 2.9 and later, parents before parts."""
    backends = torch.backends
    old: dict[str, Switch] = {
        "matmul": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest", "high")),
        "cudnn": (lambda: backends.cudnn.allow_tf32, partial(setattr, backends.cudnn, "allow_tf32"), (False, True)),
    }
    if not hasattr(backends.cudnn, "conv"):
        return old
    new = {"cuda.matmul": backends.cuda.matmul, "cuda.conv": backends.cudnn.conv, "cuda.rnn": backends.cudnn.rnn}
    new |= {f"mkldnn.{op}": getattr(backends.mkldnn, op) for op in ("matmul", "conv", "rnn")}
    return old | {
        name: (partial(getattr, one, "fp32_precision"), partial(setattr, one, "fp32_precision"), ("ieee", "tf32"))
        for name, one in new.items()
    }


def _read_switches() -> dict[str, Any]:
    """What every switch says. Torch refuses to read an old one that a new one contradicts: then the new ones are set
    to what it may say, until it can be read."""
    switches, found, refused = _switches(), {}, []
    parents = {"cuda": torch.backends.cudnn, "mkldnn": torch.backends.mkldnn}
    for name, (read, *_) in switches.items():
        try:
            value = read()
        except RuntimeError:
            refused.append(name)
            continue
        parent = parents.get(name.partition(".")[0]) if "." in name else None
        found[name] = "none" if parent is not None and value == parent.fp32_precision else value  # it is inherited
    for name in refused:
        found = {name: _reconciled(switches, switches[name][0])} | found
    return found


def _reconciled(switches: Mapping[str, Switch], read: Callable[[], Any]) -> Any:
    for cuda, mkldnn in (("ieee", "ieee"), ("tf32", "tf32"), ("tf32", "bf16")):
        for name, (_, write, _) in switches.items():
            if "." in name:
                write(mkldnn if name.startswith("mkldnn.m") else cuda)
        with suppress(RuntimeError):
            return read()
    raise RuntimeError("torch's switches of float32's precision contradict one another in an unknown way")


@contextmanager
def computing(network: Any) -> Iterator[None]:
    """The block of a computation with a network, its process's own products and its gradients among it: TF32 is as the
    network's `Execution` says, and off for a network without one. A compiled network may be differentiated twice."""
    found = getattr(network, "execution", None)
    execution = found if isinstance(found, Execution) else Execution()
    compiled = execution.compile or execution.cuda_graphs
    with multiplying(execution), _without_donation() if compiled else nullcontext():
        yield


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
