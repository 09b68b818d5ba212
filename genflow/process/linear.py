"""Sums of states that are computed as a whole: what a solver's step is made of.

A step written as a formula, x + h/2 (v + v'), is one operation a symbol. Most symbols stand for sums themselves: with a
linear head v = α x + β F. As a `Combination` the whole step is Σ c_i x_i over the few tensors that there are, with
coefficients that the host adds up in float64: one operation a tensor, however long the formula.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """factor · tensor, over `per` where that is given: one number per row, shaped to divide the tensor."""

    factor: float
    tensor: Tensor
    per: Tensor | None


class Combination:
    """Σ c_i x_i over states x_i (B, *), computed when `value` is asked for, once."""

    __slots__ = ("_terms", "_value")

    def __init__(self, terms: dict[tuple[int, int], Term]) -> None:
        self._terms = terms
        self._value: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, factor: float = 1.0, per: Tensor | None = None) -> Combination:
        """factor · x, or factor · x / per."""
        return cls({(id(x), id(per)): Term(factor, x, per)})

    def __add__(self, other: Combination) -> Combination:
        terms = dict(self._terms)
        for key, term in other._terms.items():
            known = terms.get(key)
            terms[key] = term if known is None else Term(known.factor + term.factor, term.tensor, term.per)
        return Combination(terms)

    def __mul__(self, factor: float) -> Combination:
        return Combination({key: Term(factor * c, x, per) for key, (c, x, per) in self._terms.items()})

    __rmul__ = __mul__

    def __sub__(self, other: Combination) -> Combination:
        return self + -1.0 * other

    def __truediv__(self, divisor: float) -> Combination:
        return self * (1 / divisor)

    def settled(self) -> Combination:
        """The same as one tensor, for what later steps use again."""
        return Combination.of(self.value())

    def value(self) -> Tensor:
        """The sum as a tensor (B, *); the tensor itself where that is all there is."""
        if self._value is None:
            self._value = self._sum()
        return self._value

    def _sum(self) -> Tensor:
        whole = [term for term in self._terms.values() if term.per is None and term.factor == 1]
        terms = [term for term in self._terms.values() if term.factor != 0 and (not whole or term is not whole[0])]
        if whole:
            return _added(whole[0].tensor, terms, own=False)
        if not terms:
            return torch.zeros_like(next(iter(self._terms.values())).tensor)
        terms.sort(key=lambda term: term.per is not None)
        factor, first, per = terms[0]
        total = factor * first if per is None else first / per
        return _added(total if per is None or factor == 1 else total.mul_(factor), terms[1:], own=True)


def _added(total: Tensor, terms: list[Term], own: bool) -> Tensor:
    """total + Σ terms, in place where `total` is ours and as precise as what is added."""
    for factor, x, per in terms:
        if own and x.dtype == total.dtype and not torch.is_grad_enabled():
            total = total.add_(x, alpha=factor) if per is None else total.addcdiv_(x, per, value=factor)
        else:
            total = total.add(x, alpha=factor) if per is None else total.addcdiv(x, per, value=factor)
        own = True
    return total
