"""Conditional sampling by replacement: inpainting, colourising, and any orthonormal linear measurement y = A x.

While a sample travels from the prior to the data, its known part is set again after every step to what it would be at
that time, a(t) y + b(t) n with a fresh draw n. It needs a process with a score: there the base is Gaussian, and the
noise of the known part is independent of the rest's. Under Poisson flow's base all entries share one radius, so a part
of it cannot be drawn on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.devices import computing, device_of
from genflow.former import moved
from genflow.process.base import Process
from genflow.process.field import BackboneLike, Field
from genflow.process.guidance import Guidance
from genflow.process.shapes import dimension, over
from genflow.sampling import Labels, check_pair, class_labels, draw_prior
from genflow.solver.base import FixedStep, check_finite
from genflow.solver.ending import NO_FINISH, Finish
from genflow.solver.fields import Solution
from genflow.solver.frames import enter, leave
from genflow.solver.langevin import langevin_step
from genflow.solver.noise import Noise
from genflow.solver.sde import EulerMaruyama

WORKING = "euler_maruyama, heun_sde, reverse_diffusion, ancestral, ddim_sde, sde_dpmpp_2m, sde_dpmpp_3m or edm_churn"
"""Solvers of this package that `Replacement` takes, for its messages."""

Project = Callable[[Tensor], Tensor]
"""P x = Aᵀ A x, the known part of x, in the shape of x."""


@dataclass(frozen=True)
class Measurement:
    """A linear measurement with orthonormal rows, as its projection.

    Arguments:
        project: P = Aᵀ A on states (B, *).
        part: Aᵀ y, shape (B, *), in the range of P, data units.
    """

    project: Project
    part: Tensor


@dataclass(frozen=True)
class Replacement:
    """How samples under a constraint are drawn.

    A step is `correctors` Langevin moves x += η s + sqrt(2η) ξ of the unknown part with η = corrector_step · b(t)², and
    one step of the solver; after each the known part is drawn again. The last step adds no noise, or the solver's
    option `end` makes it the mean given the whole state; either leaves the known part exactly as it was given.
    Replacement alone is biased, since x_t is steered by the known part at its own noise level only; more correctors
    bring the samples to the conditional distribution.

    Arguments:
        nfe: Backbone calls per sample, those of guidance included; whole steps must fit into it.
        correctors: Langevin moves a step.
        corrector_step: η over b(t)²; below 1, and small for small bias of the moves themselves.
        solver: A fixed-step SDE solver whose step is one move of the whole state.
        seed: Draw j of row i has index i n + j; it depends on the seed and its index alone.
        batch_size: Samples at a time.
        device: Where the solve runs: where the network is, by default, and it must be there.

    Source: Song et al. 2021, arXiv:2011.13456, appendix I; correctors as Langevin dynamics at fixed t.
    """

    nfe: int = 200
    correctors: int = 0
    corrector_step: float = 0.2
    solver: FixedStep = field(default_factory=EulerMaruyama)
    seed: int = 0
    batch_size: int = 250
    device: str | None = None

    def __post_init__(self) -> None:
        step = self.corrector_step
        require(
            "control",
            {
                "nfe": (self.nfe, is_count(self.nfe), "a whole number above 0"),
                "correctors": (self.correctors, is_count(self.correctors, 0), "a whole number of at least 0"),
                "corrector_step": (step, is_positive(step) and step < 1, "a number above 0 and below 1"),
                "batch_size": (self.batch_size, is_count(self.batch_size), "a whole number above 0"),
            },
        )
        if not isinstance(self.solver, FixedStep) or self.solver.mode != "sde":
            raise ValueError(
                f"control replaces the known part at every step, so it needs a fixed-step SDE solver, and "
                f"{type(self.solver).__name__} is not one; give {WORKING} (euler_maruyama with diffusion = 0 "
                "follows the ODE)"
            )
        if self.solver.why_not_control:
            raise ValueError(
                f"{type(self.solver).__name__} cannot be used under a constraint: {self.solver.why_not_control}; "
                f"what works: {WORKING}"
            )

    def plan(self, cost: int = 1, finish: Finish = NO_FINISH) -> list[int]:
        """Evaluations of the solver in each step.

        Arguments:
            cost: Backbone calls of an evaluation; 2 under guidance.
            finish: What follows the steps: the evaluation of its mean is part of nfe.

        Raises:
            ValueError: No number of steps spends nfe exactly.
        """
        found = self._fit(self.nfe, cost, finish)
        if found is None:
            near = [n for n in range(max(1, self.nfe - 99), self.nfe + 100) if self._fit(n, cost, finish)]
            below, above = [n for n in near if n < self.nfe][-1:], [n for n in near if n > self.nfe][:1]
            raise ValueError(
                f"nfe = {self.nfe} is not a whole number of steps of {type(self.solver).__name__} with correctors = "
                f"{self.correctors}{' and guidance' * (cost > 1)}; give {' or '.join(map(str, below + above))}"
            )
        return found

    def _fit(self, nfe: int, cost: int, finish: Finish) -> list[int] | None:
        """The plan whose steps, each with its correctors, spend nfe; None where there is none."""
        evaluations, left = divmod(nfe, cost)
        for steps in range(0 if left else evaluations // (1 + self.correctors), 0, -1):
            own = evaluations - steps * self.correctors
            plan = self.solver.planned(own, finish) if own > 0 else []
            if len(plan) == steps:
                return plan
        return None

    @torch.no_grad()
    def sample(
        self,
        process: Process,
        backbone: BackboneLike,
        known: Measurement,
        n: int,
        *,
        labels: Labels = None,
        guidance: float | Guidance = 1.0,
    ) -> Solution:
        """n samples for each row of the known part: x of shape (B, n, *), and their NFE; labels as in `inpaint`."""
        check_control(process)
        check_pair(process, self.solver)
        require("control", {"n": (n, is_count(n), "a whole number above 0")})
        classes = class_labels(labels, len(known.part), getattr(backbone, "classes", 0), "control")
        device = device_of(backbone, self.device, "control")
        labels_of_all = None if classes is None else classes.repeat_interleave(int(n)).to(device)
        part = known.part.repeat_interleave(int(n), dim=0)
        xs, calls = [], 0.0
        for start in range(0, len(part), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(part)))
            own = None if labels_of_all is None else labels_of_all[rows.start : rows.stop]
            at = process.field(backbone, labels=own, guidance=guidance)
            own_part = Measurement(known.project, part[rows.start : rows.stop].to(device))
            with computing(backbone):
                found = self._travel(process, at, own_part, rows)
            xs.append(found.x.cpu())
            calls += found.nfe * len(rows)
        x = torch.cat(xs)
        return Solution(x.reshape(-1, int(n), *x.shape[1:]), calls / len(x))

    def _travel(self, process: Process, field: Field, known: Measurement, indices: range) -> Solution:
        """One batch from the prior to the data."""
        finish = self.solver.ending.on(field, "sde", type(self.solver).__name__)
        part, plan, own = known.part, self.plan(field.cost, finish), finish.inner(field)
        at: Any = self.solver.framed(own)
        # noise of another name, so that the rest of an image uses the same draws as plain sampling
        walk = _Walk(at, known.project, part, Noise(self.seed, indices, "known part"))
        x, noise = draw_prior(process, tuple(part.shape[1:]), self.seed, indices, part.dtype, part.device)
        times = self.solver.times(at, len(plan))
        solver = self.solver.begin(at, times)
        x = walk.replace(enter(at, x, times[0]), times[0])
        for i, calls in enumerate(plan):
            for _ in range(self.correctors):
                x = walk.replace(walk.correct(x, times[i], self.corrector_step), times[i])
            x = solver.step(at, x, times[i], times[i + 1], noise, calls)
            check_finite(x, leave(at, x, times[i + 1])[1], i + 1)
            if i + 1 < len(plan) or finish.mean:
                x = walk.replace(x, times[i + 1])
        x = walk.fill(finish.end(own, *leave(at, x, times[-1])), part)
        return Solution(x, at.evaluations / len(x))


class _Walk:
    """The moves that are not the solver's."""

    def __init__(self, at: Any, project: Project, part: Tensor, noise: Noise) -> None:
        self.field, self.project, self.part, self.noise = at, project, part, noise

    def fill(self, x: Tensor, part: Tensor) -> Tensor:
        """x with its known part replaced."""
        return x - self.project(x) + part

    def replace(self, x: Tensor, t: Tensor) -> Tensor:
        """x with the known part of time t: a y + b n."""
        a, b = (over(value, x) for value in self.field.schedule(t))
        return self.fill(x, a * self.part + b * self.project(self.noise.like(x)))

    def correct(self, x: Tensor, t: Tensor, step: float) -> Tensor:
        """One Langevin move of the unknown part at time t; one backbone call."""
        eta = step * float(self.field.schedule(t)[1]) ** 2
        moved, _ = langevin_step(x, self.field.score(x, t), self.noise.like(x), x.new_full((len(x),), eta))
        return moved - self.project(moved - x)


