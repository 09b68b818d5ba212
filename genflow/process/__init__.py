"""Processes: how data becomes noise, and what the way back needs. This page lists them; it imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genflow.registry import Entry

if TYPE_CHECKING:
    from genflow.process.affine import AffineProcess
    from genflow.process.affine_path import Coefficients
    from genflow.process.base import Perturbed, Process
    from genflow.process.field import Field

__all__ = ["AffineProcess", "Coefficients", "Field", "Perturbed", "Process"]

CAPABILITIES = {
    "ode": "flow (ODE)",
    "data": "posterior mean",
    "score": "score",
    "sde": "reverse SDE",
    "affine": "exponential solvers",
    "likelihood": "likelihood",
    "oracle": "exact field of known data",
    "norm": "norm study",
}
"""What a process may be able to do, by the word of `Process.why_not`, in words."""

_ALBERGO = "Albergo & Vanden-Eijnden 2023, arXiv:2209.15571"
_FOLLOWUP = "Albergo et al. 2023, arXiv:2303.08797"
_NO_DATA_EARLY = "before t = 1/2 there is no data in x_t"
_SONG = "Song et al. 2021, arXiv:2011.13456"

CATALOG = [
    Entry(
        "pfgm",
        "genflow.process.poisson:PFGM",
        "Poisson flow: data as charges, x_z = X + z·Cauchy, ODE in z",
        "Xu et al. 2022, arXiv:2209.11178",
        family="pfgm",
        tags={
            "mode": "ode",
            "year": 2022,
            "missing": {"score": "the base is not Gaussian, so the velocity does not determine the score"},
        },
    ),
    Entry(
        "pfgmpp",
        "genflow.process.poisson:PFGMPP",
        "Poisson flow from D more dimensions: x_σ = X + σ·Student-t(D), ODE in σ; D = 1 is pfgm, D → ∞ is EDM",
        "Xu et al. 2023, arXiv:2302.04265",
        family="pfgmpp",
        tags={
            "mode": "ode",
            "year": 2023,
            "missing": {"score": "the base is not Gaussian, so the velocity does not determine the score"},
        },
    ),
    Entry(
        "vp_ode",
        "genflow.process.score_sde:VP",
        "variance preserving, sampled by its probability-flow ODE",
        _SONG,
        family="vp",
        tags={"mode": "ode", "year": 2021},
    ),
    Entry(
        "vp_sde",
        "genflow.process.score_sde:VP",
        "variance preserving, sampled by its reverse SDE",
        _SONG,
        family="vp",
        preset={"mode": "sde"},
        tags={"mode": "sde", "year": 2021},
    ),
    Entry(
        "si_linear",
        "genflow.process.paths:SILinear",
        "linear interpolant x_t = t X + (1 − t) N, sampled by its ODE",
        _ALBERGO,
        family="si_linear",
        tags={"mode": "ode", "year": 2022},
    ),
    Entry(
        "si_linear_sde",
        "genflow.process.paths:SILinear",
        "linear interpolant x_t = t X + (1 − t) N, sampled by an SDE with ε = b (a' b − a b')",
        _ALBERGO,
        family="si_linear",
        preset={"mode": "sde"},
        tags={"mode": "sde", "year": 2022},
    ),
    Entry(
        "si_trig",
        "genflow.process.paths:SITrig",
        "trigonometric interpolant x_t = sin(πt/2) X + cos(πt/2) N, sampled by its ODE",
        _ALBERGO,
        family="si_trig",
        tags={"mode": "ode", "year": 2022},
    ),
    Entry(
        "si_trig_sde",
        "genflow.process.paths:SITrig",
        "trigonometric interpolant x_t = sin(πt/2) X + cos(πt/2) N, sampled by an SDE with ε = b (a' b − a b')",
        _ALBERGO,
        family="si_trig",
        preset={"mode": "sde"},
        tags={"mode": "sde", "year": 2022},
    ),
    Entry(
        "si_encdec",
        "genflow.process.paths:SIEncDec",
        "encoding-decoding interpolant: base to pure noise at t = 1/2 to data, sampled by its ODE",
        _FOLLOWUP,
        family="si_encdec",
        tags={"mode": "ode", "year": 2023, "missing": {"affine": _NO_DATA_EARLY}},
    ),
    Entry(
        "si_encdec_sde",
        "genflow.process.paths:SIEncDec",
        "encoding-decoding interpolant: base to pure noise at t = 1/2 to data, sampled by an SDE with ε = γ²",
        _FOLLOWUP,
        family="si_encdec",
        preset={"mode": "sde"},
        tags={"mode": "sde", "year": 2023, "missing": {"affine": _NO_DATA_EARLY}},
    ),
    Entry(
        "si_mirror",
        "genflow.process.paths:SIMirror",
        "mirror interpolant: data to noise and back, x_t = X + γ Z, sampled by an SDE with ε = 4 γ²",
        _FOLLOWUP,
        family="si_mirror",
        tags={
            "mode": "sde",
            "year": 2023,
            "missing": {
                "ode": "its flow leads each example back to itself",
                "affine": "its noise grows and shrinks again, so a noise level is no time of it",
                "norm": "its noise grows and shrinks again, so a noise level is no time of it",
                "likelihood": "its base is a data set, which has no density",
            },
        },
    ),
    Entry(
        "si_fourier",
        "genflow.process.paths:SIFourier",
        "trigonometric interpolant with Fourier terms, which can be learnt towards optimal transport; its ODE",
        _ALBERGO,
        family="si_fourier",
        tags={"mode": "ode", "year": 2022},
    ),
    Entry(
        "subvp_ode",
        "genflow.process.score_sde:SubVP",
        "sub-variance-preserving, sampled by its probability-flow ODE",
        _SONG,
        family="subvp",
        tags={"mode": "ode", "year": 2021},
    ),
    Entry(
        "subvp_sde",
        "genflow.process.score_sde:SubVP",
        "sub-variance-preserving, sampled by its reverse SDE",
        _SONG,
        family="subvp",
        preset={"mode": "sde"},
        tags={"mode": "sde", "year": 2021},
    ),
    Entry(
        "ve_ode",
        "genflow.process.score_sde:VE",
        "variance exploding, sampled by its probability-flow ODE",
        _SONG,
        family="ve",
        tags={"mode": "ode", "year": 2021},
    ),
    Entry(
        "ve_sde",
        "genflow.process.score_sde:VE",
        "variance exploding, sampled by its reverse SDE",
        _SONG,
        family="ve",
        preset={"mode": "sde"},
        tags={"mode": "sde", "year": 2021},
    ),
]

_LAZY = {
    "AffineProcess": "affine",
    "Process": "base",
    "Coefficients": "base",
    "Field": "field",
    "Perturbed": "base",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"genflow.process.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'genflow.process' has no attribute '{name}'")
