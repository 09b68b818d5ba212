"""Langevin dynamics at one time, x ← x + η s + sqrt(2η) ξ, and the sizes η of its steps.

The law of x_t is stationary, up to O(η), where η does not depend on the x and the ξ that it moves. With η from a
sample's own norms it is not: small scores go with long steps, and for normal data in d dimensions the variance tends to
((d + 2)/d)² of the right one, however many steps there are. So a size is a function of the time, or the published
mean over a batch, which is nearly one where the batch is large.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from genflow.process.shapes import like_rows


def ald_size(b: float | Tensor, snr: float, alpha: float | Tensor) -> float | Tensor:
    """2 α (snr b)²: annealed Langevin dynamics, whose step follows the noise level.

    Source: Song & Ermon 2019, arXiv:1907.05600.
    """
    return 2 * alpha * (snr * b) ** 2


def langevin_size(score: Tensor, noise: Tensor, snr: float, alpha: float | Tensor, norms: str = "batch") -> Tensor:
    """2 α (snr |ξ|/|s|)², shape (B,), with the batch's mean norms. Where the score is −N/b, |ξ|/|s| is b.

    Raises:
        ValueError: `norms` is not "batch".

    Source: Song et al. 2021, arXiv:2011.13456.
    """
    if norms != "batch":
        raise ValueError(
            f"norms = {norms!r} is not allowed; give batch. A step from a sample's own norms would change its law; "
            "ald_size depends on the time alone"
        )
    noises, scores = (v.flatten(1).norm(dim=1).mean().expand(len(v)) for v in (noise, score))
    return 2 * alpha * (snr * noises / scores).square()


def langevin_step(x: Any, score: Any, noise: Any, size: Tensor | float) -> tuple[Any, Any]:
    """x + size · s + sqrt(2 size) ξ, and the same without noise, of tensors or sums (B, *).

    Arguments:
        size: One number for all, or of tensors one for each, shape (B,).
    """
    if not isinstance(size, Tensor):
        return x + size * score + math.sqrt(2 * size) * noise, x + size * score
    rows = like_rows(size, x)
    mean = x + rows * score
    return mean + (2 * rows).sqrt() * noise, mean
