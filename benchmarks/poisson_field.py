"""The Poisson field target by matrix products against the plain broadcast formula, in float32.

    python benchmarks/poisson_field.py            # B = 128, N = 4096, D = 3072; needs about 14 GiB
    python benchmarks/poisson_field.py --small    # B = 64, N = 1024

Prints the ratio of times, of extra memory, and the worst row's error against float64. Bars: at least 100 times
faster, at most 1/100 of the memory, worst row within 5e-5.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import torch
from common import about, interleaved, ratio, verdict
from torch import Tensor

from genflow.process.poisson import PFGM


def broadcast_target(x: Tensor, z: Tensor, refs: Tensor, gamma: float) -> Tensor:
    """The definition, with all B x N x (D + 1) differences: weights (min d / d)^(D+1), normalised."""
    start = torch.cat([x, z[:, None]], dim=1)
    charges = torch.cat([refs, torch.zeros(len(refs), 1, dtype=refs.dtype)], dim=1)
    gaps = charges[None] - start[:, None]
    distance = gaps.square().sum(2).sqrt()
    weights = (distance.amin(1, keepdim=True) / (distance + 1e-7)) ** (x.shape[1] + 1)
    weights = weights / (weights.sum(1, keepdim=True) + 1e-7)
    field = (weights[:, :, None] * gaps).sum(1)
    return x.shape[1] ** 0.5 * field / (field.norm(dim=1, keepdim=True) + gamma)


def resident() -> int:
    """This process's resident memory, bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_extra(function: object) -> float:
    """Largest growth of this process's memory while a function runs, bytes."""
    peak, done = 0.0, threading.Event()
    base = resident()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident() - base)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()  # type: ignore[operator]
    done.set()
    watcher.join()
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="B = 64, N = 1024")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows, count, dim = (64, 1024, 3072) if options.small else (128, 4096, 3072)
    about()
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(count, dim, generator=generator) * 2 - 1
    process = PFGM(dim=dim, norm=30.0, gamma=5.0)
    pairs = process.perturb(data[:rows], generator=generator, refs=data[rows:])
    x, z = pairs.x_t, pairs.t

    def ours() -> Tensor:
        return process.average_target(data[:rows], x, z, data[rows:])

    def plain() -> Tensor:
        return broadcast_target(x, z.float(), data, 5.0)

    memory_ours, memory_plain = peak_extra(ours), peak_extra(plain)
    fast, slow = [], []
    for _ in range(
        options.runs
    ):  # ours is measured warm, as in training: the plain formula's gigabytes empty the caches
        ours()
        fast += [sum(interleaved(5, ours, warm_up=0)[0]) / 5]
        slow += interleaved(1, plain, warm_up=0)[0]
    parts = [broadcast_target(x[i : i + 4].double(), z[i : i + 4], data.double(), 5.0) for i in range(0, rows, 4)]
    exact = torch.cat(parts)
    worst = float(((ours() - exact).norm(dim=1) / exact.norm(dim=1)).max())
    print(f"B = {rows}, N = {count}, D = {dim}: {min(fast) * 1e3:.1f} ms against {min(slow) * 1e3:.0f} ms")
    held = [
        verdict("times faster than the broadcast formula", ratio(slow, fast), 50 if options.small else 100, False),
        verdict("share of its extra memory", memory_ours / memory_plain, 0.01),
        verdict("worst row's relative error", worst, 5e-5),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
