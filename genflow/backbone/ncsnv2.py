"""NCSNv2: a RefineNet with InstanceNorm++ and ELU (Song & Ermon 2020, arXiv:2006.09011).

Parameter names follow the published checkpoints, so that those load as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genflow.backbone.base import Backbone, ClassEmbedding, check_published, rms_normalise
from genflow.checks import is_count, require


class Stage(NamedTuple):
    """A pair of residual blocks: name suffix, width in units of `features`, halves the resolution, dilation."""

    name: str
    width: int
    down: bool
    dilation: int


FIRST = (Stage("1", 1, False, 1), Stage("2", 2, True, 1))
DILATED = (Stage("4", 4, False, 2), Stage("5", 4, False, 4))
SIZES = {
    "tiny": FIRST,
    "small": (*FIRST, Stage("3", 2, False, 2), Stage("4", 2, False, 4)),
    "deeper": (*FIRST, Stage("3", 2, True, 1), *DILATED),
    "deepest": (*FIRST, Stage("3", 2, True, 1), Stage("31", 2, True, 1), *DILATED),
}
"""The published networks: below 96 pixels, from 96 to 128, and above. "tiny" has no dilated stages, which would reach
past the edge of images under 16 pixels."""


def size_for(side: int) -> str:
    """The size that suits an image of `side` pixels."""
    return "tiny" if side < 16 else "small" if side < 96 else "deeper" if side <= 128 else "deepest"


PUBLISHED: dict[str, tuple[tuple[int, int, int], str]] = {
    "cifar10": ((3, 32, 32), "small"),
    "celeba64": ((3, 64, 64), "small"),
    "lsun128": ((3, 128, 128), "deeper"),
}
"""Published networks, all 128 wide: the shape of their images, and their stages."""

REFINE_NAMES = {
    "tiny": ("1", "2"),
    "small": ("1", "2", "3", "4"),
    "deeper": ("1", "2", "3", "4", "5"),
    "deepest": ("1", "2", "31", "3", "4", "5"),
}


def _check_sides(size: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError where the pooling of a size does not divide an image (C, H, W)."""
    factor = 2 ** sum(stage.down for stage in SIZES[size])
    if any(side % factor for side in shape[1:]):
        raise ValueError(
            f"NCSNv2 '{size}' halves the resolution {factor.bit_length() - 1} times: height and width must be "
            f"multiples of {factor}, got {shape[1]}x{shape[2]}"
        )


NOISE_LEVELS = ("plane", "scale", "none")


