"""Seeds per sample: sample k of a run draws its start and its noise from a generator of its own.

So sample k depends on the run's seed and on k alone: not on the batch it is drawn in, the device, or the rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Standard normal draws, sample k always from its own generator, whatever the batch.

    Arguments:
        seed: The run's seed.
        indices: Global index of each sample of the batch.
    """

    AHEAD = 16
    """Draws made at a time: a call of a generator costs more than the numbers it gives."""

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self.generators = [sample_generator(seed, k) for k in indices]
        self._ahead = torch.empty(0)

    def like(self, x: Tensor) -> Tensor:
        """A draw of x's shape, dtype and device."""
        if not len(self._ahead) or self._ahead.shape[1:] != x.shape or self._ahead.dtype != x.dtype:
            shape = (self.AHEAD, *x.shape[1:])
            rows = [torch.randn(shape, generator=g, dtype=x.dtype) for g in self.generators]
            self._ahead = torch.stack(rows, dim=1).to(x.device)
        draw, self._ahead = self._ahead[0], self._ahead[1:]
        return draw


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The generator of sample `index`: seeded by both numbers, mixed so that neighbours share nothing.

    torch keeps 32 bits of a seed, so the index goes through a permutation of 32 bits: no two samples of one run
    share a generator, which random 32-bit seeds would by 50,000 samples.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    mixed = ((mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9) % 2**64
    value = (index ^ (mixed >> 32)) % 2**32
    for shift, odd in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = ((value ^ (value >> shift)) * odd) % 2**32
    return torch.Generator().manual_seed(value ^ (value >> 16))
