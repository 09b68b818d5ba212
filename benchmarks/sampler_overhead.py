"""What a sampler step costs beyond the bare network call, at the bench's default size.

    python benchmarks/sampler_overhead.py                  # the processes of the default bench
    python benchmarks/sampler_overhead.py vp_sde,ve_ode    # others

For each process and fixed-step solver of the default bench: seconds per NFE over seconds of one network call on the
same batch, interleaved, median of pairs. Bar: at most 1.10.
"""

from __future__ import annotations

import sys

import torch
from common import about, interleaved, ratio, verdict

import genflow
from genflow.config import BenchConfig
from genflow.registry import registries
from genflow.sampling import draw_prior


def main() -> int:
    about()
    config, held = BenchConfig(), []
    data = genflow.get_dataset(config.dataset)
    points = data.scaling.encode(data.train)
    for name in sys.argv[1].split(",") if len(sys.argv) > 1 else config.process:
        entry = registries()["processes"].entry(name)
        process = genflow.get_process(name).for_data(points)
        backbone = genflow.get_backbone(config.backbone, shape=data.shape, extra_channels=process.extra_channels).eval()
        x, noise = draw_prior(process, data.shape, 0, range(config.sample_batch), torch.float32)
        condition = process.condition(process.grid(3)[1]).float().expand(len(x))
        for solver_name in config.solver:
            solver_entry = registries()["solvers"].entry(solver_name)
            if solver_entry.tags["mode"] != entry.tags["mode"] or not solver_entry.tags["budget"]:
                continue
            solver, nfe = genflow.get_solver(solver_name), 5

            def bare(backbone=backbone, x=x, condition=condition, nfe=nfe) -> None:
                for _ in range(nfe):
                    backbone(x, condition)

            def solve(process=process, backbone=backbone, solver=solver, x=x, nfe=nfe, noise=noise) -> None:
                solver.solve(process.field(backbone), x, nfe=nfe, noise=noise)

            with torch.no_grad():
                network, whole = interleaved(9, bare, solve)
            held.append(verdict(f"{name} {solver_name}, step over network call", ratio(whole, network), 1.10))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
