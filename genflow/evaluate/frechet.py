"""The Fréchet distance between two sets of features, in float64, right also with fewer samples than features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Mean (d,) and unbiased covariance (d, d) of n feature vectors, float64."""

    mean: Tensor
    cov: Tensor
    n: int


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
        self._add(len(batch), mean, (batch - mean).T @ (batch - mean))

    def merge(self, other: RunningStatistics) -> None:
        """Adds what another one has seen (Chan, Golub & LeVeque 1979)."""
        self._add(other.n, other.mean, other.scatter)

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if not n:
            return
        total = self.n + n
        gap = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(gap, gap) * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n = total

    def result(self) -> Statistics:
        """Raises ValueError with fewer than two samples."""
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


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features (n, d) and (m, d).

    With fewer samples than features in either set, tr (S1 S2)^½ is the nuclear norm of A Bᵀ for the centred
    features A, B over sqrt(n − 1): exact for singular covariances, and an n x m problem instead of d x d.

    Raises:
        ValueError: Other shapes than (n, d) and (m, d), fewer than two rows, or values that are not finite.
    """
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"the {name} features have shape {tuple(features.shape)}; want (n, d) with n >= 2")
        if not bool(features.isfinite().all()):
            raise ValueError(f"the {name} features are not all finite; look at the samples")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and {second.shape[1]} dimensions can not be compared")
    if min(len(first), len(second)) > first.shape[1]:
        return frechet_from_statistics(statistics(first), statistics(second))
    a, b = _scaled(first), _scaled(second)
    cross = torch.linalg.svdvals(a @ b.T).sum()
    means = first.double().mean(0), second.double().mean(0)
    return _distance(*means, a.square().sum() + b.square().sum(), cross)


def _scaled(features: Tensor) -> Tensor:
    centred = features.detach().cpu().double()
    centred = centred - centred.mean(0)
    return centred / (len(centred) - 1) ** 0.5


def _distance(mean1: Tensor, mean2: Tensor, traces: Tensor, cross: Tensor) -> float:
    gap = (mean1.cpu() - mean2.cpu()).square().sum()
    return max(0.0, float(gap + traces - 2 * cross))
