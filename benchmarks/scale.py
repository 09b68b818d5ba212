"""What CIFAR-10 at the published budget takes on one H100 and on eight: the figures of docs/scale.md.

    python benchmarks/scale.py

No device is needed. The networks of the published settings are built on torch's meta device, and their FLOPs (by
torch.utils.flop_counter), operations and bytes are counted there, forward and backward. Times follow from the card's
data sheet and from the shares of it named in `ASSUMED`; they are estimates, the counts are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import genflow

CONFIGS = Path(__file__).parents[1] / "configs" / "reproduce"
NETWORKS = {"DDPM++ (PFGM)": "pfgm_cifar10_full.yaml", "DDPM++ (VP)": "sde_cifar10_full.yaml"}
NETWORKS |= {"NCSN++ (VE)": "sde_pc_ve_full.yaml"}

PEAK = {"float32": 67e12, "tf32": 494e12, "bfloat16": 989e12}
"""FLOP/s of an H100 SXM, dense."""
MEMORY, LINK, BUS = 3.35e12, 450e9, 55e9
"""Bytes/s of its memory, of NVLink in one direction, and of PCIe 5."""
ASSUMED = {"arithmetic": 0.5, "memory": 0.8, "link": 0.8, "launch": 5e-6}
"""Shares of those that a well-written kernel reaches, and seconds to launch a kernel from Python."""
SHAPE, IMAGES, SAMPLES, DIM = (3, 32, 32), 50_000, 50_000, 3072
NFE = {"rk45 of PFGM (published mean)": 110, "rk45 of VP ODE (published mean)": 134, "heun, 35 calls": 35}
NFE |= {"heun or euler, 10 calls": 10, "euler_maruyama, 1000 calls": 1000, "pc, 2000 calls": 2000}
FREE = {
    "view",
    "_unsafe_view",
    "expand",
    "slice",
    "select",
    "detach",
    "t",
    "transpose",
    "permute",
    "unsqueeze",
    "alias",
}
FREE |= {"squeeze", "as_strided", "split", "empty_like", "empty", "split_with_sizes", "unbind", "new_empty_strided"}
"""Operations that launch nothing."""


class Operations(TorchDispatchMode):
    """Counts operations that launch kernels, and the bytes that they read and write when none is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in FREE:
            self.count += 1
            seen = (v for v in tree_leaves((args, kwargs, found)) if isinstance(v, torch.Tensor))
            self.bytes += sum(v.numel() * v.element_size() for v in seen)
        return found


@dataclass
class Cost:
    """Of one network: parameters; FLOPs and unfused bytes of an image, forward and in training; operations; bytes of
    activations that wait for the backward pass, an image."""

    parameters: int
    forward: float
    training: float
    forward_bytes: float
    training_bytes: float
    forward_kernels: int
    training_kernels: int
    kept: float


def cost(config: dict[str, Any], batch: int = 8) -> Cost:
    """Counts a network of a configuration on the meta device."""
    name = config["backbone"]
    options = config["backbone_options"][name]
    process = genflow.get_process(config["process"][0])
    with torch.device("meta"):
        network = genflow.get_backbone(name, shape=SHAPE, extra_channels=process.extra_channels, **options)
        x, t = torch.empty(batch, *SHAPE), torch.empty(batch)
    network.train()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Operations() as ahead:
        network(x, t)
    forward, kept = flops.get_total_flops(), {}

    def keep(v: torch.Tensor) -> torch.Tensor:
        if not isinstance(v, torch.nn.Parameter):
            kept[v.untyped_storage()._cdata] = (v, v.numel() * v.element_size())  # held, so that no number comes twice
        return v

    with FlopCounterMode(display=False) as flops, Operations() as both:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
            loss = network(x, t).square().mean()
        loss.backward()
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        forward=forward / batch,
        training=flops.get_total_flops() / batch,
        forward_bytes=ahead.bytes / batch,
        training_bytes=both.bytes / batch,
        forward_kernels=ahead.count,
        training_kernels=both.count,
        kept=sum(size for _, size in kept.values()) / batch,
    )


def seconds(flops: float, size: float, kernels: int, precision: str) -> tuple[float, str]:
    """Time of some work, and what bounds it: the slowest of arithmetic, memory and launches."""
    parts = {
        "arithmetic": flops / (PEAK[precision] * ASSUMED["arithmetic"]),
        "memory": size * (0.5 if precision == "bfloat16" else 1.0) / (MEMORY * ASSUMED["memory"]),
        "launches": kernels * ASSUMED["launch"],
    }
    which = max(parts, key=lambda name: parts[name])
    return parts[which], which


def table(*rows: tuple[object, ...]) -> None:
    for i, row in enumerate(rows):
        print("| " + " | ".join(map(str, row)) + " |")
        if not i:
            print("|" + "---|" * len(row))
    print()


