"""What solvers see of a process under one backbone, and the one place where a network is called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from genflow.process.base import BackboneLike, Process, is_number, require
from genflow.process.grids import Spacing, times

NO_CLASS = -1
"""The label that stands for "no class": what unconditional training and sampling tell a class-conditional backbone."""


REMEMBERED = 4096
"""Times of which the process remembers what a backbone is told, and its ε."""


class Field:
    """A process under one backbone, as solvers see it: callables of (x, t), a time grid, a clock, a count.

    `output` is the only place where a network is called. `evaluations` counts sample-calls, so that
    evaluations / batch size is the NFE, whatever the solver does with sub-batches.

    Arguments:
        process: Gives everything but the network.
        backbone: The network.
        labels: Class of each row, shape (B,), or None for no class.
        guidance: Classifier-free guidance w: what the backbone says without a class plus w times the difference that
            the class makes. 1 is the plain conditional field, 0 the unconditional one; anything else takes two calls
            an evaluation. What is combined is the velocity, score or posterior mean, which are affine in one another,
            so all heads mean the same w.

    Source of guidance: Ho & Salimans 2022, arXiv:2207.12598 (whose w is this one less 1).
    """

    def __init__(
        self, process: Process, backbone: BackboneLike, labels: Tensor | None = None, guidance: float = 1.0
    ) -> None:
        require("field", {"guidance": (guidance, is_number(guidance) and guidance >= 0, "a number of at least 0")})
        if labels is not None and not getattr(backbone, "classes", 0):
            raise ValueError("labels were given, but this backbone knows no classes; train one with classes=K")
        if labels is None and guidance != 1.0:
            raise ValueError(f"guidance = {guidance:g} needs labels: say which class to guide towards")
        self.process, self.backbone = process, backbone
        self.labels = None if labels is None or guidance == 0.0 else labels
        self.guidance = float(guidance) if self.labels is not None else 1.0
        self.evaluations = 0
        self.end: float | None = None
        self.quiet = True
        self._last: float | None = None
        self._asks = getattr(backbone, "told", "") == "noise_level"
        self._told: dict[tuple[object, ...], Tensor] = vars(process).setdefault("_told", {})

    @property
    def cost(self) -> int:
        """Backbone calls per sample of one evaluation: 2 under guidance, else 1."""
        return 1 if self.guidance == 1.0 else 2

    def output(self, x: Tensor, t: Tensor, *, unlabelled: bool = False) -> Tensor:
        """The backbone's output at x (B, *) and native time t () or (B,): shape (B, * with extra channels)."""
        self.evaluations += x.shape[0]
        inputs = [x, self.told(t, x).expand(x.shape[0])]
        if self.labels is not None:
            inputs.append(torch.full_like(self.labels, NO_CLASS) if unlabelled else self.labels)
        return self.backbone(*inputs)

    def told(self, t: Tensor, x: Tensor) -> Tensor:
        """What the backbone hears of t, of t's shape, in x's dtype; one time's is remembered with the process."""
        tell = self.process.noise_level if self._asks else self.process.condition
        if t.ndim or t.requires_grad or torch.is_inference_mode_enabled():  # its tensors are no good to autograd later
            return tell(t.double()).to(x.device, x.dtype)
        key = (float(t), self._asks, x.dtype, x.device)
        if key not in self._told:
            if len(self._told) > REMEMBERED:
                self._told.clear()
            self._told[key] = tell(t.double()).to(x.device, x.dtype)
        return self._told[key]

    def _read(self, readings: Sequence[Callable[..., Tensor]], x: Tensor, *times: Tensor) -> list[Tensor]:
        """What each reading (output, x, *times) -> tensor says, guided, from one evaluation at the first time."""
        output = self.output(x, times[0])
        given = [read(output, x, *times) for read in readings]
        if self.cost == 1:
            return given
        output = self.output(x, times[0], unlabelled=True)
        plain = [read(output, x, *times) for read in readings]
        return [p + self.guidance * (g - p) for p, g in zip(plain, given, strict=True)]

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the sampling ODE, shape (B, *)."""
        return self._read([self.process.velocity], x, t)[0]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t, shape (B, *)."""
        return self._read([self.process.score], x, t)[0]

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[X | x_t = x], shape (B, *)."""
        return self._read([self.process.data_mean], x, t)[0]

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        velocity, score = self._read([self.process.velocity, self.process.score], x, t)
        return velocity, score

    def frozen_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s from x at t with its posterior means held fixed, shape (B, *); one evaluation."""
        return self._read([self.process.frozen_step], x, t, s)[0]

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and b(t); see `Process.schedule`."""
        return self.process.schedule(t)

    def why_not(self, capability: str) -> str | None:
        """None where the process has it, else the reason; see `Process.why_not`."""
        return self.process.why_not(capability)

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε(t) of the published reverse SDE; see `Process.natural_diffusion`."""
        if t.ndim:
            return self.process.natural_diffusion(t)
        key = (float(t), "diffusion")
        if key not in self._told:
            self._told[key] = self.process.natural_diffusion(t)
        return self._told[key]

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        """The process's time grid, to the field's own end where it has one; see `Process.grid`."""
        if self.end is None:
            return self.process.grid(steps, training=training, spacing=spacing)
        interval = self.process.training_interval if training else self.process.safe_interval
        return times(self.process, steps, spacing, (self.end, interval[1]))

    def until(self, t: float | None, *, quiet: bool = True) -> Self:
        """A copy whose grids end at native time t, None for the process's own end, with labels and a count of its own.

        Arguments:
            quiet: Whether the step to the end adds no noise; else it is a step like any other.
        """
        fresh = copy.copy(self)
        fresh.end, fresh.quiet, fresh._last = t, quiet, None
        return fresh

    def is_end(self, t: Tensor) -> bool:
        """Whether a step to t () adds no noise: t is where the grids end, and the field is quiet there."""
        if self._last is None:
            self._last = float(self.grid(1)[-1])
        return self.quiet and float(t) == self._last

    def end_time(self, noise: float) -> float:
        """The time nearest the data with that noise; see `Process.end_time`."""
        return self.process.end_time(noise)

    def published_end(self, mode: str) -> str:
        """How published samplers end; see `Process.published_end`."""
        return self.process.published_end(mode)

    def in_data_units(self, x: Tensor, t: Tensor) -> Tensor:
        """x/a; see `Process.in_data_units`."""
        return self.process.in_data_units(x, t)

    def to_clock(self, t: Tensor) -> Tensor:
        return self.process.to_clock(t)

    def from_clock(self, s: Tensor) -> Tensor:
        return self.process.from_clock(s)

    def clock_rate(self, t: Tensor) -> Tensor:
        return self.process.clock_rate(t)

    def keep(self, rows: Tensor) -> None:
        """Told by a solver that only these rows (mask over the current batch) travel on."""
        if self.labels is not None:
            self.labels = self.labels[rows.to(self.labels.device)]

    def rows(self, rows: Tensor) -> Self:
        """A copy that sees only these rows (mask over the current batch)."""
        fresh = copy.copy(self)
        fresh.keep(rows)
        return fresh
