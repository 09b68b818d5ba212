"""Distance against the number of steps, at exactly equal budgets (Xu et al. 2022)."""

from __future__ import annotations

from typing import Any

from genflow.claims.studies import Outcome
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.series import Series, label


def run(experiment: Experiment) -> Outcome:
    """FD against NFE; each growth is taken block by block from the largest budget to the smallest."""
    subjects, series = experiment.subjects(draw=True), Series(experiment.distance, _word)
    asked = [(subject, *setting) for subject in subjects for setting in experiment.settings(subject)]
    experiment.expect(len(asked))
    for subject, solver, nfe in asked:
        found = experiment.plain(subject, solver, nfe)
        check_budget(nfe, found.nfe)
        experiment.add_distance(subject, found, solver, "nfe", nfe or "")
        series.add(solver, label(subject, subjects), nfe, found)
    table = series.table(
        "against the number of steps",
        "process, solver",
        experiment.distance.protocol,
        lambda solver, name: f"{name}, {solver}",
    )
    axis = "NFE (backbone calls per sample)"
    return Outcome(
        experiment.rows,
        [table],
        lambda out: series.draw(out / "step_size.png", axis, by_nfe=True),
        [remark for solver in series.panels for remark in _remarks(series, solver)],
    )


def check_budget(asked: int | None, spent: float) -> None:
    """Raises ValueError where a fixed-step solver did not spend exactly its budget."""
    if asked is not None and spent != asked:
        raise ValueError(
            f"a budget of {asked} was asked for and {spent:g} calls were spent: budgets would not be equal"
        )


def _word(nfe: Any) -> str:
    return "own NFE" if nfe is None else f"NFE {nfe}"


def _remarks(series: Series, solver: str) -> list[str]:
    budgets = [nfe for nfe in series.only(solver).levels() if nfe is not None]
    if len(budgets) < 2:
        return []
    few, many = budgets[0], budgets[-1]
    return series.remarks(solver, few, many, f"with {solver} from NFE {many} to {few}")
