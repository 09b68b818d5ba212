"""The path x_t = a(t) X + b(t) N: its coefficients and its base, without a network or a way to sample it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genflow.placing import place
from genflow.process.bases import Base, Gaussian
from genflow.process.memory import Memory, RowNumbers, crosses
from genflow.process.shapes import check_floating, in_float64, like_rows, over


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


class At(Coefficients):
    """Coefficients where x is, with the numbers that the head reads by at those times; see `Head.table`."""

    table: Tensor | None = None


class AffinePath(ABC):
    """x_t = a(t) X + b(t) N with data X and a base N drawn independently of them."""

    base: ClassVar[Base] = Gaussian()

    @abstractmethod
    def coefficients(self, t: Tensor) -> Any:
        """a, b and their derivatives at native time t () or (B,), as tensors of t's shape or as numbers."""

    @cached_property
    def _coefficients(self) -> Memory:
        return Memory()

    @cached_property
    def _rows(self) -> RowNumbers:
        return RowNumbers()

    def row_numbers(self, t: Tensor) -> dict[str, Any]:
        """What states (B, *) on a device want of their times (B,) on the host, float64; see `RowNumbers`."""
        return Coefficients(*self.coefficients(t))._asdict()

    def at(self, t: Tensor, x: Tensor) -> Coefficients:
        """The coefficients at t, in x's dtype and shaped to multiply x (B, *); those of one time are kept."""
        if crosses(t, x) and x.is_floating_point():
            rows = self._rows.get(t, x, lambda: self.row_numbers(t.double()))
            return Coefficients(*(like_rows(rows[name], x) for name in Coefficients._fields))
        if t.ndim or t.requires_grad or torch.is_inference_mode_enabled():  # autograd could not use its tensors later
            return Coefficients(*(over(value, x) for value in self.coefficients(in_float64(t))))

        def make() -> Coefficients:
            check_floating(x)
            numbers = self.numbers(t.detach().double().cpu().reshape(1), x)
            return self.placed(torch.stack(numbers).to(x.device, x.dtype, non_blocking=True), x)

        found: Coefficients = self._coefficients.get((float(t), x.shape[1:], x.dtype, x.device), make)
        return found

    def numbers(self, t: Tensor, x: Tensor) -> list[Tensor]:
        """What `placed` needs of times (n,), each (n,), float64 on the host: copied to a device at once."""
        check_floating(x)
        values = Coefficients(*self.coefficients(t))
        return [torch.as_tensor(value, dtype=torch.float64).expand(len(t)) for value in values]

    def placed(self, numbers: Tensor, x: Tensor) -> At:
        """`numbers` as they are used, from x's device: of one time, shape (k, 1), or of one a row, (k, B)."""
        count = len(Coefficients._fields)
        found = At(*(like_rows(value, x) for value in numbers[:count].unbind()))
        found.table = numbers[count:] if len(numbers) > count else None
        return found

    def base_like(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of N of x's shape, dtype and device."""
        drawn = self.base.sample(tuple(x.shape), generator=generator, dtype=x.dtype)
        return drawn if drawn.device == x.device else place([drawn], x.device)[0]

    def interpolate(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = a X + b N, shape (B, *)."""
        c = self.at(t, x)
        return c.a * x + c.b * noise
