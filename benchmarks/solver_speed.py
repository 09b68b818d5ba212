"""What solvers cost beside the network: fixed steps over a 3 ms network and over a bare MLP, rk45 against scipy's loop.

    python benchmarks/solver_speed.py

Bars: a step over the network calls it makes at most 1.05 with a network of about 3 ms, at most 1.30 with a small MLP;
rk45 with one step size for the batch not slower than scipy's RK45 on the same flattened batch, within one call of it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from common import about, interleaved, ratio, verdict
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import genflow
from genflow.registry import registries
from genflow.sampling import draw_prior
from genflow.solver.base import FixedStep

PROCESSES = ("pfgm", "vp_ode", "vp_sde", "si_linear")
BATCH = 256


class Plain(nn.Module):
    """A multilayer perceptron of two hidden layers on (x, condition): as little as a network can be."""

    def __init__(self, dim: int, width: int, extra: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim + extra)
        )
        nn.init.normal_(self.layers[-1].weight, std=1e-3)  # an untrained field would lead some solvers astray
        self.shape = (dim,)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.layers(torch.cat([x, condition[:, None]], dim=1))


class Recorder:
    """Keeps what a network was called with: its time depends on its inputs, so it is compared on the same ones."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.calls: list[tuple[Tensor, ...]] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.calls.append(inputs)
        return self.backbone(*inputs)


def overhead(name: str, dim: int, width: int, bar: float, runs: int) -> list[bool]:
    """Every fixed-step solver that the process can use, against bare calls of the same network."""
    held, process = [], genflow.get_process(name).for_data(torch.randn(100, dim))
    backbone = Plain(dim, width, process.extra_channels).eval()
    for solver_name, entry in registries()["solvers"].entries().items():
        solver = genflow.get_solver(solver_name)
        needs = {solver.mode, *solver.needs}
        if not isinstance(solver, FixedStep) or any(process.why_not(need) for need in needs):
            continue
        if entry.tags["mode"] != process.mode or "/" in solver_name:
            continue
        x, noise = draw_prior(process, (dim,), 0, range(BATCH), torch.float32)
        nfe, inputs = 12, Recorder(backbone)
        with torch.no_grad():
            solver.solve(process.field(inputs), x, nfe=nfe, noise=noise)

        def bare(calls: list[tuple[Tensor, ...]] = inputs.calls) -> None:
            for call in calls:
                backbone(*call)

        def solve(solver: FixedStep = solver, x: Tensor = x, nfe: int = nfe, noise: object = noise) -> None:
            solver.solve(process.field(backbone), x, nfe=nfe, noise=noise)  # type: ignore[arg-type]

        with torch.no_grad():
            network, whole = interleaved(runs, bare, solve, warm_up=3)
        call = 1e3 * float(np.median(network)) / nfe
        held.append(verdict(f"{name} {solver_name}, over calls of {call:.2f} ms", ratio(whole, network), bar))
    return held


def against_scipy(dim: int, tolerance: float) -> list[bool]:
    """Own rk45, one step size for the batch, and scipy's loop on the flattened batch, in the process's clock."""
    process = genflow.get_process("vp_ode")
    backbone = Plain(dim, 128, 0).double().eval()
    x, _ = draw_prior(process, (dim,), 0, range(64), torch.float64)
    start, end = process.grid(1).tolist()
    calls: dict[str, float] = {}

    def scipy_loop() -> None:
        field = process.field(backbone)

        def rate(t: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y).reshape(x.shape)
            return field.velocity(state, torch.tensor(t, dtype=torch.float64)).flatten().numpy()

        found = solve_ivp(rate, (start, end), x.flatten().numpy(), rtol=tolerance, atol=tolerance)
        calls["scipy"] = found.nfev

    def own() -> None:
        solver = genflow.get_solver("rk45", rtol=tolerance, atol=tolerance, control="batch")
        calls["own"] = solver.solve(process.field(backbone), x).nfe

    with torch.no_grad():
        theirs, ours = interleaved(7, scipy_loop, own, warm_up=2)
    what = f"rk45 against scipy, N = {dim}, tolerance {tolerance:g}"
    return [
        verdict(f"{what}, time", ratio(ours, theirs), 1.0),
        verdict(
            f"{what}, calls apart ({calls['own']:.0f} and {calls['scipy']:.0f})", abs(calls["own"] - calls["scipy"]), 1
        ),
    ]


def main() -> int:
    torch.set_num_threads(1)
    about()
    held = []
    for name in PROCESSES:
        held += overhead(name, 64, 640, 1.05, runs=7)
    for name in PROCESSES:
        held += overhead(name, 64, 64, 1.30, runs=25)
    for dim in (64, 3072):
        for tolerance in (1e-3, 1e-5):
            held += against_scipy(dim, tolerance)
    print(f"{sum(held)} of {len(held)} bars held")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
