"""Augmented dimensions D of Poisson flow, from 1 to the Gaussian limit (Xu et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from genflow.claims.claim import Finding, capital
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.studies.config import bench_of
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.results import Found, distance_row, floor_row, grid_table
from genflow.claims.studies.subjects import Subject, exact, trained
from genflow.config import ConfigError
from genflow.estimates import Judgement, all_of, judge, short
from genflow.report.palette import COLOURS

CLAIM = (
    "A D between 1 (Poisson flow) and ∞ (diffusion) is best: on CIFAR-10 FID 1.92 at D = 128 and 1.91 at D = 2048, "
    "against 1.98 for D → ∞ (the authors' README of Xu et al. 2023, arXiv:2302.04265)."
)
OPTION = "D"
Points = dict[tuple[str, int | None], dict[float, Blocks]]
"""Distances by (solver, budget) and D."""


class DimensionStudy(Study):
    """FD along the axis of D, at each budget."""

    def run(self, lab: Lab) -> Found:
        config = lab.config
        dims = sorted(set(config.dims))
        if config.checkpoint or len(config.process) != 1 or len(config.seed) != 1:
            raise ConfigError("this study makes its own models: give one process that has an option D, and one seed")
        rows, points = [floor_row(lab.name, lab.ruler)], Points()
        for dim in dims:
            subject = _subject(lab, dim)
            settings = list(lab.settings(subject))
            lab.expect(len(settings))
            for solver, nfe in settings:
                found = lab.plain(subject, solver, nfe)
                given = {"solver": solver, "setting": OPTION, "level": f"{dim:g}"}
                rows.append(distance_row(lab.name, lab.ruler, subject, found, **given))
                points.setdefault((solver, nfe), {})[dim] = found
        how = f"{lab.ruler.protocol}; {subject.how}; seed {subject.seed}"
        notes = [f"D = {dims[-1]:g} stands for the limit D → ∞, where the base is Gaussian."]
        draw = lambda folder: _draw(lab, points, folder)  # noqa: E731
        return Found(rows, [_table(lab, points, how)], CLAIM, _findings(points), draw, notes)


def _subject(lab: Lab, dim: float) -> Subject:
    """The process at that D, trained or under the exact field."""
    name, given = lab.config.process[0], lab.config.process_options
    own = {**given.get(name, {}), OPTION: int(dim) if float(dim).is_integer() else dim}
    bench = bench_of(lab.config, process_options={name: own})
    (subject,) = exact(bench, lab.dataset) if lab.config.oracle else trained(bench, lab.tell, draw=True)
    return replace(subject, name=f"{name}, D = {dim:g}")


def _findings(points: Points) -> list[Finding]:
    """At each budget: the best D, and whether one between the ends is told apart from both."""
    said = []
    for (solver, nfe), by in points.items():
        dims = sorted(by)
        best, ends = min(dims, key=lambda dim: by[dim].mean.value), [dims[0], dims[-1]]
        gaps = " and ".join(f"{by[end].less(by[best])!s} over D = {end:g}" for end in ends if end != best)
        where = f"with {solver}" + (f" at NFE {nfe}" if nfe else "")
        text = f"{capital(where)} the best D is {best:g} with {by[best].mean}; it gains {gaps}."
        found = verdict(by)
        detail = "the best of several is a little flattered"
        said.append(Finding(text, "That a D between the ends is better than both", found, detail, found.p))
    return said


def verdict(by: Mapping[float, Blocks]) -> Judgement:
    """The verdict on the best D's being one between the ends, block by block: it holds where an inner one is best and
    beats both ends, and fails where an end is best and beats all between."""
    dims = sorted(by)
    best = min(dims, key=lambda dim: by[dim].mean.value)
    inner = best not in (dims[0], dims[-1])
    rivals = [dims[0], dims[-1]] if inner else dims[1:-1]
    found = all_of(judge(by[dim].less(by[best])) for dim in rivals)
    return found if inner else found.opposite


def _table(lab: Lab, points: Points, caption: str) -> Any:
    dims = sorted({dim for by in points.values() for dim in by})
    lines = {"real test split": [short(lab.ruler.floor)] * len(dims)}
    for (solver, nfe), by in points.items():
        lines[f"{solver}, NFE {nfe or 'its own'}"] = [str(by[dim].mean) if dim in by else "" for dim in dims]
    return grid_table(f"{lab.ruler.name} along D", "solver", lines, [f"D = {dim:g}" for dim in dims], caption)


def _draw(lab: Lab, points: Points, folder: Path) -> dict[str, str]:
    dims = sorted({dim for by in points.values() for dim in by})
    lines = [
        Curve(f"{solver}, NFE {nfe or 'its own'}", dims, [by[d].mean for d in dims], COLOURS[i % len(COLOURS)], i % 4)
        for i, ((solver, nfe), by) in enumerate(points.items())
    ]
    axes = Axes("augmented dimensions D (the largest stands for ∞)", lab.ruler.name, lab.ruler.floor, dims)
    curves(folder / "dimension.png", {"": lines}, axes)
    return {"dimension.png": f"{lab.ruler.name} along D. Bars are one standard error."}
