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
from genflow.claims.studies import Outcome
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.series import Series, label
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.training.run import Keeping, Run, train


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


def early(experiment: Experiment, subject: Subject, stages: Sequence[float]) -> dict[float, nn.Module]:
    """The network as it was at shares of the training steps, its averaged weights, by share.

    Trained again from the start as far as is needed and kept in the bench's folder, under `early`; the same seeds make
    it the same run. None for checkpoints: they bring no earlier state.
    """
    cell, config = subject.trained, experiment.bench
    if cell is None or not stages:
        return {}
    steps = {stage: max(1, round(stage * config.train.steps)) for stage in stages}
    root, last = Store(Path(config.out)).root / "early" / cell.key, max(steps.values())
    saved = Checkpoints(root, keep=len(steps) + 1)
    if set(steps.values()) - set(saved.steps()):
        _train_to(experiment, subject, root, set(steps.values()), last)
    return {stage: genflow.load(saved.folder(step))[1].to(config.device) for stage, step in steps.items()}


def _train_to(experiment: Experiment, subject: Subject, root: Path, wanted: set[int], last: int) -> None:
    """Trains until step `last`, a checkpoint at each wanted step."""
    config, reached = experiment.bench, 0
    process, backbone = experiment.loader.fresh(subject.entry)
    about = describe(subject.entry, process, config.backbone, backbone)

    def watch(run: Run) -> None:
        nonlocal reached
        reached = run.trainer.step
        if reached in wanted:
            run.save()

    train(
        process,
        backbone,
        experiment.dataset,
        replace(config.train, save_seconds=1e9),
        seed=subject.seed,
        device=config.device,
        state=Keeping(root, about, keep=len(wanted) + 1),
        watch=watch,
        should_stop=lambda: reached >= last,
        progress=lambda step, steps, loss: experiment.progress(f"{subject.name} early, loss {loss:.4f}", step / last),
    )


CODE = (quantised, quantised_network, _train_to)
EARLY = "early in training"
FULL = (32.0, 1.0)
"""The level of what was not changed: 32 bits, and all of training."""


def run(experiment: Experiment) -> Outcome:
    """FD against bits of the weights, and against the share of training."""
    config = experiment.config
    if config.oracle:
        raise ConfigError("oracle: an exact field has no weights to quantise; leave it out")
    stages, subjects = [stage for stage in sorted(config.stages) if stage], experiment.subjects()
    experiment.expect(len(subjects) * (1 + len(config.per) * len(config.bits) + len(stages)))
    series = Series(experiment.distance, falling=True)
    for subject in subjects:
        solver, nfe = experiment.setting(subject)
        whole, name = experiment.plain(subject, solver, nfe), label(subject, subjects)
        experiment.add_distance(subject, whole, solver, "none", 1, "weights as trained")
        for what, level, network, how in _networks(experiment, subject, stages):
            change = {what: level, "network": how}
            found = experiment.changed(subject, solver, nfe, change, lambda rows: subject.process, network)  # noqa: B023  # called at once
            experiment.add_distance(subject, found, solver, what, level, how)
            series.add(what, name, FULL[what == EARLY], whole)
            series.add(what, name, level, found)
    notes = [
        "Weights of two or more dimensions are quantised symmetrically, s·round(w/s), s = max|w|/(2^(bits−1) − 1), "
        "s shared by a tensor or by an output channel; biases, norm scales and activations stay in float32."
    ]
    if stages and EARLY not in series.panels:
        notes.append("Checkpoints bring no earlier state, so models from early in training were not measured.")
    each = {what: replace(series.only(what), word=_word_of(what)) for what in series.panels}
    return Outcome(
        experiment.rows,
        [one.table(what, "process", experiment.protocol) for what, one in each.items()],
        lambda out: _draw(series, out),
        verdicts=[
            verdict
            for what, one in each.items()
            for level in one.levels()[1:]
            for verdict in one.growths(what, level, FULL[what == EARLY], f"with {_change(what, level)}")
        ],
        notes=notes,
    )


def _networks(
    experiment: Experiment, subject: Subject, stages: Sequence[float]
) -> Iterator[tuple[str, float, Any, str]]:
    """(what was done, its level, the network, words for the protocol), one at a time."""
    for per in experiment.config.per:
        for bits in sorted(experiment.config.bits, reverse=True):
            how = f"weights of {bits} bits, symmetric per {per}"
            yield f"bits per {per}", bits, quantised_network(subject.backbone, bits, per), how  # type: ignore[arg-type]
    for stage, network in early(experiment, subject, stages).items():
        yield EARLY, stage, network, f"averaged weights after {stage:g} of the training steps"


def _word_of(what: str) -> Any:
    unit = "of the steps" if what == EARLY else "bits"
    return lambda level: "as trained" if level == FULL[what == EARLY] else f"{level:g} {unit}"


def _change(what: str, level: float) -> str:
    """What was done to the network, in words."""
    return f"{level:g} of the training steps" if what == EARLY else f"{level:g} {what}"


def _draw(series: Series, folder: Path) -> dict[str, str]:
    pictures: dict[str, str] = {}
    for name, wanted, x in (
        ("bits.png", False, "bits of a weight"),
        ("early.png", True, "share of the training steps"),
    ):
        panels = [what for what in series.panels if (what == EARLY) == wanted]
        if panels:
            shown = replace(series.only(*panels), word=lambda level: "as trained" if level in FULL else f"{level:g}")
            pictures |= shown.draw(folder / name, x, named=True)
    return pictures
