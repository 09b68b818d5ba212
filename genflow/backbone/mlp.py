"""A residual multilayer perceptron."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genflow.backbone.base import Backbone, ClassEmbedding, FourierFeatures, rms_normalise
from genflow.checks import is_count, require


class MLP(Backbone):
    """Residual blocks of width `width` on (x, features of the condition and of |x|).

    The label adds a row of `width` numbers to the hidden units before the first block.

    Arguments:
        shape: Shape of one sample; images are flattened.
        extra_channels: Output channels besides x's own; of an image, H·W entries each.
        width: Hidden units. None: 128 for up to 128 numbers a sample, 256 above.
        depth: Residual blocks.
        frequencies: Fourier features of each scalar input.
        normalise: Give the network x at unit size and its size separately (`rms_normalise`).
        classes: Number of classes; 0: unconditional.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        extra_channels: int = 0,
        width: int | None = None,
        depth: int = 3,
        frequencies: int = 4,
        normalise: bool = True,
        classes: int = 0,
    ) -> None:
        width = (128 if math.prod(shape) <= 128 else 256) if width is None else width
        options = {"width": width, "depth": depth, "frequencies": frequencies, "normalise": normalise}
        super().__init__(shape, extra_channels, classes, **options)
        require(
            "MLP",
            {
                "width": (width, is_count(width), "a whole number above 0"),
                "depth": (depth, is_count(depth) and depth <= 1000, "a whole number from 1 to 1000"),
                "frequencies": (
                    frequencies,
                    is_count(frequencies, 0) and frequencies <= 64,
                    "a whole number from 0 to 64",
                ),
            },
        )
        width, depth, frequencies = int(width), int(depth), int(frequencies)
        self.normalise = normalise
        self.features = FourierFeatures(frequencies)
        size = math.prod(self.shape)
        self.out_shape = (self.shape[0] + self.extra_channels, *self.shape[1:])
        self.begin = nn.Linear(size + 2 * self.features.width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.end = nn.Linear(width, math.prod(self.out_shape))
        self.by_class = ClassEmbedding(self.classes, width) if self.classes else None

    def forward(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        inner, size = rms_normalise(x) if self.normalise else (x, torch.zeros_like(condition))
        hidden = self.begin(torch.cat([inner.flatten(1), self.features(condition), self.features(size)], dim=1))
        if self.by_class is not None:
            hidden = hidden + self.by_class(labels, len(x))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.end(nn.functional.silu(hidden)).reshape(-1, *self.out_shape)
