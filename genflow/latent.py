"""Latents: data to the prior's end and back along the ODE, paths between two latents, a round trip's error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genflow.checks import is_count, require
from genflow.devices import computing, device_of
from genflow.process.base import Process
from genflow.process.field import BackboneLike, Field
from genflow.process.grids import Spacing
from genflow.process.guidance import Guidance
from genflow.process.shapes import in_float64
from genflow.sampling import Labels, check_pair, class_labels
from genflow.solver.adaptive import RK45
from genflow.solver.base import Solver
from genflow.solver.fields import Solution


class BackwardField(Field):
    """A field whose grids run from the data to the prior: what an encoding integrates."""

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        return super().grid(steps, training=training, spacing=spacing).flip(0)


def encode(
    process: Process,
    backbone: BackboneLike,
    x: Tensor,
    solver: Solver | str | None = None,
    *,
    nfe: int | None = None,
    batch_size: int = 500,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Latents of data: where the ODE carries x, from the data's end of the safe interval to the prior's.

    Arguments:
        process: What was trained.
        backbone: Its network, or an oracle.
        x: Data (B, *), data units; they are taken as states at the data's end, and moved to the network.
        solver: An ODE solver or its name; RK45 at rtol = atol = 1e-4 by default. Its options `end` and `end_noise` are
            for paths to the data, and are not looked at here. The slope changes fastest near the
            data, where an encoding begins: an adaptive solver takes small steps there, a fixed-step one needs a larger
            budget than sampling does, and the midpoint rule, which looks ahead, the smallest.
        nfe: Calls per sample for a fixed-step solver.
        batch_size: Rows at a time.
        labels: Class of each row, as `genflow.sampling.class_labels` reads it.
        guidance: Classifier-free guidance w; see `genflow.process.guidance`. NFE counts both calls.

    Returns:
        Latents (B, *), in the scale of `process.sample_prior`, and the NFE.

    Raises:
        ValueError: A solver of an SDE, whose ends no latent determines, or labels that do not fit.
    """
    make = _Fields(lambda known: BackwardField(process, backbone, known, guidance), labels, backbone)
    return _solve(make, process, x, _ode_solver(process, solver).ends(), nfe, batch_size)


