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
]
