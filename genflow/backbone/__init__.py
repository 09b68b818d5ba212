"""Backbones: networks of (x_t, condition). This page lists them; it imports no torch."""

from __future__ import annotations

from genflow.registry import Entry

CATALOG = [
    Entry(
        "mlp",
        "genflow.backbone.mlp:MLP",
        "residual multilayer perceptron for vectors and small images",
        "",
        family="mlp",
        tags={"year": None},
    ),
    Entry(
        "ncsnv2",
        "genflow.backbone.ncsnv2:NCSNv2",
        "RefineNet with InstanceNorm++ and ELU",
        "Song & Ermon 2020, arXiv:2006.09011",
        family="ncsnv2",
        tags={"year": 2020},
    ),
    Entry(
        "ncsnpp",
        "genflow.backbone.ncsnpp:NCSNpp",
        "NCSN++: U-Net with BigGAN blocks, FIR filters, an input pyramid and Fourier features of the time",
        "Song et al. 2021, arXiv:2011.13456",
        family="ncsnpp",
        tags={"year": 2021},
    ),
    Entry(
        "ddpmpp",
        "genflow.backbone.ncsnpp:NCSNpp",
        "DDPM++: U-Net with BigGAN blocks and positional features of the time, as PFGM uses it",
        "Song et al. 2021, arXiv:2011.13456",
        family="ddpmpp",
        preset={"fir": False, "progressive_input": "none", "embedding_type": "positional"},
        tags={"year": 2021},
    ),
    Entry(
        "ddpm",
        "genflow.backbone.ddpm:DDPM",
        "U-Net of DDPM",
        "Ho et al. 2020, arXiv:2006.11239",
        family="ddpm",
        tags={"year": 2020},
    ),
]
