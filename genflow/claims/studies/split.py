"""The error in two: with the exact field only the solver errs, with a network both do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genflow.claims.claim import Finding
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.results import Found, distance_row, floor_row, grid_table
from genflow.claims.studies.step_size import label
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.estimates import Estimate, short
from genflow.report.palette import COLOURS, GREY

CLAIM = (
    "No paper splits its error so. The study says which of the two decides what is claimed of step sizes and of weak "
    "networks (Xu et al. 2022, arXiv:2209.11178)."
)
Pair = tuple[dict[int, Blocks], Blocks]
"""Distances by budget, and that of the field's own end."""


class SplitStudy(Study):
    """FD per NFE under the exact field and under the network, each against the end of its own flow."""

    def run(self, lab: Lab) -> Found:
        if lab.config.oracle:
            raise ConfigError("this study takes both the exact field and the network; leave oracle out")
        known = {(one.entry, one.seed): one for one in lab.exact()}
        subjects, rows = lab.subjects(), [floor_row(lab.name, lab.ruler)]
        budgets = list(lab.config.nfe)
        lab.expect(2 * len(subjects) * (len(budgets) + 1))
        found: dict[str, tuple[Pair, Pair]] = {}
        for subject in subjects:
            twin = known[subject.entry, subject.seed]
            both = [_along(lab, one, rows) for one in (twin, subject)]
            found[label(subject, subjects)] = both[0], both[1]
        solver = lab.setting(subjects[0])[0]
        how = (
            f"{lab.ruler.protocol}; {solver}; the end of a field is what {lab.config.reference} makes of the same "
            "draws. Solver's part: exact field at this NFE less its own end. Network's part: the network's end less "
            "the exact field's. Together: the network at this NFE less the exact field's end"
        )
        notes = [
            "The exact field is that of the training examples, so its end is training examples again: their distance "
            "to the training split is that of a draw of as many with replacement."
        ]
        draw = lambda folder: _draw(lab, found, folder)  # noqa: E731
        return Found(rows, [_table(found, how), _levels(lab, found)], CLAIM, _findings(found), draw, notes)


def _along(lab: Lab, subject: Subject, rows: list[dict[str, Any]]) -> Pair:
    solver, _ = lab.setting(subject)
    by = {nfe: lab.plain(subject, solver, nfe) for nfe in lab.config.nfe}
    end = lab.plain(subject, lab.config.reference, None)
    for blocks in by.values():
        given = {"solver": solver, "setting": "field", "level": subject.network}
        rows.append(distance_row(lab.name, lab.ruler, subject, blocks, **given))
    last = {"solver": lab.config.reference, "setting": "end of the field", "level": subject.network}
    rows.append(distance_row(lab.name, lab.ruler, subject, end, **last))
    return by, end


def parts(oracle: Pair, network: Pair, nfe: int) -> dict[str, Estimate]:
    """The solver's part, the network's, both together, and what they are together beyond their sum."""
    (exact, exact_end), (learnt, learnt_end) = oracle, network
    found = {
        "solver": exact[nfe].less(exact_end),
        "network": learnt_end.less(exact_end),
        "together": learnt[nfe].less(exact_end),
    }
    beyond = learnt[nfe].less(learnt_end) - exact[nfe].less(exact_end)
    return {**found, "beyond their sum": beyond}


def _findings(found: dict[str, tuple[Pair, Pair]]) -> list[Finding]:
    said = []
    for nfe in next(iter(found.values()))[0][0]:
        each = {name: parts(*pair, nfe) for name, pair in found.items()}
        solver, network = ({name: p[part] for name, p in each.items()} for part in ("solver", "network"))
        words = [f"{name} {solver[name]!s} by the solver and {network[name]!s} by the network" for name in each]
        larger = {name: "solver" if solver[name].value > network[name].value else "network" for name in each}
        kinds = set(larger.values())
        each_of = ", ".join(f"the {kind}'s for {name}" for name, kind in larger.items())
        most = f"the {kinds.pop()}'s part is the larger for all" if len(kinds) == 1 else f"the larger part is {each_of}"
        said.append(Finding(f"At NFE {nfe} the distance beyond the exact end is: {'; '.join(words)}. So {most}."))
    return said


def _table(found: dict[str, tuple[Pair, Pair]], caption: str) -> Any:
    budgets = list(next(iter(found.values()))[0][0])
    lines = {}
    for name, pair in found.items():
        for part in ("solver", "network", "together", "beyond their sum"):
            lines[f"{name}: {part}"] = [str(parts(*pair, nfe)[part]) for nfe in budgets]
    return grid_table("The error in parts", "process: part", lines, [f"NFE {nfe}" for nfe in budgets], caption)


def _levels(lab: Lab, found: dict[str, tuple[Pair, Pair]]) -> Any:
    budgets = list(next(iter(found.values()))[0][0])
    lines = {"real test split": [short(lab.ruler.floor)] * (len(budgets) + 1)}
    for name, pair in found.items():
        for field, (by, end) in zip(("exact field", "network"), pair, strict=True):
            lines[f"{name}, {field}"] = [
                *(str(by[nfe].mean) for nfe in budgets),
                f"{end.mean!s} (NFE {end.nfe:.0f})",
            ]
    places = [*(f"NFE {nfe}" for nfe in budgets), lab.config.reference]
    return grid_table(f"{lab.ruler.name} under both fields", "process, field", lines, places, lab.ruler.protocol)


def _draw(lab: Lab, found: dict[str, tuple[Pair, Pair]], folder: Path) -> dict[str, str]:
    groups = {}
    for name, pair in found.items():
        groups[name] = [
            Curve(field, list(by), [b.mean for b in by.values()], COLOURS[0] if i else GREY, i)
            for i, (field, (by, _)) in enumerate(zip(("exact field", "network"), pair, strict=True))
        ]
    axes = Axes("NFE (backbone calls per sample)", lab.ruler.name, lab.ruler.floor, list(lab.config.nfe))
    curves(folder / "split.png", groups, axes)
    return {"split.png": f"{lab.ruler.name} under the exact field and under the network. Bars are one standard error."}
