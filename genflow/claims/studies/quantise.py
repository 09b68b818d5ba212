"""Weights of few bits, and models from early in training: what a worse network does to samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import genflow
from genflow.bench.store import Store
from genflow.checkpoint import Checkpoints, describe
from genflow.claims.claim import Finding
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.results import Found, distance_row, floor_row, grid_table
from genflow.claims.studies.step_size import growths, label
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.estimates import short
from genflow.report.palette import palette
from genflow.training.run import Keeping, Run, train

CLAIM = (
    "Poisson flow tolerates the estimation errors of a weak network better than score-based models (Xu et al. 2022, "
    "arXiv:2209.11178, abstract). The paper does not quantise; here coarse weights and too little training make a "
    "network weak."
)


def quantised(weight: Tensor, bits: int, per: str) -> Tensor:
    """A weight on a symmetric grid of 2^bits − 1 levels: s · round(w/s), s = max|w| / (2^(bits−1) − 1).

    Arguments:
        weight: Any shape.
        bits: At least 2.
        per: What shares a step size s: "tensor", or "channel", each slice of the first dimension (of outputs).
    """
    rows = weight.reshape(len(weight), -1) if per == "channel" else weight.reshape(1, -1)
    step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    safe = step.where(step > 0, torch.ones_like(step))
    return (safe * (rows / safe).round()).reshape(weight.shape)


@torch.no_grad()
def quantised_network(network: nn.Module, bits: int, per: str) -> nn.Module:
    """A copy whose weights of two or more dimensions are quantised; biases and scales keep their precision."""
    changed = copy.deepcopy(network)
    for weight in changed.parameters():
        if weight.ndim >= 2:
            weight.copy_(quantised(weight, bits, per))
    return changed


def early(lab: Lab, subject: Subject, stages: Sequence[float]) -> dict[float, nn.Module]:
    """The network as it was at shares of the training steps, its averaged weights, by share.

    Trained again from the start as far as is needed and kept in the bench's folder, under `early`; the same seeds make
    it the same run. None for checkpoints: they bring no earlier state.
    """
    cell, config = subject.trained, lab.bench
    if cell is None or not stages:
        return {}
    steps = {stage: max(1, round(stage * config.train.steps)) for stage in stages}
    root, last = Store(Path(config.out)).root / "early" / cell.key, max(steps.values())
    kept = Checkpoints(root, keep=len(steps) + 1)
    if set(steps.values()) - set(kept.steps()):
        _train_to(lab, subject, root, set(steps.values()), last)
    return {stage: genflow.load(kept.folder(step))[1].to(config.device) for stage, step in steps.items()}


def _train_to(lab: Lab, subject: Subject, root: Path, wanted: set[int], last: int) -> None:
    """Trains until step `last`, a checkpoint at each wanted step."""
    config, reached = lab.bench, 0
    process, backbone = lab.loader.fresh(subject.entry)
    about = describe(subject.entry, process, config.backbone, backbone)

    def watch(run: Run) -> None:
        nonlocal reached
        reached = run.trainer.step
        if reached in wanted:
            run.save()

    train(
        process,
        backbone,
        lab.dataset,
        replace(config.train, save_seconds=1e9),
        seed=subject.seed,
        device=config.device,
        state=Keeping(root, about, keep=len(wanted) + 1),
        watch=watch,
        should_stop=lambda: reached >= last,
        progress=lambda step, steps, loss: lab.hear(f"{subject.name} early, loss {loss:.4f}", step / last),
    )


Points = dict[tuple[str, str], dict[float, Blocks]]
"""Distances by (process, what was done) and level."""
EARLY = "early in training"


class QuantiseStudy(Study):
    """FD against bits of the weights, and against the share of training."""

    code = (quantised, quantised_network, _train_to)

    def run(self, lab: Lab) -> Found:
        config = lab.config
        if config.oracle:
            raise ConfigError("oracle: an exact field has no weights to quantise; leave it out")
        stages = [stage for stage in sorted(config.stages) if stage]
        rows, points, spent = [floor_row(lab.name, lab.ruler)], Points(), set()
        subjects = lab.subjects()
        lab.expect(len(subjects) * (1 + len(config.per) * len(config.bits) + len(stages)))
        for subject in subjects:
            solver, nfe = lab.setting(subject)
            spent.add(f"{solver}, NFE {nfe}")
            whole = lab.plain(subject, solver, nfe)
            given = {"solver": solver, "setting": "none", "level": 1}
            rows.append(distance_row(lab.name, lab.ruler, subject, whole, protocol="weights as trained", **given))
            for what, level, network, said in _networks(lab, subject, stages):
                change = {what: level, "network": said}
                found = lab.changed(subject, solver, nfe, change, lambda rows: subject.process, network)  # noqa: B023  # called at once
                given = {"solver": solver, "setting": what, "level": level}
                rows.append(distance_row(lab.name, lab.ruler, subject, found, protocol=said, **given))
                own = points.setdefault((label(subject, subjects), what), {FULL[what == EARLY]: whole})
                own[level] = found
        how = f"{lab.ruler.protocol}; {'; '.join(sorted(spent))}"
        notes = [
            "Weights of two or more dimensions are quantised symmetrically, s·round(w/s), s = max|w|/(2^(bits−1) − 1), "
            "s shared by a tensor or by an output channel; biases, norm scales and activations stay in float32."
        ]
        if stages and not any(what == EARLY for _, what in points):
            notes.append("Checkpoints bring no earlier state, so models from early in training were not measured.")
        draw = lambda folder: _draw(lab, points, folder)  # noqa: E731
        return Found(rows, _tables(lab, points, how), CLAIM, _findings(points), draw, notes)


FULL = (32.0, 1.0)
"""The level of what was not changed: 32 bits, and all of training."""


def _networks(lab: Lab, subject: Subject, stages: Sequence[float]) -> Iterator[tuple[str, float, Any, str]]:
    """(what was done, its level, the network, words for the protocol), one at a time."""
    for per in lab.config.per:
        for bits in sorted(lab.config.bits, reverse=True):
            said = f"weights of {bits} bits, symmetric per {per}"
            yield f"bits per {per}", bits, quantised_network(subject.backbone, bits, per), said  # type: ignore[arg-type]
    for stage, network in early(lab, subject, stages).items():
        yield EARLY, stage, network, f"averaged weights after {stage:g} of the training steps"


def _groups(points: Points) -> dict[str, dict[str, dict[float, Blocks]]]:
    """What was done -> name -> level -> distance."""
    found: dict[str, dict[str, dict[float, Blocks]]] = {}
    for (name, what), by in points.items():
        found.setdefault(what, {})[name] = by
    return found


def _word(what: str, level: float) -> str:
    if level == FULL[what == EARLY]:
        return "as trained"
    return f"{level:g} of the steps" if what == EARLY else f"{level:.0f} bits"


def _findings(points: Points) -> list[Finding]:
    said: list[Finding] = []
    for what, own in _groups(points).items():
        full = FULL[what == EARLY]
        for level in [level for level in next(iter(own.values())) if level != full]:
            where = f"{what}, {_word(what, level)}: against the weights as trained the distance grows"
            said += growths(where, {name: (by[level], by[full]) for name, by in own.items()})
    return said


def _tables(lab: Lab, points: Points, caption: str) -> list[Any]:
    found = []
    for what, own in _groups(points).items():
        levels = sorted({level for by in own.values() for level in by}, reverse=True)
        lines = {"real test split": [short(lab.ruler.floor)] * len(levels)}
        lines |= {name: [str(by[level].mean) for level in levels] for name, by in own.items()}
        places = [_word(what, level) for level in levels]
        found.append(grid_table(f"{lab.ruler.name}, {what}", "process", lines, places, caption))
    return found


def _draw(lab: Lab, points: Points, folder: Path) -> dict[str, str]:
    pictures = {}
    for name, wanted in (("bits.png", False), ("early.png", True)):
        groups = {what: own for what, own in _groups(points).items() if (what == EARLY) == wanted}
        if not groups:
            continue
        what = next(iter(groups))
        levels = sorted({level for own in groups.values() for by in own.values() for level in by}, reverse=True)
        colours, panels = palette(name for name, _ in points), {}
        for title, own in groups.items():
            panels[title] = [
                Curve(n, [levels.index(v) for v in by], [b.mean for b in by.values()], colours[n], i % 4)
                for i, (n, by) in enumerate((n, dict(sorted(by.items(), reverse=True))) for n, by in own.items())
            ]
        names = [_word(what, level).replace(" of the steps", "").replace(" bits", "") for level in levels]
        x = "share of the training steps" if wanted else "bits of a weight"
        curves(folder / name, panels, Axes(x, lab.ruler.name, lab.ruler.floor, names=names))
        pictures[name] = f"{lab.ruler.name} against the {x}. Bars are one standard error."
    return pictures
