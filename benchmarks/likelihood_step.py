"""What a likelihood step costs beyond one forward and one input gradient of the network, at the bench's default size.

    python benchmarks/likelihood_step.py                  # the processes of the default bench
    python benchmarks/likelihood_step.py ve_ode,si_trig   # others

For each process: seconds per NFE of an Euler solve of (x, ∫ div v) with one probe, over seconds of one forward and one
vector-Jacobian product of the network on the same batch, interleaved, median of pairs. Bar: at most 1.15.
"""

from __future__ import annotations

import sys

import torch
from common import about, interleaved, ratio, verdict

import genflow
from genflow.config import BenchConfig
from genflow.likelihood import log_likelihood
from genflow.solver.ode import Euler


def main() -> int:
    about()
    config, held = BenchConfig(), []
    data = genflow.get_dataset(config.dataset)
    points = data.scaling.encode(data.train)
    for name in sys.argv[1].split(",") if len(sys.argv) > 1 else config.process:
        process = genflow.get_process(name).for_data(points)
        backbone = genflow.get_backbone(config.backbone, shape=data.shape, extra_channels=process.extra_channels)
        backbone = backbone.eval().requires_grad_(False)
        x, nfe = points[: config.sample_batch], 5
        condition = process.condition(process.grid(3)[1]).float().expand(len(x))
        weights = torch.randn(len(x), data.shape[0] + process.extra_channels, *data.shape[1:])

        def bare(backbone=backbone, x=x, condition=condition, weights=weights, nfe=nfe) -> None:
            for _ in range(nfe):
                inner = x.detach().requires_grad_()
                torch.autograd.grad(backbone(inner, condition), inner, weights)

        def solve(process=process, backbone=backbone, x=x, nfe=nfe) -> None:
            log_likelihood(process, backbone, x, solver=Euler(), nfe=nfe)

        network, whole = interleaved(9, bare, solve)
        held.append(verdict(f"{name}, likelihood step over forward and input gradient", ratio(whole, network), 1.15))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
