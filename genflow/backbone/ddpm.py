"""The U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239), as the published score SDE code has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genflow.backbone.unet import UNet
from genflow.backbone.unet_design import make_design

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"nf": 16, "ch_mult": (1, 2), "num_res_blocks": 1, "dropout": 0.0, "groups": 8},
    "small": {"nf": 16, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "dropout": 0.0, "groups": 8},
    "cifar10": {
        "shape": (3, 32, 32),
        "nf": 128,
        "ch_mult": (1, 2, 2, 2),
        "num_res_blocks": 2,
        "attn_resolutions": (16,),
        "dropout": 0.1,
        "groups": 32,
    },
}
"""Two for a CPU, and the published one of CIFAR-10."""

FIXED: dict[str, Any] = {
    "resblock_type": "ddpm",
    "fir": False,
    "fir_kernel": (1, 3, 3, 1),
    "skip_rescale": False,
    "progressive": "none",
    "progressive_input": "none",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "fourier_scale": 16.0,
}
"""What makes a design DDPM; without FIR and Fourier features the settings of both have no effect."""


class DDPM(UNet):
    """The U-Net of DDPM: blocks that keep the resolution, layers of their own that change it, positional embedding.

    Arguments:
        shape: (C, H, W); any height and width.
        extra_channels: Output channels besides C.
        classes: Number of classes; 0: unconditional, as published.
        size: A name of `SIZES`, which gives whatever of the next six is None. None: "tiny" below 16 pixels, else
            "small". The published "cifar10" takes images of 3x32x32 only.
        nf: Width of the first level.
        ch_mult: Width of each level in units of nf.
        num_res_blocks: Residual blocks per level.
        attn_resolutions: Sides at which attention follows the blocks. In "tiny" and "small": the first below the
            full resolution that is at most 16.
        dropout: See `Design`.
        groups: Most groups of each norm; published: 32, so that nf=32 has a group for each channel.

    The other options are described at `Design`; told is the former name of conditioning. By default the network is
    conditioned on 999 times the process's condition, which for VP is the published 999 t.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        extra_channels: int = 0,
        classes: int = 0,
        size: str | None = None,
        nf: int | None = None,
        ch_mult: Sequence[int] | None = None,
        num_res_blocks: int | None = None,
        attn_resolutions: Sequence[int] | None = None,
        dropout: float | None = None,
        groups: int | None = None,
        attention: bool = True,
        resamp_with_conv: bool = True,
        init_scale: float = 0.0,
        conditioning: str = "condition",
        time_scale: float = 999.0,
        time_shift: float = 0.0,
        scale_by_sigma: bool = False,
        normalise: bool = True,
        centre: bool = False,
        told: str | None = None,
    ) -> None:
        given = dict(locals())
        design = make_design("DDPM", given, SIZES, **FIXED)
        super().__init__(shape, extra_channels, classes, design, given)
