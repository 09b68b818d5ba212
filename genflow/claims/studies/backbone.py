"""A weak network against a strong one, each trained alike (Xu et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genflow.claims.claim import Finding
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.studies.config import bench_of
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.results import Found, distance_row, floor_row, grid_table
from genflow.claims.studies.step_size import growths, label
from genflow.claims.studies.subjects import trained
from genflow.config import ConfigError
from genflow.estimates import short
from genflow.report.palette import palette

if TYPE_CHECKING:
    from torch.nn import Module

CLAIM = (
    "With the weaker NCSNv2 in place of DDPM++, the ODEs and SDEs of VP and sub-VP give a FID above 90 on CIFAR-10, "
    "while Poisson flow stays good (Xu et al. 2022, arXiv:2209.11178; its exact values for Poisson flow are not "
    "verified here)."
)
Points = dict[str, dict[str, Blocks]]
"""Distances by process and network."""


class BackboneStudy(Study):
    """FD under each network; the loss from the strong one to the weak one is taken block by block."""

    def run(self, lab: Lab) -> Found:
        config = lab.config
        if config.oracle or config.checkpoint:
            raise ConfigError("this study trains each of --backbones; oracle and checkpoint do not fit it")
        if len(set(config.backbones)) < 2:
            raise ConfigError(f"backbones = {','.join(config.backbones)}: give two, the weak one first")
        rows, points, sizes, spent = [floor_row(lab.name, lab.ruler)], Points(), {}, set()
        lab.expect(len(config.backbones) * len(config.process) * len(config.seed))
        for network in config.backbones:
            own = {k: v for k, v in config.backbone_options.items() if k == network}
            bench = bench_of(config, backbone=network, backbone_options=own)
            subjects = trained(bench, lab.tell)
            for subject in subjects:
                solver, nfe = lab.setting(subject)
                found = lab.plain(subject, solver, nfe)
                sizes[network] = sum(p.numel() for p in cast("Module", subject.backbone).parameters())
                said = f"{sizes[network]} parameters"
                given = {"solver": solver, "setting": "backbone", "level": network, "protocol": said}
                rows.append(distance_row(lab.name, lab.ruler, subject, found, **given))
                points.setdefault(label(subject, subjects), {})[network] = found
                spent.add(f"{solver}, NFE {nfe}")
        how = f"{lab.ruler.protocol}; {'; '.join(sorted(spent))}; {config.train.steps} training steps each"
        weight = ", ".join(f"{network} {count:,} parameters" for network, count in sizes.items())
        notes = [f"Sizes here: {weight}. All else is equal: data order, steps, learning rate, solver and prior draws."]
        draw = lambda folder: _draw(lab, points, folder)  # noqa: E731
        return Found(rows, [_table(lab, points, how)], CLAIM, _findings(points, config.backbones), draw, notes)


def _findings(points: Points, networks: tuple[str, ...]) -> list[Finding]:
    weak, strong = networks[0], networks[-1]
    what = f"from {strong} to {weak} the distance grows"
    return growths(what, {name: (by[weak], by[strong]) for name, by in points.items()})


def _table(lab: Lab, points: Points, caption: str) -> Any:
    networks = list(lab.config.backbones)
    lines = {"real test split": [short(lab.ruler.floor)] * len(networks)}
    lines |= {name: [str(by[network].mean) for network in networks] for name, by in points.items()}
    return grid_table(f"{lab.ruler.name} by network", "process", lines, networks, caption)


def _draw(lab: Lab, points: Points, folder: Path) -> dict[str, str]:
    networks, colours = list(lab.config.backbones), palette(points)
    lines = [
        Curve(name, range(len(networks)), [by[n].mean for n in networks], colours[name], i % 4)
        for i, (name, by) in enumerate(points.items())
    ]
    axes = Axes("network, the weak one first", lab.ruler.name, lab.ruler.floor, names=networks)
    curves(folder / "backbone.png", {"": lines}, axes)
    return {"backbone.png": f"{lab.ruler.name} by network. Bars are one standard error."}
