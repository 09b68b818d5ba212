"""What all backbones share: the call, the options that rebuild them, seeded initial weights, published weights."""

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
    """A network of (x_t, condition), and of labels where it has classes.

    Arguments:
        shape: Shape of one sample: (N,) for vectors, (C, H, W) for images.
        extra_channels: Output channels that the head needs besides x's own.
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

        labels (B,) are 0 ... classes − 1, or `NO_CLASS`; None stands for `NO_CLASS` in every row.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")

    def config(self) -> dict[str, Any]:
        """Constructor options that rebuild this backbone: plain types only."""
        return dict(self.options)

    def initialise(self, seed: int) -> None:
        """Draws all parameters again, those of each module from its name and the seed.

        So two backbones that differ in one layer, say by the extra channel of a head, start equal in all others. They
        are drawn on the host, so they are the same wherever the network lives, and no device's generator is touched.
        """
        home = next((p.device for p in self.parameters()), torch.device("cpu"))
        self.to("cpu")
        with torch.random.fork_rng(devices=[]):
            for name, module in self.named_modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):  # torch.manual_seed would seed the generators of all devices too
                    torch.default_generator.manual_seed(
                        zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1 & 0xFFFFFFFFFFFF)
                    )
                    reset()
        self.to(home)

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Loads the weights of a published network, the "model" of its checkpoint.

        Names may begin with "module."; the table "sigmas" is left out, since the conditioning gives the noise level.

        Raises:
            ValueError: The weights belong to another design; the first difference is named.
        """
        names = {name.removeprefix("module."): value for name, value in weights.items()}
        names.pop("sigmas", None)
        own = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in names.items()}
        for name in [*own, *given]:
            if own.get(name) != given.get(name):
                raise ValueError(
                    f"the weights do not fit this {type(self).__name__}: {name} is {given.get(name, 'missing')} in "
                    f"them and {own.get(name, 'missing')} here. Build it with the options of the published "
                    "configuration (`published_options`)"
                )
        self.load_state_dict(names)


def check_published(
    owner: str, size: str, wanted: tuple[int, ...] | None, shape: tuple[int, ...], widths: Mapping[str, Any]
) -> None:
    """Raises ValueError where a size is a published network and the images have another shape than its own.

    Arguments:
        owner: The network's class.
        size: Name of the size.
        wanted: (channels, height, width) of the published network's images; None: the size takes any.
        shape: Shape of the images.
        widths: The options that the size stands for; for other images they can be given by name.
    """
    if wanted is None or tuple(shape) == wanted:
        return
    came, allowed = ("x".join(map(str, sides)) for sides in (shape, wanted))
    options = " ".join(f"{name}={list(v) if isinstance(v, tuple) else v}" for name, v in widths.items())
    raise ValueError(
        f"{owner}: size = '{size}' is the published network for images of {allowed} (channels x height x width), but "
        f"these are {came}; leave size out to get one that fits, or give its widths by name: {options}"
    )


class ClassEmbedding(nn.Module):
    """Rows of `width` numbers: one for `NO_CLASS`, then one for each of `classes` classes; all start at zero.

    So an untrained conditional network equals the unconditional one of the same seed.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes + 1, width))

    def reset_parameters(self) -> None:
        """All rows zero."""
        nn.init.zeros_(self.weight)

    def forward(self, labels: Tensor | None, count: int) -> Tensor:
        """Rows (count, width) of labels (count,); those of `NO_CLASS` where labels are None."""
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

    Far out on a heavy-tailed path x is thousands of data units long; the network then gets its direction at unit scale
    and its size separately. 1/4 is roughly the variance of image data in [−1, 1].
    """
    scale = (x.flatten(1).square().mean(1) + 0.25).sqrt()
    return x / scale.reshape(-1, *(1,) * (x.ndim - 1)), scale.log() / 4


class FourierFeatures(nn.Module):
    """A scalar, with its cos and sin at frequencies 2^0 ... 2^(n−1) times π/2."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(count), persistent=False)
        self.width = 2 * count + 1

    def forward(self, value: Tensor) -> Tensor:
        phase = value[:, None] * self.frequencies.to(value.dtype)
        return torch.cat([value[:, None], phase.cos(), phase.sin()], dim=1)
