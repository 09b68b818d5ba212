"""Time grids: where the steps of a fixed-step solver lie between the prior end and the data end."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from genflow.process.clock import Timed
from genflow.registry import unknown

Spacing = str | Sequence[float]
"""A name, "edm(ρ)", or the times themselves, of which the ends may be rounded to four digits."""

SPACINGS = {
    "process": "even in the process's own clock (t, or log t)",
    "uniform": "even in native time",
    "log": "geometric in the distance of native time from where the noise is gone",
    "edm": "edm(ρ): even in σ^(1/ρ), σ = b/a the noise-to-signal ratio; edm is edm(7)",
    "snr": "even in log(a/b)",
    "cosine": "(1 − cos πu)/2 of the way in native time: dense at both ends",
}
"""Names of spacings and what they do. Source of edm: Karras et al. 2022, arXiv:2206.00364."""


def times(process: Timed, steps: int, spacing: Spacing, ends: tuple[float, float]) -> Tensor:
    """steps + 1 float64 times from the prior end to the data end, both ends exact.

    Arguments:
        process: Owner of the time.
        steps: Steps between the ends.
        spacing: See `SPACINGS`; explicit times must begin at the prior's end and go towards the data.
        ends: (near the data, near the prior).

    Raises:
        ValueError: The spacing is not known, or the process has no ratio that it needs.
    """
    if not isinstance(spacing, str):
        return _explicit(spacing, steps, ends)
    name, argument = parse(spacing)
    found = _SHAPES[name](process, torch.linspace(0, 1, steps + 1, dtype=torch.float64), ends, argument)
    found[0], found[-1] = ends[1], ends[0]
    return found


def parse(spacing: str) -> tuple[str, float]:
    """("edm", 7.0) from "edm(7)"; the number is ρ, 7 where none is given."""
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", spacing.strip())
    name = match.group(1) if match else spacing
    if name not in SPACINGS:
        raise unknown("grid", spacing, SPACINGS)
    inside = match.group(2) if match else None
    if inside is None:
        return name, 7.0
    try:
        rho = float(inside)
    except ValueError:
        rho = math.nan
    if name != "edm" or not (rho > 0 and math.isfinite(rho)):
        raise ValueError(f"grid '{spacing}' is not allowed; only edm takes a number, ρ above 0, as in edm(7)")
    return name, rho


def check_spacing(spacing: Spacing) -> None:
    """Raises ValueError for a spacing that no process could use."""
    if isinstance(spacing, str):
        parse(spacing)
        return
    times = list(spacing) if isinstance(spacing, Collection) else []
    if len(times) < 2 or not all(isinstance(t, int | float) and math.isfinite(t) for t in times):
        raise ValueError(f"grid = {spacing!r} is not allowed; give a name or at least two finite times")


def _explicit(spacing: Sequence[float], steps: int, ends: tuple[float, float]) -> Tensor:
    found = torch.tensor([float(t) for t in spacing], dtype=torch.float64)
    if len(found) != steps + 1:
        raise ValueError(f"the grid has {len(found)} times, that is {len(found) - 1} steps, but {steps} were asked for")
    for i, end in ((-1, ends[0]), (0, ends[1])):  # an end written with four digits is that end
        found[i] = end if abs(float(found[i]) - end) <= 1e-3 * abs(end) else found[i]
    toward = math.copysign(1.0, ends[0] - ends[1])
    if not bool((toward * found.diff() > 0).all()):
        raise ValueError(f"the times of the grid do not go from the prior, t = {ends[1]:g}, towards t = {ends[0]:g}")
    slack = 1e-9 * max(abs(ends[0]), abs(ends[1]))
    if abs(float(found[0]) - ends[1]) > slack or toward * (float(found[-1]) - ends[0]) > slack:
        raise ValueError(f"the grid must begin at t = {ends[1]:g} and end at t = {ends[0]:g} or before")
    return found


def _process(process: Timed, u: Tensor, ends: tuple[float, float], _: float) -> Tensor:
    start, end = process.own_clock.to_clock(torch.tensor(ends[::-1], dtype=torch.float64)).tolist()
    return process.own_clock.from_clock(torch.lerp(torch.full_like(u, start), torch.full_like(u, end), u))


def _uniform(process: Timed, u: Tensor, ends: tuple[float, float], _: float) -> Tensor:
    return ends[1] + (ends[0] - ends[1]) * u


def _cosine(process: Timed, u: Tensor, ends: tuple[float, float], _: float) -> Tensor:
    return ends[1] + (ends[0] - ends[1]) * (1 - (math.pi * u).cos()) / 2


def _log(process: Timed, u: Tensor, ends: tuple[float, float], _: float) -> Tensor:
    """Geometric in |t − o|, o = 0 where time grows towards the prior from a positive end, else t_data."""
    near_data, near_prior = ends
    origin = 0.0 if 0 < near_data < near_prior else process.t_data
    if near_data == origin:
        raise ValueError(
            f"a log grid needs an end off t = {origin:g}; {type(process).__name__} reaches it: use uniform"
        )
    far, near = near_prior - origin, near_data - origin
    return origin + far * (near / far) ** u


def _edm(process: Timed, u: Tensor, ends: tuple[float, float], rho: float) -> Tensor:
    low, high = (float(process.noise_ratio(torch.tensor(t, dtype=torch.float64))) for t in ends)
    return time_at_ratio(process, ((1 - u) * high ** (1 / rho) + u * low ** (1 / rho)) ** rho, ends)


def _snr(process: Timed, u: Tensor, ends: tuple[float, float], _: float) -> Tensor:
    low, high = (float(process.noise_ratio(torch.tensor(t, dtype=torch.float64))) for t in ends)
    return time_at_ratio(process, (math.log(high) * (1 - u) + math.log(low) * u).exp(), ends)


def time_at_ratio(process: Timed, ratio: Tensor, ends: tuple[float, float]) -> Tensor:
    """Times with that noise-to-signal ratio, by bisection in the clock."""
    if not bool(ratio.isfinite().all()):
        raise ValueError(f"{type(process).__name__} has times without data: no ratio to space a grid by; use uniform")
    clock = process.own_clock
    low, high = (torch.full_like(ratio, s) for s in clock.to_clock(torch.tensor(ends, dtype=torch.float64)).tolist())
    for _ in range(80):
        middle = (low + high) / 2
        below = process.noise_ratio(clock.from_clock(middle)) < ratio
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return clock.from_clock((low + high) / 2)


_SHAPES: dict[str, Callable[[Timed, Tensor, tuple[float, float], float], Tensor]] = {
    "process": _process,
    "uniform": _uniform,
    "log": _log,
    "edm": _edm,
    "snr": _snr,
    "cosine": _cosine,
}


LOOKED_AT = 1025
"""Times at which a path's noise is looked at before the right one is searched for: it need not be monotone."""


