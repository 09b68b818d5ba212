"""How fast the backbones are on a CPU: against a straightforward network, by preset, and what each rewrite is worth.

    python benchmarks/backbone_speed.py              # DDPM++ and NCSN++ against benchmarks/plain_unet.py; the bar is 1
    python benchmarks/backbone_speed.py presets      # milliseconds of a training step of each backbone, batch 64
    python benchmarks/backbone_speed.py rewrites     # each rewrite of a layer against what genflow does
    python benchmarks/backbone_speed.py fast         # the options of genflow.devices.Execution, compile left out
    python benchmarks/backbone_speed.py compile      # compile alone; takes five to ten minutes

A second argument is the number of threads (2). Functions take turns, and of each the fastest of `RUNS` counts. On one
thread it is the processor's time that counts, so that what else runs on the machine changes little; on more it is the
clock on the wall.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import torch
from backbone_rewrites import ATTENTION, FIR, NORMS
from common import about, verdict
from plain_unet import plain_version
from torch import Tensor, nn

import genflow
from genflow.backbone import unet, unet_layers
from genflow.devices import Execution, prepare

RUNS = 9
UNETS = [
    ("digits", (1, 8, 8), 64, {}),
    ("32x32", (3, 32, 32), 16, {}),
    ("CIFAR-10, thin", (3, 32, 32), 16, {"size": "cifar10", "nf": 64, "num_res_blocks": 1, "dropout": 0.0}),
]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def drawn(name: str, shape: tuple[int, ...], **options: object) -> nn.Module:
    """A network whose layers do not begin at zero."""
    net = genflow.get_backbone(name, shape=shape, **options)
    net.initialise(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


def forward(call: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The output alone."""
    with torch.no_grad():
        return call(*inputs)


def step(call: Callable[..., Tensor], optimiser: torch.optim.Optimizer, *inputs: Tensor) -> None:
    """One step of Adam at a rate of zero, so that all calls see the same weights."""
    optimiser.zero_grad(set_to_none=True)
    call(*inputs).square().mean().backward()
    optimiser.step()


def adam(net: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), lr=0.0, fused=True)


def fastest(*functions: Callable[[], object]) -> list[float]:
    """Milliseconds of each."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(RUNS):
        for spent, function in zip(times, functions, strict=True):
            start = now()
            function()
            spent.append(1e3 * (now() - start))
    return [min(spent) for spent in times]


def gap(found: Tensor, want: Tensor) -> float:
    return float((found - want).abs().max() / want.abs().max())


def against_plain() -> bool:
    """Both networks, every case, forward and step; equal outputs first."""
    held = []
    for name in ("ddpmpp", "ncsnpp"):
        for what, shape, batch, options in UNETS:
            net = drawn(name, shape, **options)
            plain, inputs = plain_version(net), (torch.randn(batch, *shape), torch.rand(batch))
            difference = gap(forward(net, *inputs), forward(plain, *inputs))
            assert difference < 1e-4, f"outputs differ by {difference:.1e}"
            ours, theirs = fastest(lambda: forward(net, *inputs), lambda: forward(plain, *inputs))  # noqa: B023
            label = f"{name}, {what}, batch {batch}"
            held.append(verdict(f"{label}: forward {ours:.1f} ms over {theirs:.1f} ms", ours / theirs, 1.0))
            one, two = adam(net), adam(plain)
            ours, theirs = fastest(lambda: step(net, one, *inputs), lambda: step(plain, two, *inputs))  # noqa: B023
            held.append(verdict(f"{label}: training step {ours:.1f} ms over {theirs:.1f} ms", ours / theirs, 1.0))
    return all(held)


def presets() -> bool:
    """The table of docs/backbones.md."""
    print("| backbone | 1x8x8 | 1x28x28 | 3x32x32 |\n|---|---|---|---|")
    for name in ("mlp", "ncsnv2", "ddpm", "ddpmpp", "ncsnpp"):
        row = []
        for shape in SHAPES:
            net, inputs = drawn(name, shape), (torch.randn(64, *shape), torch.rand(64))
            optimiser = adam(net)
            row.append(fastest(lambda: step(net, optimiser, *inputs))[0])  # noqa: B023
        print(f"| `{name}` | " + " | ".join(f"{ms:.3g} ms" for ms in row) + " |", flush=True)
    return True


# ---- what a rewrite is worth -----------------------------------------------------------------------------------------


def rewrites() -> bool:
    """Time of each variant over that of genflow's own; above 1: slower."""
    for name, (what, shape, batch, options) in (("ddpmpp", UNETS[0]), ("ddpmpp", UNETS[1]), ("ncsnpp", UNETS[2])):
        _whole_network(f"{name}, {what}, batch {batch}", name, shape, batch, options)
    for channels, side in ((16, 32), (32, 16), (128, 32)):
        for layout in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(16, channels, side, side).contiguous(memory_format=layout).requires_grad_()
            where = f"16 x {channels} x {side} x {side}, {str(layout).removeprefix('torch.')}"
            for title, variants in (("group norm and SiLU", NORMS), *FIR.items()):
                _layer(f"{title}, {where}", variants, x)
    return True


