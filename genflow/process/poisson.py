"""Poisson flow: data points as charges on a plane, seen from one more dimension (PFGM) or from D more (PFGM++).

Charges y_i at z = 0 in N + 1 dimensions make the field E(x, z) = Σ_i (x − y_i, z)/|(x − y_i, z)|^(N+1). Its lines
lead from the charges to a large hemisphere, on which they end evenly; followed backwards from there they generate
data (Xu et al. 2022, arXiv:2209.11178). Anchored at z, a line is

    dx/dz = E_x/E_z = (x − X̂)/z,   X̂ = Σ_i w_i y_i,   w_i ∝ (|x − y_i|² + z²)^(−(N+1)/2)

and that is the velocity of the affine path x_z = X + z C with C multivariate Cauchy, whose density is E_z up to a
constant: z is the time, and no solver needs the further coordinate. With D further dimensions (Xu et al. 2023,
arXiv:2302.04265) C is Student-t with D degrees of freedom, D = 1 is PFGM, and D → ∞ the Gaussian path of EDM.
`docs/math.md` has the proofs, and how a velocity is read from a network's field.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genflow.checks import is_above, is_number, is_positive, require
from genflow.placing import place
from genflow.process.affine import AffineProcess
from genflow.process.affine_path import Coefficients
from genflow.process.base import Perturbed
from genflow.process.bases import Base, StudentT
from genflow.process.heads import INVERSES, Head, PoissonField
from genflow.process.shapes import dimension, in_float64, like_rows
from genflow.random import normal, uniform


@dataclass(kw_only=True)
class PFGM(AffineProcess):
    """Poisson flow generative model: x_z = X + z C with C multivariate Cauchy, z from z_min to z_max.

    The field of charges y_i, E(x, z) = Σ_i (x − y_i, z)/|(x − y_i, z)|^(N+1), has E_z proportional to the density of
    x_z, and its anchored flow dx/dz = E_x/E_z = (x − X̂)/z is the velocity of this path. Time is z.

    Arguments:
        dim: Data dimensions N of the hyper-parameter rule. None: as `for_data` found it, else 3072.
        norm: Typical norm of the data, data units; the rule makes z_max from dim and norm. None: found, else 30.
        sigma_end: σ, smallest scale of the perturbation, data units.
        tau: τ, the perturbation grows as (1 + τ)^m.
        m_max: M, largest m. None: int(3/4 ln(norm²/(2√N σ²))/ln(1+τ)) + 1.
        z_min: End of sampling near the data; sigma_min, where it is given, takes its place.
        z_max: Height of the prior, unless sigma_max is given. None: sqrt(2/π) σ (1+τ)^M.
        gamma: γ of the field head. None: 5/30 of the norm, the proportion of the published CIFAR-10 setting.
        radius: Largest norm of a data point, data units; see `PoissonField`. None: found, else 3000.
        inverse: How the velocity is read from a field; see `PoissonField`.
        z_exp: Where inverse "published" changes its rule.
        prior: "exact", the multivariate Cauchy at z_max, or "published", its radius clipped to [1, upper_norm].
        constant: "exact", the constant of the prior's density, or "published": that of the authors' code, which has
            the area of the sphere in N dimensions where that in N + 1 belongs. For tables of published bits/dim.
        upper_norm: Upper clip. None: √N σ (1+τ)^M.
        perturbation: "exact": log z uniform between z_min and z_max, then one Cauchy draw. "published": z and radius
            grow together as (1+τ)^m with m ~ U[0, M); given z that is not a Cauchy near the ends, so it is only for the
            field head, whose target is right at any x_t, and goes with prior "published".
        restrict: "published" perturbation only: where m is drawn from U[0, restrict_m) instead. "absolute": where
            |z₀| < σ/2, as in the authors' last code; "signed": where z₀ < σ/2 before its sign is dropped, which is 69 %
            of the rows instead of 38 %, as in their code of 2022, when the published weights were trained; "none".
        restrict_m: That bound. None: int(0.7 M); the code of 2022 had 200 for CIFAR-10 and CelebA, 250 for LSUN.
        found: What `for_data` found in the data: dim, norm and radius.

    Source: Xu et al. 2022, arXiv:2209.11178, and the authors' code for the constants.
    """

    head: str = "field"
    dim: int | None = None
    norm: float | None = None
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
    constant: str = "exact"
    upper_norm: float | None = None
    perturbation: str = "exact"
    restrict: str = "absolute"
    restrict_m: int | None = None
    found: dict[str, float] | None = None

    clock = "log"
    base: ClassVar[Base] = StudentT(df=1.0)

    def __post_init__(self) -> None:
        self._check()
        self.steps = self.published_m() if self.m_max is None else self.m_max
        growth = self._growth()
        ends = self.z_min, math.sqrt(2 / math.pi) * growth if self.z_max is None else self.z_max
        given = [self._absolute(option) for option in ("sigma_min", "sigma_max")]
        self.t_data, self.t_prior = (end if z is None else z for end, z in zip(ends, given, strict=True))
        self.radius_limit = math.sqrt(self.setting("dim")) * growth if self.upper_norm is None else self.upper_norm
        if self.perturbation == "published" and self.head != "field":
            raise ValueError(
                "PFGM: perturbation = 'published' needs head = 'field'; other heads learn from exact draws"
            )
        if self.perturbation == "published" and self.times != "clock":
            raise ValueError(
                f"PFGM: perturbation = 'published' draws z itself; leave times = '{self.times}' out, or take 'exact'"
            )
        if self.t_prior <= self.t_data:
            raise ValueError(f"PFGM: z_max = {self.t_prior:g} must lie above z_min = {self.t_data:g}")
        super().__post_init__()

    def _check(self) -> None:
        positive = {n: getattr(self, n) for n in ("sigma_end", "tau", "z_min")}
        optional = {
            n: getattr(self, n)
            for n in ("dim", "norm", "m_max", "z_max", "gamma", "radius", "upper_norm", "restrict_m")
        }
        choices = {
            "inverse": INVERSES,
            "prior": ("exact", "published"),
            "constant": ("exact", "published"),
            "perturbation": ("exact", "published"),
            "restrict": ("absolute", "signed", "none"),
        }
        found = self.found is None or (isinstance(self.found, Mapping) and all(map(is_number, self.found.values())))
        require(
            "PFGM",
            {
                **{n: (v, is_positive(v), "a number above 0") for n, v in positive.items()},
                **{n: (v, v is None or is_positive(v), "a number above 0") for n, v in optional.items()},
                **{n: (getattr(self, n), getattr(self, n) in c, " or ".join(c)) for n, c in choices.items()},
                "z_exp": (self.z_exp, is_number(self.z_exp), "a number"),
                "found": (self.found, found, "what for_data finds: numbers by name"),
            },
        )

    def _growth(self) -> float:
        """σ (1+τ)^M."""
        try:
            return self.sigma_end * (1 + self.tau) ** self.steps
        except OverflowError:
            raise ValueError(
                f"PFGM: sigma_end (1 + tau)^m_max is not a finite number with tau = {self.tau:g} and m_max = "
                f"{self.steps:g}; give a smaller m_max"
            ) from None

    def published_m(self) -> int:
        """M of the published rule; 287 at the CIFAR-10 defaults (its configuration rounds to 291)."""
        signal = self.setting("norm") ** 2 / (2 * math.sqrt(self.setting("dim")) * self.sigma_end**2)
        return max(1, int(0.75 * math.log(max(signal, 1.0)) / math.log(1 + self.tau)) + 1)

    def for_data(self, x: Tensor) -> Self:
        """With dim, norm (root mean square) and radius (5/4 of the largest norm) found in data (n, *)."""
        norms = in_float64(x.flatten(1)).norm(dim=1)
        found = {
            "dim": dimension(x),
            "norm": float(norms.square().mean().sqrt()) or 1.0,
            "radius": 1.25 * float(norms.max()) or 1.0,
        }
        fitted = type(self)(**{**self.config(), "found": found})
        return super(PFGM, fitted).for_data(x)

    def setting(self, name: str) -> float:
        """dim, norm or radius: as it was given, else as the data have it, else the published CIFAR-10 setting."""
        given = getattr(self, name)
        default = {"dim": 3072, "norm": 30.0, "radius": 3000.0}[name]
        return float(given if given is not None else (self.found or {}).get(name, default))

    def heads(self) -> tuple[str, ...]:
        return ("field", *super().heads())

    def make_head(self) -> Head:
        if self.head != "field":
            return super().make_head()
        gamma = self.setting("norm") / 6 if self.gamma is None else self.gamma
        return PoissonField(gamma=gamma, inverse=self.inverse, z_exp=self.z_exp, radius=self.setting("radius"))

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, t, torch.zeros_like(t), one)

    def time_at(self, sigma: Tensor) -> Tensor:
        return sigma

    def published_end(self, mode: str) -> str:
        """The authors' samplers stop at z_min."""
        return "none"

    def perturb(
        self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None, partner: Tensor | None = None
    ) -> Perturbed:
        if self.perturbation == "exact" or partner is not None:
            return super().perturb(x, generator=generator, refs=refs, partner=partner)
        self.check_batch(x)
        x_t, t = self.published_perturbation(x, generator)
        return Perturbed(x_t, t, self.average_target(x, x_t, t, refs), self.weight_like(t, x))

    def published_perturbation(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x + σ χ_N (1+τ)^m u and z = σ |n| (1+τ)^m, both from the same m; returns (x_t, z).

        Near the data z can leave [z_min, z_max]; it is clipped there after x_t is made, so that the network
        learns the ends too.
        """

        how: Any = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        rows, whole = (len(x),), (len(x), dimension(x))
        m, z = uniform(rows, **how) * self.steps, normal(rows, **how) * self.sigma_end
        if self.restrict != "none":
            bound = int(0.7 * self.steps) if self.restrict_m is None else self.restrict_m
            tested = z if self.restrict == "signed" else z.abs()
            m = torch.where(tested < self.sigma_end / 2, uniform(rows, **how) * bound, m)
        z = z.abs()
        growth = (1 + self.tau) ** m
        radius = self.sigma_end * normal(whole, **how).norm(dim=1) * growth
        direction = normal(whole, **how)
        shift = direction * (radius / direction.norm(dim=1))[:, None]
        x_t = x + place([shift.reshape(x.shape).to(x.dtype)], x.device)[0]
        return x_t, (z * growth).clamp(self.t_data, self.t_prior)

    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        x = super().sample_prior(shape, generator=generator, dtype=dtype)
        if self.prior == "exact":
            return x
        radius = in_float64(x.flatten(1)).norm(dim=1)
        clipped = radius.clamp(1.0, self.radius_limit)
        return x * like_rows((clipped / radius).to(x.device, x.dtype), x)

    def log_prior(self, x: Tensor) -> Tensor:
        """log[Γ((N+1)/2)/π^((N+1)/2)] + log z − (N+1)/2 log(|x|² + z²) at z = z_max; "published" has Γ(N/2)/π^(N/2).

        The clip of the published prior is left out of the density, as in the published code.
        """
        exact = super().log_prior(x)
        if self.constant == "exact":
            return exact
        dim = dimension(x)
        return exact + math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2) + math.log(math.pi) / 2


@dataclass(kw_only=True)
class PFGMPP(AffineProcess):
    """PFGM++: x_σ = X + σ T_D with T_D a multivariate Student-t of D degrees of freedom, σ from sigma_min to sigma_max.

    The charges sit on a plane seen from D more dimensions at distance r = σ√D; the density of x is proportional to
    Σ_i (|x − y_i|² + r²)^(−(N+D)/2), and the perturbation's radius is R = r sqrt(B/(1 − B)) with B ~ Beta(N/2, D/2).
    D = 1 is Poisson flow with z = σ; D → ∞ is EDM, where the base is Gaussian. Time is σ.

    Up to D = 2 T_D has no variance, and the loss of the default head no mean; head="data" has bounded targets there.

    Arguments:
        D: Augmented dimensions; any number above 0.
        sigma_min: End of sampling near the data, data units.
        sigma_max: σ of the prior, data units.
        training: The former name of `times`.

    Source: Xu et al. 2023, arXiv:2302.04265; constants and the head from Karras et al. 2022, arXiv:2206.00364.
    """

    head: str = "edm"
    D: float = 128
    sigma_min: float = 0.002  # these two are the path: they cannot be left out
    sigma_max: float = 80.0
    times: str = "log_normal"
    training: str | None = None

    clock = "log"

    def __post_init__(self) -> None:
        self._check()
        self.t_data, self.t_prior = self._absolute("sigma_min") or 0.0, self._absolute("sigma_max") or 0.0
        self.base = StudentT(df=float(self.D))  # type: ignore[misc]  # this base has a parameter
        super().__post_init__()

    def _check(self) -> None:
        if self.training is not None:
            warnings.warn("PFGMPP's option training is now times", FutureWarning, stacklevel=4)
            self.times, self.training = self.training, None
        high = self.sigma_max
        require(
            "PFGMPP",
            {
                "D": (self.D, is_positive(self.D), "a number above 0"),
                "sigma_min": (self.sigma_min, is_positive(self.sigma_min), "a number above 0"),
                "sigma_max": (high, is_above(high, self.sigma_min), "a number above sigma_min"),
            },
        )

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, t, torch.zeros_like(t), one)

    def time_at(self, sigma: Tensor) -> Tensor:
        return sigma

    def published_end(self, mode: str) -> str:
        """EDM's grid has σ = 0 as its last time."""
        return "zero"
