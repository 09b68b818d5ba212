"""The one interface: a process gives training pairs, a velocity and a prior; solvers see only its field."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from genflow.former import moved
from genflow.process.affine_path import Coefficients
from genflow.process.clock import CLOCKS, Clock
from genflow.process.field import BackboneLike, Field
from genflow.process.grids import Spacing, times
from genflow.process.guidance import Guidance
from genflow.process.linear import Combination
from genflow.process.memory import Memory, RowNumbers, crosses
from genflow.process.moments import Moments
from genflow.process.shapes import in_float64

Mode = Literal["ode", "sde"]

READINGS = {"velocity": "velocity", "score": "score", "data": "data_mean"}
"""What a solver reads of an output, and the method of a process that finds it."""


class Perturbed(NamedTuple):
    """Training pairs: x_t (B, *), native time t (B,), what the backbone should answer, loss weight (B,)."""

    x_t: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor


class Process(Moments, ABC):
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
    takes_parts: bool = False
    """Whether `perturb` takes them also as a `genflow.process.posterior.Shard`, of which each rank holds a part."""
    base_is_data: bool = False
    """Whether the base is the data that `for_data` was shown, which a checkpoint names but does not hold."""

    @abstractmethod
    def perturb(
        self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None, partner: Tensor | None = None
    ) -> Perturbed:
        """Training pairs from a batch of data.

        Arguments:
            x: Data, shape (B, *), data units.
            generator: Source of every random draw.
            refs: More data, shape (M, *), for processes whose target is an average over data points.
            partner: The draw of the base that belongs to each row of x, shape (B, *), where the data come in pairs.
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

    def learnable(self) -> dict[str, Tensor]:
        """Coefficients of the path that can be learnt, by option name; empty where it is fixed."""
        return {}

    def with_path(self, terms: Mapping[str, Tensor]) -> Self:
        """This process on the path of those coefficients; gradients flow into them."""
        raise ValueError(f"the path of {type(self).__name__} is fixed: it has nothing to learn")

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        """steps + 1 float64 times from the prior end to the data end, ends exact.

        Arguments:
            steps: Steps between the ends.
            training: Cover the training interval instead of the safe one, as likelihoods do.
            spacing: Where the times between lie; see `genflow.process.grids`. By default even in the clock.
        """
        return times(self, steps, spacing, self.training_interval if training else self.safe_interval)

    def end_time(self, noise: float) -> float:
        """The native time, nearest the data, at which x_t/a has noise of scale `noise`, data units.

        Raises:
            ValueError: The path has no such time, with what it can do instead.
        """
        raise ValueError(f"{type(self).__name__} has no noise level to end at; leave end_noise out")

    def published_end(self, mode: str) -> str:
        """How the published samplers of that mode, "ode" or "sde", end: "none", "mean" or "zero"; see
        `genflow.solver.ENDS`."""
        return "none"

    def in_data_units(self, x: Tensor, t: Tensor) -> Tensor:
        """x_t/a, shape (B, *): data plus noise of scale b/a."""
        raise ValueError(f"{type(self).__name__} has no noise level to end at; leave end_noise out")

    def noise_ratio(self, t: Tensor) -> Tensor:
        """σ = b/a at native time, of t's shape; raises ValueError where the process has no such ratio."""
        raise ValueError(self.why_not("affine"))

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and b(t) of x_t = a X + b N, float64, of t's shape; raises ValueError where there are none."""
        raise ValueError(self.why_not("affine"))

    @property
    def own_clock(self) -> Clock:
        """The clock that grids and adaptive solvers step in, by its word `clock`."""
        return CLOCKS[self.clock]

    def to_clock(self, t: Tensor) -> Tensor:
        """Native time to the process's own clock: t, or log t."""
        return self.own_clock.to_clock(t)

    def from_clock(self, s: Tensor) -> Tensor:
        """The inverse of `to_clock`."""
        return self.own_clock.from_clock(s)

    def condition(self, t: Tensor) -> Tensor:
        """What the backbone receives as the time: t itself, or log(t)/4 where the clock is logarithmic."""
        return self.own_clock.condition(t)

    def network_input(self, x: Tensor, t: Tensor) -> Tensor:
        """What the backbone receives as the state: x_t itself unless a process says otherwise."""
        return x

    def state(self, network_input: Tensor, t: Tensor) -> Tensor:
        """The inverse of `network_input`."""
        return network_input

    def noise_level(self, t: Tensor) -> Tensor:
        """Scale of the noise in x_t, data units, for backbones that ask for it (`conditioning = "noise_level"`)."""
        raise ValueError(f"{type(self).__name__} does not define a noise level; use a backbone that takes the time")

    def time(self, condition: Tensor) -> Tensor:
        """The inverse of `condition`."""
        return self.own_clock.time(condition)

    @cached_property
    def _rows(self) -> RowNumbers:
        return RowNumbers()

    def row_numbers(self, t: Tensor) -> dict[str, Any]:
        """What states (B, *) on a device want of their times (B,) on the host, float64; see `RowNumbers`."""
        return {"condition": self.condition(t)}

    @cached_property
    def _conditions(self) -> Memory:
        return Memory()

    def condition_like(self, t: Tensor, x: Tensor, *, noise_level: bool) -> Tensor:
        """What a backbone receives as the time, of t's shape, in x's dtype and on its device; kept for one time.

        Arguments:
            noise_level: The backbone asks for `noise_level` in the place of `condition`.
        """
        make = self.noise_level if noise_level else self.condition
        moment = self._moments.get(id(t))
        if moment is not None and moment.fits(x):
            return moment.condition
        if crosses(t, x):
            rows = self._rows.get(t, x, lambda: self.row_numbers(t.double()))
            if (name := make.__name__) in rows:
                return rows[name]
        if t.ndim or t.requires_grad or torch.is_inference_mode_enabled():  # autograd could not use its tensors later
            return make(in_float64(t)).to(x.device, x.dtype)
        key = (float(t), noise_level, x.dtype, x.device)
        kept: Tensor = self._conditions.get(key, lambda: make(in_float64(t)).to(x.device, x.dtype))
        return kept

    def diffusion_at(self, t: Tensor) -> Tensor:
        """`natural_diffusion`, kept for one time."""
        if t.ndim:
            return self.natural_diffusion(t)
        found: Tensor = self._conditions.get((float(t), "diffusion"), lambda: self.natural_diffusion(t))
        return found

    def schedule_at(self, t: Tensor) -> tuple[float, float]:
        """`schedule` at one time, as numbers; kept."""

        def make() -> tuple[float, float]:
            a, b = self.schedule(t.detach())
            return float(a), float(b)

        found: tuple[float, float] = self._conditions.get((float(t), "schedule"), make)
        return found

    def recall(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What a solver found of a grid of this process, kept by a key of everything that it depends on."""
        return self._conditions.get(key, make)

    # ---- from a batch to its loss --------------------------------------------------------------------------
    #
    # loss = mean of losses(training_pairs(batch)): training_pairs is `perturb`, then `own_class` where the run has
    # classes; losses is the network's one call, then `loss_terms`. A process overrides these three. Training calls the
    # two halves itself, since parts of a batch and ranks share its pairs.

    def loss(
        self,
        backbone: BackboneLike,
        x: Tensor,
        *,
        generator: torch.Generator,
        refs: Tensor | None = None,
        labels: Tensor | None = None,
        partner: Tensor | None = None,
        pool: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The training loss of a batch: a scalar, the mean of `losses` over `training_pairs`."""
        pairs = self.training_pairs(x, generator=generator, refs=refs, labels=labels, partner=partner, pool=pool)
        return self.losses(backbone, pairs, labels).mean()

    def training_pairs(
        self,
        x: Tensor,
        *,
        generator: torch.Generator,
        refs: Tensor | None = None,
        labels: Tensor | None = None,
        partner: Tensor | None = None,
        pool: tuple[Tensor, Tensor] | None = None,
    ) -> Perturbed:
        """Training pairs of a whole batch; with labels (B,) and a pool of points with their labels, by class.

        See `perturb` and `own_class`.
        """
        paired = {} if partner is None else {"partner": partner}
        pairs = self.perturb(x, generator=generator, refs=refs, **paired)
        return pairs if labels is None or pool is None else self.own_class(pairs, labels, *pool)

    @property
    def averages(self) -> bool:
        """Whether targets average over data points, so that `own_class` wants a pool of them."""
        return type(self).own_class is not Process.own_class

    def own_class(self, pairs: Perturbed, labels: Tensor, points: Tensor, classes: Tensor) -> Perturbed:
        """The pairs with targets that average over the `points` of each row's own class only.

        Arguments:
            pairs: Their targets average over all data.
            labels: Label of each pair, shape (B,); rows of `NO_CLASS` stay as they are.
            points: Data points, shape (M, *).
            classes: Their labels, shape (M,).
        """
        return pairs

    def losses(self, backbone: BackboneLike, pairs: Perturbed, labels: Tensor | None = None) -> Tensor:
        """The weighted loss of each pair, shape (B,); `labels` (B,) go to the backbone."""
        output = self.field(backbone, labels=labels).output(pairs.x_t, pairs.t)
        return pairs.weight * self.loss_terms(output, pairs)

    def loss_terms(self, output: Tensor, pairs: Perturbed) -> Tensor:
        """Squared error per sample, averaged over its entries, shape (B,)."""
        return (output - pairs.target).square().flatten(1).mean(1)

    # ---- sampling ----------------------------------------------------------------------------------------

    def field(self, backbone: BackboneLike, *, labels: Tensor | None = None, guidance: float | Guidance = 1.0) -> Field:
        """What a solver integrates: this process under one backbone, for given class labels; see `Field`."""
        return Field(self, backbone, labels, guidance)

    def why_not(self, capability: str) -> str | None:
        """None where the process can do it, else the reason.

        Capabilities: "data" (posterior means), "score", "sde" (a reverse SDE), "affine" (x_t = a X + b N with one
        known base), "oracle", "norm" (the norm study), "likelihood" (a prior with a density), "ode" (a flow that makes
        new samples).
        """
        if capability in ("ode", "likelihood"):
            return None
        return f"{type(self).__name__} does not define '{capability}'"

    def terms(self, names: Sequence[str], output: Tensor, x: Combination, t: Tensor) -> list[Combination]:
        """What `velocity`, `score`, "data" (`data_mean`) and "base" find, by name, as sums that a solver can add to.

        A class that overrides one of these readings is read by it; see `__init_subclass__`.
        """
        return [Combination.of(getattr(self, READINGS[name])(output, x.value(), t)) for name in names]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "terms" not in cls.__dict__ and any(name in cls.__dict__ for name in READINGS.values()):
            cls.terms = Process.terms  # type: ignore[method-assign]

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t at x, shape (B, *); raises ValueError where the process has none."""
        raise ValueError(self.why_not("score"))

    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """E[X | x_t = x], shape (B, *); raises ValueError where the process does not define it."""
        raise ValueError(self.why_not("data"))

    def ddim_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s if the posterior means at (x, t) did not change; raises ValueError where there are none."""
        raise ValueError(self.why_not("data"))

    def frozen_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The old name of `ddim_step`."""
        warnings.warn("frozen_step is now ddim_step", FutureWarning, stacklevel=2)
        return self.ddim_step(output, x, t, s)

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε(t) of the SDE rule dx = v dt + ε s |dt| + sqrt(2 ε |dt|) ξ that gives the published reverse SDE."""
        raise ValueError(self.why_not("sde"))

    def at(self, t: Tensor, x: Tensor) -> Coefficients:
        """Coefficients of the path at t, shaped to multiply x (B, *); raises ValueError where there are none."""
        raise ValueError(self.why_not("affine"))

    def base_like(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of the base of x's shape, dtype and device; raises ValueError where x_t is not drawn from one."""
        raise ValueError(self.why_not("norm"))

    def interpolate(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of data x and base draws `noise`, both (B, *); raises ValueError where x_t is not drawn at a given t."""
        raise ValueError(self.why_not("norm"))

    def oracle(self, data: Any) -> Any:
        """A backbone that is exact for known data; raises ValueError where the process has none."""
        raise ValueError(self.why_not("oracle"))

    def config(self) -> dict[str, Any]:
        """Constructor options that rebuild this process: plain types only."""
        return constructor_options(self)

    def check_time(self, t: Tensor) -> None:
        """Raises ValueError where a time lies outside the interval (a relative 1e-9 is forgiven)."""
        low, high = sorted(self.training_interval)
        slack = 1e-9 * max(abs(low), abs(high))
        values = [float(t)] if t.ndim == 0 else t.tolist()
        came = next((v for v in values if not low - slack <= v <= high + slack), None)
        if came is not None:
            raise ValueError(f"t = {came:g} lies outside the interval of {type(self).__name__}: [{low:g}, {high:g}]")


def constructor_options(owner: object) -> dict[str, Any]:
    """The dataclass fields of an object that differ from their defaults; {} where it is not a dataclass."""
    if not is_dataclass(owner) or isinstance(owner, type):
        return {}
    values = {f.name: (getattr(owner, f.name), f.default) for f in fields(owner) if f.init}
    return {name: value for name, (value, default) in values.items() if default is MISSING or value != default}


__getattr__ = moved("genflow.process.base")
