"""The one posterior routine: E[X | x_t] over a finite set of data points.

It is Poisson flow's large-batch target, the stable target of score models, and the exact field of a finite data
set (the oracle). By matrix products in chunks: the B x M x N differences of the plain formula never exist.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genflow.process.affine import AffineProcess
from genflow.process.base import dimension, like_rows

CHUNK = 1024
"""References per matrix product: the extra memory is B x CHUNK numbers and a copy of the chunk."""


def posterior_mean(x: Tensor, t: Tensor, refs: Tensor, process: AffineProcess) -> Tensor:
    """E[X | x_t = x] for X uniform over refs.

    X̂ = Σ_j w_j y_j, w = softmax_j log k((x − a y_j)/b), k the density of the process's base. References are taken
    relative to their mean, and of |x − a y_j|² only the part that differs between references enters the weights,
    so rounding stays small both far from the data and at large N. Exact duplicates simply share their weight.

    Arguments:
        x: States, shape (B, *), data units.
        t: Native time, shape () or (B,), not t_data itself (there b = 0).
        refs: Data points, shape (M, *), M >= 1.
        process: Gives a(t), b(t) and the base.

    Returns:
        Shape (B, *), x's dtype.
    """
    if not len(refs):
        raise ValueError("posterior_mean needs at least one reference point, got 0")
    shape, points = x.shape, refs.flatten(1)
    a, b = _column(process.coefficients(t).a, x), _column(process.coefficients(t).b, x)
    centre = points.mean(0)
    x = x.flatten(1) - a * centre
    norm2 = x.square().sum(1, keepdim=True)
    best = torch.full_like(norm2, -torch.inf)
    total, mean = torch.zeros_like(norm2), torch.zeros_like(x)
    for chunk in points.split(CHUNK):
        rows = chunk - centre
        cross = a * a * rows.square().sum(1) - 2 * a * (x @ rows.T)
        logits = process.base.log_weights(cross, norm2, b, dimension(x))
        top = torch.maximum(best, logits.amax(1, keepdim=True))
        weights, keep = (logits - top).exp_(), (best - top).exp()
        total = total * keep + weights.sum(1, keepdim=True)
        mean = mean * keep + weights @ rows
        best = top
    return (mean / total + centre).reshape(shape)


def _column(value: Tensor, x: Tensor) -> Tensor:
    """A coefficient () or (B,) as (1, 1) or (B, 1) in x's dtype."""
    return like_rows(torch.as_tensor(value, dtype=torch.float64).to(x.device, x.dtype), x.flatten(1))
