"""The field: what solvers see of a process under one network, and the one place where a network is called.

A solver integrates dx/dt = v(x, t), or steps with the score s(x, t) or the posterior mean X̂(x, t). It knows nothing
of processes, heads or networks: it asks a field, the field calls the network once (`Field.output`) and the process
reads the answer. So the number of network calls, NFE, is counted here for every solver alike, rejected steps included.

Under guidance (`genflow.process.guidance`) an evaluation is two calls, and what is read of them is combined here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from genflow.process.clock import Clock, Timed
from genflow.process.grids import Spacing, times
from genflow.process.guidance import NO_CLASS, check_guidance, guided
from genflow.process.linear import Combination

BackboneLike = Callable[..., Tensor]
"""Any callable (x_t of shape (B, *), condition of shape (B,)) -> tensor of x_t's shape plus the extra channels.

One that has an attribute `classes` above 0 also takes labels (B,), int64, with `NO_CLASS` for none."""


def wants_noise_level(backbone: BackboneLike) -> bool:
    """Whether a backbone takes the noise level in the place of the process's condition.

    It says so by its attribute `conditioning`; backbones written for earlier versions call it `told`.
    """
    return "noise_level" in (getattr(backbone, name, "") for name in ("conditioning", "told"))


class Readable(Timed, Protocol):
    """What a field needs of a process: how to read an output, and its times. See `genflow.process.base.Process`."""

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor: ...
    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor: ...
    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor: ...
    def ddim_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor: ...
    def terms(self, names: Sequence[str], output: Tensor, x: Combination, t: Tensor) -> list[Combination]: ...
    def condition_like(self, t: Tensor, x: Tensor, *, noise_level: bool) -> Tensor: ...
    def network_input(self, x: Tensor, t: Tensor) -> Tensor: ...
    def prepare(self, t: Tensor, x: Tensor, *, noise_level: bool) -> None: ...
    def prepare_rows(
        self, t: Tensor, x: Tensor, beside: Tensor, *, noise_level: bool
    ) -> tuple[list[Tensor], Tensor]: ...
    def diffusion_at(self, t: Tensor) -> Tensor: ...
    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def schedule_at(self, t: Tensor) -> tuple[float, float]: ...
    def recall(self, key: Hashable, make: Callable[[], Any]) -> Any: ...
    def why_not(self, capability: str) -> str | None: ...
    def end_time(self, noise: float) -> float: ...
    def published_end(self, mode: str) -> str: ...
    def in_data_units(self, x: Tensor, t: Tensor) -> Tensor: ...
    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor: ...


class Field:
    """A process under one backbone, as solvers see it: callables of (x, t), a time grid, a clock, a count.

    `output` is the only place where a network is called. `evaluations` counts sample-calls, so that
    evaluations / batch size is the NFE, whatever the solver does with sub-batches.

    Arguments:
        process: Gives everything but the network.
        backbone: The network.
        labels: Class of each row, shape (B,), or None for no class.
        guidance: Weight w of classifier-free guidance; see `genflow.process.guidance`. 1 is the plain conditional
            field, 0 the unconditional one; anything else takes two calls an evaluation.
    """

    def __init__(
        self, process: Readable, backbone: BackboneLike, labels: Tensor | None = None, guidance: float = 1.0
    ) -> None:
        check_guidance(guidance, labels, getattr(backbone, "classes", 0))
        self.process, self.backbone = process, backbone
        self.labels = None if labels is None or guidance == 0.0 else labels
        self.guidance = float(guidance) if self.labels is not None else 1.0
        self.evaluations = 0
        self.end: float | None = None
        self.noiseless_end = True
        self._last: float | None = None
        self._wants_noise_level = wants_noise_level(backbone)

    @property
    def cost(self) -> int:
        """Backbone calls per sample of one evaluation: 2 under guidance, else 1."""
        return 1 if self.guidance == 1.0 else 2

    def output(self, x: Tensor, t: Tensor, *, unlabelled: bool = False) -> Tensor:
        """The backbone's output at x (B, *) and native time t () or (B,): shape (B, * with extra channels)."""
        self.evaluations += x.shape[0]
        condition = self.process.condition_like(t, x, noise_level=self._wants_noise_level)
        inputs = [self.process.network_input(x, t), condition.expand(x.shape[0])]
        if self.labels is not None:
            inputs.append(torch.full_like(self.labels, NO_CLASS) if unlabelled else self.labels)
        return self.backbone(*inputs)

    def _read(self, readings: Sequence[Callable[..., Tensor]], x: Tensor, *times: Tensor) -> list[Tensor]:
        """What each reading (output, x, *times) -> tensor finds, guided, in one evaluation at the first time."""
        output = self.output(x, times[0])
        given = [read(output, x, *times) for read in readings]
        if self.cost == 1:
            return given
        output = self.output(x, times[0], unlabelled=True)
        return [guided(read(output, x, *times), g, self.guidance) for read, g in zip(readings, given, strict=True)]

    def read(self, names: Sequence[str], x: Combination, t: Tensor) -> list[Combination]:
        """ "velocity", "score" or "data" at (x, t), by name, as sums that a step adds to; one evaluation.

        A subclass that gives one of these methods its own meaning is read by the methods.
        """
        given = self.process.terms(names, self.output(x.value(), t), x, t)
        if self.cost == 1:
            return given
        without = self.process.terms(names, self.output(x.value(), t, unlabelled=True), x, t)
        return [(1 - self.guidance) * f + self.guidance * g for f, g in zip(without, given, strict=True)]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "read" not in cls.__dict__ and {"velocity", "score", "data", "velocity_and_score"} & set(cls.__dict__):
            cls.read = None  # type: ignore[assignment, method-assign]

    def prepare(self, t: Tensor, x: Tensor) -> None:
        """Announces times; see `Process.prepare`."""
        self.process.prepare(t, x, noise_level=self._wants_noise_level)

    def prepare_rows(self, t: Tensor, x: Tensor, beside: Tensor) -> tuple[list[Tensor], Tensor]:
        """Announces times of each row; see `Process.prepare_rows`."""
        return self.process.prepare_rows(t, x, beside, noise_level=self._wants_noise_level)

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

    def ddim_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s from x at t with its posterior means held fixed, shape (B, *); one evaluation."""
        return self._read([self.process.ddim_step], x, t, s)[0]

    def frozen_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The old name of `ddim_step`."""
        warnings.warn("frozen_step is now ddim_step", FutureWarning, stacklevel=2)
        return self.ddim_step(x, t, s)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and b(t); see `Process.schedule`."""
        return self.process.schedule(t)

    def schedule_at(self, t: Tensor) -> tuple[float, float]:
        """The same at one time, as numbers."""
        return self.process.schedule_at(t)

    def recall(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was found once of grids with this field's end; see `Process.recall`."""
        return self.process.recall((key, self.end), make)

    def why_not(self, capability: str) -> str | None:
        """None where the process has it, else the reason; see `Process.why_not`."""
        return self.process.why_not(capability)

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε(t) of the published reverse SDE; see `Process.natural_diffusion`."""
        return self.process.diffusion_at(t)

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        """The process's time grid, to the field's own end where it has one; see `Process.grid`."""
        process, end = self.process, self.end

        def make() -> Tensor:
            if end is None:
                return process.grid(steps, training=training, spacing=spacing)
            interval = process.training_interval if training else process.safe_interval
            return times(process, steps, spacing, (end, interval[1]))

        if not isinstance(spacing, str):
            return make()
        found: Tensor = self.recall(("grid", steps, training, spacing), make)
        return found.clone()

    def until(self, t: float | None, *, noiseless: bool = True) -> Self:
        """A copy whose grids end at native time t, None for the process's own end, with labels and a count of its own.

        Arguments:
            noiseless: Whether the step to the end adds no noise; else it is a step like any other.
        """
        fresh = copy.copy(self)
        fresh.end, fresh.noiseless_end, fresh._last = t, noiseless, None
        return fresh

    def is_noiseless_end(self, t: Tensor) -> bool:
        """Whether a step to t () adds no noise: t is where the grids end, and no mean is taken there."""
        if self._last is None:
            self._last = float(self.grid(1)[-1])
        return self.noiseless_end and float(t) == self._last

    def end_time(self, noise: float) -> float:
        """The time nearest the data with that noise; see `Process.end_time`."""
        return self.process.end_time(noise)

    def published_end(self, mode: str) -> str:
        """How published samplers end; see `Process.published_end`."""
        return self.process.published_end(mode)

    def in_data_units(self, x: Tensor, t: Tensor) -> Tensor:
        """x/a; see `Process.in_data_units`."""
        return self.process.in_data_units(x, t)

    @property
    def clock(self) -> Clock:
        """The clock that grids and adaptive solvers step in."""
        return self.process.own_clock

    def keep(self, rows: Tensor) -> None:
        """Drops all but these rows (mask over the current batch), as a solver asks when only they travel on."""
        if self.labels is not None:
            places = rows.cpu().nonzero().flatten().to(self.labels.device, non_blocking=True)
            self.labels = self.labels.index_select(0, places)

    @property
    def fixed_batch(self) -> bool:
        """Whether batches are better left as long as they are: a compiled network is compiled again for each length."""
        return hasattr(self.backbone, "_orig_mod")

    def rows(self, rows: Tensor) -> Self:
        """A copy that sees only these rows (mask over the current batch)."""
        fresh = copy.copy(self)
        fresh.keep(rows)
        return fresh
