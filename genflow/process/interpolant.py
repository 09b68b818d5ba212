"""Stochastic interpolants: paths from noise at t = 0 to data at t = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.process.affine import AffineProcess
from genflow.process.base import Coefficients, is_positive, require


@dataclass(kw_only=True)
class OneSided(AffineProcess):
    """x_t = a(t) X + b(t) N with a(0) = b(1) = 0, a(1) = b(0) = 1 and Gaussian N; a leaf gives the coefficients.

    Arguments:
        margin: Times run from margin to 1 − margin. At t = 0 the data are gone from x_t, so neither the noise head nor
            the forward SDE is finite there; at t = 1 the noise is gone, and with it the score.

    Source: Albergo & Vanden-Eijnden 2023, arXiv:2209.15571; the SDE: Albergo et al. 2023, arXiv:2303.08797.
    """

    head: str = "velocity"
    margin: float = 1e-3

    t_data = 1.0
    t_prior = 0.0

    def __post_init__(self) -> None:
        fits = is_positive(self.margin) and self.margin < 0.5
        require(type(self).__name__, {"margin": (self.margin, fits, "a number above 0 and below 1/2")})
        super().__post_init__()

    @property
    def safe_interval(self) -> tuple[float, float]:
        return 1 - self.margin, self.margin

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε = b (a' b − a b'): bounded, zero at the data end.

        Every ε >= 0 has the same marginals, and the ε of score SDEs, b² a'/a − b b', is infinite where a = 0. This is
        a times it: the same near the data, where the score is steep, and mild near the prior.
        """
        a, b, da, db = (torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(t.double())[:4])
        return b * (da * b - a * db)


@dataclass(kw_only=True)
class SILinear(OneSided):
    """Linear interpolant: a = t, b = 1 − t; dx/dt = X̂ − N̂. Flow matching calls it the conditional OT path.

    The SDE's ε is 1 − t.
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


@dataclass(kw_only=True)
class SITrig(OneSided):
    """Trigonometric interpolant: a = sin(πt/2), b = cos(πt/2); the variance stays that of the data where it is one.

    The SDE's ε is π/2 · cos(πt/2).
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        quarter = math.pi / 2
        a, b = (quarter * t).sin(), (quarter * t).cos()
        return Coefficients(a, b, quarter * b, -quarter * a)
