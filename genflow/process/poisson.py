"""Poisson flow: data points as charges on the plane z = 0, seen from height z."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from genflow.process.affine import AffineProcess
from genflow.process.base import Coefficients, Perturbed, dimension, is_count, is_positive, like_rows, require
from genflow.process.bases import Base, StudentT
from genflow.process.heads import HEADS, INVERSES, Head, PoissonField


@dataclass(kw_only=True)
class PFGM(AffineProcess):
    """Poisson flow generative model: x_z = X + z C with C multivariate Cauchy, z from z_min to z_max.

    The field of charges y_i, E(x, z) = Σ_i (x − y_i, z)/|(x − y_i, z)|^(N+1), has E_z proportional to the density of
    x_z, and its anchored flow dx/dz = E_x/E_z = (x − X̂)/z is the velocity of this path. Time is z.

    Arguments:
        dim: Data dimensions N of the hyper-parameter rule.
        norm: Typical norm of the data, data units; the rule makes z_max from dim and norm.
        sigma_end: σ, smallest scale of the perturbation, data units.
        tau: τ, the perturbation grows as (1 + τ)^m.
        m_max: M, largest m. None: int(3/4 ln(norm²/(2√N σ²))/ln(1+τ)) + 1.
        z_min: End of sampling near the data.
        z_max: Height of the prior. None: sqrt(2/π) σ (1+τ)^M.
        gamma: γ of the field head. None: 5/30 of the norm, the proportion of the published CIFAR-10 setting.
        radius: Largest norm of a data point, data units; see `PoissonField`. None: 100 norms.
        inverse: How the velocity is read from a field; see `PoissonField`.
        z_exp: Where inverse "published" changes its rule.
        prior: "exact", the multivariate Cauchy at z_max, or "published", its radius clipped to [1, upper_norm].
        upper_norm: Upper clip. None: √N σ (1+τ)^M.
        perturbation: "published": z and radius grow together as (1+τ)^m with m ~ U[0, M). "exact": log z uniform
            between z_min and z_max, then one Cauchy draw.
        restrict: "published" perturbation only: where |z₀| < σ/2, m is drawn from U[0, int(0.7 M)).
        large_batch: Data points of the field target beside the batch itself.

    Source: Xu et al. 2022, arXiv:2209.11178, and the authors' code for the constants.
    """

    head: str = "field"
    dim: int = 3072
    norm: float = 30.0
    sigma_end: float = 0.01
    tau: float = 0.03
    m_max: int | None = None
    z_min: float = 1e-3
    z_max: float | None = None
    gamma: float | None = None
    radius: float | None = None
    inverse: str = "projected"
    z_exp: float = 5.0
    prior: str = "exact"
    upper_norm: float | None = None
    perturbation: str = "published"
    restrict: bool = True
    large_batch: int = 512

    clock = "log"
    base: ClassVar[Base] = StudentT(df=1.0)

    def __post_init__(self) -> None:
        self._check()
        self.steps = self.published_m() if self.m_max is None else self.m_max
        growth = self.sigma_end * (1 + self.tau) ** self.steps
        self.t_data = self.z_min
        self.t_prior = math.sqrt(2 / math.pi) * growth if self.z_max is None else self.z_max
        self.radius_limit = math.sqrt(self.dim) * growth if self.upper_norm is None else self.upper_norm
        self.reference_batch = int(self.large_batch) if self.head == "field" else 0
        if self.t_prior <= self.t_data:
            raise ValueError(f"PFGM: z_max = {self.t_prior:g} must lie above z_min = {self.z_min:g}")
        super().__post_init__()

    def _check(self) -> None:
        positive = {n: getattr(self, n) for n in ("dim", "norm", "sigma_end", "tau", "z_min")}
        optional = {n: getattr(self, n) for n in ("m_max", "z_max", "gamma", "radius", "upper_norm")}
        choices = {
            "inverse": INVERSES,
            "prior": ("exact", "published"),
            "perturbation": ("exact", "published"),
        }
        require(
            "PFGM",
            {
                **{n: (v, is_positive(v), "a number above 0") for n, v in positive.items()},
                **{n: (v, v is None or is_positive(v), "a number above 0") for n, v in optional.items()},
                **{n: (getattr(self, n), getattr(self, n) in c, " or ".join(c)) for n, c in choices.items()},
                "large_batch": (self.large_batch, is_count(self.large_batch, 0), "a whole number of at least 0"),
            },
        )

    def published_m(self) -> int:
        """M of the published rule; 287 at the CIFAR-10 defaults (its configuration rounds to 291)."""
        signal = self.norm**2 / (2 * math.sqrt(self.dim) * self.sigma_end**2)
        return max(1, int(0.75 * math.log(max(signal, 1.0)) / math.log(1 + self.tau)) + 1)

    def for_data(self, x: Tensor) -> Self:
        """dim, norm (root mean square) and, unless it was given, radius (5/4 of the largest norm) from data (n, *)."""
        norms = x.flatten(1).double().norm(dim=1)
        found = {"norm": float(norms.square().mean().sqrt()) or 1.0, "radius": 1.25 * float(norms.max()) or 1.0}
        return type(self)(**{**found, **self.config(), "dim": dimension(x), "norm": found["norm"]})

    def heads(self) -> tuple[str, ...]:
        return ("field", *HEADS)

    def make_head(self) -> Head:
        if self.head != "field":
            return super().make_head()
        gamma = self.norm / 6 if self.gamma is None else self.gamma
        radius = 100 * self.norm if self.radius is None else self.radius
        return PoissonField(gamma=gamma, inverse=self.inverse, z_exp=self.z_exp, radius=radius)

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, t, torch.zeros_like(t), one)

    def perturb(self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None) -> Perturbed:
        if self.perturbation == "exact":
            return super().perturb(x, generator=generator, refs=refs)
        x_t, t = self.published_perturbation(x, generator)
        return Perturbed(x_t, t, self.target(x, x_t, t, refs), torch.ones(len(x), device=x.device))

    def published_perturbation(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x + σ χ_N (1+τ)^m u and z = σ |n| (1+τ)^m, both from the same m; returns (x_t, z).

        Near the data z can leave [z_min, z_max]; it is clipped there after x_t is made, so that the network
        learns the ends too.
        """

        def uniform() -> Tensor:
            return torch.rand(len(x), generator=generator, dtype=torch.float64, device=generator.device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64, device=generator.device)

        m, z = uniform() * self.steps, normal(len(x)).abs() * self.sigma_end
        if self.restrict:
            m = torch.where(z < self.sigma_end / 2, uniform() * int(0.7 * self.steps), m)
        growth = (1 + self.tau) ** m
        radius = self.sigma_end * normal(len(x), dimension(x)).norm(dim=1) * growth
        direction = normal(len(x), dimension(x))
        shift = direction * (radius / direction.norm(dim=1))[:, None]
        x_t = x + shift.reshape(x.shape).to(x.device, x.dtype)
        return x_t, (z * growth).clamp(self.t_data, self.t_prior).to(x.device)

    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        x = super().sample_prior(shape, generator=generator, dtype=dtype)
        if self.prior == "exact":
            return x
        radius = x.flatten(1).double().norm(dim=1)
        clipped = radius.clamp(1.0, self.radius_limit)
        return x * like_rows((clipped / radius).to(dtype), x)
