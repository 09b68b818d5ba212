"""Backbones: networks of (x_t, condition). This page lists them; it imports no torch."""

from __future__ import annotations

from typing import Any

from genflow.backbone.sizes import SIZES
from genflow.registry import Entry


def _entry(name: str, target: str, summary: str, source: str, **preset: Any) -> Entry:
    tags = {"sizes": SIZES[name]}
    return Entry(name, f"genflow.backbone.{target}", summary, source, family=name, preset=preset, tags=tags)


SONG = "Song et al. 2021, arXiv:2011.13456"
DDPMPP: dict[str, Any] = {"fir": False, "progressive_input": "none", "embedding_type": "positional"}

CATALOG = [
    _entry("mlp", "mlp:MLP", "residual multilayer perceptron for vectors and small images", ""),
    _entry("ncsnv2", "ncsnv2:NCSNv2", "RefineNet with InstanceNorm++ and ELU", "Song & Ermon 2020, arXiv:2006.09011"),
    _entry(
        "ncsnpp",
        "ncsnpp:NCSNpp",
        "NCSN++: U-Net with BigGAN blocks, FIR filters, an input pyramid and Fourier features of the time",
        SONG,
    ),
    _entry(
        "ddpmpp",
        "ncsnpp:NCSNpp",
        "DDPM++: U-Net with BigGAN blocks and positional features of the time, as PFGM uses it",
        SONG,
        **DDPMPP,
    ),
    _entry("ncsnpp_deep", "ncsnpp:NCSNpp", "NCSN++ with twice the blocks per level", SONG, deep=True),
    _entry("ddpmpp_deep", "ncsnpp:NCSNpp", "DDPM++ with twice the blocks per level", SONG, **DDPMPP, deep=True),
    _entry("ddpm", "ddpm:DDPM", "U-Net of DDPM", "Ho et al. 2020, arXiv:2006.11239"),
]
