"""Norm against noise level: in training perturbations, along sampling paths, and after a push (Xu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from genflow.config import NormConfig
from genflow.devices import computing, device_of
from genflow.evaluate.base import Context
from genflow.process.base import Process
from genflow.process.field import BackboneLike
from genflow.random import Stream, integers
from genflow.sampling import draw_prior
from genflow.solver.base import FixedStep, Solver

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass
class NormStudy:
    """Results of the norm study.

    Arguments:
        spread: Interquartile range of ln|x| at given time, mean over the noisy times, for "train" and "path".
        tied: Share of the variance of ln|x| that the noisy times explain, for "train" and "path".
        pushed: Raw samples by factor.
        push_time: Native time of the push; the times from the prior to here are the noisy ones.
        nfe: Backbone calls per pushed sample, both halves.
        count: Samples.
        arrays: times (K,), quantiles of |x| (K, 5) for both, their levels, the push time, and `states`: the unpushed
            paths of the first samples, (K, m, *), data units.
        norms: |x| at every time (K, n) for both, data units.
        pushed_norms: |x| by factor, from the push on, (times, n).
        middle: Index of the push among the times.
    """

    spread: dict[str, float]
    tied: dict[str, float]
    pushed: dict[float, Tensor]
    push_time: float
    nfe: float
    count: int
    arrays: dict[str, np.ndarray]
    norms: dict[str, Tensor] = field(default_factory=dict)
    pushed_norms: dict[float, Tensor] = field(default_factory=dict)
    middle: int = 0


@torch.no_grad()
def norm_study(
    process: Process,
    backbone: BackboneLike,
    context: Context,
    count: int | None = None,
    norm: NormConfig | None = None,
) -> NormStudy:
    """Norms of training perturbations and of sampling paths on one time grid, and samples after pushes.

    Arguments:
        process: With the capability "norm".
        backbone: Its trained network.
        context: Data, configuration and seed.
        count: Samples; None: as many as the configuration's, and not more than the test split has.
        norm: Solver, NFE, factors and where to push; None: the configuration's.
    """
    import genflow

    config, norm = context.config, norm or context.config.norm
    data = context.dataset.scaling.encode(context.dataset.train, torch.Generator().manual_seed(context.seed))
    solver: Solver = genflow.get_solver(norm.solver, **config.solver_options.get(norm.solver, {}))
    solver = solver.ends()  # all its paths run on one grid, to the plain end
    if not isinstance(solver, FixedStep):
        raise ValueError(f"norm.solver = '{norm.solver}' chooses its own steps; give a fixed-step solver")
    grid, middle, push, nfe = push_grid(process, solver, norm.nfe, norm.level, data[0].numel())
    walk = _Walk(process, backbone, solver, context, count)
    half, path, states = walk.to_middle(grid[: middle + 1])
    pushed: dict[float, Tensor] = {}
    after: dict[float, Tensor] = {}
    factors = list(dict.fromkeys((1.0, *norm.factors)))
    for i, factor in enumerate(factors):
        end, rest, later = walk.onward(half * factor, grid[middle:])
        pushed[factor], after[factor] = context.dataset.scaling.decode(end), rest
        if factor == 1:
            path, states = torch.cat([path, rest[1:]]), torch.cat([states, later[1:]])
        context.tick((i + 1) / len(factors))
    train = perturbed_norms(process, data, grid, context.seed, walk.count)
    both = {"train": train, "path": path}
    return NormStudy(
        {k: spread(norms[: middle + 1]) for k, norms in both.items()},
        {k: tied(norms[: middle + 1]) for k, norms in both.items()},
        pushed,
        push,
        nfe,
        walk.count,
        {
            "times": grid.numpy(),
            "train": _quantiles(train),
            "path": _quantiles(path),
            "levels": np.array(QUANTILES),
            "push_time": np.array(push),
            "states": states.numpy(),
        },
        both,
        after,
        middle,
    )


def push_grid(process: Process, solver: FixedStep, nfe: int, level: float, dim: int) -> tuple[Tensor, int, float, int]:
    """The finest of the process's grids on which both halves spend at most nfe calls, with its nearest inner time
    moved onto the push; the index and time of the push, and the calls spent."""
    found = None
    for steps in range(2, nfe + 1):
        grid, middle, push = _with_push(process, steps, level, dim)
        spent = sum(solver.plan_steps(middle)) + sum(solver.plan_steps(steps - middle))
        if found is None or spent <= nfe:
            found = grid, middle, push, spent
    assert found is not None
    return found


def _with_push(process: Process, steps: int, level: float, dim: int) -> tuple[Tensor, int, float]:
    grid = process.grid(steps)
    find: Callable[..., float] | None = getattr(process, "time_of_noise", None)
    push = find(level, dim=dim) if find else float(grid[len(grid) // 2])
    clock = process.to_clock(grid)
    goal = process.to_clock(torch.tensor(push, dtype=torch.float64))
    middle = 1 + int((clock[1:-1] - goal).abs().argmin())
    grid[middle] = push
    return grid, middle, push


class _Walk:
    """Sampling in two halves, sample k from its own seed; |x| is recorded after every step."""

    def __init__(
        self, process: Process, backbone: BackboneLike, solver: Solver, context: Context, count: int | None = None
    ) -> None:
        self.process, self.backbone, self.solver = process, backbone, solver
        self.config, self.seed, self.shape = context.config, context.seed, context.dataset.shape
        self.count = count or min(context.config.samples, context.dataset.count("test"))
        self.shown = min(256, max(16, 1024 // math.prod(self.shape)))  # paths kept whole, for pictures

    def to_middle(self, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x at the push (n, *), norms (times, n), the first samples' states (times, m, *))."""
        starts = [draw_prior(self.process, self.shape, self.seed, rows, torch.float32)[0] for rows in self._rows()]
        return self.onward(torch.cat(starts), grid)

    def onward(self, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from given states."""
        parts = [self._solve(chunk, grid) for chunk in x.split(self.config.sample_batch)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts], dim=1), parts[0][2]

    def _solve(self, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norms: list[Tensor] = []
        states: list[Tensor] = []

        def note(x: Tensor, t: float) -> None:
            norms.append(norm(x))
            states.append(x[: self.shown].to("cpu", torch.float32, copy=True))

        field = self.process.field(self.backbone)
        with computing(self.backbone):
            solution = self.solver.solve(
                field, x.to(device_of(self.backbone, default=self.config.device)), grid=grid, observer=note
            )
        return solution.x.cpu(), torch.stack(norms).cpu(), torch.stack(states)

    def _rows(self) -> list[range]:
        size = self.config.sample_batch
        return [range(i, min(i + size, self.count)) for i in range(0, self.count, size)]


def norm(x: Tensor) -> Tensor:
    """|x| of each sample, (B,), data units."""
    return x.flatten(1).norm(dim=1)


def perturbed_norms(process: Process, data: Tensor, grid: Tensor, seed: int, count: int) -> Tensor:
    """|a X + b N| of `count` training points at every time of the grid, (times, count)."""
    generator = Stream(seed, "norms", device=data.device)
    x = data[integers(len(data), count, generator=generator).to(data.device)]
    noise = process.base_like(x, generator)
    return torch.stack([norm(process.interpolate(x, noise, t)) for t in grid])


def spread(norms: Tensor) -> float:
    """Mean over times of the interquartile range of ln|x|; norms (times, n)."""
    logs = norms.double().clamp_min(1e-300).log()
    edges = torch.quantile(logs, torch.tensor([0.25, 0.75], dtype=torch.float64), dim=1)
    return float((edges[1] - edges[0]).mean())


def tied(norms: Tensor) -> float:
    """1 − mean over times of Var(ln|x| at that time) / Var(ln|x|): 1 where the norm tells the time, 0 where not.

    The correlation ratio η² (Fisher 1925) of ln|x| on time; norms (times, n).
    """
    logs = norms.double().clamp_min(1e-300).log()
    return float(1 - logs.var(1, correction=0).mean() / logs.var(correction=0))


def _quantiles(norms: Tensor) -> np.ndarray:
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    return torch.quantile(norms.double(), levels, dim=1).T.numpy()
