"""Norm against noise level, in training and on sampling paths, and the fate of paths that are pushed off."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from genflow.bench.tables import Table
from genflow.claims.judge import least
from genflow.claims.results import EXACT
from genflow.claims.studies import Outcome
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.norm_numbers import LEVELS, WHERE, WORDS, Norms, band, measures
from genflow.claims.studies.norm_pictures import draw_bands, draw_fates
from genflow.claims.studies.series import SEED, Series, label, over_seeds
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.evaluate.base import Context
from genflow.evaluate.norm_z import NormStudy, norm_study

Found = Mapping[str, Norms]


def run(experiment: Experiment) -> Outcome:
    """The norm study in native and rescaled coordinates, in blocks."""
    found: dict[str, Norms] = {}
    left, subjects = [], experiment.subjects()
    pushes = Series(experiment.distance, lambda factor: f"|x| × {factor:g}")
    experiment.expect(len(subjects))
    for subject in subjects:
        reason = subject.process.why_not("norm") or subject.process.why_not("affine")
        if reason:
            left.append(f"{subject.name} is left out: {reason}.")
            continue
        name = label(subject, subjects)
        found[name] = measure(experiment, subject)
        _add_rows(experiment, subject, found[name])
        for factor, blocks in found[name].pushed.items():
            pushes.add("", name, factor, blocks)
    if not found:
        raise ConfigError(f"nothing to study: {' '.join(left)}")
    notes = [
        "Times are those of each process's own grid, which decides how often a noise level counts. σ = b/a, which "
        "is z for Poisson flow. |x|/a is the rescaled coordinate X + σN; where a is 1 it is |x|. The norm of a "
        "Cauchy draw has no mean, so bands are quantiles; bands.csv has mean and deviation too.",
        *left,
    ]
    caption = (
        f"|x| is multiplied where noise to signal is {experiment.config.norm.level:g}; |x| and |x|/a change alike. "
        + experiment.distance.protocol
    )
    ties = {of: least_tied(experiment.distance.size, found, which, of) for which, of in WHERE.items()}
    return Outcome(
        experiment.rows,
        [_table(found, experiment.distance.size), pushes.table("after a push", "process", caption)],
        lambda out: {
            **draw_bands(found, out),
            **draw_fates(found, out),
            **pushes.draw(out / "pushes.png", "factor on |x| mid-way"),
        },
        [remark for _, remark in ties.values()] + _push_remarks(found, pushes),
        [verdict for verdict, _ in ties.values()],
        notes,
        {"bands.csv": bands(found)},
    )


def measure(experiment: Experiment, subject: Subject) -> Norms:
    """The study of one subject."""
    solver, nfe = experiment.setting(subject)
    norm, words = replace(experiment.config.norm, solver=solver, nfe=nfe), f"{subject.name} norms"
    experiment.progress(words)
    tick = lambda share: experiment.progress(words, share)  # noqa: E731
    context = Context(experiment.bench, experiment.dataset, subject.seed, tick=tick)
    study = norm_study(subject.process, subject.backbone, context, experiment.config.samples, norm)
    experiment.done += 1
    return _read(experiment, subject, study)


def _read(experiment: Experiment, subject: Subject, study: NormStudy) -> Norms:
    times = torch.from_numpy(study.arrays["times"])
    a, b = subject.process.schedule(times)
    sigma = b / a
    kept = sigma.isfinite() & (sigma > 0) & (a > 0)
    after_a, after_b = subject.process.schedule(times[study.middle :])
    plain, trained = study.pushed_norms[1.0], subject.network != EXACT
    return Norms(
        sigma[kept],
        a[kept],
        {which: norms[kept] for which, norms in study.norms.items()},
        int(kept[: study.middle + 1].sum()),
        {
            factor: Blocks(experiment.distance.blocks(raw), study.nfe, trained=trained)
            for factor, raw in sorted(study.pushed.items())
        },
        {factor: norms / plain for factor, norms in sorted(study.pushed_norms.items())},
        after_b / after_a,
        trained,
    )


def _coordinates(norms: Norms) -> Iterator[tuple[str, bool]]:
    """(|x| or |x|/a, whether it is the rescaled one): the second only where it differs."""
    yield "|x|", False
    if norms.moves:
        yield "|x|/a", True


def _add_rows(experiment: Experiment, subject: Subject, norms: Norms) -> None:
    solver, nfe = experiment.setting(subject)
    size = experiment.distance.size
    for where, rescaled in _coordinates(norms):
        for which, of in WHERE.items():
            how = f"over {of}, coordinate {where}; mean and standard error over blocks; {subject.how}"
            for name, one in measures(size, norms, which, rescaled).items():
                given = {"metric": f"norm_{name}[{which}]", "value": one.value, "stderr": one.error, "n": size}
                given |= {"solver": solver, "nfe": nfe, "setting": where, "protocol": f"{WORDS[name]}, {how}"}
                experiment.add(subject, **given)
    for factor, blocks in norms.pushed.items():
        how = f"|x| times {factor:g} where noise to signal is {experiment.config.norm.level:g}, then the same path on"
        experiment.add_distance(subject, blocks, solver, "push", factor, how)


BAND_COLUMNS = ("process", "coordinate", "of", "sigma", "mean", "sd", *(f"q{q:g}" for q in LEVELS), "n")


def bands(found: Found) -> str:
    """bands.csv: mean, standard deviation and quantiles of |x| at each noise level, native and rescaled."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(BAND_COLUMNS)
    for name, norms in found.items():
        for where, rescaled in _coordinates(norms):
            for which, values in norms.norms.items():
                table = band(norms.in_coordinates(which, rescaled)).tolist()
                for sigma, numbers in zip(norms.sigma.tolist(), table, strict=True):
                    cells = [f"{number:.5g}" for number in (sigma, *numbers)]
                    writer.writerow([name, where, which, *cells, values.shape[1]])
    return buffer.getvalue()


