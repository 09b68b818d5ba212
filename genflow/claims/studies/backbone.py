"""A weak network against a strong one, each trained alike (Xu et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from genflow.claims.studies import Outcome
from genflow.claims.studies.config import bench_of
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.series import Series, label
from genflow.claims.studies.subjects import trained
from genflow.config import ConfigError

if TYPE_CHECKING:
    from torch.nn import Module


def run(experiment: Experiment) -> Outcome:
    """FD under each network; the loss from the strong one to the weak one is taken block by block."""
    config = experiment.config
    if config.oracle or config.checkpoint:
        raise ConfigError("this study trains each of --backbones: leave out oracle and checkpoint")
    if len(set(config.backbones)) < 2:
        raise ConfigError(f"backbones = {','.join(config.backbones)}: give two, the weak one first")
    series, sizes = Series(experiment.distance), {}
    experiment.expect(len(config.backbones) * len(config.process) * len(config.seed))
    for network in config.backbones:
        own = {k: v for k, v in config.backbone_options.items() if k == network}
        subjects = trained(bench_of(config, backbone=network, backbone_options=own), experiment.show)
        for subject in subjects:
            solver, nfe = experiment.setting(subject)
            found = experiment.plain(subject, solver, nfe)
            sizes[network] = sum(p.numel() for p in cast("Module", subject.backbone).parameters())
            experiment.add_distance(subject, found, solver, "backbone", network, f"{sizes[network]} parameters")
            series.add("", label(subject, subjects), network, found)
    weak, strong = config.backbones[0], config.backbones[-1]
    caption = f"{experiment.protocol}; {config.train.steps} training steps each"
    counts = ", ".join(f"{network} {count:,} parameters" for network, count in sizes.items())
    notes = [f"Sizes here: {counts}. All else is equal: data order, steps, learning rate, solver and prior draws."]
    return Outcome(
        experiment.rows,
        [series.table("by network", "process", caption)],
        lambda out: series.draw(out / "backbone.png", "network, the weak one first", named=True),
        verdicts=series.growths("", weak, strong, f"from {strong} to {weak}"),
        notes=notes,
    )