def time_of_noise_left(process: Timed, noise_left: Callable[[Tensor], Tensor], noise: float) -> float:
    """The time nearest the data at which `noise_left` is `noise`, by bisection in the clock.

    Raises:
        ValueError: The path has more noise everywhere, or less, with what it can do.
    """
    near_data, near_prior = process.training_interval[0], process.safe_interval[1]
    times_of = process.own_clock
    start, end = times_of.to_clock(torch.tensor([near_data, near_prior], dtype=torch.float64)).tolist()
    clock = torch.linspace(start, end, LOOKED_AT, dtype=torch.float64)
    clock[-1] = end
    inner = times_of.from_clock(clock)
    inner[0], inner[-1] = near_data, near_prior
    left = noise_left(inner)
    least, above = float(left[0]), (left > noise).nonzero().flatten()
    name = type(process).__name__
    if noise < least * (1 - 1e-9):
        raise ValueError(
            f"{name} cannot end at noise {noise:g}: its path ends with {least:.4g} (data units) at t = {near_data:g}; "
            "give end_noise that or more, let the process go nearer to the data, or leave no noise: end = 'mean'"
        )
    if not len(above):
        raise ValueError(f"{name} cannot end at noise {noise:g}: it begins with less; give less than {left.max():.4g}")
    if noise <= least:
        return near_data
    low, high = clock[above[0] - 1].clone(), clock[above[0]].clone()
    for _ in range(80):
        middle = (low + high) / 2
        below = bool(noise_left(times_of.from_clock(middle)) < noise)
        low, high = (middle, high) if below else (low, middle)
    return float(times_of.from_clock(high))