def check_control(process: Process) -> None:
    """Raises ValueError, with the reason, where a known part cannot be noised on its own."""
    reason = process.why_not("score") or process.why_not("affine")
    if reason:
        raise ValueError(
            f"{type(process).__name__} cannot be sampled under a constraint: the noise of the known part must be "
            f"independent of the rest's, as that of a Gaussian base is; {reason}"
        )


def inpaint(
    process: Process,
    backbone: BackboneLike,
    x: Tensor,
    mask: Tensor,
    n: int = 1,
    how: Replacement | None = None,
    *,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Samples that agree with x wherever mask is true.

    Arguments:
        process: With a score.
        backbone: Its network.
        x: Examples (B, *), data units; what they hold where mask is false is not looked at.
        mask: True or 1 where x is known, 0 elsewhere: the shape of one example, or one that broadcasts to it.
        n: Samples for each row.
        how: Steps, correctors, seed; see `Replacement`.
        labels: Class of each row and all its samples, as `genflow.sampling.class_labels` reads it.
        guidance: Classifier-free guidance w; see `genflow.process.guidance`. NFE counts both calls.

    Returns:
        x of shape (B, n, *), exactly the given entries where mask is true, and the NFE.

    Raises:
        ValueError: No score, a mask of another shape or with other entries, or known entries that are not finite.
    """
    how = how or Replacement()
    keep = _mask(mask, tuple(x.shape[1:])).to(device_of(backbone, how.device, "control"))
    part = torch.where(keep.to(x.device), x, 0.0)
    _check_finite(part)
    known = Measurement(lambda v: torch.where(keep, v, 0.0), part)
    return how.sample(process, backbone, known, n, labels=labels, guidance=guidance)


def _mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask as booleans in the shape of an example."""
    try:
        wide = mask.expand(shape)
    except RuntimeError:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; give that of one example, {shape}") from None
    if not bool(((wide == 0) | (wide == 1)).all()):
        raise ValueError("the mask has entries other than 0 and 1; give 1 where x is known and 0 where it is not")
    return wide.bool()


GREY = (1 / 3, 1 / 3, 1 / 3)
"""Weights of the channels in a grey image: their mean."""


def colourise(
    process: Process,
    backbone: BackboneLike,
    grey: Tensor,
    n: int = 1,
    how: Replacement | None = None,
    weights: Sequence[float] = GREY,
    *,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Colour images whose weighted mean of the channels is `grey`.

    In an orthonormal basis of the three channels that begins with w/|w|, the constraint fixes one channel to
    grey/|w|, and the other two are free.

    Arguments:
        process: With a score, for data of shape (3, H, W).
        backbone: Its network.
        grey: Grey images (B, 1, H, W), data units: Σ_c w_c x_c.
        n: Samples for each row.
        how: Steps, correctors, seed; see `Replacement`.
        weights: w.
        labels, guidance: As in `inpaint`.

    Returns:
        x of shape (B, n, 3, H, W) and the NFE.

    Raises:
        ValueError: No score, other shapes, a model of other data, or weights that are all zero.
    """
    shape = getattr(backbone, "shape", (3, *grey.shape[2:]))
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"colourising needs a model of images of 3 channels; this one's examples have shape {shape}")
    if grey.ndim != 4 or tuple(grey.shape[1:]) != (1, *shape[1:]):
        raise ValueError(f"grey images have shape {tuple(grey.shape)}; want (B, 1, {shape[1]}, {shape[2]})")
    how = how or Replacement()
    w = torch.tensor(weights, dtype=torch.float64).reshape(1, -1, 1, 1)
    if w.shape[1] != 3 or not bool(w.isfinite().all()) or not bool(w.any()):
        raise ValueError(f"weights = {tuple(weights)} are not allowed; give three finite numbers, not all zero")
    direction = (w / w.norm()).to(device_of(backbone, how.device, "control"), grey.dtype)
    part = (w / w.square().sum()).to(grey) * grey
    _check_finite(part)
    known = Measurement(lambda v: direction * (direction * v).sum(1, keepdim=True), part)
    return how.sample(process, backbone, known, n, labels=labels, guidance=guidance)


def constrain(
    process: Process,
    backbone: BackboneLike,
    a: Tensor,
    y: Tensor,
    shape: Sequence[int],
    n: int = 1,
    how: Replacement | None = None,
    *,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Solution:
    """Samples x with A x = y.

    Arguments:
        process: With a score.
        backbone: Its network.
        a: A, shape (k, N), orthonormal rows, of flattened examples.
        y: Measurements (B, k), data units.
        shape: Shape of one example, of N entries.
        n: Samples for each row of y.
        how: Steps, correctors, seed; see `Replacement`.
        labels, guidance: As in `inpaint`.

    Returns:
        x of shape (B, n, *shape) and the NFE.

    Raises:
        ValueError: No score, shapes that do not fit, or rows that are not orthonormal.
    """
    size = dimension(torch.empty(1, *shape))
    if a.ndim != 2 or a.shape[1] != size or y.ndim != 2 or y.shape[1] != a.shape[0]:
        raise ValueError(
            f"A has shape {tuple(a.shape)} and y {tuple(y.shape)}; "
            f"want (k, {size}) and (B, k) for examples of shape {tuple(shape)}"
        )
    off = (a.cpu().double() @ a.cpu().double().T - torch.eye(len(a), dtype=torch.float64)).abs()
    if len(a) and float(off.max()) > 1e-5:
        raise ValueError(
            f"the rows of A are not orthonormal: A Aᵀ is off by {float(off.max()):.2g}; "
            "take Q, R = torch.linalg.qr(A.T), and give Q.T with R⁻ᵀ y"
        )
    how = how or Replacement()
    rows = a.to(device_of(backbone, how.device, "control"), y.dtype)
    with computing(backbone):
        part = (y @ a.to(y)).reshape(-1, *shape)
    _check_finite(part)

    def project(v: Tensor) -> Tensor:
        return ((v.flatten(1) @ rows.T) @ rows).reshape(v.shape)

    return how.sample(process, backbone, Measurement(project, part), n, labels=labels, guidance=guidance)


def _check_finite(part: Tensor) -> None:
    if not len(part) or not bool(part.isfinite().all()):
        raise ValueError("the known part is empty or not finite; give at least one row of finite numbers")


__all__ = ["Measurement", "Replacement", "colourise", "constrain", "inpaint"]


__getattr__ = moved("genflow.inpainting")
