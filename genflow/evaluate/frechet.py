"""The Fréchet distance between two sets of features, in float64, right also with fewer samples than features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genflow.estimates import Estimate, jackknife, together_at

GROUPS = 20
"""Parts of a set of samples, for errors by leaving one out; fewer give an error of fewer degrees of freedom."""


class Statistics(NamedTuple):
    """Mean (d,) and unbiased covariance (d, d) of n feature vectors, float64."""

    mean: Tensor
    cov: Tensor
    n: int


class Factor(NamedTuple):
    """n feature vectors with n <= d, kept as they are: rows (n, d) are centred and over √(n − 1), so that rowsᵀ rows
    is the covariance, float64; mean (d,)."""

    mean: Tensor
    rows: Tensor
    n: int


Gaussian = Statistics | Factor
"""A Gaussian of which a Fréchet distance is taken."""


class RunningStatistics:
    """Mean and covariance in one pass, by batches, mergeable; memory does not grow with n.

    Arguments:
        dim: Features d.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds a batch (B, d)."""
        batch = features.detach().cpu().double()
        mean = batch.mean(0)
        batch = batch - mean
        self._add(len(batch), mean, batch.T @ batch)

    def merge(self, other: RunningStatistics) -> None:
        """Adds the examples of another one (Chan, Golub & LeVeque 1979)."""
        self._add(other.n, other.mean, other.scatter)

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if not n:
            return
        total = self.n + n
        gap = mean - self.mean
        self.scatter.add_(scatter).addr_(gap, gap, alpha=self.n * n / total)  # in place: d² numbers are large
        self.mean = self.mean + gap * (n / total)
        self.n = total

    def result(self) -> Statistics:
        """Mean and unbiased covariance; raises ValueError with fewer than two samples."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.n}")
        return Statistics(self.mean, self.scatter / (self.n - 1), self.n)


def statistics(features: Tensor) -> Statistics:
    """Statistics of features (n, d)."""
    running = RunningStatistics(features.shape[1])
    running.update(features)
    return running.result()


def frechet_from_statistics(first: Statistics, second: Statistics) -> float:
    """|μ1 − μ2|² + tr S1 + tr S2 − 2 tr (S1 S2)^½.

    The trace is the sum of the square roots of the eigenvalues of Lᵀ S2 L for S1 = L Lᵀ: by Cholesky, or by
    the symmetric square root where S1 is singular.
    """
    root, info = torch.linalg.cholesky_ex(first.cov)
    if int(info):
        values, vectors = torch.linalg.eigh(first.cov)
        root = vectors * values.clamp_min(0).sqrt()
    eigenvalues = torch.linalg.eigvalsh(root.T @ second.cov @ root)
    cross = eigenvalues.clamp_min(0).sqrt().sum()
    return _distance(first.mean, second.mean, first.cov.trace() + second.cov.trace(), cross)


def frechet(first: Gaussian, second: Gaussian) -> float:
    """The Fréchet distance of two Gaussians, each by its covariance or by its rows.

    With rows A of n <= d samples on one side, tr (S1 S2)^½ is the sum of the square roots of the eigenvalues of the
    n x n matrix A S2 Aᵀ; with rows on both sides, the nuclear norm of A Bᵀ. Both are exact for singular covariances.

    Raises:
        ValueError: Different dimensions.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(f"features of {len(first.mean)} and {len(second.mean)} dimensions cannot be compared")
    if isinstance(first, Statistics) and isinstance(second, Statistics):
        return frechet_from_statistics(first, second)
    if isinstance(first, Factor) and isinstance(second, Factor):
        cross = torch.linalg.svdvals(first.rows @ second.rows.T).sum()
    else:
        few, many = (first, second) if isinstance(first, Factor) else (second, first)
        assert isinstance(few, Factor)
        assert isinstance(many, Statistics)
        cross = torch.linalg.eigvalsh(few.rows @ many.cov @ few.rows.T).clamp_min(0).sqrt().sum()
    return _distance(first.mean, second.mean, _trace(first) + _trace(second), cross)


def _trace(gaussian: Gaussian) -> Tensor:
    return gaussian.rows.square().sum() if isinstance(gaussian, Factor) else gaussian.cov.trace()


def factor(features: Tensor) -> Factor:
    """Features (n, d) as centred rows.

    Raises:
        ValueError: Fewer than two samples.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(features)}")
    rows = features.detach().cpu().double()
    return Factor(rows.mean(0), _scaled(rows), len(rows))


