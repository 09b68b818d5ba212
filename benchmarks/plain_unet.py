"""A U-Net with the weights of genflow's, written the straightforward way: what its speed is measured against.

One operation a line of the description: norms, activations and convolutions as torch has them, attention by einsum,
FIR filters by zeros between the values, padding and a convolution, maps in torch's default layout. Same names, so the
state dict of an `NCSNpp` loads as it is; outputs are equal to rounding (`tests/backbone/test_plain_unet.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genflow.backbone.unet import UNet
from genflow.backbone.unet_design import Design

ROOT2 = math.sqrt(2.0)


class NIN(nn.Module):
    """A matrix product over the channels of each place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", x, self.W) + self.b[None, :, None, None]


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)
        w = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(c)
        w = w.reshape(b, height, width, height * width).softmax(-1).reshape(b, height, width, height, width)
        h = torch.einsum("bhwij,bcij->bchw", w, v)
        return (x + self.NIN_3(h)) / ROOT2


class Filter(nn.Module):
    """k ⊗ k of unit sum, on maps taken one by one."""

    def __init__(self, taps: tuple[float, ...]) -> None:
        super().__init__()
        k = torch.tensor(taps, dtype=torch.float32)
        self.k: Tensor
        self.register_buffer("k", torch.outer(k, k) / k.sum() ** 2, persistent=False)

    def apply_to(self, x: Tensor, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
        b, c, height, width = x.shape
        x = F.pad(x.reshape(b * c, 1, height, width), (pad[0], pad[1], pad[0], pad[1]))
        x = F.conv2d(x, (gain * self.k).flip(0, 1)[None, None])
        return x.reshape(b, c, *x.shape[2:])

    def up(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        wide = x.new_zeros(b, c, 2 * height, 2 * width)
        wide[:, :, ::2, ::2] = x
        p = len(self.k) - 2
        return self.apply_to(wide, ((p + 1) // 2 + 1, p // 2), gain=4.0)

    def down(self, x: Tensor, more: int = 0) -> Tensor:
        """Filtered; the caller takes every second value. `more`: wider for a 3 x 3 convolution that follows."""
        p = len(self.k) - 2 + more
        return self.apply_to(x, ((p + 1) // 2, p // 2))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int, dropout: float, taps: Filter | None, change: str) -> None:
        super().__init__()
        self.taps, self.change = [taps], change  # in a list: the taps are no parameters of each block
        self.GroupNorm_0, self.Conv_0 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.Dense_0 = nn.Linear(time, outputs)
        self.GroupNorm_1, self.Conv_1 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.act, self.dropout = nn.SiLU(), nn.Dropout(dropout)
        if inputs != outputs or change:
            self.Conv_2 = nn.Conv2d(inputs, outputs, 1)

    def resize(self, x: Tensor) -> Tensor:
        taps = self.taps[0]
        if self.change == "up":
            return taps.up(x) if taps else F.interpolate(x, scale_factor=2, mode="nearest")
        return taps.down(x)[:, :, ::2, ::2] if taps else F.avg_pool2d(x, 2, stride=2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.act(self.GroupNorm_0(x))
        if self.change:
            h, x = self.resize(h), self.resize(x)
        h = self.Conv_0(h)
        h = h + self.Dense_0(self.act(time))[:, :, None, None]
        h = self.act(self.GroupNorm_1(h))
        h = self.Conv_1(self.dropout(h))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / ROOT2


class PyramidDown(nn.Module):
    def __init__(self, inputs: int, outputs: int, taps: Filter | None) -> None:
        super().__init__()
        self.taps = [taps]
        conv = nn.Conv2d(inputs, outputs, 3, stride=2)
        self.add_module("Conv2d_0" if taps else "Conv_0", conv)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.taps[0]
        return self.Conv2d_0(taps.down(x, more=2)) if taps else self.Conv_0(F.pad(x, (0, 1, 0, 1)))


class Frequencies(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.W: Tensor
        self.register_buffer("W", torch.zeros(count))


class PlainUNet(nn.Module):
    """NCSN++ and DDPM++ with BigGAN blocks, images of even sides, no class labels.

    Arguments:
        shape: (C, H, W).
        extra: Output channels beside C.
        design: Of the network that it stands beside; input pyramid "none" or "residual", no output pyramid.
    """

    def __init__(self, shape: tuple[int, ...], extra: int, design: Design) -> None:
        super().__init__()
        d, plain = design, (design.resblock_type, design.skip_rescale, design.progressive)
        if plain != ("biggan", True, "none") or d.progressive_input == "input_skip":
            raise ValueError(f"no straightforward version of {plain} with a pyramid {d.progressive_input}")
        self.d, self.taps = d, Filter(d.fir_kernel) if d.fir else None
        self.sides = [max(shape[1:]) // 2**level for level in range(len(d.ch_mult))]
        self.all_modules = nn.ModuleList(self.layers(shape[0], extra))
        self.by_size = nn.Linear(9, 4 * d.nf) if d.normalise else None
        self.act = nn.SiLU()

    def layers(self, channels: int, extra: int) -> Iterator[nn.Module]:
        d, nf, time, pyramid = self.d, self.d.nf, 4 * self.d.nf, channels
        fourier, last = d.embedding_type == "fourier", len(d.ch_mult) - 1
        if fourier:
            yield Frequencies(nf)
        yield nn.Linear(2 * nf if fourier else nf, time)
        yield nn.Linear(time, time)
        yield nn.Conv2d(channels, nf, 3, padding=1)
        widths, wide = [nf], nf

        def block(inputs: int, outputs: int, change: str = "") -> Block:
            return Block(inputs, outputs, time, d.dropout, self.taps, change)

        for level, factor in enumerate(d.ch_mult):
            for _ in range(d.num_res_blocks):
                yield block(wide, factor * nf)
                wide = factor * nf
                if d.attention and self.sides[level] in d.attn_resolutions:
                    yield Attention(wide)
                widths.append(wide)
            if level < last:
                yield block(wide, wide, "down")
                if d.progressive_input == "residual":
                    yield PyramidDown(pyramid, wide, self.taps)
                    pyramid = wide
                widths.append(wide)
        yield block(wide, wide)
        if d.attention:
            yield Attention(wide)
        yield block(wide, wide)
        for level in range(last, -1, -1):
            for _ in range(d.num_res_blocks + 1):
                yield block(wide + widths.pop(), d.ch_mult[level] * nf)
                wide = d.ch_mult[level] * nf
            if d.attention and self.sides[level] in d.attn_resolutions:
                yield Attention(wide)
            if level:
                yield block(wide, wide, "up")
        yield norm(wide)
        yield nn.Conv2d(wide, channels + extra, 3, padding=1)

    def time(self, layers: Iterator[nn.Module], condition: Tensor, size: Tensor | None) -> Tensor:
        d = self.d
        s = d.time_scale * (condition.log() if d.conditioning == "log_noise_level" else condition) + d.time_shift
        if d.embedding_type == "fourier":
            phase = s[:, None] * next(layers).W[None, :] * 2 * math.pi
        else:
            half = d.nf // 2
            w = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
            phase = s[:, None] * w[None, :].to(s)
        h = next(layers)(torch.cat([torch.sin(phase), torch.cos(phase)], dim=1))
        if self.by_size is not None:
            angle = size[:, None] * (math.pi / 2 * 2.0 ** torch.arange(4)).to(size)
            h = h + self.by_size(torch.cat([size[:, None], torch.cos(angle), torch.sin(angle)], dim=1))
        return next(layers)(self.act(h))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        d, layers, size = self.d, iter(self.all_modules), None
        if d.centre:
            x = 2 * x - 1
        if d.normalise:
            scale = (x.square().mean(dim=(1, 2, 3)) + 0.25).sqrt()
            x, size = x / scale[:, None, None, None], scale.log() / 4
        time, pyramid = self.time(layers, condition, size), x
        maps = [next(layers)(x)]
        for level, side in enumerate(self.sides):
            for _ in range(d.num_res_blocks):
                h = next(layers)(maps[-1], time)
                maps.append(next(layers)(h) if d.attention and side in d.attn_resolutions else h)
            if level < len(self.sides) - 1:
                h = next(layers)(maps[-1], time)
                if d.progressive_input == "residual":
                    h = pyramid = (next(layers)(pyramid) + h) / ROOT2
                maps.append(h)
        h = next(layers)(maps[-1], time)
        h = next(layers)(h) if d.attention else h
        h = next(layers)(h, time)
        for level in range(len(self.sides) - 1, -1, -1):
            for _ in range(d.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, maps.pop()], dim=1), time)
            if d.attention and self.sides[level] in d.attn_resolutions:
                h = next(layers)(h)
            if level:
                h = next(layers)(h, time)
        h = self.act(next(layers)(h))
        h = next(layers)(h)
        return h / condition[:, None, None, None] if d.scale_by_sigma else h


def plain_version(network: UNet) -> PlainUNet:
    """The straightforward network with the weights of one of genflow's."""
    plain = PlainUNet(network.shape, network.extra_channels, network.design).to(next(network.parameters()).dtype)
    plain.load_state_dict(network.state_dict())
    return plain