class NCSNv2(Backbone):
    """The RefineNet of NCSNv2 for images of any size that its pooling divides.

    A label shifts the scale γ and the offset β of every InstanceNorm++, as the noise level does in the first NCSN
    (Song & Ermon 2019, arXiv:1907.05600).

    Arguments:
        shape: (C, H, W).
        extra_channels: Output channels beside C.
        features: Width of the first stage. None: 128 in a published network, else 16.
        size: "tiny", "small", "deeper" or "deepest", or one of `PUBLISHED` for images of its shape; None: by
            resolution (`size_for`).
        noise_level: How the network is conditioned. "plane": the condition is an input channel. "scale": the output
            is divided by the scale of the noise, as published. "none": not at all.
        normalise: Give the network x at unit size, with its log size as an input channel (`rms_normalise`).
        centre: Map data from [0, 1] to [−1, 1] first, as published.
        classes: Number of classes; 0: unconditional, as published.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        extra_channels: int = 0,
        features: int | None = None,
        size: str | None = None,
        noise_level: str = "plane",
        normalise: bool = True,
        centre: bool = False,
        classes: int = 0,
    ) -> None:
        width = 128 if size in PUBLISHED else 16
        features = width if features is None else features
        known = (*SIZES, *PUBLISHED)
        require(
            "NCSNv2",
            {
                "shape": (shape, len(shape) == 3, "(channels, height, width)"),
                "features": (features, is_count(features), "a whole number above 0"),
                "size": (size, size is None or size in known, " or ".join(known)),
                "noise_level": (noise_level, noise_level in NOISE_LEVELS, " or ".join(NOISE_LEVELS)),
            },
        )
        features = int(features)
        size = size or size_for(max(shape[1:]))
        if size in PUBLISHED:
            wanted, stages = PUBLISHED[size]
            check_published("NCSNv2", size, wanted, shape, {"features": features, "size": stages})
            size = stages
        super().__init__(
            shape,
            extra_channels,
            classes,
            features=features,
            size=size,
            noise_level=noise_level,
            normalise=normalise,
            centre=centre,
        )
        _check_sides(size, shape)
        self.noise_level, self.normalise, self.centre = noise_level, normalise, centre
        self.conditioning = "noise_level" if noise_level == "scale" else "condition"
        planes = (noise_level == "plane") + normalise
        self.begin_conv = nn.Conv2d(shape[0] + planes, features, 3, padding=1)
        self.stages, self.refines = SIZES[size], REFINE_NAMES[size]
        self._build(self.stages, features)
        self.normalizer = InstanceNormPlus(features, self.classes)
        self.end_conv = nn.Conv2d(features, shape[0] + self.extra_channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def _build(self, stages: tuple[Stage, ...], features: int) -> None:
        width = features
        for stage in stages:
            out = stage.width * features
            first = ResidualBlock(width, out, stage.down, stage.dilation, stage.dilation > 1, self.classes)
            blocks = [first, ResidualBlock(out, out, False, stage.dilation, False, self.classes)]
            self.add_module(f"res{stage.name}", nn.Sequential(*blocks))
            width = out
        for index, name in enumerate(self.refines):
            below = stages[-1 - index].width * features
            out = below if index == 0 else stages[max(0, len(stages) - 2 - index)].width * features
            inputs = [below] if index == 0 else [below, width]
            self.add_module(f"refine{name}", RefineBlock(inputs, out, last=index == len(stages) - 1))
            width = out

    def forward(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = self.begin_conv(self._inputs(x, condition))
        layers = []
        for stage in self.stages:
            for block in self.get_submodule(f"res{stage.name}").children():
                hidden = block(hidden, labels)
            layers.append(hidden)
        below: list[Tensor] = []
        for name, layer in zip(self.refines, reversed(layers), strict=True):
            hidden = self.get_submodule(f"refine{name}")([layer, *below])
            below = [hidden]
        output = self.end_conv(elu(self.normalizer(hidden, labels)))
        return output / condition[:, None, None, None] if self.noise_level == "scale" else output

    def _inputs(self, x: Tensor, condition: Tensor) -> Tensor:
        x = 2 * x - 1 if self.centre else x
        planes = [condition] if self.noise_level == "plane" else []
        if self.normalise:
            x, size = rms_normalise(x)
            planes.append(size)
        planes = [plane[:, None, None, None].expand(-1, 1, *x.shape[2:]) for plane in planes]
        return torch.cat([x, *planes], dim=1).contiguous(memory_format=torch.channels_last)


class _ELU(torch.autograd.Function):
    """max(x, e^min(x, 0) − 1): torch's own ELU goes through a scalar expm1 and takes three times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.maximum(x, x.clamp(max=0).exp_().sub_(1))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.addcmul(grad, grad, y.clamp(max=0))


def elu(x: Tensor) -> Tensor:
    """ELU with α = 1, shape kept."""
    return _ELU.apply(x)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++: instance norm plus the channel means, themselves normalised over channels.

    γ ((x − μ_c)/σ_c + α (μ_c − m)/v) + β, with m and v² mean and unbiased variance of μ_c over the channels. With
    classes, each class adds an offset to γ and to β.
    """

    def __init__(self, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.gamma = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.by_class = ClassEmbedding(classes, 2 * channels) if classes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """α, γ ~ N(1, 0.02²), β = 0."""
        nn.init.normal_(self.alpha, 1, 0.02)
        nn.init.normal_(self.gamma, 1, 0.02)
        nn.init.zeros_(self.beta)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        gamma, beta = self.gamma, self.beta
        if self.by_class is not None:  # (B, channels) then
            offsets = self.by_class(labels, len(x)).chunk(2, dim=1)
            gamma, beta = gamma + offsets[0], beta + offsets[1]
        mean = x.mean((2, 3))
        variance = (x - mean[:, :, None, None]).square().mean((2, 3))
        centred = mean - mean.mean(1, keepdim=True)
        spread = (mean.var(1, keepdim=True) if mean.shape[1] > 1 else torch.zeros_like(mean)) + 1e-5
        scale = gamma * (variance + 1e-5).rsqrt()
        shift = gamma * self.alpha * centred * spread.rsqrt() + beta - mean * scale
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class MeanPoolConv(nn.Module):
    """A convolution followed by the mean over 2 x 2 cells."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(x), 2)


