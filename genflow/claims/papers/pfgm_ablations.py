"""PFGM's ablations (Xu et al. 2022): γ, M, τ, the large batch and the normalised field, one change at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from genflow.claims.claim import Claim
from genflow.claims.judge import Query, distance, less
from genflow.claims.papers.sources import FD, XU
from genflow.claims.recipe import Recipe, Variant, at_scales, unpublished
from genflow.claims.results import Results

_SMALL = {"perturbation": "published", "prior": "published"}
_FULL = dict(
    pair.split(": ")
    for pair in [
        "dim: 3072",
        "sigma_end: 0.01",
        "tau: 0.03",
        "m_max: 291",
        "gamma: 5",
        "z_min: 1e-3",
        "z_max: 40",
        "z_exp: 5",
        "upper_norm: 3000",
        "prior: published",
        "inverse: published",
        "constant: published",
        "perturbation: published",
        "restrict: signed",
        "restrict_m: 200",
        "large_batch: 3968",
    ]
)
_BASE = {"small": _SMALL, "full": _FULL}
"""Options of the unchanged process; the full scale's are those of pfgm_cifar10."""

CHANGES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "as published": ({}, {}),
    "γ a tenth": ({"gamma": "0.1"}, {"gamma": "0.5"}),
    "γ ten times": ({"gamma": "10"}, {"gamma": "50"}),
    "M two thirds": ({"m_max": "100"}, {"m_max": "194", "z_max": "null"}),
    "M a half more": ({"m_max": "230"}, {"m_max": "437", "z_max": "null"}),
    "τ a third": ({"tau": "0.01"}, {"tau": "0.01", "m_max": "null", "z_max": "null"}),
    "τ three times": ({"tau": "0.1"}, {"tau": "0.1", "m_max": "null", "z_max": "null"}),
    "no large batch": ({"large_batch": "0"}, {"large_batch": "0"}),
    "no normalised field": (
        {"head": "data", "perturbation": "exact", "prior": "exact"},
        {"head": "data", "perturbation": "exact", "prior": "exact", "inverse": "projected"},
    ),
}
"""What is changed, by name, at the small and at the full scale. γ of the small scale is about 1, M about 150."""


def _part(scale: str, name: str) -> str:
    return f"pfgm_ablation_{list(CHANGES).index(name)}_{scale}"


def _variants(scale: str) -> tuple[Variant, ...]:
    base, config = _BASE[scale], "pfgm_ablations_small" if scale == "small" else "pfgm_cifar10_full"
    found = []
    for name, changes in CHANGES.items():
        options = {**base, **changes[scale == "full"]}
        words = ", ".join(f"{k}: {v}" for k, v in options.items())
        found.append(Variant(_part(scale, name), config, (f"process_options={{pfgm: {{{words}}}}}",)))
    return tuple(found)


def _of(name: str) -> Query:
    def query(results: Results) -> Mapping[str, str]:
        return {"part": _part(results.scale, name), "metric": distance(results), "process": "pfgm"}

    return query


def _draw(results: Results, folder: Path) -> dict[str, str]:
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS

    found = {name: results.find(**_of(name)(results)) for name in CHANGES}  # type: ignore[operator]
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return {}
    line = Curve("PFGM", range(len(known)), list(known.values()), COLOURS[0])
    names = [name.replace(" ", "\n", 1) for name in known]
    curves(folder / "ablations.png", {"": [line]}, Axes("", distance(results), names=names))
    return {"ablations.png": f"{distance(results)} with one change at a time; bars are one standard error over seeds"}


ablations = Recipe(
    name="pfgm_ablations",
    title="PFGM: γ, M, τ, the large batch and the normalised field",
    paper=XU,
    claim="The rules for M, τ and γ, the large batch of the target and the normalised field all serve quality.",
    comparisons=unpublished(
        (
            name,
            at_scales(FD, "FID", _part("full", name), process="pfgm")
            | {"small": {"part": _part("small", name), "metric": FD, "process": "pfgm"}},
        )
        for name in CHANGES
    ),
    claims=tuple(
        Claim(
            f"Samples are better as published than with {name}.",
            less(_of("as published"), _of(name), ("published", name)),
        )
        for name in list(CHANGES)[1:]
    ),
    parts={scale: _variants(scale) for scale in ("small", "full")},
    draw=_draw,
    notes=(
        "Published terms, one change at a time. Without the normalised field the network learns X̂, with exact Cauchy "
        "draws. The full scale has to be trained (--train): of the changed settings no weights are published.",
    ),
)
