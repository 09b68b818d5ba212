"""Prior -> solver -> samples, each sample from its own seed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genflow.backbone.base import check_labels
from genflow.checks import is_positive, require
from genflow.data.base import Dataset
from genflow.data.paired import PairedDataset
from genflow.devices import computing, device_of
from genflow.distributed import Team
from genflow.memory import MemoryExhaustedError, check_room, is_out_of_memory
from genflow.process.base import Process
from genflow.process.field import BackboneLike
from genflow.process.guidance import Guidance
from genflow.random import Stream, by_row
from genflow.solver.base import NonFiniteError, Solver
from genflow.solver.fields import Observer, Solution
from genflow.solver.noise import Noise, sample_generator

LOG = logging.getLogger("genflow")

Labels = int | str | Sequence[int] | Tensor | None
"""One class for all samples, one for each, "all" for each class in turn, or None for no class."""


def draw_prior(
    process: Process,
    shape: Sequence[int],
    seed: int,
    indices: Sequence[int],
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Noise]:
    """Prior samples of the given global indices, (B, *shape), made on the device, and the noise of their solve."""

    def draw(stream: Stream, rows: slice) -> Tensor:
        return process.sample_prior((len(indices[rows]), *shape), generator=stream, dtype=dtype)

    return by_row(draw, seed, "prior", indices, device=device), Noise(seed, indices)


def draw_path(process: Process, x: Tensor, t: float, seed: int, indices: Sequence[int]) -> Tensor:
    """x_t = a X + b N of given data x (B, *) at native time t, row k with the draw N of sample indices[k].

    Raises:
        ValueError: t lies outside the training interval, or the process does not draw x_t at a time that is given.
    """
    reason = process.why_not("norm")
    if reason:
        raise ValueError(f"{type(process).__name__} draws no x_t at a given time: {reason}")
    at = torch.tensor(t, dtype=torch.float64)
    process.check_time(at)
    noise = by_row(lambda stream, rows: process.base_like(x[rows], stream), seed, "path", indices, device=x.device)
    return process.interpolate(x, noise, at)


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
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
    temperature: float = 1.0,
    observer: Observer | None = None,
    on_batch: Callable[[int], None] | None = None,
    first_index: int = 0,
) -> Solution:
    """Draws n samples. Sample k depends on the seed, k and its label alone, not on n, batch size or device's order.

    So a run may be drawn in parts, by anyone in any order: the samples `first_index` to `first_index` + n − 1 of a
    seed are those of a longer run. Parts that begin where its batches begin are bitwise the same.

    Arguments:
        process: What to sample.
        backbone: A trained network, an oracle, or any callable (x, condition) -> output.
        solver: A solver or its name.
        n: Samples.
        nfe: Backbone calls per sample; left out for adaptive solvers.
        seed: The run's seed.
        shape: Shape of one sample; the backbone's own where it has one.
        batch_size: Samples at a time.
        device: Where the solve runs: where the network is, by default, and it must be there. Draws are the same on all.
        dtype: Of the states.
        labels: Classes of the samples; see `class_labels`.
        guidance: Classifier-free guidance w; see `genflow.process.guidance`. NFE counts both calls.
        temperature: Factor on the prior's draw; for a heavy-tailed prior it scales the radius.
        observer: Called with (x, t) after every step of every batch.
        on_batch: Called with the number of samples done.
        first_index: Number of the first sample; labels for one each belong to the samples drawn.

    Returns:
        x of shape (n, *shape) on the host, and the mean NFE.

    Raises:
        ValueError: A solver that the process cannot use, labels the backbone does not know, or a network on another
            device, with the reason.
        NonFiniteError: With step, time and sample numbers.
        MemoryExhaustedError: One sample does not fit; a batch that does not is halved.
    """
    solver = _solver(solver)
    check_pair(process, solver)
    shape = _shape(backbone, shape)
    _check_numbers(n, batch_size, temperature, first_index)
    check_room("n", n, 2 * dtype.itemsize * math.prod(shape))
    classes = class_labels(labels, n, getattr(backbone, "classes", 0), first_index=first_index)
    place = device_of(backbone, device)
    draw = _Draw(process, backbone, solver, (nfe, seed, guidance, temperature), shape, place, dtype, observer)
    with computing(backbone):
        return _in_batches(draw, n, batch_size, classes, first_index, on_batch)


def _in_batches(
    draw: _Draw,
    n: int,
    batch_size: int,
    classes: Tensor | None,
    first_index: int,
    on_batch: Callable[[int], None] | None,
) -> Solution:
    """n samples from number `first_index` on, `batch_size` at a time, or fewer where those do not fit in memory."""
    xs, counts, stopped, done = [], [], [], 0
    while done < n:
        rows = range(done, min(done + batch_size, n))
        own = None if classes is None else classes[rows.start : rows.stop].to(draw.device)
        try:
            part = draw(range(first_index + rows.start, first_index + rows.stop), own)
        except (RuntimeError, MemoryError) as error:
            batch_size = smaller_batch(len(rows), error)
            continue
        xs.append(part.x)
        counts.append(part.nfe * len(rows))
        stopped.append(torch.zeros(len(rows), dtype=torch.bool) if part.stopped is None else part.stopped)
        done = rows.stop
        if on_batch:
            on_batch(done)
    return Solution(torch.cat(xs), sum(counts) / n, stopped=torch.cat(stopped))


def sample_together(
    team: Team,
    process: Process,
    backbone: BackboneLike,
    solver: Solver | str,
    n: int,
    *,
    batch_size: int = 500,
    labels: Labels = None,
    shape: Sequence[int] | None = None,
    **how: Any,
) -> Solution:
    """`sample` with its batches shared by the ranks of a team: every rank gets all samples, bitwise those of one alone.

    Arguments:
        team: Who draws.
        how: The other arguments of `sample`.
    """
    shape, classes = _shape(backbone, shape), class_labels(labels, n, getattr(backbone, "classes", 0))
    own = team.share(-(-n // batch_size))
    rows = range(own.start * batch_size, min(own.stop * batch_size, n))
    mine = None if classes is None else classes[rows.start : rows.stop]
    part = Solution(torch.empty(0, *shape), 0.0, stopped=torch.empty(0, dtype=torch.bool))
    if len(rows):
        how |= {"batch_size": batch_size, "labels": mine, "shape": shape, "first_index": rows.start}
        part = sample(process, backbone, solver, len(rows), **how)
    calls = team.total(torch.tensor([part.nfe * len(rows)], dtype=torch.float64))
    short = torch.zeros(len(rows), dtype=torch.bool) if part.stopped is None else part.stopped
    return Solution(team.gather(part.x), float(calls) / n, stopped=team.gather(short))


@dataclass(frozen=True)
class _Draw:
    """Draws samples by number; `numbers` are nfe, seed, guidance and temperature."""

    process: Process
    backbone: BackboneLike
    solver: Solver
    numbers: tuple[int | None, int, float | Guidance, float]
    shape: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    observer: Observer | None

    def __call__(self, indices: range, labels: Tensor | None) -> Solution:
        nfe, seed, guidance, temperature = self.numbers
        x, noise = draw_prior(self.process, self.shape, seed, indices, self.dtype, self.device)
        field = self.process.field(self.backbone, labels=labels, guidance=guidance)
        with counted_from(indices.start):
            begin = (x if temperature == 1 else temperature * x).to(self.device, non_blocking=True)
            part = self.solver.solve(field, begin, nfe=nfe, noise=noise, observer=self.observer)
        part = replace(part, x=part.x.cpu())
        check_samples(part.x, indices.start)
        return part


def smaller_batch(size: int, error: BaseException) -> int:
    """Half of a batch that did not fit in memory; samples do not depend on their batch.

    Raises:
        MemoryExhaustedError: One sample does not fit.
        BaseException: The error itself, where it is another.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise MemoryExhaustedError(
            "one sample at a time does not fit in memory; take a smaller backbone, or fewer calls (nfe)"
        ) from error
    LOG.warning("out of memory with %d samples at a time; %d from here on", size, size // 2)
    return size // 2


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Says, in a solver's error, which sample its batch begins with: a solver numbers the rows of its own batch."""
    try:
        yield
    except NonFiniteError as error:
        if not first:
            raise
        raise NonFiniteError(f"{error} (row 0 of this batch is sample {first})") from error


def check_samples(x: Tensor, first: int = 0) -> None:
    """Raises NonFiniteError naming samples that are not finite, whatever the solver looked at; the first is `first`."""
    bad = (~x.flatten(1).isfinite().all(1)).nonzero().flatten() + first
    if len(bad):
        raise NonFiniteError(f"samples {bad[:5].tolist()} came out of the solver not finite ({len(bad)} of {len(x)})")


def class_labels(labels: Labels, n: int, classes: int, owner: str = "sample", first_index: int = 0) -> Tensor | None:
    """Label of each of n samples, (n,), int64; None where none are given.

    Arguments:
        labels: One class for all samples, n of them for one each, or "all": sample k is of class k mod `classes`.
        n: Samples.
        classes: Classes that the backbone knows.
        owner: Who asks, for the message.
        first_index: k of the first sample.

    Raises:
        ValueError: A class that the backbone does not know, or labels for another number of samples.
    """
    if labels is None:
        return None
    if not classes:
        raise ValueError("labels were given, but this backbone knows no classes; train one with classes=K")
    if isinstance(labels, str):
        require(owner, {"labels": (labels, labels == "all", "a class, a class for each sample, or 'all'")})
        return torch.arange(first_index, first_index + n) % classes
    given = torch.as_tensor(labels)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    fits = whole and tuple(given.shape) in ((), (n,))
    require(owner, {"labels": (labels, fits, f"a class, a class for each of the {n} samples, or 'all'")})
    given = given.to("cpu", torch.int64).expand(n)
    check_labels(given, classes, f"{owner}: labels")
    return given


def rectify(
    process: Process,
    backbone: BackboneLike,
    solver: Solver | str,
    n: int,
    *,
    dataset: Dataset,
    nfe: int | None = None,
    seed: int = 0,
    batch_size: int = 500,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> PairedDataset:
    """n pairs of a draw of the base and the sample that a trained model makes of it.

    A flow trained on them with coupling "paired" has the same ends and straighter paths.

    Arguments:
        dataset: What the model was trained on: the test split, its classes, and the name are from it.
        process, backbone, solver, n, nfe, seed, batch_size, device, dtype, labels, guidance: As for `sample`.

    Returns:
        In data units, with an identity scaling; the held-out rows are those of `dataset` in its order. The partners are
        the draws at t_prior at the base's own scale.

    Raises:
        ValueError: An SDE solver: what it makes of a draw is not determined by it.

    Source: Liu, Gong & Liu 2022, arXiv:2209.03003.
    """
    solver = _solver(solver)
    if solver.mode != "ode":
        raise ValueError(f"pairs need an ODE solver; the samples of {type(solver).__name__} do not follow their draw")
    numbers: dict[str, Any] = {"nfe": nfe, "seed": seed, "batch_size": batch_size, "device": device, "dtype": dtype}
    x = sample(process, backbone, solver, n, labels=labels, guidance=guidance, **numbers).x
    prior, _ = draw_prior(process, x.shape[1:], seed, range(n), x.dtype)
    classes = class_labels(labels, n, getattr(backbone, "classes", 0))
    held = dataset.labels("test")
    back = dataset.order("test").argsort()  # as they are stored, so that both data sets have them in one order
    known = None if classes is None or held is None else {"train": classes, "test": held[back]}
    return PairedDataset(
        f"{dataset.name}, rectified",
        x,
        prior / getattr(process, "prior_scale", 1.0),
        dataset.scaling.encode(dataset.test[back]),
        known,
        dataset.classes if known else 0,
        dataset.class_names if known else None,
    )


def check_pair(process: Process, solver: Solver) -> None:
    """Raises ValueError, with the reason, where the process lacks what the solver, or the end of its paths, needs."""
    frame = ("affine",) if solver.frame == "sigma" else ()
    for need in dict.fromkeys((solver.mode, *solver.needs, *frame)):
        reason = process.why_not(need)
        if reason:
            raise ValueError(f"{type(solver).__name__} cannot sample {type(process).__name__}: {reason}")
    solver.ending.on(process, solver.mode, type(solver).__name__)


def _check_numbers(n: int, batch_size: int, temperature: float, first_index: int) -> None:
    require(
        "sample",
        {
            "n": (n, n >= 1, "a whole number above 0"),
            "batch_size": (batch_size, batch_size >= 1, "a whole number above 0"),
            "temperature": (temperature, is_positive(temperature), "a number above 0"),
            "first_index": (first_index, first_index >= 0, "a whole number of at least 0"),
        },
    )


def _solver(solver: Solver | str) -> Solver:
    if isinstance(solver, str):
        from genflow.catalogue import get_solver

        return get_solver(solver)
    return solver


def _shape(backbone: BackboneLike, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None:
        points = getattr(backbone, "points", None)
        shape = getattr(backbone, "shape", None) if points is None else points.shape[1:]
    if shape is None:
        raise ValueError("this backbone does not say the shape of a sample; give shape=(...)")
    return tuple(shape)


__all__ = ["check_pair", "class_labels", "draw_path", "draw_prior", "rectify", "sample", "sample_generator"]
