"""How two sets of features lie in each other's neighbourhoods: precision, recall, density, coverage; memorisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genflow.evaluate.kernels import as_pair


class Manifold(NamedTuple):
    """The four numbers of `manifold`."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, generated: Tensor, neighbours: int = 5, chunk: int = 1000) -> Manifold:
    """How much of each set lies in the balls around the other's points that reach to their k-th neighbour.

    Arguments:
        real, generated: Features (n, d) and (m, d).
        neighbours: k; a point is not its own neighbour.
        chunk: Rows of the distance matrix at a time.

    Returns:
        precision: Share of generated points in a ball around a real one.
        recall: Share of real points in a ball around a generated one.
        density: Mean over generated points of the number of real balls they lie in, over k; not bounded by 1.
        coverage: Share of real points whose own ball holds a generated one.

    Raises:
        ValueError: Too few points for k neighbours.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.
    """
    real, generated = as_pair(real, generated)
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"{min(len(real), len(generated))} points have no {neighbours} neighbours")
    reach_real, reach_generated = _reach(real, neighbours, chunk), _reach(generated, neighbours, chunk)
    inside = torch.zeros((), dtype=torch.float64)
    in_real = torch.zeros(len(generated), dtype=torch.bool)
    recalled, covered = 0, 0
    for rows, reach in zip(real.split(chunk), reach_real.split(chunk), strict=True):
        distance = torch.cdist(rows, generated)
        held = distance <= reach[:, None]
        inside += held.sum()
        in_real |= held.any(0)
        covered += int(held.any(1).sum())
        recalled += int((distance <= reach_generated).any(1).sum())
    return Manifold(
        float(in_real.double().mean()),
        recalled / len(real),
        float(inside) / (neighbours * len(generated)),
        covered / len(real),
    )


def _reach(points: Tensor, neighbours: int, chunk: int) -> Tensor:
    """Distance of every point to its k-th neighbour; itself is the nearest of all and does not count."""
    parts = [torch.cdist(rows, points).kthvalue(neighbours + 1, dim=1).values for rows in points.split(chunk)]
    return torch.cat(parts)


def nearest(points: Tensor, others: Tensor, chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """Distance of every point (n, d) to the nearest of others (m, d), and which it is: (n,) each."""
    found = [torch.cdist(rows.double(), others.double()).min(1) for rows in points.split(chunk)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def nearer_share(points: Tensor, train: Tensor, held_out: Tensor) -> tuple[float, float]:
    """The share of points that are nearer to a training example than to any held-out one; of equal distances, half.

    Several points may have the same neighbour, so they are worth fewer independent ones: if training and held-out
    examples are alike, all ways to call half of them "training" are equally likely, and the variance of the share over
    these is 1/(4 × that number).

    Arguments:
        points: Features (n, d).
        train, held_out: As many of each, (m, d).

    Returns:
        The share, and the number of independent points.
    """
    m = len(train)
    (near_train, which_train), (near_held, which_held) = (nearest(points, one) for one in (train, held_out))
    ahead = torch.where(near_train == near_held, 0.5, (near_train < near_held).double())
    weight = torch.zeros(2 * m, dtype=torch.float64)
    weight.index_add_(0, which_train, ahead).index_add_(0, which_held + m, 1 - ahead)
    spread = (weight / len(points) - 1 / (2 * m)).square().sum() * (2 * m) / (2 * m - 1)
    return float(ahead.mean()), 1 / max(float(spread), 1e-12)
