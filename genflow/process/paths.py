"""The paths of stochastic interpolants: linear, trigonometric, encoding-decoding, mirror, Fourier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from genflow.checks import is_number, require
from genflow.process.distributions import Empirical
from genflow.process.interpolant import GAMMAS, Interpolant
from genflow.process.shapes import in_float64


@dataclass(kw_only=True)
class SILinear(Interpolant):
    """Linear interpolant: a = t, b = 1 − t; dx/dt = X̂ − N̂. Flow matching calls it the conditional OT path.

    Without a latent the SDE's ε is 1 − t. The options are those of every interpolant.
    """

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        one = torch.ones_like(t)
        return t, 1 - t, one, -one

    def time_at(self, sigma: Tensor) -> Tensor:
        return super().time_at(sigma) if self.gamma != "none" else 1 / (1 + sigma)


@dataclass(kw_only=True)
class SITrig(Interpolant):
    """Trigonometric interpolant: a = sin(πt/2), b = cos(πt/2); the variance stays that of the data where it is one.

    Without a latent the SDE's ε is π/2 · cos(πt/2). The options are those of every interpolant.
    """

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        quarter = math.pi / 2
        a, b = (quarter * t).sin(), (quarter * t).cos()
        return a, b, quarter * b, -quarter * a

    def time_at(self, sigma: Tensor) -> Tensor:
        """σ = cot(πt/2)."""
        return super().time_at(sigma) if self.gamma != "none" else (1 / sigma).atan() * (2 / math.pi)


@dataclass(kw_only=True)
class SIEncDec(Interpolant):
    """Encoding-decoding interpolant: the base turns into pure noise by t = 1/2, and the noise into data after it.

    b = cos²(πt) before t = 1/2 and 0 after, a = cos²(πt) after and 0 before, γ = sin²(πt). Since a and b are never
    both there, neither the noise nor the velocity determines X̂; the heads "data" and "edm" do.
    """

    head: str = "edm"
    gamma: str = "sin_squared"

    def __post_init__(self) -> None:
        fits = self.gamma in GAMMAS[1:]
        require("SIEncDec", {"gamma": (self.gamma, fits, f"a latent, one of {', '.join(GAMMAS[1:])}")})
        super().__post_init__()

    def affine_heads(self) -> tuple[str, ...]:
        return ("data", "edm", "edm_rms")

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        share, rate = (math.pi * t).cos().square(), -math.pi * (2 * math.pi * t).sin()
        late = (t > 0.5).to(share)
        return late * share, (1 - late) * share, late * rate, (1 - late) * rate

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """γ², the same whether the process is affine or free; or the constant `epsilon`."""
        if self.is_affine and self.epsilon == "natural":
            return self.latent(in_float64(t))[0].square()
        return super().natural_diffusion(t)

    def why_not(self, capability: str) -> str | None:
        if capability == "affine" or (capability == "data" and self.free):
            return f"{type(self).__name__}: before t = 1/2 there is no data in x_t, so its means do not fix a step"
        return super().why_not(capability)


@dataclass(kw_only=True)
class SIMirror(Interpolant):
    """Mirror interpolant: x_t = X + γ Z, from data at t = 0 through noise back to data at t = 1.

    The base is the data set itself. The ODE leads each example back to itself, so only the SDE, which forgets where it
    began, makes new samples: with γ up to 3 times the data's size and ε = 4 γ² its end is correlated by about 0.1 with
    its start.

    Source: Albergo et al. 2023, arXiv:2303.08797.
    """

    head: str = "edm"
    gamma: str = "sin_squared"
    gamma_scale: float = 3.0
    mode: str = "sde"  # type: ignore[assignment]  # the same literal type, another default

    base_is_data = True

    def __post_init__(self) -> None:
        fixed = {"source": "gaussian", "coupling": "independent", "mode": "sde"}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                reason = "its base is the data set itself" if name != "mode" else "its ODE leads back to the start"
                raise ValueError(f"SIMirror: {name} = {getattr(self, name)!r} is not allowed: {reason}")
        require("SIMirror", {"gamma": (self.gamma, self.gamma in GAMMAS[1:], f"one of {', '.join(GAMMAS[1:])}")})
        self.points: Empirical | None = None
        super().__post_init__()

    def heads(self) -> tuple[str, ...]:
        return self.affine_heads()

    def affine_heads(self) -> tuple[str, ...]:
        return ("noise", "data", "edm", "edm_rms", "score")

    def for_data(self, x: Tensor) -> Self:
        fitted = super().for_data(x)
        fitted = type(self)(**self.config()) if fitted is self else fitted
        fitted.points = Empirical(x, "the data themselves")
        return fitted

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        return one, zero, zero, zero

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """4 γ², or the constant `epsilon`."""
        return 4 * self.latent(in_float64(t))[0].square() if self.epsilon == "natural" else super().natural_diffusion(t)

    def why_not(self, capability: str) -> str | None:
        if capability == "likelihood":
            return "SIMirror: its base is a data set, which has no density: no likelihood"
        if capability == "ode":
            return "SIMirror: its flow leads each example back to itself; use an SDE solver"
        if capability in ("affine", "norm"):
            return "SIMirror: its noise grows and shrinks again, so a noise level does not belong to one time"
        return super().why_not(capability)

    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        if self.points is None:
            raise ValueError("SIMirror starts from data: fit it first with process.for_data(data)")
        x = self.points.sample(shape, generator=generator, dtype=dtype)
        return x + self._prior_scales()[0] * self._normal(x, generator)

    def log_prior(self, x: Tensor) -> Tensor:
        raise ValueError(self.why_not("likelihood"))


@dataclass(kw_only=True)
class SIFourier(Interpolant):
    """Trigonometric interpolant with Fourier terms, which `genflow.transport.learn_path` finds by max-min.

    a = sin(πt/2) + (1/M) Σ_m β_m sin(mπt), b = cos(πt/2) + (1/M) Σ_m α_m sin(mπt).

    Arguments:
        alpha: α_1 ... α_M.
        beta: β_1 ... β_M, as many.

    Source: Albergo & Vanden-Eijnden 2023, arXiv:2209.15571, for the objective; the series is this project's choice.
    """

    alpha: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    beta: Sequence[float] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            terms = getattr(self, name)
            good = isinstance(terms, Sequence) and len(terms) == len(self.alpha) > 0 and all(map(is_number, terms))
            require("SIFourier", {name: (terms, good, "a list of numbers, as many in alpha as in beta")})
            setattr(self, name, tuple(float(v) for v in terms))
        self._terms = {n: torch.tensor(getattr(self, n), dtype=torch.float64) for n in ("alpha", "beta")}
        super().__post_init__()

    def learnable(self) -> dict[str, Tensor]:
        return {name: terms.clone() for name, terms in self._terms.items()}

    def with_path(self, terms: Mapping[str, Tensor]) -> Self:
        again = type(self)(**{**self._options(), **{name: tuple(v.tolist()) for name, v in terms.items()}})
        again._terms = dict(terms)
        again._coefficients.clear()
        again._rules.clear()
        return again

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return fourier_path(t, self._terms["alpha"].to(t.device), self._terms["beta"].to(t.device))


def fourier_path(t: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, b, a' and b' of `SIFourier` at t, differentiable in its coefficients (M,)."""
    quarter, order = math.pi / 2, math.pi * torch.arange(1, len(alpha) + 1, dtype=torch.float64, device=t.device)
    phase = in_float64(t)[..., None] * order
    waves, rates = phase.sin() / len(alpha), order * phase.cos() / len(alpha)
    a, b = (quarter * t).sin(), (quarter * t).cos()
    return a + waves @ beta, b + waves @ alpha, quarter * b + rates @ beta, -quarter * a + rates @ alpha
