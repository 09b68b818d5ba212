"""Numbers of the norm study: |x| against the noise level in native and rescaled coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.claims.studies.measure import BLOCKS, Blocks
from genflow.estimates import Estimate, mean
from genflow.evaluate.norm_z import spread, tied

WHERE = {"train": "draws of x_t from training data", "path": "sampling paths"}
LEVELS = (0.1, 0.5, 0.9)
"""Quantiles of |x| that are kept: the median and a band of 80 %."""


@dataclass(frozen=True)
class Norms:
    """What is known of one subject.

    Arguments:
        sigma: Noise to signal b/a at the times where it is finite and above 0, falling, (K,).
        a: Coefficient of the data there, (K,).
        norms: |x| there for "train" and "path", (K, n), data units, native coordinates.
        noisy: How many of the times come before the push, itself included.
        pushed: Distance by factor.
        fates: |x| over that of the unpushed path by factor, from the push on, (times, n), with their sigma.
        sigma_after: Noise to signal from the push on.
        trained: Whether one training is behind it, not an exact field.
    """

    sigma: Tensor
    a: Tensor
    norms: dict[str, Tensor]
    noisy: int
    pushed: dict[float, Blocks]
    fates: dict[float, Tensor]
    sigma_after: Tensor
    trained: bool = False

    def in_coordinates(self, which: str, rescaled: bool) -> Tensor:
        """|x|, or |x|/a where x is taken as data and noise alone: x/a = X + σ N."""
        return self.norms[which] / self.a[:, None] if rescaled else self.norms[which]

    @property
    def moves(self) -> bool:
        """Whether a changes, so that the two coordinates differ."""
        return bool((self.a - self.a[0]).abs().max() > 1e-6)


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's coefficient of all entries, after broadcasting; in float64."""
    x, y = torch.broadcast_tensors(x.double(), y.double())
    dx, dy = x - x.mean(), y - y.mean()
    return float((dx * dy).sum() / (dx.square().sum() * dy.square().sum()).sqrt())


def band(norms: Tensor) -> Tensor:
    """Mean, standard deviation, and the quantiles LEVELS of |x| at each time: (K, 5), from norms (K, n)."""
    at = torch.quantile(norms.double(), torch.tensor(LEVELS, dtype=torch.float64), dim=1)
    return torch.stack([norms.double().mean(1), norms.double().std(1), *at], dim=1)


def measures(size: int, norms: Norms, which: str, rescaled: bool) -> dict[str, Estimate]:
    """Correlation of ln|x| with ln σ over all times, and at the noisy times the share of the variance of ln|x| that
    time explains and the interquartile range of ln|x| at given time; means over blocks with standard errors."""
    x = norms.in_coordinates(which, rescaled).double()
    sizes = [part for part in x.split(size, dim=1) if part.shape[1] == size]
    level = norms.sigma.log()[:, None]
    noisy = [part[: norms.noisy] for part in sizes]
    found = {
        "correlation": [correlation(part.clamp_min(1e-300).log(), level) for part in sizes],
        "tied": [tied(part) for part in noisy],
        "spread": [spread(part) for part in noisy],
    }
    seeds = 1 if norms.trained and which == "path" else None  # draws from training data know no network
    return {name: mean(dict(enumerate(values)), BLOCKS, seeds) for name, values in found.items()}


WORDS = {
    "correlation": "Pearson's correlation of ln|x| and ln σ over all samples and times",
    "tied": "share of the variance of ln|x| that time explains (correlation ratio), where noise is at least the signal",
    "spread": "interquartile range of ln|x| at given time, mean over times where noise is at least the signal",
}
