"""The error in two: with the exact field only the solver errs, with a network both do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.bench.tables import Table
from genflow.claims.studies import Outcome
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.series import Series, label
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.estimates import Estimate
from genflow.report.palette import COLOURS, GREY

FIELDS = ("exact field", "network")
PARTS = ("solver", "network", "together", "beyond their sum")
End = dict[int | None, Blocks]
"""Distances by budget; None for that of the field's own end."""


def run(experiment: Experiment) -> Outcome:
    """FD per NFE under the exact field and under the network, each against the end of its own flow."""
    config = experiment.config
    if config.oracle:
        raise ConfigError("this study takes both the exact field and the network; leave oracle out")
    twins, subjects = {(one.entry, one.seed): one for one in experiment.exact()}, experiment.subjects()
    experiment.expect(2 * len(subjects) * (len(config.nfe) + 1))
    series = Series(experiment.distance, lambda nfe: config.reference if nfe is None else f"NFE {nfe}")
    for subject in subjects:
        for field, one in zip(FIELDS, (twins[subject.entry, subject.seed], subject), strict=True):
            for nfe, found in _along(experiment, one).items():
                series.add(label(subject, subjects), field, nfe, found)
    solver = experiment.setting(subjects[0])[0]
    caption = (
        f"{experiment.distance.protocol}; {solver}; the end of a field is what {config.reference} makes of the same "
        "draws. Solver's part: exact field at this NFE less its own end. Network's part: the network's end less "
        "the exact field's. Together: the network at this NFE less the exact field's end"
    )
    levels = series.table(
        "under both fields", "process, field", experiment.distance.protocol, lambda name, field: f"{name}, {field}"
    )
    budgets = list(config.nfe)
    notes = [
        "The exact field is that of the training examples, so its end is training examples again: their distance "
        "to the training split is that of a draw of as many with replacement."
    ]
    return Outcome(
        experiment.rows,
        [_table(series, budgets, caption), levels],
        lambda out: series.without(None).draw(
            out / "split.png", "NFE (backbone calls per sample)", dict(zip(FIELDS, (GREY, COLOURS[0]), strict=True))
        ),
        _remarks(series, budgets),
        notes=notes,
    )


def _along(experiment: Experiment, subject: Subject) -> End:
    """The distances at each budget, and at the field's end."""
    config, (solver, _) = experiment.config, experiment.setting(subject)
    by: End = {nfe: experiment.plain(subject, solver, nfe) for nfe in config.nfe}
    for found in by.values():
        experiment.add_distance(subject, found, solver, "field", subject.network)
    by[None] = experiment.plain(subject, config.reference, None)
    experiment.add_distance(subject, by[None], config.reference, "end of the field", subject.network)
    return by


def parts(fields: Mapping[str, End], nfe: int) -> dict[str, Estimate]:
    """The solver's part, the network's, both together, and what they are together beyond their sum."""
    exact, learnt = (fields[name] for name in FIELDS)
    end = exact[None].mean
    solver, network, together = exact[nfe].mean - end, learnt[None].mean - end, learnt[nfe].mean - end
    beyond = (learnt[nfe].mean - learnt[None].mean) - solver
    return dict(zip(PARTS, (solver, network, together, beyond), strict=True))


def _remarks(series: Series, budgets: list[int]) -> list[str]:
    found = []
    for nfe in budgets:
        each = {name: parts(fields, nfe) for name, fields in series.panels.items()}
        words = [f"{name} {p['solver']} by the solver and {p['network']} by the network" for name, p in each.items()]
        larger = {name: "solver" if p["solver"].value > p["network"].value else "network" for name, p in each.items()}
        kinds = set(larger.values())
        each_of = ", ".join(f"the {kind}'s for {name}" for name, kind in larger.items())
        most = f"the {kinds.pop()}'s part is the larger for all" if len(kinds) == 1 else f"the larger part is {each_of}"
        found.append(f"At NFE {nfe} the distance beyond the exact end is: {'; '.join(words)}. So {most}.")
    return found


def _table(series: Series, budgets: list[int], caption: str) -> Table:
    body: list[Any] = []
    for name, fields in series.panels.items():
        found = [parts(fields, nfe) for nfe in budgets]
        body += [[f"{name}: {part}", *(str(one[part]) for one in found)] for part in PARTS]
    return Table("The error in parts", ["process: part", *(f"NFE {nfe}" for nfe in budgets)], body, caption)
