"""NCSN++ and DDPM++ (Song et al. 2021, arXiv:2011.13456), which PFGM uses too (Xu et al. 2022, arXiv:2209.11178)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genflow.backbone.unet import UNet
from genflow.backbone.unet_design import make_design

CIFAR10: dict[str, Any] = {
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "num_res_blocks": 4,
    "attn_resolutions": (16,),
    "dropout": 0.1,
}
HIGH: dict[str, Any] = {"attn_resolutions": (16,), "dropout": 0.0}
PYRAMIDS: dict[str, Any] = {"progressive": "output_skip", "progressive_input": "input_skip"}

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"nf": 16, "ch_mult": (1, 2), "num_res_blocks": 1, "dropout": 0.0},
    "small": {"nf": 16, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "dropout": 0.0},
    "cifar10": {"shape": (3, 32, 32), **CIFAR10},
    "celeba64": {"shape": (3, 64, 64), **CIFAR10},
    "lsun256": {"shape": (3, 256, 256), **HIGH, "nf": 128, "ch_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2},
    "ffhq256": {
        "shape": (3, 256, 256),
        **HIGH,
        **PYRAMIDS,
        "nf": 128,
        "ch_mult": (1, 1, 2, 2, 2, 2, 2),
        "num_res_blocks": 2,
    },
    "ffhq1024": {
        "shape": (3, 1024, 1024),
        **HIGH,
        **PYRAMIDS,
        "nf": 16,
        "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
        "num_res_blocks": 1,
    },
}
"""Two for a CPU, then the published ones: of CIFAR-10, of CelebA at 64 pixels, PFGM's of LSUN bedrooms (DDPM++), and
VE's of LSUN, CelebA-HQ and FFHQ at 256 pixels and of FFHQ at 1024 (NCSN++)."""


class NCSNpp(UNet):
    """NCSN++ by default; DDPM++ with fir=False, progressive_input="none", embedding_type="positional".

    Arguments:
        shape: (C, H, W); any height and width.
        extra_channels: Output channels besides C.
        classes: Number of classes; 0: unconditional, as published.
        size: A name of `SIZES`, which gives whatever of the next five, of progressive and of progressive_input is
            None. None: "tiny" below 16 pixels, else "small". A published one takes images of its own shape only.
        deep: Twice the residual blocks that the size has; the published deep networks are "cifar10" so.
        nf: Width of the first level.
        ch_mult: Width of each level in units of nf.
        num_res_blocks: Residual blocks per level.
        attn_resolutions: Sides at which attention follows the blocks. In "tiny" and "small": the first below the
            full resolution that is at most 16.
        dropout: See `Design`.
        progressive: See `Design`. None: as the size has it, else "none".
        progressive_input: See `Design`. None: as the size has it, else "residual".
        time_scale: See `Design`. None: 1 for Fourier features, 999 for positional ones, whose slowest wave is 10000
            long: the published VP is conditioned on 999 t.

    The other options are described at `Design`; told is the former name of conditioning. By default the network is
    conditioned on the process's condition, t or log(z)/4. The published ones are conditioned on 999 t (VP:
    conditioning="condition", time_scale=999), log σ (VE: conditioning="log_noise_level") and z itself (PFGM:
    conditioning="noise_level", time_scale=1); see `published_options`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        extra_channels: int = 0,
        classes: int = 0,
        size: str | None = None,
        deep: bool = False,
        nf: int | None = None,
        ch_mult: Sequence[int] | None = None,
        num_res_blocks: int | None = None,
        attn_resolutions: Sequence[int] | None = None,
        dropout: float | None = None,
        attention: bool = True,
        resblock_type: str = "biggan",
        resamp_with_conv: bool = True,
        fir: bool = True,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        init_scale: float = 0.0,
        progressive: str | None = None,
        progressive_input: str | None = None,
        progressive_combine: str = "sum",
        embedding_type: str = "fourier",
        fourier_scale: float = 16.0,
        conditioning: str = "condition",
        time_scale: float | None = None,
        time_shift: float = 0.0,
        scale_by_sigma: bool = False,
        normalise: bool = True,
        centre: bool = False,
        told: str | None = None,
    ) -> None:
        given = dict(locals())
        if time_scale is None:
            given["time_scale"] = 999.0 if embedding_type == "positional" else 1.0
        design = make_design("NCSNpp", given, SIZES, groups=None, progressive="none", progressive_input="residual")
        super().__init__(shape, extra_channels, classes, design, given)