def moments_of(features: Tensor) -> Gaussian:
    """Statistics of features (n, d), or their centred rows where n <= d."""
    return statistics(features) if len(features) > features.shape[1] else factor(features)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features (n, d) and (m, d).

    A set of no more samples than features enters by its rows, which is exact and small; see `frechet`.

    Raises:
        ValueError: Other shapes than (n, d) and (m, d), fewer than two rows, or values that are not finite.
    """
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"the {name} features have shape {tuple(features.shape)}; expected (n, d) with n >= 2")
        if not bool(features.isfinite().all()):
            raise ValueError(f"the {name} features are not all finite; look at the samples")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and {second.shape[1]} dimensions cannot be compared")
    return frechet(moments_of(first), moments_of(second))


def frechet_limit(first: Tensor, second: Tensor | Gaussian, groups: int = GROUPS) -> Estimate:
    """The Fréchet distance at infinitely many samples: FD(n, m) ≈ FD∞ + a/n + b/m, extrapolated to 1/n = 1/m = 0.

    For each set the line goes through the distance of all samples and its mean over the sets without one group. The
    value is unbiased up to terms of order 1/n², so it may be negative where the distributions agree. The error covers
    the draw of both sets.

    Arguments:
        first: Features (n, d).
        second: Features (m, d); or a Gaussian, which is taken to be exact.
        groups: Equal parts of each set.

    Source: after Chong & Forsyth 2020, arXiv:1911.07023, who extrapolate in the number of samples alone.
    """
    own, less = without_groups(first, groups)
    real, fewer = without_groups(second, groups) if isinstance(second, Tensor) else (second, [])
    whole = frechet(own, real)
    a = jackknife(whole, own.n, [(one.n, frechet(one, real)) for one in less])
    if not fewer:
        return a
    b = jackknife(whole, real.n, [(one.n, frechet(own, one)) for one in fewer])
    return together_at(a.value + b.value - whole, a, b)


def without_groups(features: Tensor, groups: int) -> tuple[Statistics, list[Statistics]]:
    """Statistics of features (n, d), and of those without each of so many equal groups.

    Raises:
        ValueError: Fewer than two rows for each group, or not more than d rows without one.
    """
    n, dim = features.shape
    if n < 2 * groups or n - -(-n // groups) <= dim:
        raise ValueError(f"{n} samples in {dim} dimensions are too few to leave out one of {groups} groups")
    rows = features.detach().cpu().double()
    mean = rows.mean(0)
    rows = rows - mean
    scatter, found = rows.T @ rows, []
    for group in rows.tensor_split(groups):
        left = n - len(group)
        shift = -group.sum(0) / left
        rest = scatter - group.T @ group - left * torch.outer(shift, shift)
        found.append(Statistics(mean + shift, rest / (left - 1), left))
    return Statistics(mean, scatter / (n - 1), n), found


def resplits(first: Tensor, second: Tensor, n: int, m: int, generator: torch.Generator) -> list[float]:
    """Fréchet distances between n and m random rows of two sets of real features together, without replacement: what
    other splits of the same examples would have given.

    Their number falls with the dimension, as each costs more: 100 up to 128 features, 10 from 1,280.
    """
    both, found = torch.cat([first, second]).double(), []
    for _ in range(max(10, min(100, 12_800 // both.shape[1]))):
        rows = torch.randperm(len(both), generator=generator)
        found.append(frechet(moments_of(both[rows[:n]]), moments_of(both[rows[n : n + m]])))
    return found


def _scaled(features: Tensor) -> Tensor:
    centred = features.detach().cpu().double()
    centred = centred - centred.mean(0)
    return centred / (len(centred) - 1) ** 0.5


def _distance(mean1: Tensor, mean2: Tensor, traces: Tensor, cross: Tensor) -> float:
    gap = (mean1.cpu() - mean2.cpu()).square().sum()
    return max(0.0, float(gap + traces - 2 * cross))
