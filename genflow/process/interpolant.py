"""Stochastic interpolants: paths from a base at t = 0 to data at t = 1, through a latent Gaussian where asked for.

    x_t = a(t) X + b(t) N + γ(t) Z,   a(0) = b(1) = 0,   a(1) = b(0) = 1,   γ(0) = γ(1) = 0

The velocity v = E[a' X + b' N + γ' Z | x_t] carries the law of x_t whatever N is and however N is coupled to X; the
score is s = −E[Z | x_t]/γ; and v, s give an SDE with the same marginals for every ε(t) ≥ 0 (Albergo &
Vanden-Eijnden 2023, arXiv:2209.15571; Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797).

Where N is standard normal and independent of X, b N + γ Z is one normal: the process is then an affine one with
b = √(b² + γ²), and has all that `genflow.process.affine` gives. Otherwise it is *free*: the network learns v itself.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from genflow.checks import is_count, is_number, is_positive, require
from genflow.process.affine import AffineProcess
from genflow.process.affine_path import Coefficients
from genflow.process.base import Perturbed, Process
from genflow.process.couplings import COUPLINGS, couple
from genflow.process.distributions import Distribution, make_source
from genflow.process.free_heads import FREE_HEADS, FreeVelocity
from genflow.process.heads import Head
from genflow.process.linear import Combination
from genflow.process.shapes import dimension, in_float64
from genflow.random import made_on, normal

GAMMAS = ("none", "brownian", "quadratic", "sin_squared")


def latent(kind: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """γ and γ γ' at t for a latent of unit scale; the product stays finite where γ' does not.

    "brownian": γ = sqrt(t (1 − t)); "quadratic": t (1 − t); "sin_squared": sin²(πt); "none": 0.
    """
    if kind == "none":
        return torch.zeros_like(t), torch.zeros_like(t)
    if kind == "sin_squared":
        g = (math.pi * t).sin().square()
        return g, g * math.pi * (2 * math.pi * t).sin()
    square = t * (1 - t)
    if kind == "brownian":
        return square.clamp_min(0).sqrt(), (1 - 2 * t) / 2
    return square, square * (1 - 2 * t)


@dataclass(kw_only=True)
class Interpolant(AffineProcess):
    """x_t = a(t) X + b(t) N + γ(t) Z from a base N at t = 0 to data X at t = 1; a leaf gives a and b.

    With the standard normal as base, drawn independently, b N + γ Z is one normal of scale sqrt(b² + γ²): the process
    is then an affine one with that b, with its heads, score and solvers. With another base or a coupling it is free:
    the network learns dx/dt itself, and for an SDE the latent's mean Ẑ = E[Z | x_t] beside it.

    Arguments:
        head: What the backbone predicts. Free: "velocity", "velocity_denoiser" or "velocity_score".
        margin: Times run from margin to 1 − margin. At t = 0 the data are gone from x_t, so neither the noise head nor
            the forward SDE is finite there; at t = 1 the noise is gone, and with it the score.
        gamma: Shape of γ: "none", "brownian" sqrt(t(1 − t)), "quadratic" t(1 − t) or "sin_squared" sin²(πt).
        gamma_scale: Factor on it, data units.
        source: The base: "gaussian", "mixture", "uniform", the name of a data set, or in Python any `Distribution`.
        source_options: Its options: for "mixture" {means: [[...], ...], std: ...}, for a data set the data set's.
        coupling: Which base draw belongs to which data point: "independent", "ot" (optimal transport within the
            batch), "sinkhorn" (its entropic form, by POT), or "paired" (as the data set gives them: rectification).
        epsilon: ε(t) of the SDE: "natural" (see `natural_diffusion`), or a number, the same at all times.
        channels: Channels of the data, which heads of two parts need. None: as `for_data` finds it.

    Source: Albergo & Vanden-Eijnden 2023, arXiv:2209.15571; latent and SDE: Albergo et al. 2023, arXiv:2303.08797.
    """

    head: str = "velocity"
    margin: float = 1e-3
    gamma: str = "none"
    gamma_scale: float = 1.0
    source: str | Distribution = "gaussian"
    source_options: dict[str, Any] | None = None
    coupling: str = "independent"
    epsilon: str | float = "natural"
    channels: int | None = None

    t_data = 1.0
    t_prior = 0.0

    def __post_init__(self) -> None:
        fits = is_positive(self.margin) and self.margin < 0.5
        named, channels = self.source_options, self.channels
        steady = self.epsilon == "natural" or (is_number(self.epsilon) and float(self.epsilon) >= 0)
        require(
            type(self).__name__,
            {
                "margin": (self.margin, fits, "a number above 0 and below 1/2"),
                "gamma": (self.gamma, self.gamma in GAMMAS, f"one of {', '.join(GAMMAS)}"),
                "gamma_scale": (self.gamma_scale, is_positive(self.gamma_scale), "a number above 0"),
                "coupling": (self.coupling, self.coupling in COUPLINGS, f"one of {', '.join(COUPLINGS)}"),
                "epsilon": (self.epsilon, steady, "'natural' or a number of at least 0"),
                "source_options": (named, named is None or isinstance(named, Mapping), "options by name"),
                "channels": (channels, channels is None or is_count(channels), "a whole number above 0"),
            },
        )
        super().__post_init__()
        if self.free and self.objective != "own":
            raise ValueError(f"{type(self).__name__}: a free interpolant has no stable target; take objective = 'own'")

    @cached_property
    def drawn(self) -> Distribution | None:
        return make_source(self.source, self.source_options)

    @property
    def is_affine(self) -> bool:
        return self.drawn is None and self.coupling == "independent" and self.head in self.affine_heads()

    @property
    def free(self) -> bool:
        """Not an affine process: its base is not the standard normal, or the coupling ties it to the data."""
        return not self.is_affine

    def affine_heads(self) -> tuple[str, ...]:
        """Heads of the process while it is an affine one."""
        return super().heads()

    def heads(self) -> tuple[str, ...]:
        free = tuple(FREE_HEADS) if self.gamma != "none" else ("velocity",)
        if self.drawn is not None or self.coupling != "independent":
            return free
        return tuple(dict.fromkeys((*self.affine_heads(), *free)))

    def make_head(self) -> Head:
        return super().make_head() if self.is_affine else FREE_HEADS[self.head](self.channels or 0)

    def for_data(self, x: Tensor) -> Self:
        if self.is_affine:
            return super().for_data(x)
        return self if self.channels else type(self)(**{**self._options(), "channels": x.shape[1]})

    def _options(self) -> dict[str, Any]:
        return super().config()

    def config(self) -> dict[str, Any]:
        if not isinstance(self.source, str):
            raise ValueError(
                f"the base {type(self.source).__name__} was given as an object, which no file can hold; "
                "name a data set, 'uniform' or 'mixture' instead"
            )
        return self._options()

    @property
    def path_interval(self) -> tuple[float, float]:
        return 1 - self.margin, self.margin

    # ---- the path ----------------------------------------------------------------------------------------

    @abstractmethod
    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b, a' and b' of a X + b N at native time t, of t's shape."""

    def latent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ and γ γ' at t, data units."""
        g, product = latent(self.gamma, t)
        return self.gamma_scale * g, self.gamma_scale**2 * product

    def coefficients(self, t: Tensor) -> Coefficients:
        a, b, da, db = self.path(t)
        g, product = self.latent(t)
        if self.free:
            return Coefficients(a, b, da, db, g, product)
        if self.gamma == "none":
            return Coefficients(a, b, da, db)
        scale = torch.hypot(b, g)
        return Coefficients(a, scale, da, (b * db + product) / scale)

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε = b (a' b − a b') where the process is affine, γ² where it is free; or the constant `epsilon`.

        Every ε >= 0 has the same marginals, and the ε of score SDEs, b² a'/a − b b', is infinite where a = 0. The first
        is a times it: the same near the data, where the score is steep, and mild near the prior. Where a large latent
        grows faster than the data, no forward SDE adds so much noise: it would be negative, and is 0.
        """
        if self.why_not("sde"):
            raise ValueError(self.why_not("sde"))
        if self.epsilon != "natural":
            return torch.full_like(in_float64(t), float(self.epsilon))
        a, b, da, db, g, _ = (torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(in_float64(t)))
        return g * g if self.free else (b * (da * b - a * db)).clamp_min(0)

    # ---- training ----------------------------------------------------------------------------------------

    def perturb(
        self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None, partner: Tensor | None = None
    ) -> Perturbed:
        if (partner is None) == (self.coupling == "paired"):
            wants = "needs a data set that gives partners" if partner is None else "does not take partners"
            raise ValueError(f"{type(self).__name__}: coupling = '{self.coupling}' {wants}")
        if partner is not None and partner.shape != x.shape:
            raise ValueError(f"partners have shape {tuple(partner.shape)}, the data {tuple(x.shape)}; give one a row")
        if self.is_affine:
            return super().perturb(x, generator=generator, refs=refs)
        self.check_batch(x)
        t = self.sample_time(len(x), generator=generator)
        noise = self.base_like(x, generator) if partner is None else partner.to(x)
        noise = couple(x, noise, self.coupling, generator=generator)
        latent = torch.zeros(()) if self.gamma == "none" else self._normal(x, generator)
        return self.free_pairs(x, noise, latent, t)

    def free_pairs(self, x: Tensor, noise: Tensor, z: Tensor, t: Tensor) -> Perturbed:
        """Training pairs from given draws: data x, base `noise` and latent z (B, *), times (B,).

        Where the path has no latent z is not looked at, so it need not be drawn.
        """
        c = self.at(t, x)
        target = self._free_head().encode_means(x, noise, z, c)
        return Perturbed(c.a * x + c.b * noise + c.g * z, t, target, self.weight_like(t, x))

    def base_like(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.drawn is None:
            return super().base_like(x, generator)
        return self.drawn.sample(tuple(x.shape), generator=generator, dtype=x.dtype).to(x.device)

    def _normal(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return normal(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def _free_head(self) -> FreeVelocity:
        assert isinstance(self.prediction, FreeVelocity)
        return self.prediction

    # ---- sampling ----------------------------------------------------------------------------------------

    def terms(self, names: Sequence[str], output: Tensor, x: Combination, t: Tensor) -> list[Combination]:
        return super().terms(names, output, x, t) if self.is_affine else Process.terms(self, names, output, x, t)

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """−N̂/b where the process is affine, −Ẑ/γ where it is free."""
        if self.is_affine:
            return super().score(output, x, t)
        if self.why_not("score"):
            raise ValueError(self.why_not("score"))
        self.check_time(t)
        c = self.at(t, x)
        return -self._free_head().latent_mean(output, c) / c.g

    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self.why_not("data"):
            raise ValueError(self.why_not("data"))
        return super().data_mean(output, x, t)

    def ddim_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """a(s) X̂ + b(s) N̂ + γ(s) Ẑ."""
        if self.is_affine:
            return super().ddim_step(output, x, t, s)
        if self.why_not("data"):
            raise ValueError(self.why_not("data"))
        self.check_time(t)
        self.check_time(s)
        c, end, head = self.at(t, x), self.at(s, x), self._free_head()
        data, base = head.decode(output, x, c)
        return end.a * data + end.b * base + end.g * head.latent_mean(output, c)

    def why_not(self, capability: str) -> str | None:
        name = type(self).__name__
        if capability == "likelihood" and self.drawn is not None and self.drawn.no_density():
            return f"{name}: {self.drawn.no_density()}"
        if capability == "oracle" and self.coupling != "independent":
            return f"{name}: with coupling = '{self.coupling}' the exact field is not known"
        if self.is_affine or capability in ("likelihood", "oracle"):
            return super().why_not(capability)
        if capability in ("affine", "norm"):
            return f"{name}: its base is not one normal drawn independently, so a X + b N + γ Z is not an affine path"
        if capability in ("score", "sde", "data") and self.head == "velocity":
            return (
                f"{name}: with this base, coupling or path the velocity does not determine the {_SAID[capability]}; "
                "take a gamma and head = 'velocity_denoiser'"
            )
        return None

    def end_time(self, noise: float) -> float:
        if self.drawn is not None:
            raise ValueError(
                f"{type(self).__name__}: from this base it has no noise level, only b and γ of two different things; "
                "leave end_noise out, and set where it ends by margin"
            )
        return super().end_time(noise)

    def published_end(self, mode: str) -> str:
        """The ODE runs to the margin; the SDE ends on a denoising step, where the head knows one.

        Source: Albergo et al. 2023, arXiv:2303.08797.
        """
        return "mean" if mode == "sde" and not self.why_not("data") else "none"

    # ---- prior -------------------------------------------------------------------------------------------

    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        if self.is_affine:
            return super().sample_prior(shape, generator=generator, dtype=dtype)
        x = torch.empty(shape, dtype=dtype, device=made_on(generator))
        scale, spread = self._prior_scales()
        return scale * self.base_like(x, generator) + spread * self._normal(x, generator)

    def log_prior(self, x: Tensor) -> Tensor:
        """Log density of b N + γ Z at the prior end (the data's share, a X, is left out: a = margin there)."""
        if self.why_not("likelihood"):
            raise ValueError(self.why_not("likelihood"))
        if self.is_affine:
            return super().log_prior(x)
        scale, spread = self._prior_scales()
        if self.drawn is not None:
            return self.drawn.log_density(x, scale, spread).to(x)
        whole = math.hypot(scale, spread)
        return self.base.log_prob(x / whole) - dimension(x) * math.log(whole)

    def _prior_scales(self) -> tuple[float, float]:
        """b and γ at the prior end."""
        c = self.coefficients(torch.tensor(self.safe_interval[1], dtype=torch.float64))
        return float(c.b), float(c.g)


_SAID = {"score": "score", "sde": "score that an SDE needs", "data": "posterior mean of the data"}
