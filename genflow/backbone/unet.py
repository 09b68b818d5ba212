"""The U-Net behind DDPM, DDPM++ and NCSN++: one list of layers in the published order, from one description."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genflow.backbone.base import Backbone, ClassEmbedding, FourierFeatures, rms_normalise
from genflow.backbone.unet_design import Design, sides
from genflow.backbone.unet_layers import (
    Attention,
    Combine,
    Conv,
    Dense,
    Downsample,
    FourierEmbedding,
    PositionalEmbedding,
    ResBlock,
    Scaler,
    Upsample,
    crop,
    group_norm,
    join,
)

Layers = Iterator[nn.Module]
"""The layers that a forward pass has yet to run."""


class UNet(Backbone):
    """A U-Net of residual blocks with attention; `NCSNpp` and `DDPM` are its leaves.

    The label adds a row of numbers to the hidden layer of the time embedding; so does the size of x.

    Arguments:
        shape: (C, H, W); any height and width.
        extra_channels: Output channels beside C.
        classes: Number of classes; 0: unconditional, as published.
        design: Everything else.
        options: Names of the parts of the design that `config` returns.
    """

    def __init__(
        self, shape: tuple[int, ...], extra_channels: int, classes: int, design: Design, options: Mapping[str, Any]
    ) -> None:
        chosen = {name: value for name, value in asdict(design).items() if name in options}
        kept = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
        super().__init__(shape, extra_channels, classes, **kept)
        self.design, self.levels = design, len(design.ch_mult)
        self.conditioning = "condition" if design.conditioning == "condition" else "noise_level"
        here = [side in design.attn_resolutions for side in sides(self.shape, self.levels)]
        self.attends = [design.attention and attends for attends in here]
        self.scaler = Scaler(design.fir_kernel if design.fir else None)
        time = 4 * design.nf
        self.positions = PositionalEmbedding(design.nf) if design.embedding_type == "positional" else None
        self.all_modules = nn.ModuleList(self._layers(time))
        self.size_features = FourierFeatures(4)
        self.by_size = Dense(self.size_features.width, time) if design.normalise else None
        self.by_class = ClassEmbedding(self.classes, time) if self.classes else None
        if design.nf < 64:  # slower for a wide norm's backward pass; times are in docs/backbones.md
            self.to(memory_format=torch.channels_last)

    # ---- the layers, in the published order ----------------------------------------------------------------

    def _layers(self, time: int) -> Iterator[nn.Module]:
        """Embedding, down, middle, up; `forward` runs them in the same order."""
        d = self.design
        if self.positions is None:
            yield FourierEmbedding(d.nf, d.fourier_scale)
        yield Dense(d.nf if self.positions is not None else 2 * d.nf, time)
        yield Dense(time, time)
        yield Conv(self.shape[0], d.nf)
        widths = [d.nf]
        yield from self._layers_down(widths)
        wide = widths[-1]
        yield self._block(wide, wide)
        if d.attention:
            yield self._attention(wide)
        yield self._block(wide, wide)
        yield from self._layers_up(widths)

    def _layers_down(self, widths: list[int]) -> Iterator[nn.Module]:
        """Appends to `widths` the channels of every map that the way up concatenates."""
        d, pyramid = self.design, self.shape[0]
        for level, factor in enumerate(d.ch_mult):
            for _ in range(d.num_res_blocks):
                yield self._block(widths[-1], factor * d.nf)
                widths.append(factor * d.nf)
                if self.attends[level]:
                    yield self._attention(widths[-1])
            if level == self.levels - 1:
                break
            wide = widths[-1]
            yield self._resized(wide, Downsample, self.scaler.halve)
            if d.progressive_input == "input_skip":
                yield Combine(pyramid, wide, d.progressive_combine)
                wide *= 2 if d.progressive_combine == "cat" else 1
            elif d.progressive_input == "residual":
                yield Downsample(pyramid, wide, self.scaler, conv=True)
                pyramid = wide
            widths.append(wide)

    def _layers_up(self, widths: list[int]) -> Iterator[nn.Module]:
        d, wide, pyramid = self.design, widths[-1], 0
        channels = self.shape[0] + self.extra_channels
        for level in reversed(range(self.levels)):
            for _ in range(d.num_res_blocks + 1):
                yield self._block(wide + widths.pop(), d.ch_mult[level] * d.nf)
                wide = d.ch_mult[level] * d.nf
            if self.attends[level]:
                yield self._attention(wide)
            if d.progressive == "output_skip":
                yield from self._image(wide, channels, d.init_scale)
            elif d.progressive == "residual":
                first = level == self.levels - 1
                yield from self._image(wide, wide) if first else [Upsample(pyramid, wide, self.scaler, conv=True)]
                pyramid = wide
            if level:
                yield self._resized(wide, Upsample, self.scaler.enlarge)
        if d.progressive != "output_skip":
            yield from self._image(wide, channels, d.init_scale)

    def _block(self, inputs: int, outputs: int, change: Callable[[Tensor], Tensor] | None = None) -> ResBlock:
        d, time = self.design, 4 * self.design.nf
        shortcut = "Conv_2" if d.resblock_type == "biggan" else "NIN_0"
        return ResBlock(
            inputs,
            outputs,
            time,
            change=change,
            shortcut=shortcut,
            rescale=d.skip_rescale,
            dropout=d.dropout,
            init_scale=d.init_scale,
            groups=d.groups,
        )

    def _attention(self, channels: int) -> Attention:
        d = self.design
        return Attention(channels, rescale=d.skip_rescale, init_scale=d.init_scale, groups=d.groups)

    def _image(self, inputs: int, outputs: int, scale: float = 1.0) -> list[nn.Module]:
        """The norm and the convolution of an output."""
        return [group_norm(inputs, self.design.groups), Conv(inputs, outputs, scale=scale)]

    def _resized(
        self, wide: int, layer: type[Downsample] | type[Upsample], change: Callable[[Tensor], Tensor]
    ) -> nn.Module:
        """The change of resolution between two levels: a block's own, or a layer."""
        if self.design.resblock_type == "biggan":
            return self._block(wide, wide, change=change)
        return layer(wide, wide, self.scaler, conv=self.design.resamp_with_conv)

    # ---- the call ------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        x = 2 * x - 1 if self.design.centre else x
        x, size = rms_normalise(x) if self.design.normalise else (x, None)
        layers = iter(self.all_modules)
        time = self._time(layers, condition, size, labels)
        maps = self._down(layers, x, time)
        hidden = next(layers)(maps[-1], time)
        hidden = next(layers)(hidden) if self.design.attention else hidden
        hidden = next(layers)(hidden, time)
        output = self._up(layers, hidden, maps, time)
        return output / condition[:, None, None, None] if self.design.scale_by_sigma else output

    def _time(self, layers: Layers, condition: Tensor, size: Tensor | None, labels: Tensor | None) -> Tensor:
        """SiLU of the time embedding, (B, 4 nf)."""
        d = self.design
        value = condition.log() if d.conditioning == "log_noise_level" else condition
        value = d.time_scale * value + d.time_shift
        embedding = self.positions or next(layers)
        hidden = next(layers)(embedding(value))
        if self.by_size is not None:
            hidden = hidden + self.by_size(self.size_features(size))
        if self.by_class is not None:
            hidden = hidden + self.by_class(labels, len(condition))
        return F.silu(next(layers)(F.silu(hidden)))

    def _down(self, layers: Layers, x: Tensor, time: Tensor) -> list[Tensor]:
        d, maps, pyramid = self.design, [self._laid_out(next(layers)(x))], x
        for level in range(self.levels):
            for _ in range(d.num_res_blocks):
                hidden = next(layers)(maps[-1], time)
                maps.append(next(layers)(hidden) if self.attends[level] else hidden)
            if level == self.levels - 1:
                break
            hidden = self._resize(layers, maps[-1], time)
            if d.progressive_input == "input_skip":
                pyramid = self.scaler.halve(pyramid)
                hidden = next(layers)(pyramid, hidden)
            elif d.progressive_input == "residual":
                hidden = pyramid = join(next(layers)(pyramid), hidden, d.skip_rescale)
            maps.append(hidden)
        return maps

    def _laid_out(self, hidden: Tensor) -> Tensor:
        """In the layout that samples fastest on a CPU, which the layers keep; else that of the weights."""
        if hidden.device.type == "cpu" and not torch.is_grad_enabled():
            return hidden.contiguous(memory_format=torch.channels_last)
        return hidden

    def _up(self, layers: Layers, hidden: Tensor, maps: list[Tensor], time: Tensor) -> Tensor:
        d, pyramid = self.design, hidden
        for level in reversed(range(self.levels)):
            for _ in range(d.num_res_blocks + 1):
                hidden = next(layers)(torch.cat([hidden, maps.pop()], dim=1), time)
            hidden = next(layers)(hidden) if self.attends[level] else hidden
            first = level == self.levels - 1
            if d.progressive == "output_skip":
                image = self._output(layers, hidden)
                pyramid = image if first else crop(self.scaler.enlarge(pyramid), image) + image
            elif d.progressive == "residual" and first:
                pyramid = self._output(layers, hidden)
            elif d.progressive == "residual":
                hidden = pyramid = join(crop(next(layers)(pyramid), hidden), hidden, d.skip_rescale)
            if level:
                hidden = crop(self._resize(layers, hidden, time), maps[-1])
        return pyramid if d.progressive == "output_skip" else self._output(layers, hidden)

    def _output(self, layers: Layers, hidden: Tensor) -> Tensor:
        norm, conv = next(layers), next(layers)
        return conv(F.silu(norm(hidden)))

    def _resize(self, layers: Layers, hidden: Tensor, time: Tensor) -> Tensor:
        layer = next(layers)
        return layer(hidden, time) if self.design.resblock_type == "biggan" else layer(hidden)
