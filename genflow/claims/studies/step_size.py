"""Distance against the number of steps, at exactly equal budgets (Xu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from genflow.bench.tables import Table
from genflow.claims.claim import SEED, Finding, ordering
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.results import Found, distance_row, floor_row, grid_table
from genflow.claims.studies.subjects import Subject
from genflow.estimates import Estimate, short, text, times
from genflow.report.palette import palette

CLAIM = (
    "Poisson flow is more robust to the step size of Euler's method than score-based models: its distance grows least "
    "as steps get fewer (Xu et al. 2022, arXiv:2209.11178, abstract). The figure's values for its competitors are not "
    "verified here; only the ordering is looked at."
)
Points = dict[tuple[str, str], dict[int | None, Blocks]]
"""Distances by (process, solver) and budget."""


class StepSize(Study):
    """FD against NFE; each growth is taken block by block from the largest budget to the smallest."""

    def run(self, lab: Lab) -> Found:
        subjects = lab.subjects(draw=True)
        asked = [(subject, list(lab.settings(subject))) for subject in subjects]
        lab.expect(sum(len(settings) for _, settings in asked))
        rows, points = [floor_row(lab.name, lab.ruler)], Points()
        for subject, settings in asked:
            for solver, nfe in settings:
                found = lab.plain(subject, solver, nfe)
                check_budget(nfe, found.nfe)
                given = {"solver": solver, "setting": "nfe", "level": nfe or ""}
                rows.append(distance_row(lab.name, lab.ruler, subject, found, **given))
                points.setdefault((label(subject, subjects), solver), {})[nfe] = found
        return Found(rows, [_table(lab, points)], CLAIM, findings(points), lambda folder: _draw(lab, points, folder))


def check_budget(asked: int | None, spent: float) -> None:
    """Raises ValueError where a fixed-step solver did not spend exactly its budget."""
    if asked is not None and spent != asked:
        raise ValueError(
            f"a budget of {asked} was asked for and {spent:g} calls were spent: budgets would not be equal"
        )


def label(subject: Subject, among: Sequence[Subject]) -> str:
    """The subject's name, with its seed where there are several."""
    return subject.name if len({one.seed for one in among}) == 1 else f"{subject.name}{SEED}{subject.seed}"


def findings(points: Points) -> list[Finding]:
    """For each solver: who loses least from the largest budget to the smallest, as a factor and as a difference."""
    said: list[Finding] = []
    for solver in dict.fromkeys(solver for _, solver in points):
        own = {name: by for (name, s), by in points.items() if s == solver}
        budgets = sorted(nfe for nfe in next(iter(own.values())) if nfe is not None)
        if len(budgets) < 2:
            continue
        few, many = budgets[0], budgets[-1]
        what = f"with {solver}, from NFE {many} to {few} the distance grows"
        said += growths(what, {name: (by[few], by[many]) for name, by in own.items()})
    return said


def growths(what: str, pairs: Mapping[str, tuple[Blocks, Blocks]]) -> list[Finding]:
    """Two sentences on who loses least from the second of each pair to the first: by what factor, and by how much.

    A factor flatters whoever was far off before, a difference whoever was near; so both are said.
    """
    first = next(iter(pairs))
    ratio = {name: worse.over(good) for name, (worse, good) in pairs.items()}
    gap = {name: worse.less(good) for name, (worse, good) in pairs.items()}
    return [ordering(f"{what} by a factor of", first, ratio, times), ordering(f"{what} by", first, gap, signed)]


def signed(one: Estimate) -> str:
    """+1.25 ± 0.12"""
    return text(one.value, one.error, signed=True)


def _table(lab: Lab, points: Points) -> Table:
    budgets = sorted({nfe for by in points.values() for nfe in by if nfe is not None})
    free = any(None in by for by in points.values())
    lines = {"real test split": [short(lab.ruler.floor)] * (len(budgets) + free)}
    for (name, solver), by in points.items():
        line = [str(by[nfe].mean) if nfe in by else "" for nfe in budgets]
        line += [f"{by[None].mean!s} (NFE {by[None].nfe:.0f})" if None in by else ""] if free else []
        lines[f"{name}, {solver}"] = line
    places = [f"NFE {nfe}" for nfe in budgets] + (["own NFE"] if free else [])
    return grid_table(
        f"{lab.ruler.name} against the number of steps", "process, solver", lines, places, lab.ruler.protocol
    )


def _draw(lab: Lab, points: Points, folder: Path) -> dict[str, str]:
    colours = palette(name for name, _ in points)
    solvers = list(dict.fromkeys(solver for _, solver in points))
    budgets = sorted({nfe for by in points.values() for nfe in by if nfe is not None})
    groups: dict[str, list[Curve]] = {solver: [] for solver in solvers}
    for (name, solver), by in points.items():
        order = sorted(by, key=lambda nfe: by[nfe].nfe)
        levels, values = [by[nfe].nfe for nfe in order], [by[nfe].mean for nfe in order]
        line = list(colours).index(name) % 4
        groups[solver].append(Curve(name, levels, values, colours[name], line))
    axes = Axes("NFE (backbone calls per sample)", f"{lab.ruler.name}, n = {lab.ruler.size}", lab.ruler.floor, budgets)
    curves(folder / "step_size.png", groups, axes)
    return {"step_size.png": f"{lab.ruler.name} against NFE. Bars are one standard error over blocks."}
