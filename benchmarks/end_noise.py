"""What noise each process leaves at the end of its paths, by default and with the option `end_noise`.

Run: python benchmarks/end_noise.py [--noise 0.01]. It prints the table of docs/math.md.
"""

from __future__ import annotations

import argparse

import torch

import genflow
from genflow.process.affine import AffineProcess
from genflow.registry import registries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", type=float, default=0.01, help="end_noise to compare with, data units")
    noise = parser.parse_args().noise
    print(f"| process | ends at t | noise left | grey levels | end_noise = {noise:g} ends at t | end=published |")
    print("|---|---|---|---|---|---|")
    for name, entry in registries()["processes"].entries().items():
        process = genflow.get_process(name)
        if isinstance(process, AffineProcess):
            print(line(name, process, noise, entry.tags["mode"]))


def line(name: str, process: AffineProcess, noise: float, mode: str) -> str:
    """A row: grey levels are of 256, for data on [-1, 1]."""
    t = process.safe_interval[0]
    left = float(process.noise_left(torch.tensor(t, dtype=torch.float64)))
    return (
        f"| `{name}` | {t:g} | {left:.3g} | {128 * left:.3g} | {process.end_time(noise):.6g} | "
        f"{process.published_end(mode)} |"
    )


if __name__ == "__main__":
    main()
