"""Layers of DDPM, DDPM++ and NCSN++ (Ho et al. 2020, arXiv:2006.11239; Song et al. 2021, arXiv:2011.13456).

Parameter names follow the published checkpoints, so those load unchanged. Every halving takes odd sizes too: the last
row or column is repeated, so 7 becomes 4; on even sizes it is the published one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def xavier(weight: Tensor, scale: float) -> None:
    """Uniform with variance scale/fan_avg; a scale of 0 stands for 1e-10, so that gradients flow."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(scale or 1e-10))


class Conv(nn.Conv2d):
    """A convolution whose weights start at variance scale/fan_avg and whose bias starts at zero."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, scale: float = 1.0, **options: int) -> None:
        self.scale = scale
        super().__init__(inputs, outputs, kernel, **{"padding": kernel // 2, **options})  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        xavier(self.weight, self.scale)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Dense(nn.Linear):
    """A linear layer, initialised like `Conv`."""

    def reset_parameters(self) -> None:
        xavier(self.weight, 1.0)
        nn.init.zeros_(self.bias)


class Pointwise(nn.Module):
    """A 1 x 1 convolution with its weights W stored as (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale
        self.W, self.b = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W of variance scale/fan_avg, b = 0."""
        xavier(self.W, self.scale)
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.T[:, :, None, None], self.b)


def group_norm(channels: int, most: int | None = None) -> nn.GroupNorm:
    """Normalisation in the largest number of equal groups up to `most`; None: min(channels/4, 32)."""
    most = min(channels // 4, 32) if most is None else most
    groups = max(g for g in range(1, min(max(most, 1), channels) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


# ---- embeddings of the time ------------------------------------------------------------------------------------------


class PositionalEmbedding(nn.Module):
    """sin and cos of s ω_k, ω_k = 10000^(−k/(n − 1)) for k = 0 ... n − 1, 2n = width.

    The frequencies are rounded to float32 whatever the network's dtype, as in the published networks: for s near 1000
    the rounding is visible.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, half = width, width // 2
        self.frequencies: Tensor
        rate = -math.log(10000) / (half - 1)
        frequencies = (torch.arange(half, dtype=torch.float32) * rate).exp()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        phase = value[:, None] * self.frequencies.to(value.dtype)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """sin and cos of 2π W s with W ~ N(0, scale²) drawn once and not trained; 2 `count` numbers."""

    def __init__(self, count: int, scale: float) -> None:
        super().__init__()
        self.width, self.scale = 2 * count, scale
        self.W: Tensor
        self.register_buffer("W", torch.empty(count))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New frequencies."""
        nn.init.normal_(self.W, 0, self.scale)

    def forward(self, value: Tensor) -> Tensor:
        phase = value[:, None] * self.W.to(value.dtype) * 2 * math.pi
        return torch.cat([phase.sin(), phase.cos()], dim=1)


# ---- half and twice the resolution -----------------------------------------------------------------------------------


def even(x: Tensor) -> Tensor:
    """x with its last row and column repeated where height or width is odd."""
    rows, columns = (side % 2 for side in x.shape[2:])
    return F.pad(x, (0, columns, 0, rows), mode="replicate") if rows or columns else x


def crop(x: Tensor, like: Tensor) -> Tensor:
    """The upper left part of x that has the height and width of `like`: undoes `even`."""
    return x if x.shape[2:] == like.shape[2:] else x[:, :, : like.shape[2], : like.shape[3]]


class Scaler(nn.Module):
    """Half and twice the resolution, filtered by k ⊗ k of unit sum, as in StyleGAN2 (arXiv:1912.04958).

    Arguments:
        taps: k, from first to last; None: means over 2 x 2 cells, and nearest values.
    """

    def __init__(self, taps: Sequence[float] | None) -> None:
        super().__init__()
        self.taps: Tensor | None
        k = None if taps is None else torch.tensor(taps, dtype=torch.float64)
        plane = None if k is None else (torch.outer(k, k) / k.sum().square()).float()
        self.register_buffer("taps", plane, persistent=False)

    def halve(self, x: Tensor) -> Tensor:
        """x at half the resolution; odd sizes are rounded up."""
        return F.avg_pool2d(even(x), 2) if self.taps is None else self.filter(even(x), 2)

    def enlarge(self, x: Tensor) -> Tensor:
        """x at twice the resolution; with taps: zeros between its values, then the filter with a sum of 4."""
        if self.taps is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        taps, (height, width) = self.taps, (2 * side for side in x.shape[2:])
        weight = 4 * taps.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        first = len(taps) - 2 - (len(taps) - 1) // 2
        whole = F.conv_transpose2d(x, weight, stride=2, groups=x.shape[1])
        return whole[:, :, first : first + height, first : first + width]

    def filter(self, x: Tensor, stride: int = 1, wide: int = 0) -> Tensor:
        """Every `stride`-th value of the filtered x, with zeros beyond its edge.

        Arguments:
            x: Maps, shape (B, C, H, W).
            stride: 1 or 2.
            wide: How many more zeros are put around x, per axis and in total, than halving needs.
        """
        assert self.taps is not None
        pad = len(self.taps) - 2 + wide
        before, after = (pad + 1) // 2, pad // 2
        weight = self.taps.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride, groups=x.shape[1])


def conv_name(scaler: Scaler) -> str:
    """The published name of the convolution in a change of resolution."""
    return "Conv_0" if scaler.taps is None else "Conv2d_0"


class Downsample(nn.Module):
    """Half the resolution: by the scaler, or by a 3 x 3 convolution of stride 2, after the FIR filter if there is one.

    Arguments:
        conv: With a convolution; needed where the width changes.
    """

    def __init__(self, inputs: int, outputs: int, scaler: Scaler, conv: bool) -> None:
        super().__init__()
        self.scaler, self.name = scaler, conv_name(scaler) if conv else ""
        if conv:
            self.add_module(self.name, Conv(inputs, outputs, stride=2, padding=0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.name:
            return self.scaler.halve(x)
        x, conv = even(x), self.get_submodule(self.name)
        return conv(F.pad(x, (0, 1, 0, 1)) if self.scaler.taps is None else self.scaler.filter(x, 1, wide=2))


class Upsample(nn.Module):
    """Twice the resolution: by the scaler, or with a 3 x 3 convolution, before the FIR filter if there is one.

    Arguments:
        conv: With a convolution; needed where the width changes.
    """

    def __init__(self, inputs: int, outputs: int, scaler: Scaler, conv: bool) -> None:
        super().__init__()
        self.scaler, self.name = scaler, conv_name(scaler) if conv else ""
        if conv:
            self.add_module(self.name, Conv(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        if not self.name:
            return self.scaler.enlarge(x)
        conv = self.get_submodule(self.name)
        if self.scaler.taps is None:
            return conv(self.scaler.enlarge(x))
        weight, bias = conv.parameters()
        wide = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)
        return 4 * self.scaler.filter(wide) + bias[:, None, None]


# ---- blocks ----------------------------------------------------------------------------------------------------------


class ResBlock(nn.Module):
    """norm, SiLU, conv, plus the time, norm, SiLU, dropout, conv, plus a shortcut.

    Arguments:
        inputs: Channels of x.
        outputs: Channels of the result.
        time: Width of the time embedding.
        change: Changes the resolution of both branches before the first conv: BigGAN's block (arXiv:1809.11096).
        shortcut: Where widths or resolutions differ: "Conv_2", a 1 x 1 convolution, or "NIN_0", its form in DDPM.
        rescale: Divide the sum by √2.
        groups: Most groups of the norms; see `group_norm`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time: int,
        *,
        change: Callable[[Tensor], Tensor] | None,
        shortcut: str,
        rescale: bool,
        dropout: float,
        init_scale: float,
        groups: int | None,
    ) -> None:
        super().__init__()
        self.change, self.rescale, self.shortcut = change, rescale, ""
        self.GroupNorm_0, self.Conv_0 = group_norm(inputs, groups), Conv(inputs, outputs)
        self.Dense_0 = Dense(time, outputs)
        self.GroupNorm_1, self.Dropout_0 = group_norm(outputs, groups), nn.Dropout(dropout)
        self.Conv_1 = Conv(outputs, outputs, scale=init_scale)
        if inputs != outputs or change is not None:
            self.shortcut = shortcut
            layer = Conv(inputs, outputs, 1) if shortcut == "Conv_2" else Pointwise(inputs, outputs)
            self.add_module(shortcut, layer)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = F.silu(self.GroupNorm_0(x))
        if self.change is not None:
            hidden, x = self.change(hidden), self.change(x)
        hidden = self.Conv_0(hidden) + self.Dense_0(time)[:, :, None, None]
        hidden = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(hidden))))
        return join(self.get_submodule(self.shortcut)(x) if self.shortcut else x, hidden, self.rescale)


