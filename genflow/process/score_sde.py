"""Score SDEs: variance preserving."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.process.affine import AffineProcess
from genflow.process.base import Coefficients, is_number, is_positive, require


@dataclass(kw_only=True)
class VP(AffineProcess):
    """Variance preserving: a = exp(−B/2), b = sqrt(1 − e^(−B)), B(t) = β0 t + (β1 − β0) t²/2, t from 0 to 1.

    dx = −β x/2 dt + sqrt(β) dw with β(t) = β0 + (β1 − β0) t.

    Arguments:
        beta_min: β0.
        beta_max: β1.
        t_min: End of sampling and of training near the data; b' is infinite at 0.

    Source: Song et al. 2021, arXiv:2011.13456.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3

    t_data = 0.0
    t_prior = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            "VP",
            {
                "beta_min": (self.beta_min, is_number(self.beta_min) and self.beta_min >= 0, "a number of at least 0"),
                "beta_max": (
                    self.beta_max,
                    is_number(self.beta_max) and self.beta_max > self.beta_min,
                    "a number above beta_min",
                ),
                "t_min": (self.t_min, is_positive(self.t_min) and self.t_min < 1, "a number between 0 and 1"),
            },
        )

    @property
    def safe_interval(self) -> tuple[float, float]:
        return self.t_min, self.t_prior

    def coefficients(self, t: Tensor) -> Coefficients:
        rate = self.beta_max - self.beta_min
        integral, beta = self.beta_min * t + rate * t * t / 2, self.beta_min + rate * t
        a, b = (-integral / 2).exp(), (-torch.expm1(-integral)).sqrt()
        return Coefficients(a, b, -beta / 2 * a, beta / 2 * a * a / b)

    @property
    def prior_scale(self) -> float:
        """The published prior is the standard normal; b(1) = 0.99998."""
        return 1.0
