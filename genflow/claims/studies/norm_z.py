"""Norm against noise level, in training and on sampling paths, and the fate of paths that are pushed off."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genflow.claims.claim import Finding, ordering
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.norm_numbers import LEVELS, WHERE, WORDS, Norms, band, measures
from genflow.claims.studies.norm_pictures import draw_bands, draw_fates, draw_pushes
from genflow.claims.studies.results import Found, Row, distance_row, floor_row, grid_table, row
from genflow.claims.studies.step_size import growths, label
from genflow.claims.studies.subjects import EXACT, Subject
from genflow.config import ConfigError
from genflow.estimates import short
from genflow.evaluate.base import Context
from genflow.evaluate.norm_z import NormStudy, norm_study

CLAIM = (
    "Along the ODE of a variance-exploding model |x| and σ are strongly tied, and along Poisson flow |x| and z only "
    "weakly; so a path whose norm is off is lost by the former and not by the latter (Xu et al. 2022, "
    "arXiv:2209.11178)."
)


class NormsStudy(Study):
    """The norm study in native and rescaled coordinates, in blocks."""

    def run(self, lab: Lab) -> Found:
        rows, found, left = [floor_row(lab.name, lab.ruler)], {}, []
        subjects = lab.subjects()
        lab.expect(len(subjects))
        for subject in subjects:
            reason = subject.process.why_not("norm") or subject.process.why_not("affine")
            if reason:
                left.append(f"{subject.name} is left out: {reason}.")
                continue
            name = label(subject, subjects)
            found[name] = measure(lab, subject)
            rows += _rows(lab, subject, found[name])
        if not found:
            raise ConfigError(f"nothing to study: {' '.join(left)}")
        notes = [
            "Times are those of each process's own grid, which decides how often a noise level counts. σ = b/a, which "
            "is z for Poisson flow. |x|/a is the rescaled coordinate X + σN; where a is 1 it is |x|. The norm of a "
            "Cauchy draw has no mean, so bands are quantiles; bands.csv has mean and deviation too.",
            *left,
        ]
        tables, said, files = _tables(lab, found), _findings(lab, found), {"bands.csv": bands(found)}
        return Found(rows, tables, CLAIM, said, lambda folder: _draw(lab, found, folder), notes, files)


def _draw(lab: Lab, found: dict[str, Norms], folder: Path) -> dict[str, str]:
    pushes = draw_pushes(found, lab.ruler.name, lab.ruler.floor, folder)
    return {
        **draw_bands(found, folder),
        **draw_fates(found, folder),
        **pushes,
    }


def measure(lab: Lab, subject: Subject) -> Norms:
    """The study of one subject."""
    solver, nfe = lab.setting(subject)
    count = lab.config.samples
    norm = replace(lab.config.norm, solver=solver, nfe=nfe)
    lab.hear(f"{subject.name} norms")
    context = Context(lab.bench, lab.dataset, subject.seed, tick=lambda share: lab.hear(f"{subject.name} norms", share))
    study = norm_study(subject.process, subject.backbone, context, count, norm)
    lab.done += 1
    return _read(lab, subject, study)


def _read(lab: Lab, subject: Subject, study: NormStudy) -> Norms:
    times = torch.from_numpy(study.arrays["times"])
    a, b = subject.process.schedule(times)
    sigma = b / a
    kept = sigma.isfinite() & (sigma > 0) & (a > 0)
    rest = times[study.middle :]
    after_a, after_b = subject.process.schedule(rest)
    plain = study.pushed_norms[1.0]
    return Norms(
        sigma[kept],
        a[kept],
        {which: norms[kept] for which, norms in study.norms.items()},
        int(kept[: study.middle + 1].sum()),
        {
            factor: Blocks(lab.ruler.blocks(raw), study.nfe, trained=subject.network != EXACT)
            for factor, raw in sorted(study.pushed.items())
        },
        {factor: norms / plain for factor, norms in sorted(study.pushed_norms.items())},
        after_b / after_a,
        subject.network != EXACT,
    )


def _rows(lab: Lab, subject: Subject, norms: Norms) -> list[Row]:
    solver, nfe = lab.setting(subject)
    rows: list[Row] = []
    common = {**subject.label, "solver": solver, "nfe": nfe}
    for rescaled in (False, True) if norms.moves else (False,):
        where = "|x|/a" if rescaled else "|x|"
        for which, of in WHERE.items():
            said = f"over {of}, coordinate {where}; mean and standard error over blocks; {subject.how}"
            for name, one in measures(lab.ruler.size, norms, which, rescaled).items():
                given = {
                    "metric": f"norm_{name}[{which}]",
                    "value": one.value,
                    "stderr": one.error,
                    "n": lab.ruler.size,
                }
                rows.append(
                    row(lab.name, lab.ruler, **common, setting=where, protocol=f"{WORDS[name]}, {said}", **given)
                )
    for factor, blocks in norms.pushed.items():
        said = f"|x| times {factor:g} where noise to signal is {lab.config.norm.level:g}, then the same path on"
        given = {"solver": solver, "setting": "push", "level": factor, "protocol": said}
        rows.append(distance_row(lab.name, lab.ruler, subject, blocks, **given))
    return rows


BAND_COLUMNS = ("process", "coordinate", "of", "sigma", "mean", "sd", *(f"q{q:g}" for q in LEVELS), "n")


def bands(found: dict[str, Norms]) -> str:
    """bands.csv: mean, standard deviation and quantiles of |x| at each noise level, native and rescaled."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(BAND_COLUMNS)
    for name, norms in found.items():
        for rescaled in (False, True) if norms.moves else (False,):
            for which, values in norms.norms.items():
                table = band(norms.in_coordinates(which, rescaled)).tolist()
                for sigma, numbers in zip(norms.sigma.tolist(), table, strict=True):
                    short = [f"{number:.5g}" for number in (sigma, *numbers)]
                    writer.writerow([name, "|x|/a" if rescaled else "|x|", which, *short, values.shape[1]])
    return buffer.getvalue()


