"""The design of a U-Net, apart from the shape of its images: every option with its meaning and range."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from genflow.backbone.base import check_published
from genflow.checks import is_count, is_number, require

CHOICES: dict[str, tuple[Any, ...]] = {
    "conditioning": ("condition", "noise_level", "log_noise_level"),
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
}
"""Options of a `Design` that are words, and what they may be."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Everything that defines a U-Net, apart from the shape of its images.

    Arguments:
        nf: Width of the first level.
        ch_mult: Width of each level in units of nf; each level after the first has half the resolution.
        num_res_blocks: Residual blocks per level on the way down; one more on the way up.
        attn_resolutions: Sides, in pixels, at which attention follows the blocks.
        attention: False leaves out all attention, including that in the middle.
        dropout: Share of features that training leaves out in each block.
        groups: Most groups of each norm; None: min(channels/4, 32).
        resblock_type: Where the resolution changes: "biggan", inside a block; "ddpm", in a separate layer.
        resamp_with_conv: Give those layers a convolution.
        fir: Filter with `fir_kernel` where the resolution changes; else take means and nearest values.
        fir_kernel: Taps of the filter along each axis, two or more.
        skip_rescale: Divide each sum by √2.
        init_scale: Variance scale at the start of each block's last layer and of the output; 0 stands for 1e-10.
        progressive: Output pyramid: "none", "output_skip" (sums the levels' images) or "residual".
        progressive_input: Input pyramid: "none", "input_skip" or "residual".
        progressive_combine: How "input_skip" joins the features: "sum" or "cat".
        embedding_type: "fourier", random frequencies, or "positional", geometric ones.
        fourier_scale: Standard deviation of the random frequencies, per unit of the time.
        conditioning: What the network receives as s: the process's "condition", its "noise_level" or "log_noise_level".
        time_scale: The embedding is of time_scale · s + time_shift.
        time_shift: See time_scale.
        scale_by_sigma: Divide the output by the noise level, so that it is a score; not with conditioning="condition".
        normalise: Give the network x at unit size, and its size together with the time (`rms_normalise`).
        centre: Map data from [0, 1] to [−1, 1] first.
    """

    nf: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    attention: bool
    dropout: float
    groups: int | None
    resblock_type: str
    resamp_with_conv: bool
    fir: bool
    fir_kernel: tuple[float, ...]
    skip_rescale: bool
    init_scale: float
    progressive: str
    progressive_input: str
    progressive_combine: str
    embedding_type: str
    fourier_scale: float
    conditioning: str
    time_scale: float
    time_shift: float
    scale_by_sigma: bool
    normalise: bool
    centre: bool

    def check(self, owner: str) -> None:
        """Raises ValueError for the first option that is out of range, naming `owner`."""
        level = "'noise_level' or 'log_noise_level' beside scale_by_sigma, which divides by it"
        blocks = self.num_res_blocks
        checks = {
            "nf": (is_count(self.nf, 4) and self.nf % 2 == 0, "an even number of at least 4"),
            "ch_mult": (
                counts(self.ch_mult) and len(self.ch_mult) in range(1, 17),
                "a list of one to 16 whole numbers",
            ),
            "num_res_blocks": (is_count(blocks) and blocks <= 100, "a whole number from 1 to 100"),
            "attn_resolutions": (counts(self.attn_resolutions), "a list of sides in pixels"),
            "groups": (self.groups is None or is_count(self.groups), "a whole number above 0"),
            "dropout": (is_number(self.dropout) and 0 <= self.dropout < 1, "a number from 0 to 1"),
            "fir_kernel": (taps(self.fir_kernel), "a list of 2 to 64 numbers with a sum other than 0"),
            "init_scale": (is_number(self.init_scale) and 0 <= self.init_scale <= 1000, "a number from 0 to 1000"),
            "fourier_scale": (is_number(self.fourier_scale) and self.fourier_scale >= 0, "a number of at least 0"),
            "time_scale": (is_number(self.time_scale), "a number"),
            "time_shift": (is_number(self.time_shift), "a number"),
            **{name: (getattr(self, name) in words, " or ".join(words)) for name, words in CHOICES.items()},
        }
        require(owner, {name: (getattr(self, name), *check) for name, check in checks.items()})
        passed = not self.scale_by_sigma or self.conditioning != "condition"
        require(owner, {"conditioning": (self.conditioning, passed, level)})


def counts(value: Any) -> bool:
    """A list or tuple of whole numbers above 0."""
    return isinstance(value, list | tuple) and all(is_count(v) for v in value)


def taps(value: Any) -> bool:
    """A list or tuple of two or more numbers whose sum is not 0."""
    return (
        isinstance(value, list | tuple)
        and 1 < len(value) <= 64
        and all(is_number(v) for v in value)
        and sum(value) != 0
    )


def whole(values: Any) -> tuple[int, ...]:
    """Numbers as whole numbers."""
    return tuple(int(v) for v in values)


def sides(shape: tuple[int, ...], levels: int) -> list[int]:
    """The longer side of an image (C, H, W) at each level, halved and rounded up."""
    return [-(-max(shape[1:]) // 2**level) for level in range(levels)]


def make_design(owner: str, given: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]], **rest: Any) -> Design:
    """The design of a network class from its options.

    Arguments:
        owner: The class, for messages.
        given: Its options by name, with "shape" and "size"; None: the value of the size. With "deep", the size's
            residual blocks are doubled.
        sizes: The options that each size stands for, with "shape" where it is a published network.
        rest: Options that the class does not offer, and defaults of those that neither an option nor the size sets.
    """
    shape, size = given["shape"], given["size"]
    require(owner, {"shape": (shape, len(shape) == 3, "(channels, height, width)")})
    size = ("tiny" if max(shape[1:]) < 16 else "small") if size is None else size
    require(owner, {"size": (size, isinstance(size, str) and size in sizes, " or ".join(sizes))})
    widths = {name: value for name, value in sizes[size].items() if name != "shape"}
    if given.get("deep"):
        widths["num_res_blocks"] *= 2
    check_published(owner, size, sizes[size].get("shape"), shape, widths)
    chosen = {name: value for name, value in given.items() if value is not None}
    if "told" in chosen:
        text = f"{owner}: the option told is now conditioning; the old name goes with the next version"
        warnings.warn(text, FutureWarning, stacklevel=3)
        chosen["conditioning"] = chosen.pop("told")
    values = {**rest, "attn_resolutions": None, **widths, **chosen}
    values = {f.name: tuple(v) if isinstance(v := values[f.name], list) else v for f in fields(Design)}
    if values["attn_resolutions"] is None:
        levels = len(values["ch_mult"]) if counts(values["ch_mult"]) else 1
        # the first level below the full resolution that is at most 16, where published networks attend
        values["attn_resolutions"] = tuple(side for side in sides(shape, levels)[1:] if side <= 16)[:1]
    design = Design(**values)
    design.check(owner)
    return replace(
        design,
        nf=int(design.nf),
        ch_mult=whole(design.ch_mult),
        num_res_blocks=int(design.num_res_blocks),
        attn_resolutions=whole(design.attn_resolutions),
        groups=None if design.groups is None else int(design.groups),
    )


# ---- published configurations ----------------------------------------------------------------------------------------

SHARED = ("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout", "resamp_with_conv", "scale_by_sigma")
NCSNPP = (
    *("resblock_type", "fir", "fir_kernel", "skip_rescale", "init_scale", "embedding_type", "fourier_scale"),
    *("progressive", "progressive_input", "progressive_combine"),
)
"""Options that keep their published names: those of both networks, and those of NCSN++ alone."""


def published_options(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Options of `NCSNpp` or `DDPM`, by config["model"]["name"], that a published configuration stands for.

    Besides the layers they set the conditioning and the scaling of the input. The head of Poisson flow needs
    extra_channels=1 as well.

    Arguments:
        config: Its sections "model", "data" and "training" as plain dictionaries.
    """
    model, training = config["model"], config["training"]
    names = SHARED if model["name"] == "ddpm" else (*SHARED, *NCSNPP)
    options = {name: model[name] for name in names if name in model}
    if model["name"] == "ddpm":
        options["groups"] = 32  # no option there
    if model["name"] == "ncsnpp" and model["embedding_type"] == "fourier":
        conditioning = {"conditioning": "log_noise_level", "time_scale": 1.0}
    else:
        conditioning = POSITIONS[training["sde"]](model, training["continuous"])
    return {**options, **conditioning, "normalise": False, "centre": not config["data"]["centered"]}


def _place(model: Mapping[str, Any], continuous: bool) -> dict[str, Any]:
    """The index of σ in the falling geometric table of `num_scales` noise levels."""
    low, high = math.log(model["sigma_min"]), math.log(model["sigma_max"])
    rate = (model["num_scales"] - 1) / (high - low)
    return {"conditioning": "log_noise_level", "time_scale": -rate, "time_shift": rate * high}


def _time(model: Mapping[str, Any], continuous: bool) -> dict[str, Any]:
    """999 t, or k where training is at t = (k + 1)/num_scales."""
    if continuous:
        return {"conditioning": "condition", "time_scale": 999.0}
    return {"conditioning": "condition", "time_scale": float(model["num_scales"]), "time_shift": -1.0}


POSITIONS: dict[str, Callable[[Mapping[str, Any], bool], dict[str, Any]]] = {
    "poisson": lambda model, continuous: {"conditioning": "noise_level", "time_scale": 1.0},  # z itself
    "vesde": _place,
    "vpsde": _time,
    "subvpsde": _time,
}
"""The conditioning of positional features, by the published configurations' word for the process."""
