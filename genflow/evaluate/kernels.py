"""Unbiased kernel distances between two sets of vectors: MMD², KID's cubic kernel, and the energy distance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genflow.estimates import Estimate

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Vectors (n, d) and (m, d) -> values (n, m)."""


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/d + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def rbf_kernel(bandwidth: float) -> Kernel:
    """exp(−|x − y|²/(2 h²))."""
    return lambda x, y: torch.exp(-_squares(x, y) / (2 * bandwidth**2))


def minus_distance(x: Tensor, y: Tensor) -> Tensor:
    """−|x − y|, whose MMD² is the energy distance 2 E|X−Y| − E|X−X'| − E|Y−Y'| (Székely & Rizzo 2013)."""
    return -_squares(x, y).sqrt()


def _squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def median_distance(x: Tensor, y: Tensor) -> float:
    """Median distance between different points of both sets together: the usual bandwidth (Gretton et al. 2012)."""
    both = torch.cat(as_pair(x, y))
    found = float(torch.pdist(both).median())
    if found <= 0:
        raise ValueError("half of the points coincide, so their median distance is 0; give a bandwidth")
    return found


def mmd(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool = True, chunk: int = 1000) -> Estimate:
    """MMD² = E k(X,X') + E k(Y,Y') − 2 E k(X,Y), with its standard error.

    The unbiased value, a U-statistic, leaves the pairs i = i out of the first two means, so it may be negative; the
    other, the V-statistic, never is. The error is the first-order one of a U-statistic, from the variance over the
    points of each set of what a point adds, √(4 var h_x/n + 4 var h_y/m); where the distributions agree it is up to √2
    too large.

    Arguments:
        x, y: Vectors (n, d) and (m, d).
        kernel: k.
        chunk: Rows of the kernel's matrix at a time.

    Source: Gretton et al. 2012, JMLR 13.
    """
    x, y = as_pair(x, y)
    n, m = len(x), len(y)
    xx, _, same_x = _sums(x, x, kernel, chunk)
    yy, _, same_y = _sums(y, y, kernel, chunk)
    xy, yx, _ = _sums(x, y, kernel, chunk)
    less = (same_x.sum(), same_y.sum()) if unbiased else (0.0, 0.0)
    pairs = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
    value = (xx.sum() - less[0]) / pairs[0] + (yy.sum() - less[1]) / pairs[1] - 2 * xy.sum() / (n * m)
    adds = ((xx - same_x) / (n - 1) - xy / m, (yy - same_y) / (m - 1) - yx / n)
    error = math.sqrt(sum(4 * float(part.var()) / len(part) for part in adds))
    return Estimate(float(value), error, min(n, m))


def _sums(x: Tensor, y: Tensor, kernel: Kernel, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of k(x_i, y_j) over j (n,) and over i (m,), and the diagonal k(x_i, y_i)."""
    rows, columns, same = [], torch.zeros(len(y), dtype=x.dtype), []
    for start, part in zip(range(0, len(x), chunk), x.split(chunk)):
        values = kernel(part, y)
        rows.append(values.sum(1))
        same.append(values.diagonal(start))
        columns += values.sum(0)
    return torch.cat(rows), columns, torch.cat(same)


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = True) -> Estimate:
    """2 E|X−Y| − E|X−X'| − E|Y−Y'|, squared units of scipy.stats.energy_distance, with its standard error."""
    return mmd(x, y, minus_distance, unbiased=unbiased)


def kernel_distance(
    first: Tensor, second: Tensor, *, generator: torch.Generator, subsets: int = 100, size: int = 1000
) -> Estimate:
    """KID's estimate: the mean over subsets of the unbiased MMD² with the cubic kernel. Its error is the standard
    deviation over subsets, as is usual, which is not a standard error.

    Arguments:
        first, second: Features (n, d) and (m, d).
        generator: Draws the subsets, without replacement within each.
        subsets: How many.
        size: Features of each set in a subset; no more than there are.
    """
    first, second = as_pair(first, second)
    size = min(size, len(first), len(second))
    values = []
    for _ in range(subsets):
        rows = (torch.randperm(len(x), generator=generator)[:size] for x in (first, second))
        values.append(mmd(first[next(rows)], second[next(rows)], cubic_kernel).value)
    found = torch.tensor(values, dtype=torch.float64)
    return Estimate(float(found.mean()), float(found.std(correction=0)))


def as_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64.

    Raises:
        ValueError: Not (n, d) and (m, d) with n, m >= 2, or not finite.
    """
    for name, vectors in (("first", x), ("second", y)):
        if vectors.ndim != 2 or len(vectors) < 2:
            raise ValueError(f"the {name} set has shape {tuple(vectors.shape)}; expected (n, d) with n >= 2")
        if not bool(vectors.isfinite().all()):
            raise ValueError(f"the {name} set is not all finite; look at the samples")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"vectors of {x.shape[1]} and {y.shape[1]} dimensions cannot be compared")
    return x.detach().cpu().double(), y.detach().cpu().double()
