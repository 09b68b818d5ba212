"""Probabilities: bounds of a share, whether two sets have the same shares, and p values of a family.

What others take from here, they take by way of `genflow.estimates`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.05
"""Share of null differences that get a verdict; of families of claims with any, after Holm's correction."""


def share_interval(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Bounds of a probability from the share of n independent examples (Wilson 1927, JASA 22)."""
    from scipy.special import ndtri

    z = float(ndtri(1 - level / 2)) ** 2 / n
    middle, half = share + z / 2, math.sqrt(z * (share * (1 - share) + z / 4))
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


def same_shares(a: Sequence[int], b: Sequence[int]) -> float:
    """p of two sets of examples having the same shares of classes, by their counts: Pearson's χ² test."""
    from scipy.special import chdtrc

    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x + y]
    n, m = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    if len(pairs) < 2 or not n or not m:
        return math.nan
    found = math.fsum((x * m - y * n) ** 2 / (x + y) for x, y in pairs) / (n * m)
    return float(chdtrc(len(pairs) - 1, found))


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p values in the order given; NaN is not part of the family and stays."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    found, worst = list(values), 0.0
    for rank, (p, i) in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p))
        found[i] = worst
    return found
