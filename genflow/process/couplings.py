"""Couplings: which base draw goes with which data point of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from genflow.random import categorical

COUPLINGS = ("independent", "ot", "sinkhorn", "paired")


def couple(x: Tensor, noise: Tensor, coupling: str, *, generator: torch.Generator, blur: float = 0.05) -> Tensor:
    """The base draws, reordered to belong to the rows of x.

    Arguments:
        x: Data, shape (B, *).
        noise: Base draws, shape (B, *).
        coupling: "independent" and "paired" leave them; "ot" and "sinkhorn" pair them by squared distance within the
            batch.
        generator: Draws the pairs of a Sinkhorn plan.
        blur: Entropic regularisation of "sinkhorn", as a share of the mean cost.

    Source: Tong et al. 2024, arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772.
    """
    if coupling == "ot":
        return noise[assignment(squared_distances(x, noise)).to(noise.device)]
    if coupling == "sinkhorn":
        cost = squared_distances(x, noise)
        if float(cost.mean()) == 0:
            return noise
        plan = sinkhorn_plan(cost, blur * float(cost.mean()))
        return noise[categorical(plan, len(plan), generator=generator).to(noise.device)]
    return noise


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i − y_j|², shape (B, B'), float64, on the host."""
    return torch.cdist(x.flatten(1).cpu().double(), y.flatten(1).cpu().double()).square()


def assignment(cost: Tensor) -> Tensor:
    """The permutation σ (B,) with least Σ_i cost[i, σ(i)]: exact optimal transport between two equal batches."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def sinkhorn_plan(cost: Tensor, regularisation: float) -> Tensor:
    """The entropic transport plan between uniform weights, shape of the cost, by POT.

    Raises:
        ValueError: POT is not installed.
    """
    try:
        import ot
    except ImportError:
        raise ValueError(
            "coupling = 'sinkhorn' needs POT: pip install 'genflow[ot]', or take coupling = 'ot'"
        ) from None
    rows, columns = cost.shape
    weights = [torch.full((n,), 1 / n, dtype=torch.float64).numpy() for n in (rows, columns)]
    settings = {"method": "sinkhorn_log", "numItermax": 10_000, "stopThr": 1e-8, "warn": False}
    return torch.from_numpy(ot.sinkhorn(*weights, cost.numpy(), regularisation, **settings))