def _whole_network(title: str, name: str, shape: tuple[int, ...], batch: int, options: dict[str, object]) -> None:
    """Attention, layout and the sum of branches."""
    net, other = drawn(name, shape, **options), drawn(name, shape, **options)
    other.load_state_dict(net.state_dict())
    other.to(memory_format=torch.contiguous_format)
    other._laid_out = lambda hidden: hidden  # type: ignore[method-assign, assignment]
    inputs = (torch.randn(batch, *shape), torch.rand(batch))
    own, join = unet_layers.Attention.forward, unet_layers.join
    calls = {"as genflow has it": (net, own, join), "default layout throughout": (other, own, join)}
    calls |= {f"attention: {words}": (net, rewrite, join) for words, rewrite in ATTENTION.items()}
    calls["sum of branches divided out of place"] = (net, own, lambda x, y, r: (x + y) / math.sqrt(2) if r else x + y)

    def run(kind: str, training: bool) -> Tensor | None:
        network, unet_layers.Attention.forward, unet_layers.join = calls[kind]  # type: ignore[method-assign]
        unet.join = unet_layers.join
        return step(network, optimisers[network], *inputs) if training else forward(network, *inputs)

    optimisers = {network: adam(network) for network in (net, other)}
    want = run("as genflow has it", False)
    differences = [gap(run(kind, False), want) for kind in calls]
    seconds = [
        fastest(*(lambda kind=kind, training=training: run(kind, training) for kind in calls))
        for training in (False, True)
    ]
    run("as genflow has it", False)  # puts the layers back
    print(f"\n{title}\n| variant | forward | training step | difference |\n|---|---|---|---|")
    for kind, ahead, whole, difference in zip(calls, *seconds, differences, strict=True):
        print(f"| {kind} | {ahead / seconds[0][0]:.2f} | {whole / seconds[1][0]:.2f} | {difference:.0e} |", flush=True)


def _layer(title: str, variants: dict[str, Callable[[Tensor], Tensor]], x: Tensor) -> None:
    """Forward with backward of one operation on maps x."""

    def run(f: Callable[[Tensor], Tensor]) -> Tensor:
        y = f(x)
        y.sum().backward()
        return y.detach()

    outputs = [run(f) for f in variants.values()]
    times = fastest(*(lambda f=f: run(f) for f in variants.values()))
    cells = [
        f"{words} {t / times[0]:.2f} ({gap(y, outputs[0]):.0e})"
        for words, t, y in zip(variants, times, outputs, strict=True)
    ]
    print(f"{title}: {', '.join(cells)}", flush=True)


def fast(compiled: bool) -> bool:
    """Each option of `Execution` over the plain call."""
    ways = {
        "bfloat16": Execution("bfloat16"),
        "float16": Execution("float16"),
        "channels_last": Execution(channels_last=True),
    }
    ways = {"compile": Execution(compile=True)} if compiled else ways
    print("| network | option | forward | training step | difference |\n|---|---|---|---|---|")
    cases = [("ncsnv2", UNETS[0]), ("ddpmpp", UNETS[0]), ("ddpmpp", UNETS[1])]
    for name, (what, shape, batch, options) in cases[:2] if compiled else cases:  # the larger takes minutes to compile
        for words, way in ways.items():
            net, inputs = drawn(name, shape, **options), (torch.randn(batch, *shape), torch.rand(batch))
            call, optimiser = prepare(net, way, "cpu"), adam(net)
            difference = gap(forward(call, *inputs), forward(net, *inputs))
            assert difference < (3e-2 if way.precision != "float32" else 1e-5), difference
            ahead = fastest(lambda: forward(call, *inputs), lambda: forward(net, *inputs))  # noqa: B023
            whole = fastest(lambda: step(call, optimiser, *inputs), lambda: step(net, optimiser, *inputs))  # noqa: B023
            ratios = f"{ahead[0] / ahead[1]:.2f} | {whole[0] / whole[1]:.2f}"
            print(f"| `{name}`, {what} | {words} | {ratios} | {difference:.0e} |", flush=True)
    return True


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "plain"
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    torch.manual_seed(0)
    about()
    kinds = {
        "plain": against_plain,
        "presets": presets,
        "rewrites": rewrites,
        "fast": lambda: fast(False),
        "compile": lambda: fast(True),
    }
    if kind not in kinds:
        raise SystemExit(f"'{kind}' is not a part of this benchmark; give {', '.join(kinds)}")
    return 0 if kinds[kind]() else 1


if __name__ == "__main__":
    sys.exit(main())
