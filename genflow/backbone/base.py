"""What every backbone shares: the call, the rebuilding options, and seeded initial weights."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genflow.checks import is_count, require
from genflow.process.guidance import NO_CLASS


class Backbone(nn.Module):
    """A network of (x_t, condition), and of a class label where it knows classes.

    Arguments:
        shape: Shape of one sample: (N,) for vectors, (C, H, W) for images.
        extra_channels: Channels that the head wants beside x's own.
        classes: Number of classes K, labels 0 ... K − 1; 0 for an unconditional network.
    """

    classes: int = 0

    conditioning: Literal["condition", "noise_level"] = "condition"
    """What the second argument of a call is: the process's condition, or the scale of its noise, data units.

    Networks written for earlier versions set it under its old name, `told`."""

    def __init__(self, shape: tuple[int, ...], extra_channels: int, classes: int = 0, **options: Any) -> None:
        super().__init__()
        require(
            type(self).__name__,
            {
                "shape": (shape, bool(shape) and all(int(n) >= 1 for n in shape), "a tuple of sizes above 0"),
                "extra_channels": (extra_channels, extra_channels >= 0, "a whole number of at least 0"),
                "classes": (classes, is_count(classes, 0), "a whole number of at least 0"),
            },
        )
        self.shape, self.extra_channels = tuple(int(n) for n in shape), int(extra_channels)
        self.classes = int(classes)
        known = {"classes": self.classes} if self.classes else {}
        self.options = {"shape": list(self.shape), "extra_channels": self.extra_channels, **known, **options}

    @property
    def told(self) -> Literal["condition", "noise_level"]:
        """The old name of `conditioning`."""
        return self.conditioning

    @told.setter
    def told(self, conditioning: Literal["condition", "noise_level"]) -> None:
        self.conditioning = conditioning

    def forward(self, x: Tensor, condition: Tensor, labels: Tensor | None = None) -> Tensor:
        """The output at x (B, *shape) and condition (B,), with `extra_channels` more entries in dimension 1.

        labels (B,) are 0 ... classes − 1, or `NO_CLASS`; None says so of every row.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")

    def config(self) -> dict[str, Any]:
        """Constructor options that rebuild this backbone: plain types only."""
        return dict(self.options)

    def initialise(self, seed: int) -> None:
        """Draws every parameter again, each module from its own name and the seed.

        So two backbones that differ in one layer, say by the extra channel of a head, start with equal weights
        in all others.
        """
        with torch.random.fork_rng(devices=[]):
            for name, module in self.named_modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    torch.manual_seed(zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1 & 0xFFFFFFFFFFFF))
                    reset()


def check_published(
    owner: str, size: str, wanted: tuple[int, ...] | None, shape: tuple[int, ...], widths: Mapping[str, Any]
) -> None:
    """Raises ValueError where a size that stands for a published network meets images of another shape.

    Arguments:
        owner: The network's class.
        size: Name of the size.
        wanted: (channels, height, width) of the published network's images; None: the size takes any.
        shape: Those that came.
        widths: The options that the size stands for, which another shape may be given by name.
    """
    if wanted is None or tuple(shape) == wanted:
        return
    came, allowed = ("x".join(map(str, sides)) for sides in (shape, wanted))
    options = " ".join(f"{name}={list(v) if isinstance(v, tuple) else v}" for name, v in widths.items())
    raise ValueError(
        f"{owner}: size = '{size}' is the published network for images of {allowed} (channels x height x width), and "
        f"these are {came}; leave size out for one that suits them, or give its widths by name: {options}"
    )


class ClassEmbedding(nn.Module):
    """A row of `width` numbers for `NO_CLASS` and for each of `classes` classes, in this order; all start at zero.

    So a fresh conditional network answers what the unconditional one of the same seed does, and no row is chance.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes + 1, width))

    def reset_parameters(self) -> None:
        """All rows zero."""
        nn.init.zeros_(self.weight)

    def forward(self, labels: Tensor | None, count: int) -> Tensor:
        """Rows (count, width) of labels (count,), of `NO_CLASS` where labels are None."""
        if labels is None:
            return self.weight[:1].expand(count, -1)
        return nn.functional.embedding(labels - NO_CLASS, self.weight)


def check_labels(labels: Tensor, classes: int, owner: str = "labels") -> None:
    """Raises ValueError where a label is neither `NO_CLASS` nor one of 0 ... classes − 1."""
    wrong = labels[(labels < NO_CLASS) | (labels >= classes)]
    if len(wrong):
        allowed = f"0 to {classes - 1}, or {NO_CLASS} for no class" if classes else f"only {NO_CLASS}, for no class"
        raise ValueError(f"{owner}: {int(wrong[0])} is not a class of this backbone; give {allowed}")


def rms_normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x / s and log(s)/4 with s² = 1/4 + mean(x²) over each sample: shapes (B, *) and (B,).

    Far out on a heavy-tailed path x is thousands of data units long; the network then sees its direction at unit
    scale and is told its size apart. 1/4 is the variance that image data in [−1, 1] roughly has.
    """
    scale = (x.flatten(1).square().mean(1) + 0.25).sqrt()
    return x / scale.reshape(-1, *(1,) * (x.ndim - 1)), scale.log() / 4


class FourierFeatures(nn.Module):
    """cos and sin of a scalar at frequencies 2^0 ... 2^(n−1), times π/2, beside the scalar itself."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(count), persistent=False)
        self.width = 2 * count + 1

    def forward(self, value: Tensor) -> Tensor:
        phase = value[:, None] * self.frequencies.to(value.dtype)
        return torch.cat([value[:, None], phase.cos(), phase.sin()], dim=1)
