"""What solvers cost beside the network: fixed steps, rk45 against scipy's loop, steps of other libraries, draws.

    python benchmarks/solver_speed.py            # all parts
    python benchmarks/solver_speed.py small      # one: large, small, scipy, peers or draws

Bars, in CPU time of one thread, medians over interleaved pairs:

* a step over the network calls it makes: at most 1.05 with a network of about 3 ms; over an MLP of about 0.2 ms at most
  1.5 for linear heads and for edm_rms, 1.8 for the Poisson field and for solvers that draw noise;
* rk45 with one step size for the batch not slower than scipy's RK45 on the same flattened batch, within one call of it;
* a step not slower than that of k-diffusion and of diffusers by the same name, with the same network, where these are
  installed;
* draws not slower than torch's with a generator for each sample (of a training step: one for all).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable

import numpy as np
import torch
from common import about, interleaved, ratio, spread, verdict
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import genflow
from genflow.process.base import Process
from genflow.random import Stream
from genflow.registry import registries
from genflow.sampling import draw_prior
from genflow.solver.base import FixedStep
from genflow.solver.noise import Noise, sample_generator

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


def compared(what: str, ours: Callable[[], object], theirs: Callable[[], object], bar: float, runs: int) -> bool:
    with torch.no_grad():
        bottom, top = interleaved(runs, theirs, ours, warm_up=3, clock=time.process_time)
    return verdict(f"{what} ({spread(top, bottom)})", ratio(top, bottom), bar)


CONTROLLED = {"head": "edm_rms", "frame": "sigma"}


def small_bar(process: Process, solver: FixedStep) -> float:
    return 1.5 if process.prediction.linear and solver.mode == "ode" else 1.8


def overhead(name: str, dim: int, width: int, runs: int, bar: float | None = None, **options: str) -> list[bool]:
    """Every fixed-step solver that the process can use, against bare calls of the same network."""
    held, process = [], genflow.get_process(name, **options).for_data(torch.randn(100, dim))
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

        what = f"{name} {options.get('head', '')} {solver_name}, over an MLP {width} wide"
        held.append(compared(what, solve, bare, bar or small_bar(process, solver), runs))
    return held


def sampling_of_k_diffusion() -> types.ModuleType | None:
    """k_diffusion.sampling without the package's other modules, which want more than samplers do."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or found.submodule_search_locations is None:
        return None
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    try:
        return importlib.import_module("k_diffusion.sampling")
    except ImportError as error:
        print(f"skipped k-diffusion: {error}")
        return None


def against_k_diffusion(steps: int = 20) -> list[bool]:
    """Steps with a network that answers E[X | x_t], from the same start on the same noise levels."""
    theirs, held = sampling_of_k_diffusion(), []
    if theirs is None:
        print("skipped k-diffusion: not installed")
        return []
    process = genflow.get_process("ve_ode", head="data")
    backbone, x = Plain(64, 64, 0).eval(), 50 * torch.randn(BATCH, 64)
    sigmas = process.noise_ratio(process.grid(steps)).float()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return backbone(x, sigma.log() / 4)

    for ours, name in (("euler", "sample_euler"), ("heun", "sample_heun"), ("dpmpp_2m", "sample_dpmpp_2m")):
        solver, sample = genflow.get_solver(ours), getattr(theirs, name)

        def own(solver: FixedStep = solver) -> None:
            solver.solve(process.field(backbone), x, grid=process.grid(steps))

        def other(sample: Callable[..., Tensor] = sample) -> None:
            sample(model, x, sigmas, disable=True)

        held.append(compared(f"{ours} over k-diffusion's {name}", own, other, 1.0, 25))
    return held