class ResidualBlock(nn.Module):
    """norm, ELU, conv, norm, ELU, conv, plus a shortcut; the width changes in the last conv.

    Arguments:
        down: Halve the resolution, by mean pooling after the last conv and after a 1 x 1 shortcut.
        reshape: Put a (dilated) conv in the shortcut, as in the first block of a dilated stage.
        classes: Number of classes of its norms.
    """

    def __init__(self, inputs: int, outputs: int, down: bool, dilation: int, reshape: bool, classes: int = 0) -> None:
        super().__init__()
        self.normalize1, self.conv1 = InstanceNormPlus(inputs, classes), conv3x3(inputs, inputs, dilation)
        self.normalize2 = InstanceNormPlus(inputs, classes)
        self.conv2: nn.Module = conv3x3(inputs, outputs, dilation)
        self.shortcut: nn.Module | None = None
        if down:
            self.conv2, self.shortcut = MeanPoolConv(inputs, outputs, 3), MeanPoolConv(inputs, outputs, 1)
        elif reshape:
            self.shortcut = conv3x3(inputs, outputs, dilation)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = self.conv1(elu(self.normalize1(x, labels)))
        hidden = self.conv2(elu(self.normalize2(hidden, labels)))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


def conv3x3(inputs: int, outputs: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class ResidualConvs(nn.Module):
    """RefineNet's residual conv unit: `blocks` times two ELU-conv pairs with a skip."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        for i in range(1, blocks + 1):
            for j in (1, 2):
                self.add_module(f"{i}_{j}_conv", conv3x3(channels, channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self.blocks + 1):
            hidden = self.get_submodule(f"{i}_1_conv")(elu(x))
            x = x + self.get_submodule(f"{i}_2_conv")(elu(hidden))
        return x


class Fusion(nn.Module):
    """RefineNet's multi-resolution fusion: a conv of each input, enlarged to the first one's size, summed."""

    def __init__(self, inputs: list[int], outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, outputs) for channels in inputs)

    def forward(self, xs: list[Tensor]) -> Tensor:
        size = xs[0].shape[2:]
        total = self.convs[0](xs[0])
        for conv, x in zip(list(self.convs)[1:], xs[1:], strict=True):
            hidden = conv(x)
            if hidden.shape[2:] != size:
                hidden = F.interpolate(hidden, size=size, mode="bilinear", align_corners=True)
            total = total + hidden
        return total


class ChainedPool(nn.Module):
    """RefineNet's chained residual pooling: twice a 5 x 5 maximum and a conv, each added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = path = elu(x)
        for conv in self.convs:
            path = conv(F.max_pool2d(path, 5, stride=1, padding=2))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """Residual convs of each input, fusion, chained pooling, residual convs."""

    def __init__(self, inputs: list[int], outputs: int, last: bool) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(ResidualConvs(channels, 2) for channels in inputs)
        self.msf = Fusion(inputs, outputs) if len(inputs) > 1 else None
        self.crp = ChainedPool(outputs)
        self.output_convs = ResidualConvs(outputs, 3 if last else 1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        adapted = [adapt(x) for adapt, x in zip(self.adapt_convs, xs, strict=True)]
        fused = self.msf(adapted) if self.msf is not None else adapted[0]
        return self.output_convs(self.crp(fused))
