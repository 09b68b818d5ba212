"""The one interface: a process gives training pairs, a velocity and a prior; solvers see only its field."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

BackboneLike = Callable[[Tensor, Tensor], Tensor]
"""Any callable (x_t of shape (B, *), condition of shape (B,)) -> tensor of x_t's shape plus the extra channels."""

Mode = Literal["ode", "sde"]


class Coefficients(NamedTuple):
    """x_t = a X + b N: coefficients of data and base with their time derivatives, each of t's shape."""

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor


class Perturbed(NamedTuple):
    """Training pairs: x_t (B, *), native time t (B,), what the backbone should answer, loss weight (B,)."""

    x_t: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor


class Process(ABC):
    """A continuous path between data (at t_data) and a prior (at t_prior).

    A subclass gives `perturb`, `velocity`, `sample_prior` and `log_prior`; the rest is finished here. Sampling
    runs from t_prior to t_data whichever is larger. x has shape (B, *), t has shape () or (B,).
    """

    t_data: float
    t_prior: float
    extra_channels: int = 0
    mode: Mode = "ode"
    clock: Literal["native", "log"] = "native"
    reference_batch: int = 0
    """How many data points `perturb` wants to see beside the batch itself (0: none)."""

    @abstractmethod
    def perturb(self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None) -> Perturbed:
        """Training pairs from a batch of data.

        Arguments:
            x: Data, shape (B, *), data units.
            generator: Source of every random draw.
            refs: More data, shape (M, *), for processes whose target is an average over data points.
        """

    @abstractmethod
    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the sampling ODE from the backbone's output at (x, t).

        Arguments:
            output: Backbone output, shape (B, *) with `extra_channels` more channels.
            x: State, shape (B, *), data units.
            t: Native time, shape () or (B,).

        Returns:
            dx/dt, shape (B, *), data units per unit of native time.

        Raises:
            ValueError: t lies outside the interval between t_data and t_prior.
        """

    @abstractmethod
    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draws of x at t_prior, of shape (B, *), on the generator's device."""

    @abstractmethod
    def log_prior(self, x: Tensor) -> Tensor:
        """Log density of the prior at x (B, *): shape (B,), nats."""

    # ---- finished here, overridable ----------------------------------------------------------------------

    @property
    def safe_interval(self) -> tuple[float, float]:
        """Times (nearest the data, nearest the prior) between which the field is finite."""
        return self.t_data, self.t_prior

    @property
    def training_interval(self) -> tuple[float, float]:
        """Times (nearest the data, nearest the prior) of training and likelihoods: the safe interval or more."""
        return self.safe_interval

    def for_data(self, x: Tensor) -> Self:
        """This process with the hyper-parameters that follow from the data x (n, *); itself where none do."""
        return self

    def grid(self, steps: int, *, training: bool = False) -> Tensor:
        """steps + 1 float64 times from the prior end to the data end, even in the process's clock, ends exact.

        Arguments:
            steps: Steps between the ends.
            training: Cover the training interval instead of the safe one, as likelihoods do.
        """
        near_data, near_prior = self.training_interval if training else self.safe_interval
        ends = self.to_clock(torch.tensor([near_prior, near_data], dtype=torch.float64))
        times = self.from_clock(torch.linspace(ends[0].item(), ends[1].item(), steps + 1, dtype=torch.float64))
        times[0], times[-1] = near_prior, near_data
        return times

    def to_clock(self, t: Tensor) -> Tensor:
        """Native time to the clock that grids and adaptive solvers step in: t, or log t."""
        return t.log() if self.clock == "log" else t

    def from_clock(self, s: Tensor) -> Tensor:
        """The inverse of `to_clock`."""
        return s.exp() if self.clock == "log" else s

    def clock_rate(self, t: Tensor) -> Tensor:
        """dt/ds of the clock s at native time t."""
        return t if self.clock == "log" else torch.ones_like(t)

    def condition(self, t: Tensor) -> Tensor:
        """What the backbone is told about t: t itself, or log(t)/4 where the clock is logarithmic.

        A quarter of the log noise level is what EDM tells its networks (Karras et al. 2022, arXiv:2206.00364).
        """
        return t.log() / 4 if self.clock == "log" else t

    def noise_level(self, t: Tensor) -> Tensor:
        """Scale of the noise in x_t, data units, for backbones that ask for it (`told = "noise_level"`)."""
        raise ValueError(f"{type(self).__name__} does not define a noise level; use a backbone that takes the time")

    def time(self, condition: Tensor) -> Tensor:
        """The inverse of `condition`."""
        return (4 * condition).exp() if self.clock == "log" else condition

    def loss_terms(self, output: Tensor, pairs: Perturbed) -> Tensor:
        """Squared error per sample, averaged over its entries, shape (B,)."""
        return (output - pairs.target).square().flatten(1).mean(1)

    def loss(
        self, backbone: BackboneLike, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None
    ) -> Tensor:
        """The training loss of a batch: a scalar."""
        pairs = self.perturb(x, generator=generator, refs=refs)
        output = self.field(backbone).output(pairs.x_t, pairs.t)
        return (pairs.weight * self.loss_terms(output, pairs)).mean()

    def field(self, backbone: BackboneLike) -> Field:
        """What a solver integrates: this process under one backbone."""
        return Field(self, backbone)

    def why_not(self, capability: str) -> str | None:
        """None where the process can do it ("score", "sde", "data", "oracle", "norm"), else the reason."""
        return f"{type(self).__name__} does not define '{capability}'"

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t at x, shape (B, *); raises ValueError where the process has none."""
        raise ValueError(self.why_not("score"))

    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """E[X | x_t = x], shape (B, *); raises ValueError where the process does not define it."""
        raise ValueError(self.why_not("data"))

    def frozen_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s if the posterior means at (x, t) did not change; raises ValueError where there are none."""
        raise ValueError(self.why_not("data"))

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε(t) of the SDE rule dx = v dt + ε s |dt| + sqrt(2 ε |dt|) ξ that gives the published reverse SDE."""
        raise ValueError(self.why_not("sde"))

    def config(self) -> dict[str, Any]:
        """Constructor options that rebuild this process: plain types only."""
        return constructor_options(self)

    def check_time(self, t: Tensor) -> None:
        """Raises ValueError where a time lies outside the interval (a relative 1e-9 is forgiven)."""
        low, high = sorted(self.training_interval)
        slack = 1e-9 * max(abs(low), abs(high))
        if bool(((t < low - slack) | (t > high + slack)).any()):
            came = t.reshape(-1)[(t < low - slack).reshape(-1) | (t > high + slack).reshape(-1)][0].item()
            raise ValueError(f"t = {came:g} lies outside the interval of {type(self).__name__}: [{low:g}, {high:g}]")


def constructor_options(owner: object) -> dict[str, Any]:
    """The dataclass fields of an object that differ from their defaults; {} where it is no dataclass."""
    if not is_dataclass(owner) or isinstance(owner, type):
        return {}
    values = {f.name: (getattr(owner, f.name), f.default) for f in fields(owner) if f.init}
    return {name: value for name, (value, default) in values.items() if default is MISSING or value != default}


class Field:
    """A process under one backbone, as solvers see it: callables of (x, t), a time grid, a clock, a count.

    `output` is the only place where a network is called. `evaluations` counts sample-calls, so that
    evaluations / batch size is the NFE, whatever the solver does with sub-batches.
    """

    def __init__(self, process: Process, backbone: BackboneLike) -> None:
        self.process, self.backbone = process, backbone
        self.evaluations = 0

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        """The backbone's output at x (B, *) and native time t () or (B,): shape (B, * with extra channels)."""
        self.evaluations += x.shape[0]
        told = (
            self.process.noise_level if getattr(self.backbone, "told", "") == "noise_level" else self.process.condition
        )
        return self.backbone(x, told(t.double()).to(x.device, x.dtype).expand(x.shape[0]))

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the sampling ODE, shape (B, *)."""
        return self.process.velocity(self.output(x, t), x, t)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t, shape (B, *)."""
        return self.process.score(self.output(x, t), x, t)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[X | x_t = x], shape (B, *)."""
        return self.process.data_mean(self.output(x, t), x, t)

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one backbone call."""
        output = self.output(x, t)
        return self.process.velocity(output, x, t), self.process.score(output, x, t)

    def frozen_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s from x at t with its posterior means held fixed, shape (B, *); one backbone call."""
        return self.process.frozen_step(self.output(x, t), x, t, s)

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε(t) of the published reverse SDE; see `Process.natural_diffusion`."""
        return self.process.natural_diffusion(t)

    def grid(self, steps: int, *, training: bool = False) -> Tensor:
        """The process's own time grid; see `Process.grid`."""
        return self.process.grid(steps, training=training)

    def to_clock(self, t: Tensor) -> Tensor:
        return self.process.to_clock(t)

    def from_clock(self, s: Tensor) -> Tensor:
        return self.process.from_clock(s)

    def clock_rate(self, t: Tensor) -> Tensor:
        return self.process.clock_rate(t)

    def keep(self, rows: Tensor) -> None:
        """Told by a solver that only these rows (mask over the current batch) travel on; nothing is held here."""


def over(value: Tensor | float, x: Tensor) -> Tensor:
    """A coefficient () or (B,) in x's dtype and on its device, shaped to multiply x (B, *)."""
    return like_rows(torch.as_tensor(value, dtype=torch.float64).to(x.device, x.dtype), x)


def like_rows(value: Tensor, x: Tensor) -> Tensor:
    """One number per sample, or one for all, shaped to multiply x (B, *)."""
    return value.reshape(-1, *(1,) * (x.ndim - 1))


def dimension(x: Tensor) -> int:
    """Number of entries N of one sample."""
    return math.prod(x.shape[1:])


def is_count(value: Any, least: int = 1) -> bool:
    """A whole number (2.0 included) of at least `least`."""
    return is_number(value) and float(value).is_integer() and value >= least


def is_number(value: Any) -> bool:
    """A finite number, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """A finite number above 0."""
    return is_number(value) and value > 0


def require(owner: str, checks: Mapping[str, tuple[Any, bool, str]]) -> None:
    """Raises ValueError for the first option whose check failed: name -> (value, passed, what is allowed)."""
    for name, (value, passed, allowed) in checks.items():
        if not passed:
            raise ValueError(f"{owner}: {name} = {value!r} is not allowed; give {allowed}")
