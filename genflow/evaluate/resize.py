"""Resizing images to Inception's 299 x 299 in a batch, by the rules of the three published protocols.

Each rule is linear and separable, so it is two matrix products: rows · image · columnsᵀ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

SIDE = 299
"""Pixels of a side of what Inception sees."""


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = −1/2 (Keys 1981), zero beyond |x| = 2."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def pillow_bicubic(size: int, out: int) -> Tensor:
    """(out, size): Pillow's bicubic; when shrinking, the kernel is widened by the ratio, so that it averages."""
    ratio = size / out
    wide = max(ratio, 1.0)
    centre = (torch.arange(out, dtype=torch.float64)[:, None] + 0.5) * ratio
    first, last = (centre - 2 * wide + 0.5).floor().clamp_min(0), (centre + 2 * wide + 0.5).floor().clamp_max(size)
    column = torch.arange(size, dtype=torch.float64)
    weights = cubic((column + 0.5 - centre) / wide) * ((column >= first) & (column < last))
    return weights / weights.sum(1, keepdim=True)


def half_pixel_bilinear(size: int, out: int) -> Tensor:
    """(out, size): torch's bilinear with align_corners=False, which does not average when shrinking."""
    return _bilinear((torch.arange(out) + 0.5) * _ratio(size, out) - 0.5, size)


def tensorflow_bilinear(size: int, out: int) -> Tensor:
    """(out, size): TensorFlow 1's bilinear, which aligns the upper left corners of pixels instead of their centres."""
    return _bilinear(torch.arange(out) * _ratio(size, out), size)


def _ratio(size: int, out: int) -> Tensor:
    """In float32, as both libraries have it: at 300 pixels that moves a value by 1/100 of a level."""
    return torch.tensor(size, dtype=torch.float32) / out


def _bilinear(place: Tensor, size: int) -> Tensor:
    place = place.clamp_min(0)
    low = place.floor().long().clamp_max(size - 1)
    high = (low + 1).clamp_max(size - 1)
    part = (place - low).clamp(0, 1).double()
    weights = torch.zeros(len(place), size, dtype=torch.float64)
    rows = torch.arange(len(place))
    weights[rows, low] += 1 - part
    weights[rows, high] += part
    return weights


RULES: dict[str, Callable[[int, int], Tensor]] = {
    "clean": pillow_bicubic,
    "legacy_pytorch": half_pixel_bilinear,
    "legacy_tensorflow": tensorflow_bilinear,
}
"""By protocol, as clean-fid names them."""


@lru_cache(maxsize=32)
def _matrix(mode: str, size: int, out: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return RULES[mode](size, out).to(device, dtype)


def resize(images: Tensor, mode: str, side: int = SIDE) -> Tensor:
    """Images at `side` x `side` pixels.

    Arguments:
        images: Shape (n, channels, height, width), grey levels 0 to 255, floating point.
        mode: "clean", "legacy_pytorch" or "legacy_tensorflow".
        side: Pixels of the result.

    Returns:
        Shape (n, channels, side, side), clipped to [0, 255] as clean-fid does (a cubic overshoots).
    """
    rows = _matrix(mode, images.shape[-2], side, images.dtype, images.device)
    columns = _matrix(mode, images.shape[-1], side, images.dtype, images.device)
    return torch.matmul(torch.matmul(rows, images), columns.T).clamp_(0, 255)
