"""The path x_t = a(t) X + b(t) N: its coefficients and its base, without a network or a way to sample it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genflow.process.bases import Base, Gaussian
from genflow.process.memory import Memory
from genflow.process.shapes import in_float64, over


class Coefficients(NamedTuple):
    """x_t = a X + b N + g Z: coefficients of data, base and latent with their time derivatives, each of t's shape.

    g dg stands for the product g g', which is finite also where g' is not.
    """

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor
    g: Tensor | float = 0.0
    gdg: Tensor | float = 0.0


class AffinePath(ABC):
    """x_t = a(t) X + b(t) N with data X and a base N drawn independently of them."""

    base: ClassVar[Base] = Gaussian()

    @abstractmethod
    def coefficients(self, t: Tensor) -> Any:
        """a, b and their derivatives at native time t () or (B,), as tensors of t's shape or as numbers."""

    @cached_property
    def _coefficients(self) -> Memory:
        return Memory()

    def at(self, t: Tensor, x: Tensor) -> Coefficients:
        """The coefficients at t, in x's dtype and shaped to multiply x (B, *); those of one time are kept."""
        if t.ndim or t.requires_grad or torch.is_inference_mode_enabled():  # autograd could not use its tensors later
            return Coefficients(*(over(value, x) for value in self.coefficients(in_float64(t))))

        def make() -> Coefficients:
            return Coefficients(*(over(value, x) for value in self.coefficients(t.detach().cpu().double())))

        found: Coefficients = self._coefficients.get((float(t), x.ndim, x.dtype, x.device), make)
        return found

    def base_like(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of N of x's shape, dtype and device."""
        return self.base.sample(tuple(x.shape), generator=generator, dtype=x.dtype).to(x.device)

    def interpolate(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = a X + b N, shape (B, *)."""
        c = self.at(t, x)
        return c.a * x + c.b * noise