def decode(
    process: Process,
    backbone: BackboneLike,
    latent: Tensor,
    solver: Solver | str | None = None,
    *,
    nfe: int | None = None,
    batch_size: int = 500,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Data of latents (B, *): the ODE from the prior's end to the data's; arguments and errors as in `encode`."""
    make = _Fields(lambda known: process.field(backbone, labels=known, guidance=guidance), labels, backbone)
    return _solve(make, process, latent, solver, nfe, batch_size)


@dataclass(frozen=True)
class _Fields:
    """A field of given labels, the labels of all rows, and the network."""

    field: Callable[[Tensor | None], Field]
    labels: Labels
    backbone: BackboneLike

    def fields(self, x: Tensor, size: int) -> Iterator[Field]:
        """A field for each chunk of `size` rows of x, with the labels of its rows."""
        known = class_labels(self.labels, len(x), _classes(self.backbone), "latents")
        for start in range(0, len(x), size):
            yield self.field(None if known is None else known[start : start + size].to(x.device))


def _classes(backbone: BackboneLike) -> int:
    return getattr(backbone, "classes", 0)


@torch.no_grad()
def _solve(
    make: _Fields,
    process: Process,
    x: Tensor,
    solver: Solver | str | None,
    nfe: int | None,
    batch_size: int,
) -> Solution:
    solver = _ode_solver(process, solver)
    require("latents", {"batch_size": (batch_size, is_count(batch_size), "a whole number above 0")})
    if x.ndim < 2 or not len(x):
        raise ValueError(f"latents need states of shape (B, *) with B >= 1, got shape {tuple(x.shape)}")
    size, x = int(batch_size), x.to(device_of(make.backbone, default=x.device))
    with computing(make.backbone):
        pairs = zip(make.fields(x, size), x.split(size), strict=True)
        parts = [solver.solve(at, chunk, nfe=nfe) for at, chunk in pairs]
    calls = torch.cat([_calls(part) for part in parts])
    return Solution(torch.cat([part.x for part in parts]), float(calls.mean()), nfe_per_sample=calls)


def _calls(part: Solution) -> Tensor:
    """Calls of each sample, (B,), float64."""
    if part.nfe_per_sample is not None:
        return part.nfe_per_sample.cpu().double()
    return torch.full((len(part.x),), float(part.nfe), dtype=torch.float64)


def _ode_solver(process: Process, solver: Solver | str | None) -> Solver:
    if isinstance(solver, str):
        from genflow.catalogue import get_solver

        solver = get_solver(solver)
    solver = solver or RK45()
    if solver.mode != "ode":
        raise ValueError(f"latents follow the ODE, and {type(solver).__name__} draws noise; give an ODE solver")
    check_pair(process, solver)
    return solver


@dataclass(frozen=True)
class RoundTrip:
    """Data to latents and back.

    Arguments:
        latent: Latents (B, *).
        x: What came back (B, *).
        rms: Root mean square of the difference over the entries of each sample, shape (B,), data units, on the host.
        largest: Its largest entry, shape (B,), data units, on the host.
        nfe: Backbone calls per sample of both directions together.
    """

    latent: Tensor
    x: Tensor
    rms: Tensor
    largest: Tensor
    nfe: float


def round_trip(
    process: Process,
    backbone: BackboneLike,
    x: Tensor,
    solver: Solver | str | None = None,
    *,
    nfe: int | None = None,
    batch_size: int = 500,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> RoundTrip:
    """How far decode(encode(x)) is from x; arguments as in `encode`, nfe that of each direction.

    The ODE is invertible, so all of it is the solver's error.
    """
    how: dict[str, Any] = {"nfe": nfe, "batch_size": batch_size, "labels": labels, "guidance": guidance}
    there = encode(process, backbone, x, solver, **how)
    back = decode(process, backbone, there.x, solver, **how)
    gap = (back.x - x.to(back.x)).flatten(1).cpu().double()
    rms, largest = gap.square().mean(1).sqrt(), gap.abs().amax(1)
    return RoundTrip(there.x, back.x, rms, largest, there.nfe + back.nfe)


KINDS = {
    "prior": "direction along the great circle, radius geometrically: every step as typical of the prior as its ends",
    "spherical": "sin((1 − s)Ω)/sin Ω · z0 + sin(sΩ)/sin Ω · z1, Ω the angle between the two",
    "linear": "(1 − s) z0 + s z1: steps half-way are shorter than the prior's draws",
}
"""Kinds of paths between two latents z0 and z1, s from 0 to 1. Source of spherical: Shoemake 1985."""


def blend(first: Tensor, second: Tensor, count: int, kind: str = "prior") -> Tensor:
    """Points on the path between two latents, both ends among them: shape (B, count, *).

    "prior" is |z0|^(1−s) |z1|^s times the spherical interpolation of the two directions. Poisson flow's prior is
    spherical, with radii over orders of magnitude, so the radius goes geometrically; for a Gaussian prior, whose radii
    are nearly equal, it is close to "spherical".

    Arguments:
        first: Latents z0, shape (B, *).
        second: Latents z1, shape (B, *).
        count: Points, at s = 0, 1/(count − 1), ..., 1.
        kind: See `KINDS`.

    Raises:
        ValueError: Fewer than two points, shapes that differ, a kind that is not known, or, except for "linear", two
            latents that are opposite or zero, between which no direction lies.
    """
    _check_path(count, kind)
    if first.shape != second.shape:
        raise ValueError(f"latents of shapes {tuple(first.shape)} and {tuple(second.shape)} have no path between them")
    z0, z1 = (in_float64(z.flatten(1))[:, None] for z in (first, second))
    share = torch.linspace(0, 1, int(count), dtype=torch.float64, device=z0.device)[None, :, None]
    path = (1 - share) * z0 + share * z1 if kind == "linear" else _great_circle(z0, z1, share, kind == "prior")
    path[:, 0], path[:, -1] = z0[:, 0], z1[:, 0]
    return path.to(first).reshape(len(first), int(count), *first.shape[1:])


def _check_path(count: int, kind: str) -> None:
    require(
        "interpolation",
        {
            "count": (count, is_count(count, 2), "a whole number of at least 2"),
            "kind": (kind, kind in KINDS, " or ".join(KINDS)),
        },
    )


def _great_circle(z0: Tensor, z1: Tensor, share: Tensor, radial: bool) -> Tensor:
    """Spherical interpolation of z0 and z1 (B, 1, N), or of their directions with the radius geometric."""
    r0, r1 = z0.norm(dim=2, keepdim=True), z1.norm(dim=2, keepdim=True)
    u0, u1 = z0 / r0, z1 / r1
    angle = 2 * torch.atan2((u1 - u0).norm(dim=2, keepdim=True), (u1 + u0).norm(dim=2, keepdim=True))
    bad = ~(angle < math.pi - 1e-6)  # also where a radius is zero
    if bool(bad.any()):
        rows = bad.flatten().nonzero().flatten().tolist()
        raise ValueError(f"latents {rows[:5]} are opposite or zero: no direction lies between them; use kind='linear'")
    ahead, behind = _ratio_of_sines(share, angle), _ratio_of_sines(1 - share, angle)
    if not radial:
        return behind * z0 + ahead * z1
    return (r0.log() * (1 - share) + r1.log() * share).exp() * (behind * u0 + ahead * u1)


def _ratio_of_sines(share: Tensor, angle: Tensor) -> Tensor:
    """sin(s Ω)/sin Ω, whose limit for small Ω is s."""
    small = angle < 1e-6
    safe = torch.where(small, 1.0, angle)
    return torch.where(small, share, (share * safe).sin() / safe.sin())


def interpolate(
    process: Process,
    backbone: BackboneLike,
    first: Tensor,
    second: Tensor,
    count: int,
    kind: str = "prior",
    solver: Solver | str | None = None,
    *,
    nfe: int | None = None,
    batch_size: int = 500,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Examples between pairs of data: both are encoded, their latents joined by a path, its points decoded.

    Arguments:
        process, backbone, solver, nfe, batch_size, guidance: As in `encode`, for each direction.
        first, second: Data, shape (B, *), data units.
        labels: Class of each pair, of both its ends and all its path; as `genflow.sampling.class_labels` reads it.
        count: Points of each path, both ends among them.
        kind: See `KINDS`.

    Returns:
        x of shape (B, count, *); the ends are what came back of the data. Its NFE is all backbone calls, both
        encodings included, over the number of examples returned.

    Raises:
        ValueError: As `blend` and `encode`.
    """
    if first.shape != second.shape:
        raise ValueError(f"data of shapes {tuple(first.shape)} and {tuple(second.shape)} are not pairs")
    _check_path(count, kind)  # before anything is encoded
    known = class_labels(labels, len(first), _classes(backbone), "interpolation")
    how: dict[str, Any] = {"nfe": nfe, "batch_size": batch_size, "guidance": guidance}
    both = None if known is None else known.repeat(2)
    ends = encode(process, backbone, torch.cat([first, second]), solver, labels=both, **how)
    z0, z1 = ends.x[: len(first)], ends.x[len(first) :]
    found = interpolate_latents(process, backbone, z0, z1, count, kind, solver, labels=known, **how)
    return Solution(found.x, found.nfe + ends.nfe * len(ends.x) / found.x.shape[:2].numel())


def interpolate_latents(
    process: Process,
    backbone: BackboneLike,
    first: Tensor,
    second: Tensor,
    count: int,
    kind: str = "prior",
    solver: Solver | str | None = None,
    *,
    nfe: int | None = None,
    batch_size: int = 500,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Examples between pairs of latents (B, *): `blend` decoded, (B, count, *); the rest is as in `interpolate`."""
    latents = blend(first, second, count, kind)
    known = class_labels(labels, len(first), _classes(backbone), "interpolation")
    every = None if known is None else known.repeat_interleave(int(count))
    how: dict[str, Any] = {"nfe": nfe, "batch_size": batch_size, "guidance": guidance}
    found = decode(process, backbone, latents.flatten(0, 1), solver, labels=every, **how)
    return Solution(found.x.reshape(latents.shape), found.nfe)


__all__ = ["KINDS", "RoundTrip", "blend", "decode", "encode", "interpolate", "interpolate_latents", "round_trip"]
