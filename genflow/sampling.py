"""Prior -> solver -> samples, each sample from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genflow.process.base import BackboneLike, Process, require
from genflow.solver.base import Noise, Observer, Solution, Solver, sample_generator


def draw_prior(
    process: Process, shape: Sequence[int], seed: int, indices: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, Noise]:
    """Prior samples of the given global indices, (B, *shape), and the noise that goes on from their generators."""
    noise = Noise(seed, indices)
    rows = [process.sample_prior((1, *shape), generator=g, dtype=dtype) for g in noise.generators]
    return torch.cat(rows), noise


@torch.no_grad()
def sample(
    process: Process,
    backbone: BackboneLike,
    solver: Solver | str,
    n: int,
    *,
    nfe: int | None = None,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    batch_size: int = 500,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    observer: Observer | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Solution:
    """Draws n samples. Sample k depends on the seed and k alone, not on n, the batch size or the device's order.

    Arguments:
        process: What to sample.
        backbone: A trained network, an oracle, or any callable (x, condition) -> output.
        solver: A solver or its name.
        n: Samples.
        nfe: Backbone calls per sample; left out for adaptive solvers.
        seed: The run's seed.
        shape: Shape of one sample; the backbone's own where it has one.
        batch_size: Samples at a time.
        device: Where the solve runs; the draws come from the host.
        dtype: Of the states.
        observer: Called with (x, t) after every step of every batch.
        on_batch: Called with the number of samples done.

    Returns:
        x of shape (n, *shape) on the host, and the mean NFE.

    Raises:
        ValueError: A solver that the process can not use, with the reason.
    """
    solver = _solver(solver)
    check_pair(process, solver)
    shape = _shape(backbone, shape)
    require("sample", {"n": (n, n >= 1, "a whole number above 0")})
    require("sample", {"batch_size": (batch_size, batch_size >= 1, "a whole number above 0")})
    xs, counts = [], []
    for start in range(0, n, batch_size):
        indices = range(start, min(start + batch_size, n))
        x, noise = draw_prior(process, shape, seed, indices, dtype)
        part = solver.solve(process.field(backbone), x.to(device), nfe=nfe, noise=noise, observer=observer)
        xs.append(part.x.cpu())
        counts.append(part.nfe * len(x))
        if on_batch:
            on_batch(start + len(x))
    return Solution(torch.cat(xs), sum(counts) / n)


def check_pair(process: Process, solver: Solver) -> None:
    """Raises ValueError, with the reason, where the process has not got what the solver needs."""
    for need in solver.needs:
        reason = process.why_not(need)
        if reason:
            raise ValueError(f"{type(solver).__name__} can not sample {type(process).__name__}: {reason}")


def _solver(solver: Solver | str) -> Solver:
    if isinstance(solver, str):
        from genflow import get_solver

        return get_solver(solver)
    return solver


def _shape(backbone: BackboneLike, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None:
        points = getattr(backbone, "points", None)
        shape = getattr(backbone, "shape", None) if points is None else points.shape[1:]
    if shape is None:
        raise ValueError("this backbone does not say the shape of a sample; give shape=(...)")
    return tuple(shape)


__all__ = ["check_pair", "draw_prior", "sample", "sample_generator"]
