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
_SONG = "Song et al. 2021, arXiv:2011.13456"
_NO_SCORE = {"score": "the base is not Gaussian, so the velocity does not determine the score"}
_NO_DATA_EARLY = {"affine": "before t = 1/2 there is no data in x_t"}


def _entry(
    name: str, target: str, summary: str, source: str, family: str = "", mode: str = "ode", **facts: Any
) -> Entry:
    """One name; facts are options that it stands for (`preset`) and what it cannot do, with reasons (`missing`)."""
    missing = {"missing": facts["missing"]} if "missing" in facts else {}
    tags = {"mode": mode, **missing}
    return Entry(name, f"genflow.process.{target}", summary, source, family or name, facts.get("preset", {}), tags=tags)


def _pair(names: tuple[str, str], target: str, path: str, sde: str, source: str, **facts: Any) -> tuple[Entry, Entry]:
    """The two names of one process: sampled by its ODE, and by the SDE that `sde` names."""
    flow = "probability-flow ODE" if source == _SONG else "ODE"
    family = names[0].removesuffix("_ode")
    return (
        _entry(names[0], target, f"{path}, sampled by its {flow}", source, family, **facts),
        _entry(names[1], target, f"{path}, sampled by {sde}", source, family, "sde", preset={"mode": "sde"}, **facts),
    )


CATALOG = [
    _entry(
        "pfgm",
        "poisson:PFGM",
        "Poisson flow: data as charges, x_z = X + z·Cauchy, ODE in z",
        "Xu et al. 2022, arXiv:2209.11178",
        missing=_NO_SCORE,
    ),
    _entry(
        "pfgmpp",
        "poisson:PFGMPP",
        "Poisson flow from D more dimensions: x_σ = X + σ·Student-t(D), ODE in σ; D = 1 is pfgm, D → ∞ is EDM",
        "Xu et al. 2023, arXiv:2302.04265",
        missing=_NO_SCORE,
    ),
    *_pair(("vp_ode", "vp_sde"), "score_sde:VP", "variance preserving", "its reverse SDE", _SONG),
    *_pair(
        ("si_linear", "si_linear_sde"),
        "paths:SILinear",
        "linear interpolant x_t = t X + (1 − t) N",
        "an SDE with ε = b (a' b − a b')",
        _ALBERGO,
    ),
    *_pair(
        ("si_trig", "si_trig_sde"),
        "paths:SITrig",
        "trigonometric interpolant x_t = sin(πt/2) X + cos(πt/2) N",
        "an SDE with ε = b (a' b − a b')",
        _ALBERGO,
    ),
    *_pair(
        ("si_encdec", "si_encdec_sde"),
        "paths:SIEncDec",
        "encoding-decoding interpolant: base to pure noise at t = 1/2 to data",
        "an SDE with ε = γ²",
        _FOLLOWUP,
        missing=_NO_DATA_EARLY,
    ),
    _entry(
        "si_mirror",
        "paths:SIMirror",
        "mirror interpolant: data to noise and back, x_t = X + γ Z, sampled by an SDE with ε = 4 γ²",
        _FOLLOWUP,
        mode="sde",
        missing={
            "ode": "its flow leads each example back to itself",
            "affine": "its noise grows and shrinks again, so a noise level does not belong to one time",
            "norm": "its noise grows and shrinks again, so a noise level does not belong to one time",
            "likelihood": "its base is a data set, which has no density",
        },
    ),
    _entry(
        "si_fourier",
        "paths:SIFourier",
        "trigonometric interpolant with Fourier terms, which can be learnt towards optimal transport; its ODE",
        _ALBERGO,
    ),
    *_pair(("subvp_ode", "subvp_sde"), "score_sde:SubVP", "sub-variance-preserving", "its reverse SDE", _SONG),
    *_pair(("ve_ode", "ve_sde"), "score_sde:VE", "variance exploding", "its reverse SDE", _SONG),
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
