"""Augmented dimensions D of Poisson flow, from 1 to the Gaussian limit (Xu et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

from genflow.claims.studies import Outcome
from genflow.claims.studies.config import bench_of
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.series import Series
from genflow.claims.studies.subjects import Subject, exact, trained
from genflow.config import ConfigError
from genflow.report.palette import COLOURS

OPTION = "D"


def run(experiment: Experiment) -> Outcome:
    """FD along the axis of D, at each budget."""
    config, dims = experiment.config, sorted(set(experiment.config.dims))
    if config.checkpoint or len(config.process) != 1 or len(config.seed) != 1:
        raise ConfigError("this study makes its own models: give one process that has an option D, and one seed")
    series = Series(experiment.distance, lambda dim: f"D = {dim:g}")
    for dim in dims:
        subject = _subject(experiment, dim)
        settings = list(experiment.settings(subject))
        experiment.expect(len(settings))
        for solver, nfe in settings:
            found = experiment.plain(subject, solver, nfe)
            experiment.add_distance(subject, found, solver, OPTION, f"{dim:g}")
            series.add("", f"{solver}, NFE {nfe or 'its own'}", dim, found)
    caption = f"{experiment.distance.protocol}; {subject.how}; seed {subject.seed}"
    colours = {line: COLOURS[i % len(COLOURS)] for i, line in enumerate(series.panels[""])}
    axis = "augmented dimensions D (the largest stands for ∞)"
    return Outcome(
        experiment.rows,
        [series.table("along D", "solver", caption)],
        lambda out: series.draw(out / "dimension.png", axis, colours),
        _remarks(series),
        notes=[f"D = {dims[-1]:g} stands for the limit D → ∞, where the base is Gaussian."],
    )


def _subject(experiment: Experiment, dim: float) -> Subject:
    """The process at that D, trained or under the exact field."""
    name, given = experiment.config.process[0], experiment.config.process_options
    own = {**given.get(name, {}), OPTION: int(dim) if float(dim).is_integer() else dim}
    bench = bench_of(experiment.config, process_options={name: own})
    if experiment.config.oracle:
        (subject,) = exact(bench, experiment.dataset)
    else:
        (subject,) = trained(bench, experiment.show, draw=True)
    return replace(subject, name=f"{name}, D = {dim:g}")


def _remarks(series: Series) -> list[str]:
    """At each budget: the best D, and what it gains over both ends, block by block."""
    found = []
    for line, by in series.panels[""].items():
        dims = sorted(by)
        best = min(dims, key=lambda dim: by[dim].mean.value)
        gains = [f"{by[end].mean - by[best].mean} over D = {end:g}" for end in (dims[0], dims[-1]) if end != best]
        gained = f"; it gains {' and '.join(gains)}" if gains else ""
        found.append(
            f"With {line}, the best D is {best:g} with {by[best].mean}{gained}. It was picked by the same "
            "numbers, which favours it."
        )
    return found
