"""Terms: what a comparison of processes states of everything but path and base, as data. Imports no torch.

A process is a path and a base. A trained model is besides a head, a target, a density of training times, a loss weight
and a range of noise; a sample is besides a solver, a grid and an end. Under "controlled" terms all of these are equal,
under "published" ones each process has those of its paper, and under "tuned" ones those that a search found for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AXES = {
    "head": "head",
    "target": "objective",
    "times": "times",
    "weight": "weighting",
    "frame": "frame",
    "grid": "grid",
    "end": "end",
    "solver_frame": "frame",
}
"""What terms fix, and the option that sets it: of the process, or of the solver (`SAMPLER`). The range of σ has an axis
of its own, "sigma". "frame" is that of the network."""

SAMPLER = ("grid", "end", "solver_frame")
"""Axes that are options of the solver."""

CONTROLLED: dict[str, Any] = {
    "head": "edm_rms",
    "objective": "stable",
    "large_batch": 512,
    "times": "log_normal",
    "P_mean": -0.5,
    "P_std": 1.2,
    "weighting": "unit",
    "relative": True,
    "sigma_min": 0.003,
    "sigma_max": 100.0,
    "frame": "sigma",
}
"""Process options of controlled terms: one head that every base has, and noise in multiples of the data's σ_d."""

CONTROLLED_SAMPLER: dict[str, Any] = {"grid": "edm", "end": "none", "end_noise": "own", "frame": "sigma"}
"""Solver options of controlled terms, for solvers that take them. All steps are the same steps of x/a in σ. No call is
spent on the end: each path stops at the same σ, a third of a grey level of 256 on images, as X + σ N."""

REACH: dict[str, dict[str, Any]] = {"vp": {"beta_max": 30.0}, "subvp": {"beta_max": 30.0}}
"""Options by family that let a path reach the controlled range of σ on data of any usual scale. They change how fast it
runs through σ, on which nothing depends under controlled terms."""

_OWN = {"objective": "own", "times": "clock", "weighting": "unit", "frame": "path"}
_SDE = {**_OWN, "head": "noise"}
_FLOW = {**_OWN, "head": "velocity"}
PUBLISHED: dict[str, dict[str, str]] = {
    "pfgm": {**_OWN, "head": "field", "objective": "stable", "sigma": "0.001 to the data's z_max"},
    "pfgmpp": {**_OWN, "head": "edm", "times": "log_normal", "sigma": "0.002 to 80"},
    "vp": {**_SDE, "sigma": "0.0105 to 152"},
    "subvp": {**_SDE, "sigma": "0.00011 to 152"},
    "ve": {**_SDE, "sigma": "0.01 to 50"},
    "si_linear": {**_FLOW, "sigma": "0.001 to 999"},
    "si_trig": {**_FLOW, "sigma": "0.00157 to 637"},
    "si_fourier": {**_FLOW, "sigma": "0.00157 to 637"},
    "si_encdec": {**_OWN, "head": "edm", "sigma": "not one"},
    "si_mirror": {**_OWN, "head": "edm", "sigma": "not one"},
}
"""Published terms by family, which are the defaults of the classes and solvers; a test holds the two together."""


def described(family: str, process: Mapping[str, Any], sampler: Mapping[str, Any]) -> dict[str, str]:
    """Every axis of a process in words, with options put over its published terms.

    Arguments:
        family: Of the process; one without published terms here has "its own" where no option says more.
        process: Its options.
        sampler: Those of its solver.
    """
    known = {"grid": "process", "end": "none", "solver_frame": "native", **PUBLISHED.get(family, {})}
    options = {**process, **{axis: sampler[AXES[axis]] for axis in SAMPLER if AXES[axis] in sampler}}
    keys = {axis: axis if axis in SAMPLER else option for axis, option in AXES.items()}
    found = {axis: str(options.get(key, known.get(key, "its own"))) for axis, key in keys.items()}
    if (noise := sampler.get("end_noise")) is not None:
        found["end"] += " at its own noise" if noise == "own" else f" at noise {noise:g}"
    if found["target"] == "stable":
        found["target"] += f", {options.get('large_batch', 512)} references"
    normal = {name: options[name] for name in ("P_mean", "P_std") if name in options}
    found["times"] += f" ({', '.join(f'{k} {v:g}' for k, v in normal.items())})" if normal else ""
    found["sigma"] = _range(options) or known.get("sigma", "its own")
    return found


def _range(options: Mapping[str, Any]) -> str:
    low, high = (options.get(name) for name in ("sigma_min", "sigma_max"))
    if low is None and high is None:
        return ""
    unit = " σ_d" if options.get("relative") else ""
    ends = ["its own end" if end is None else f"{end:g}{unit}" for end in (low, high)]
    return " to ".join(ends)


def differences(specs: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Axes on which processes differ: axis -> value -> names of the processes that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for axis in (*AXES, "sigma"):
        values: dict[str, list[str]] = {}
        for name, spec in specs.items():
            values.setdefault(spec[axis], []).append(name)
        if len(values) > 1:
            found[axis] = values
    return found