def field(rows: int, references: int, dim: int = DIM) -> tuple[float, float]:
    """FLOPs of a field target, two products, and the bytes that the references take as float32."""
    return 4.0 * rows * references * dim, 4.0 * references * dim


def main() -> None:
    configs = {label: yaml.safe_load((CONFIGS / name).read_text()) for label, name in NETWORKS.items()}
    costs = {label: cost(config) for label, config in configs.items()}
    train = configs["DDPM++ (PFGM)"]["train"]
    steps, batch = train["steps"], train["batch_size"]
    print("## The networks\n")
    head = ("network", "parameters", "GFLOP forward", "GFLOP training", "MB kept", "operations forward, training")
    table(
        head,
        *(
            (
                label,
                f"{c.parameters / 1e6:.1f} M",
                f"{c.forward / 1e9:.1f}",
                f"{c.training / 1e9:.1f}",
                f"{c.kept / 1e6:.0f}",
                f"{c.forward_kernels}, {c.training_kernels}",
            )
            for label, c in costs.items()
        ),
    )
    print(f"## Training, {steps - 1:,} steps of {batch} images\n")
    rows: list[tuple[object, ...]] = [("network", "precision", "cards", "ms a step", "bound by", "days", "GB a card")]
    for label, c in costs.items():
        for precision in PEAK:
            for cards in (1, 8):
                own = batch / cards
                work = seconds(c.training * own, c.training_bytes * own, c.training_kernels, precision)
                share = 0.0 if cards == 1 else 2 * (cards - 1) / cards * 4 * c.parameters / (LINK * ASSUMED["link"])
                size = (20 * c.parameters + c.kept * own * (0.5 if precision == "bfloat16" else 1.0)) / 1e9
                whole = max(work[0], share)
                days = whole * (steps - 1) / 86400
                bound = work[1] if work[0] >= share else "NVLink"
                rows.append((label, precision, cards, f"{whole * 1e3:.0f}", bound, f"{days:.1f}", f"{size:.1f}"))
    table(*rows)
    print("## The field's target\n")
    rows = [
        ("data", "rows", "references", "GFLOP", "share of the network's", "ms", "MB of references", "MB a card of 8")
    ]
    network = costs["DDPM++ (PFGM)"].training
    for what, b, m, dim in (
        ("CIFAR-10", 128, 640, DIM),
        ("CIFAR-10", 128, 4096, DIM),
        ("CIFAR-10, all", 128, IMAGES, DIM),
        ("ImageNet 64, all", 256, 1_281_167, 4 * DIM),
    ):
        flops, size = field(b, m, dim)
        time, _ = seconds(flops, 3 * size, 60, "float32")
        share = f"{flops / (network * b * (4 if dim > DIM else 1)):.2%}"
        bytes_held = m * dim
        row = (what, b, f"{m:,}", f"{flops / 1e9:.0f}", share, f"{time * 1e3:.1f}", f"{bytes_held / 1e6:,.0f}")
        rows.append((*row, f"{bytes_held / 8e6:,.0f}"))
    table(*rows)
    print("## Input, a step of 128 images with 3,968 references\n")
    images = (batch + 3968) * DIM
    numbers = 8 * (batch + 3968) + (batch + 3968) + 4 * 9 * batch
    drawn = 4 * DIM * (batch + 3968 + batch)
    table(
        ("what goes to the card", "MB", "ms on PCIe 5"),
        ("images as float32", f"{4 * images / 1e6:.1f}", f"{4e3 * images / BUS:.2f}"),
        ("images as bytes", f"{images / 1e6:.1f}", f"{1e3 * images / BUS:.2f}"),
        ("row numbers, mirrors and times, the images kept there", f"{numbers / 1e6:.2f}", f"{1e3 * numbers / BUS:.3f}"),
        ("noise and dequantisation, where drawn on the host", f"{drawn / 1e6:.1f}", f"{1e3 * drawn / BUS:.2f}"),
    )
    print(f"## Sampling {SAMPLES:,} images, 1,000 at a time\n")
    rows = [("solver", "network", "PFLOP", "hours on 1, bfloat16", "hours on 8", "hours on 1, tf32")]
    for solver, nfe in NFE.items():
        label = "NCSN++ (VE)" if "pc" in solver else "DDPM++ (PFGM)"
        c, calls = costs[label], nfe * math.ceil(SAMPLES / 1000)
        hours = {
            p: calls * seconds(1000 * c.forward, 1000 * c.forward_bytes, c.forward_kernels, p)[0] / 3600 for p in PEAK
        }
        flops = nfe * SAMPLES * c.forward / 1e15
        quick = hours["bfloat16"]
        rows.append((solver, label, f"{flops:,.0f}", f"{quick:.2f}", f"{quick / 8:.3f}", f"{hours['tf32']:.2f}"))
    table(*rows)


if __name__ == "__main__":
    main()