def against_diffusers(steps: int = 20) -> list[bool]:
    """Steps with a network that answers E[X | x_t]: only the count of steps is the same, which is what costs."""
    try:
        import diffusers
    except ImportError as error:
        print(f"skipped diffusers: {error}")
        return []
    process, held = genflow.get_process("vp_ode", head="data"), []
    backbone, x = Plain(64, 64, 0).eval(), torch.randn(BATCH, 64)
    options = {"num_train_timesteps": 1000, "prediction_type": "sample"}
    for ours, kind, more in (
        ("ddim", "DDIMScheduler", {"clip_sample": False}),
        ("dpmpp_2m", "DPMSolverMultistepScheduler", {}),
        ("unipc", "UniPCMultistepScheduler", {}),
    ):
        solver, make = genflow.get_solver(ours), getattr(diffusers, kind)

        def own(solver: FixedStep = solver) -> None:
            solver.solve(process.field(backbone), x, nfe=steps)

        def other(make: Callable = make, more: dict = more) -> None:
            scheduler, state = make(**options, **more), x
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                state = scheduler.step(backbone(state, (t / 1000).float().expand(BATCH)), t, state).prev_sample

        held.append(compared(f"{ours} over diffusers' {kind}", own, other, 1.0, 25))
    return held


def draws() -> list[bool]:
    """Samples' noise, and what a training step draws, against torch's generators."""
    held = []
    for shape, count in (((1, 1, 8, 8), 1), ((1, 1, 8, 8), 50), ((500, 1, 8, 8), 16), ((1, 3, 32, 32), 16)):
        x, times = torch.empty(shape), max(1, 200 // (shape[0] * count))

        def own(x: Tensor = x, count: int = count, times: int = times) -> None:
            for _ in range(times):
                noise = Noise(0, range(5, 5 + len(x)))
                for _ in range(count):
                    noise.like(x)

        def torchs(x: Tensor = x, count: int = count, times: int = times) -> None:
            for _ in range(times):
                generators = [sample_generator(0, k) for k in range(5, 5 + len(x))]
                for start in range(0, count, Noise.AHEAD):
                    ahead = (Noise.AHEAD, *x.shape[1:])
                    made = torch.stack([torch.randn(ahead, generator=g) for g in generators], dim=1)
                    for k in range(min(Noise.AHEAD, count - start)):
                        made[k]

        held.append(compared(f"{count} draws of {'x'.join(map(str, shape))} over torch's", own, torchs, 1.0, 15))
    data = torch.randn(64, 1, 8, 8)
    for name in ("vp_ode", "pfgm", "pfgmpp", "si_linear"):
        process = genflow.get_process(name).for_data(data)

        def drawn(make: Callable[[int], torch.Generator], process: Process = process) -> None:
            for step in range(20):
                generator = make(step)
                process.base_like(data, generator)
                process.sample_time(len(data), generator=generator)

        held.append(
            compared(
                f"a step's draws of {name} over torch's",
                lambda drawn=drawn: drawn(lambda step: Stream(0, "path", step, rows=range(64))),
                lambda drawn=drawn: drawn(lambda step: sample_generator(0, step)),
                1.0,
                15,
            )
        )
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
        theirs, ours = interleaved(9, scipy_loop, own, warm_up=2, clock=time.process_time)
    what = f"rk45 against scipy, N = {dim}, tolerance {tolerance:g}"
    return [
        verdict(f"{what}, time ({spread(ours, theirs)})", ratio(ours, theirs), 1.0),
        verdict(
            f"{what}, calls apart ({calls['own']:.0f} and {calls['scipy']:.0f})", abs(calls["own"] - calls["scipy"]), 1
        ),
    ]


def main() -> int:
    torch.set_num_threads(1)
    about()
    parts = sys.argv[1:] or ["large", "small", "scipy", "peers", "draws"]
    held: list[bool] = []
    for name in PROCESSES if "large" in parts else ():
        held += overhead(name, 64, 640, 7, 1.05)
    for name in PROCESSES if "small" in parts else ():
        held += [*overhead(name, 64, 96, 25), *overhead(name, 64, 96, 25, **CONTROLLED)]
    for dim in (64, 3072) if "scipy" in parts else ():
        for tolerance in (1e-3, 1e-5):
            held += against_scipy(dim, tolerance)
    if "peers" in parts:
        held += [*against_k_diffusion(), *against_diffusers()]
    if "draws" in parts:
        held += draws()
    print(f"{sum(held)} of {len(held)} bars held")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
