"""Linear heads at one time: velocity, means and score as numbers times x plus numbers times the output."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genflow.process.affine_path import Coefficients
from genflow.process.heads import Head
from genflow.process.linear import Combination

Pair = tuple[float, float]


class Rule(NamedTuple):
    """What is read at one time: (factor of x, factor of `Head.regressor`) of each, and a and b there."""

    velocity: Pair
    data: Pair
    base: Pair
    a: float
    b: float

    @property
    def score(self) -> Pair:
        """−N̂/b."""
        return -self.base[0] / self.b, -self.base[1] / self.b


def linear_rules(head: Head, c: Coefficients) -> list[Rule]:
    """The rules of a linear head at n times, found by reading it at (x, output) = (1, 0) and (0, 1).

    Arguments:
        head: With `linear` true: `velocity` and `decode` are linear in x and output together.
        c: Coefficients, float64, shape (n, 1).
    """
    one, zero = torch.ones_like(c.b), torch.zeros_like(c.b)
    of_x, of_output = head.decode(zero, one, c), head.decode(one, zero, c)
    found = (head.velocity(zero, one, c), head.velocity(one, zero, c), *of_x, *of_output, c.a, c.b)
    columns = [v.detach().reshape(-1).tolist() for v in found]
    return [Rule((vx, vo), (dx, do), (bx, bo), a, b) for vx, vo, dx, bx, do, bo, a, b in zip(*columns, strict=True)]


def mix(x: Tensor, output: Tensor, factors: Pair) -> Tensor:
    """factors[0] x + factors[1] output."""
    of_x, of_output = factors
    if of_x == 0:
        return output if of_output == 1 else of_output * output
    return torch.add(x if of_x == 1 else of_x * x, output, alpha=of_output)


def combined(x: Combination, output: Tensor, factors: Pair) -> Combination:
    """factors[0] x + factors[1] output, not computed yet."""
    of_x, of_output = factors
    return of_x * x + Combination.of(output, of_output)