def _findings(lab: Lab, found: dict[str, Norms]) -> list[Finding]:
    first = next(iter(found))
    said = []
    for which, of in WHERE.items():
        got = {name: measures(lab.ruler.size, norms, which, rescaled=True) for name, norms in found.items()}
        for key in ("correlation", "tied"):
            numbers = {name: one[key] for name, one in got.items()}
            said.append(ordering(f"{WORDS[key]}, |x|/a, {of}", first, numbers, str))
    for factor in [f for f in found[first].pushed if f != 1.0]:
        pairs = {name: (norms.pushed[factor], norms.pushed[1.0]) for name, norms in found.items()}
        said += growths(f"after |x| is multiplied by {factor:g} the distance grows", pairs)
        ends = ", ".join(f"{name} ×{float(norms.fates[factor][-1].median()):.2f}" for name, norms in found.items())
        left = f"Of the factor {factor:g} on |x| there is left at the data's end, in the median path: {ends}."
        said.append(Finding(left))
    return said


def _tables(lab: Lab, found: dict[str, Norms]) -> list[Any]:
    lines: dict[str, Sequence[str]] = {}
    for name, norms in found.items():
        for rescaled in (False, True) if norms.moves else (False,):
            for which in WHERE:
                got = measures(lab.ruler.size, norms, which, rescaled)
                lines[f"{name}, {'|x|/a' if rescaled else '|x|'}, {which}"] = [str(got[key]) for key in WORDS]
    caption = ". ".join(f"{key}: {words}" for key, words in WORDS.items()) + f". Blocks of n = {lab.ruler.size}"
    factors = sorted({factor for norms in found.values() for factor in norms.pushed})
    pushes = {name: [str(norms.pushed[f].mean) for f in factors] for name, norms in found.items()}
    pushes = {"real test split": [short(lab.ruler.floor)] * len(factors), **pushes}
    said = (
        f"|x| is multiplied where noise to signal is {lab.config.norm.level:g}; |x| and |x|/a change alike. "
        + lab.ruler.protocol
    )
    return [
        grid_table("Norm against noise level", "process, coordinate, of", lines, list(WORDS), caption),
        grid_table(f"{lab.ruler.name} after a push", "process", pushes, [f"|x| × {f:g}" for f in factors], said),
    ]
