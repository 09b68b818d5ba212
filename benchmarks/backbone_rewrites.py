"""Other ways to write the layers of the U-Nets, to be timed by `backbone_speed.py`; equal to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genflow.backbone.unet_layers import Attention, Scaler, join

# ---- attention -------------------------------------------------------------------------------------------------------


def _places(layer: Attention, x: Tensor) -> Tensor:
    return layer.GroupNorm_0(x).flatten(2).transpose(1, 2)


def _added(layer: Attention, x: Tensor, seen: Tensor) -> Tensor:
    added = F.linear(seen, layer.NIN_3.W.T, layer.NIN_3.b).transpose(1, 2)
    return join(x, added.reshape(x.shape), layer.rescale)


def separate(layer: Attention, x: Tensor) -> Tensor:
    """Three matrix products for q, k and v, then fused attention."""
    places = _places(layer, x)
    q, k, v = (F.linear(places, n.W.T, n.b)[:, None] for n in (layer.NIN_0, layer.NIN_1, layer.NIN_2))
    return _added(layer, x, F.scaled_dot_product_attention(q, k, v)[:, 0])


def products(layer: Attention, x: Tensor) -> Tensor:
    """One matrix product for q, k and v, then matrix products and a softmax."""
    layers = (layer.NIN_0, layer.NIN_1, layer.NIN_2)
    weight, bias = torch.cat([n.W for n in layers], dim=1), torch.cat([n.b for n in layers])
    q, k, v = F.linear(_places(layer, x), weight.T, bias).chunk(3, dim=-1)
    return _added(layer, x, (q @ k.transpose(1, 2) / math.sqrt(x.shape[1])).softmax(-1) @ v)


def convolutions(layer: Attention, x: Tensor) -> Tensor:
    """1 x 1 convolutions, matrix products and a softmax."""
    hidden = layer.GroupNorm_0(x)
    q, k, v = (n(hidden).flatten(2) for n in (layer.NIN_0, layer.NIN_1, layer.NIN_2))
    weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)
    return join(x, layer.NIN_3((v @ weights.transpose(1, 2)).reshape(x.shape)), layer.rescale)


ATTENTION: dict[str, Callable[[Attention, Tensor], Tensor]] = {
    "q, k, v apart, fused": separate,
    "one product, not fused": products,
    "1 x 1 convolutions, not fused": convolutions,
}

# ---- group norm and SiLU ---------------------------------------------------------------------------------------------


def _sizes(x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
    channels = x.shape[1]
    weight = torch.linspace(0.5, 1.5, channels).requires_grad_()
    return weight, torch.linspace(-1, 1, channels).requires_grad_(), (*x.shape[:2], x.shape[2:].numel(), channels // 4)


def native(x: Tensor) -> Tensor:
    """torch's norm, then SiLU: what genflow does."""
    weight, bias, (*_, groups) = _sizes(x)
    return F.silu(F.group_norm(x, groups, weight, bias, 1e-6))


def in_place(x: Tensor) -> Tensor:
    """The same with SiLU in place."""
    weight, bias, (*_, groups) = _sizes(x)
    return F.silu(F.group_norm(x, groups, weight, bias, 1e-6), inplace=True)


def scale_and_shift(x: Tensor) -> Tensor:
    """Moments of each channel, pooled over groups; then one multiplication and addition."""
    weight, bias, (count, channels, _, groups) = _sizes(x)
    mean = x.mean((2, 3)).view(count, groups, -1).mean(2, keepdim=True)
    square = x.square().mean((2, 3)).view(count, groups, -1).mean(2, keepdim=True)
    rate = (square - mean * mean + 1e-6).rsqrt() * weight.view(1, groups, -1)
    scale, shift = rate.reshape(count, channels), bias - (mean * rate).reshape(count, channels)
    return F.silu(torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None]))


class _Fused(torch.autograd.Function):
    """Norm and SiLU that keep x alone for the backward pass and compute the norm again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, sizes: tuple[int, int, int, int]) -> Tensor:
        y, mean, rate = torch.native_group_norm(x, weight, bias, *sizes, 1e-6)
        ctx.save_for_backward(x, weight, bias, mean, rate)
        ctx.sizes = sizes
        return F.silu(y, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, bias, mean, rate = ctx.saved_tensors
        y = torch.native_group_norm(x, weight, bias, *ctx.sizes, 1e-6)[0]
        grad = torch.ops.aten.silu_backward(grad, y)
        back = torch.ops.aten.native_group_norm_backward
        return (*back(grad, x, mean, rate, weight, *ctx.sizes, [True] * 3), None)


def fused(x: Tensor) -> Tensor:
    weight, bias, sizes = _sizes(x)
    return _Fused.apply(x, weight, bias, sizes)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "native, then SiLU": native,
    "SiLU in place": in_place,
    "scale and shift": scale_and_shift,
    "fused, norm computed again": fused,
}

# ---- FIR filters -----------------------------------------------------------------------------------------------------

SCALER = Scaler((1, 3, 3, 1))
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def halve_by_axes(x: Tensor) -> Tensor:
    """Two filters along one axis each."""
    channels = x.shape[1]
    x = F.conv2d(
        F.pad(x, (1, 1, 1, 1)), TAPS.view(1, 1, 1, 4).expand(channels, -1, -1, -1), None, (1, 2), 0, 1, channels
    )
    return F.conv2d(x, TAPS.view(1, 1, 4, 1).expand(channels, -1, -1, -1), None, (2, 1), 0, 1, channels)


def halve_by_slices(x: Tensor) -> Tensor:
    """Sums of every second row, then column."""
    for dim in (2, 3):
        n = x.shape[dim]
        x = F.pad(x, (0, 0, 1, 1) if dim == 2 else (1, 1, 0, 0))
        a, b, c, d = (x.narrow(dim, i, n - 1).unfold(dim, 1, 2).squeeze(-1) for i in range(4))
        x = (a + d) * 0.125 + (b + c) * 0.375
    return x


def enlarge_by_axes(x: Tensor) -> Tensor:
    """Two transposed filters along one axis each."""
    channels, height, width = x.shape[1], 2 * x.shape[2], 2 * x.shape[3]
    across, down = (2 * TAPS.view(shape).expand(channels, -1, -1, -1) for shape in ((1, 1, 1, 4), (1, 1, 4, 1)))
    x = F.conv_transpose2d(x, across, stride=(1, 2), groups=channels)[..., 1 : 1 + width]
    return F.conv_transpose2d(x, down, stride=(2, 1), groups=channels)[:, :, 1 : 1 + height]


def enlarge_by_zeros(x: Tensor) -> Tensor:
    """Zeros between the values, then the filter."""
    count, channels, height, width = x.shape
    wide = x.new_zeros(count, channels, 2 * height, 2 * width)
    wide[:, :, ::2, ::2] = x
    assert SCALER.taps is not None
    return F.conv2d(F.pad(wide, (2, 1, 2, 1)), (4 * SCALER.taps).expand(channels, 1, -1, -1), groups=channels)


def enlarge_bilinear(x: Tensor) -> Tensor:
    """The taps 1 3 3 1 are bilinear interpolation, of maps with zeros around."""
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear")[:, :, 2:-2, 2:-2]


FIR: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "FIR halving": {
        "depthwise": SCALER.halve,
        "along each axis": halve_by_axes,
        "slices": halve_by_slices,
    },
    "FIR doubling": {
        "transposed depthwise": SCALER.enlarge,
        "along each axis": enlarge_by_axes,
        "zeros and depthwise": enlarge_by_zeros,
        "bilinear": enlarge_bilinear,
    },
}
