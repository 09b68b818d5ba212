"""The posterior mean X̂ = E[X | x_t] over a finite set of data points, the only routine for it.

    X̂ = Σ_j w_j y_j,   w_j ∝ k((x − a y_j)/b)

with k the density of the base: a softmax of −|x − a y_j|²/(2b²) for a Gaussian, of
−(ν + N)/2 · log(ν b² + |x − a y_j|²) for a Student-t with ν degrees of freedom (Cauchy, ν = 1, for Poisson flow). It is
the large-batch target of Poisson flow (Xu et al. 2022, arXiv:2209.11178), the stable target of score models (Xu et
al. 2023, arXiv:2302.00670) and the exact field of a finite data set, the oracle. By matrix products in chunks, with a
running softmax: the B x M x N differences of the formula never exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from genflow.process.bases import Base
from genflow.process.shapes import dimension, over

CHUNK = 4096
"""References per matrix product: the extra memory is a few B x CHUNK numbers."""

NEGLIGIBLE = -60.0
"""Log weights this far below the row's largest count as none: their products would be denormal, and slow."""


class Weighing(Protocol):
    """What the posterior needs of a process: a(t), b(t) and the density of its base."""

    @property
    def base(self) -> Base: ...
    def coefficients(self, t: Tensor) -> Any: ...


def posterior_mean(x: Tensor, t: Tensor, refs: Tensor | Sequence[Tensor], process: Weighing) -> Tensor:
    """E[X | x_t = x] for X uniform over refs.

    X̂ = Σ_j w_j y_j, w = softmax_j log k((x − a y_j)/b), k the density of the process's base. Of |x − a y_j|² only the
    part that differs between references enters the weights, and data far from the origin is centred first, so
    rounding stays small both far from the data and at large N. Exact duplicates simply share their weight.

    Arguments:
        x: States, shape (B, *), data units.
        t: Native time, shape () or (B,), not t_data itself (there b = 0).
        refs: Data points, shape (M, *), M >= 1, or several such tensors, which are not joined in memory.
        process: Gives a(t), b(t) and the base.

    Returns:
        Shape (B, *), x's dtype.
    """
    parts = [part.flatten(1) for part in ([refs] if isinstance(refs, Tensor) else refs) if len(part)]
    if not parts:
        raise ValueError("posterior_mean needs at least one reference point, got 0")
    shape = x.shape
    a, b = _column(process.coefficients(t).a, x), _column(process.coefficients(t).b, x)
    centre = _centre(parts[0])
    x = x.flatten(1) if centre is None else x.flatten(1) - a * centre
    norm2 = x.square().sum(1, keepdim=True)
    best = torch.full_like(norm2, -torch.inf)
    total, mean = torch.zeros_like(norm2), torch.zeros_like(x)
    for chunk in (chunk for part in parts for chunk in part.split(CHUNK)):
        rows = chunk if centre is None else chunk - centre
        cross = a * a * torch.linalg.vector_norm(rows, dim=1).square() - 2 * a * (x @ rows.T)
        logits = process.base.log_weights(cross, norm2, b, dimension(x))
        top = torch.maximum(best, logits.amax(1, keepdim=True))
        weights = torch.nn.functional.threshold(logits - top, NEGLIGIBLE, -torch.inf).exp_()
        keep = (best - top).exp()
        total = total * keep + weights.sum(1, keepdim=True)
        mean = mean * keep + weights @ rows
        best = top
    mean = mean / total
    return (mean if centre is None else mean + centre).reshape(shape)


def _centre(points: Tensor) -> Tensor | None:
    """The mean of some of the points where they lie far from the origin for their spread, else None."""
    some = points[:: max(1, len(points) // 64)]
    centre = some.mean(0)
    spread = (some - centre).square().sum(1).mean()
    return centre if bool(centre.square().sum() > 4 * spread) else None


def _column(value: Tensor, x: Tensor) -> Tensor:
    """A coefficient () or (B,) as (1, 1) or (B, 1) in x's dtype."""
    return over(value, x.flatten(1))
