"""Backbones: networks of (x_t, condition). This page lists them; it imports no torch."""

from __future__ import annotations

from genflow.backbone.sizes import SIZES
from genflow.registry import Entry

DDPMPP = {"fir": False, "progressive_input": "none", "embedding_type": "positional"}

CATALOG = [
    Entry(
        "mlp",
        "genflow.backbone.mlp:MLP",
        "residual multilayer perceptron for vectors and small images",
        "",
        family="mlp",
        tags={"year": None, "sizes": SIZES["mlp"]},
    ),
    Entry(
        "ncsnv2",
        "genflow.backbone.ncsnv2:NCSNv2",
        "RefineNet with InstanceNorm++ and ELU",
        "Song & Ermon 2020, arXiv:2006.09011",
        family="ncsnv2",
        tags={"year": 2020, "sizes": SIZES["ncsnv2"]},
    ),
    Entry(
        "ncsnpp",
        "genflow.backbone.ncsnpp:NCSNpp",
        "NCSN++: U-Net with BigGAN blocks, FIR filters, an input pyramid and Fourier features of the time",
        "Song et al. 2021, arXiv:2011.13456",
        family="ncsnpp",
        tags={"year": 2021, "sizes": SIZES["ncsnpp"]},
    ),
    Entry(
        "ddpmpp",
        "genflow.backbone.ncsnpp:NCSNpp",
        "DDPM++: U-Net with BigGAN blocks and positional features of the time, as PFGM uses it",
        "Song et al. 2021, arXiv:2011.13456",
        family="ddpmpp",
        preset=DDPMPP,
        tags={"year": 2021, "sizes": SIZES["ddpmpp"]},
    ),
    Entry(
        "ncsnpp_deep",
        "genflow.backbone.ncsnpp:NCSNpp",
        "NCSN++ with twice the blocks per level",
        "Song et al. 2021, arXiv:2011.13456",
        family="ncsnpp_deep",
        preset={"deep": True},
        tags={"year": 2021, "sizes": SIZES["ncsnpp_deep"]},
    ),
    Entry(
        "ddpmpp_deep",
        "genflow.backbone.ncsnpp:NCSNpp",
        "DDPM++ with twice the blocks per level",
        "Song et al. 2021, arXiv:2011.13456",
        family="ddpmpp_deep",
        preset={**DDPMPP, "deep": True},
        tags={"year": 2021, "sizes": SIZES["ddpmpp_deep"]},
    ),
    Entry(
        "ddpm",
        "genflow.backbone.ddpm:DDPM",
        "U-Net of DDPM",
        "Ho et al. 2020, arXiv:2006.11239",
        family="ddpm",
        tags={"year": 2020, "sizes": SIZES["ddpm"]},
    ),
]