def least_tied(size: int, found: Found, which: str, of: str) -> tuple[Any, str]:
    """The verdict on the first process's having the least correlation of norm and noise level, and what is known of the
    share that time explains, which a recipe judges."""
    first = next(iter(found)).partition(SEED)[0]
    got = {name: measures(size, norms, which, rescaled=True) for name, norms in found.items()}
    numbers = {key: over_seeds({name: one[key] for name, one in got.items()}) for key in ("correlation", "tied")}
    verdict = least(first, numbers["correlation"], f"{WORDS['correlation']}, |x|/a, {of}: ")
    claim = f"|x|/a and σ have the least correlation for {first}, over {of}."
    share = least(first, numbers["tied"], f"{WORDS['tied']}, |x|/a, {of}: ").evidence
    return replace(verdict, claim=claim), f"{share[:1].upper()}{share[1:]}."


def _push_remarks(found: Found, pushes: Series) -> list[str]:
    remarks = []
    for factor in [factor for factor in pushes.levels() if factor != 1.0]:
        remarks += pushes.remarks("", factor, 1.0, f"after |x| is multiplied by {factor:g}")
        ends = ", ".join(f"{name} ×{float(norms.fates[factor][-1].median()):.2f}" for name, norms in found.items())
        remarks.append(f"Of the factor {factor:g} on |x| there is left at the data's end, in the median path: {ends}.")
    return remarks


def _table(found: Found, size: int) -> Table:
    body = []
    for name, norms in found.items():
        for where, rescaled in _coordinates(norms):
            for which in WHERE:
                got = measures(size, norms, which, rescaled)
                body.append([f"{name}, {where}, {which}", *(str(got[key]) for key in WORDS)])
    caption = ". ".join(f"{key}: {words}" for key, words in WORDS.items()) + f". Blocks of n = {size}"
    return Table("Norm against noise level", ["process, coordinate, of", *WORDS], body, caption)
