"""A bench's guidance, and the weaker models that its samples are guided away from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

import genflow
from genflow.bench.checkpoints import open_finished
from genflow.config import BenchConfig
from genflow.process.base import Process
from genflow.process.guidance import Guidance, Guide

Ready = Callable[[Any], Any]
"""Puts a network on the bench's device, to be run as its options say."""


def guide_for(config: BenchConfig, family: str, ready: Ready) -> Guide | None:
    """The weaker model that guides the processes of a family; None where none is given for it."""
    own = [one.path for one in map(open_finished, config.guide) if one.family == family]
    if not own:
        return None
    process, backbone = genflow.load(own[0])
    return Guide(process, ready(backbone))


def guidance_of(config: BenchConfig, spec: Mapping[str, Any], ready: Ready) -> Guidance:
    """How the samples of a cell are guided."""
    given = spec.get("guidance")
    if not given:
        return Guidance()
    families = {one.content: one.family for one in map(open_finished, config.guide)}
    guide = guide_for(config, families[given["guide"]], ready) if given["guide"] else None
    return Guidance(given["weight"], given["interval"] and tuple(given["interval"]), guide)


def words_of_guidance(spec: Mapping[str, Any]) -> str:
    """The same for the protocol."""
    given = spec["guidance"]
    how = Guidance(given["weight"], given["interval"]).words
    return f"{how} away from a weaker model (checkpoint {given['guide']})" if given["guide"] else how


def check_guides(config: BenchConfig, model: tuple[Process, Any], name: str, family: str, ready: Ready) -> None:
    """Raises ValueError, before anything is trained, where samples of a model cannot be guided as asked."""
    if config.guidance == 1:
        return
    process, backbone = model
    classes, shape = getattr(backbone, "classes", 0), tuple(backbone.shape)
    if not config.guide and not classes:
        raise ValueError(
            f"guidance = {config.guidance:g} needs classes, and the network of '{name}' has none; give "
            f"--backbone-options {config.backbone}.classes=K, or a weaker checkpoint (--guide)"
        )
    guide = guide_for(config, family, ready)
    if guide and tuple(getattr(guide.backbone, "shape", shape)) != shape:
        raise ValueError(f"guide: its samples do not have the shape of those of '{name}', {shape}")
    low_high: Any = config.guidance_interval or None
    labels = torch.zeros(1, dtype=torch.int64) if classes else None
    Guidance(config.guidance, low_high, guide).check(process, labels, classes)
