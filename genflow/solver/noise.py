"""The noise of a solve: a sample's draws depend on the seed and its number alone, not on batch, device or rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genflow.random import Counters, torch_seed


class Noise:
    """Standard normal draws by the number of the sample and of the draw; see `genflow.random`.

    Arguments:
        seed: The run's seed.
        indices: Global index of each sample of the batch.
        name: What the noise is for; other names share nothing.
    """

    AHEAD = 16
    """Draws made at a time: a call costs more than the numbers of a small sample."""

    def __init__(self, seed: int, indices: Sequence[int], name: str = "noise") -> None:
        self._counters = Counters(seed, name, rows=indices, ahead=self.AHEAD)
        self._made, self._next = torch.empty(0), 0
        self._like: tuple[torch.Size, torch.dtype, torch.device] | None = None

    def like(self, x: Tensor) -> Tensor:
        """A draw of x's shape, dtype and device."""
        like = (x.shape, x.dtype, x.device)
        if self._next == len(self._made) or like != self._like:
            self._made, self._next, self._like = self._counters.block("normal", *like), 0, like
        self._counters.draws += 1
        self._next += 1
        return self._made[self._next - 1]


def sample_generator(seed: int, index: int) -> torch.Generator:
    """A generator of torch for sample `index`; neighbours share nothing."""
    return torch.Generator().manual_seed(torch_seed(seed, index))
