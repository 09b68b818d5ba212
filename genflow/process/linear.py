"""Sums of states that are computed as a whole: what a solver's step is made of.

A step written as a formula, x + h/2 (v + v'), is one operation a symbol. Most symbols stand for sums themselves: with a
linear head v = α x + β F. As a `Combination` the whole step is Σ c_i x_i over the few tensors that there are, with
coefficients that the host adds up in float64: one operation a tensor, however long the formula.
"""

from __future__ import annotations

import torch
from torch import Tensor

Term = tuple[float, Tensor, Tensor | None]
"""(factor, tensor, per): factor · tensor, over `per` where that is given: one number per row, shaped to divide."""


class Combination:
    """scale · Σ c_i x_i over states x_i (B, *), computed when `value` is asked for, once."""

    __slots__ = ("_scale", "_terms", "_value")

    def __init__(self, terms: dict[tuple[int, int], Term], scale: float = 1.0) -> None:
        self._terms, self._scale = terms, scale
        self._value: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, factor: float = 1.0, per: Tensor | None = None) -> Combination:
        """factor · x, or factor · x / per."""
        return cls({(id(x), id(per)): (factor, x, per)})

    def __add__(self, other: Combination) -> Combination:
        a, b = self._scale, other._scale
        terms = dict(self._terms) if a == 1 else {k: (a * c, x, per) for k, (c, x, per) in self._terms.items()}
        for key, (c, x, per) in other._terms.items():
            known = terms.get(key)
            terms[key] = (b * c if known is None else known[0] + b * c, x, per)
        return Combination(terms)

    def __mul__(self, factor: float) -> Combination:
        return Combination(self._terms, self._scale * factor)

    __rmul__ = __mul__

    def __sub__(self, other: Combination) -> Combination:
        return self + other * -1.0

    def __truediv__(self, divisor: float) -> Combination:
        return self * (1 / divisor)

    def settled(self) -> Combination:
        """The same as one tensor, for what later steps use again."""
        return self if len(self._terms) == 1 else Combination.of(self.value())

    def value(self) -> Tensor:
        """The sum as a tensor (B, *); the tensor itself where that is all there is."""
        if self._value is None:
            self._value = self._sum()
        return self._value

    def _sum(self) -> Tensor:
        total, first, rest = None, None, []
        for term in self._terms.values():
            c, x, per = self._scale * term[0], term[1], term[2]
            if per is None and c == 1 and total is None:
                total = x
            elif per is None and first is None and c != 0:
                first = (c, x)
            elif c != 0:
                rest.append((c, x, per))
        if total is not None:
            return _added(total, rest if first is None else [(*first, None), *rest], own=False)
        if first is not None:
            return _added(first[0] * first[1], rest, own=True)
        if not rest:
            return torch.zeros_like(next(iter(self._terms.values()))[1])
        c, x, per = rest[0]
        total = x / per  # type: ignore[operator]  # those without one are `total` and `first`
        return _added(total if c == 1 else total.mul_(c), rest[1:], own=True)


def _added(total: Tensor, terms: list[Term], own: bool) -> Tensor:
    """total + Σ terms, in place where `total` is ours and as precise as what is added."""
    graph = bool(terms) and torch.is_grad_enabled()
    for factor, x, per in terms:
        if own and not graph and x.dtype == total.dtype:
            total = total.add_(x, alpha=factor) if per is None else total.addcdiv_(x, per, value=factor)
        else:
            total = total.add(x, alpha=factor) if per is None else total.addcdiv(x, per, value=factor)
        own = True
    return total