def join(x: Tensor, y: Tensor, rescale: bool) -> Tensor:
    """x + y, divided by √2 where `rescale`."""
    return (x + y).div_(math.sqrt(2)) if rescale else x + y


class Attention(nn.Module):
    """Self-attention of one head over all positions, added to x: softmax(q kᵀ/√C) v.

    q, k and v come from one matrix product. On a CPU torch's fused attention has first derivatives only; for second
    ones use its plain form: `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Arguments:
        rescale: Divide the sum by √2.
        init_scale: Initial variance scale of the last layer.
        groups: Most groups of the norm; see `group_norm`.
    """

    def __init__(self, channels: int, *, rescale: bool, init_scale: float, groups: int | None) -> None:
        super().__init__()
        self.rescale = rescale
        self.GroupNorm_0 = group_norm(channels, groups)
        self.NIN_0, self.NIN_1, self.NIN_2 = (Pointwise(channels, channels) for _ in range(3))
        self.NIN_3 = Pointwise(channels, channels, scale=init_scale)

    def forward(self, x: Tensor) -> Tensor:
        places = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        layers = (self.NIN_0, self.NIN_1, self.NIN_2)
        weight, bias = torch.cat([layer.W for layer in layers], dim=1), torch.cat([layer.b for layer in layers])
        q, k, v = (part[:, None] for part in F.linear(places, weight.T, bias).chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0]
        added = F.linear(seen, self.NIN_3.W.T, self.NIN_3.b).transpose(1, 2)
        return join(x, added.reshape(x.shape), self.rescale)


class Combine(nn.Module):
    """A 1 x 1 convolution of the input pyramid, added to the features or concatenated before them.

    Arguments:
        inputs: Channels of the pyramid.
        outputs: Channels of the features.
        method: "sum" or "cat".
    """

    def __init__(self, inputs: int, outputs: int, method: str) -> None:
        super().__init__()
        self.method = method
        self.Conv_0 = Conv(inputs, outputs, 1)

    def forward(self, pyramid: Tensor, hidden: Tensor) -> Tensor:
        pyramid = self.Conv_0(pyramid)
        return pyramid + hidden if self.method == "sum" else torch.cat([pyramid, hidden], dim=1)
