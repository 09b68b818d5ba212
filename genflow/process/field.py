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
from genflow.process.guidance import NO_CLASS, Guidance, guided
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
    def noise_ratio(self, t: Tensor) -> Tensor: ...
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
        guidance: Weight w, or more; see `genflow.process.guidance`. 1 is the plain conditional field, 0 that of the
            weaker network; anything else takes two calls an evaluation where guidance acts.
    """

    def __init__(
        self,
        process: Readable,
        backbone: BackboneLike,
        labels: Tensor | None = None,
        guidance: float | Guidance = 1.0,
    ) -> None:
        how = Guidance.of(guidance)
        how.check(process, labels, getattr(backbone, "classes", 0))
        self.process, self.backbone = process, backbone
        unconditional = how.weight == 0.0 and how.interval is None and how.guide is None
        self.labels = None if labels is None or unconditional else labels
        self.guided_by = how if self.labels is not None or how.guide else Guidance()
        self.guidance = float(self.guided_by.weight)
        self.evaluations = 0
        self.end: float | None = None
        self.noiseless_end = True
        self._last: float | None = None
        self._counts_only = False
        self._wants_noise_level = wants_noise_level(backbone)

    @property
    def cost(self) -> int:
        """Most backbone calls per sample of one evaluation: 2 under guidance, else 1."""
        return 1 if self.guidance in (0.0, 1.0) else 2

    @property
    def even_cost(self) -> bool:
        """Whether every evaluation takes `cost` calls: not where guidance acts on an interval."""
        return self.cost == 1 or self.guided_by.interval is None

    def is_guided(self, t: Tensor) -> bool | Tensor:
        """Whether guidance acts at native times; a mask (B,) on the host where it acts on some of them."""
        if self.guidance == 1.0 or self.guided_by.interval is None:
            return self.guidance != 1.0
        low, high = self.guided_by.interval
        sigma = self.process.noise_ratio(t.detach().to("cpu", torch.float64))
        acts = (sigma > low) & (sigma <= high)
        return acts if bool(acts.any()) and not bool(acts.all()) else bool(acts.any())

    def calls_at(self, t: Tensor) -> Tensor:
        """Backbone calls per sample of an evaluation at native times, int64, of t's shape on the host."""
        acts = torch.as_tensor(self.is_guided(t)).expand(t.shape)
        return 1 + (self.cost - 1) * acts.long()

    def counting(self) -> Self:
        """A copy that calls no network: all that is read of it is 0, and it counts the calls."""
        fresh = copy.copy(self)
        fresh._counts_only, fresh.evaluations = True, 0
        return fresh

    def output(self, x: Tensor, t: Tensor, *, unlabelled: bool = False) -> Tensor:
        """The backbone's output at x (B, *) and native time t () or (B,): shape (B, * with extra channels).

        Arguments:
            unlabelled: Ask the weaker network: the guide's, or the same one without labels.
        """
        self.evaluations += x.shape[0]
        guide = self.guided_by.guide if unlabelled else None
        process, backbone = guide or (self.process, self.backbone)
        noise_level = wants_noise_level(backbone) if guide else self._wants_noise_level
        condition = process.condition_like(t, x, noise_level=noise_level)
        inputs = [process.network_input(x, t), condition.expand(x.shape[0])]
        if self.labels is not None and (guide is None or bool(getattr(backbone, "classes", 0))):
            inputs.append(torch.full_like(self.labels, NO_CLASS) if unlabelled and not guide else self.labels)
        return backbone(*inputs)

    def _evaluate(self, take: Callable[[Any, Tensor], list[Any]], x: Tensor, t: Tensor, acts: bool) -> list[Any]:
        """What `take` (process, output) finds, guided where guidance acts; one evaluation."""
        if acts and self.guidance == 0.0:
            return self._weaker(take, x, t)
        given = take(self.process, self.output(x, t))
        if not acts:
            return given
        return [guided(f, g, self.guidance) for f, g in zip(self._weaker(take, x, t), given, strict=True)]

    def _weaker(self, take: Callable[[Any, Tensor], list[Any]], x: Tensor, t: Tensor) -> list[Any]:
        guide = self.guided_by.guide
        return take(guide.process if guide else self.process, self.output(x, t, unlabelled=True))

    def _read(self, names: Sequence[str], x: Tensor, *times: Tensor) -> list[Tensor]:
        """What the process's methods of these names find of an output, guided, in one evaluation at the first time."""
        if self._counts_only:
            self.evaluations += int(self.calls_at(times[0]).expand(len(x)).sum())
            return [torch.zeros_like(x) for _ in names]
        acts = self.is_guided(times[0])
        if isinstance(acts, Tensor):
            return self._read_in_parts(acts, names, x, *times)

        def take(process: Any, output: Tensor) -> list[Tensor]:
            return [getattr(process, name)(output, x, *times) for name in names]

        return self._evaluate(take, x, times[0], acts)

    def _read_in_parts(self, acts: Tensor, names: Sequence[str], x: Tensor, *times: Tensor) -> list[Tensor]:
        """The same where guidance acts on some rows (mask) only: these take both calls, the others one."""
        found = [torch.zeros_like(x) for _ in names]
        for rows in (acts, ~acts):
            own, places = self.rows(rows), rows.nonzero().flatten()
            before, here = own.evaluations, places.to(x.device)
            part = own._read(names, x[here], *(t[places.to(t.device)] if t.ndim else t for t in times))
            self.evaluations += own.evaluations - before
            found = [whole.index_put((here,), new) for whole, new in zip(found, part, strict=True)]
        return found

    def read(self, names: Sequence[str], x: Combination, t: Tensor) -> list[Combination]:
        """ "velocity", "score" or "data" at (x, t), by name, as sums that a step adds to; one evaluation.

        A subclass that gives one of these methods its own meaning is read by the methods.
        """
        acts = self.is_guided(t)
        if isinstance(acts, Tensor) or self._counts_only:
            methods = ["data_mean" if name == "data" else name for name in names]
            return [Combination.of(v) for v in self._read(methods, x.value(), t)]
        return self._evaluate(lambda p, output: p.terms(names, output, x, t), x.value(), t, bool(acts))

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
        return self._read(["velocity"], x, t)[0]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t, shape (B, *)."""
        return self._read(["score"], x, t)[0]

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[X | x_t = x], shape (B, *)."""
        return self._read(["data_mean"], x, t)[0]

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        velocity, score = self._read(["velocity", "score"], x, t)
        return velocity, score

    def ddim_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s from x at t with its posterior means held fixed, shape (B, *); one evaluation."""
        return self._read(["ddim_step"], x, t, s)[0]

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
