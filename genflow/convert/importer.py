"""`genflow import`: converts a published .pth file to a checkpoint folder of genflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genflow.backbone.base import Backbone
from genflow.catalogue import get_backbone, get_process
from genflow.checkpoint import MANIFEST, CheckpointError, describe, save
from genflow.convert.configs import Config, preset
from genflow.convert.plan import Plan, candidates, complete, differences, make_plan, merged, unit
from genflow.convert.read import PublishedFile, read_published
from genflow.convert.recognise import Seen, recognise


@dataclass(frozen=True)
class Imported:
    """What an import found and wrote: the network in eval mode, and the folder's config.json.

    `source` is the origin of the configuration in words, `notes` are remarks for the user.
    """

    file: PublishedFile
    plan: Plan
    source: str
    notes: list[str]
    backbone: Backbone
    config: dict[str, Any]


def import_checkpoint(
    path: Path | str,
    out: Path | str,
    *,
    preset_name: str | None = None,
    config_file: Path | str | None = None,
    ema: bool = True,
    as_published: bool = False,
    sha256: str | None = None,
) -> Imported:
    """Reads a published checkpoint and writes its network and process to a checkpoint folder.

    Arguments:
        path: The .pth file.
        out: The folder; an existing checkpoint is replaced.
        preset_name: A name of `genflow.convert.configs.PRESETS`.
        config_file: A published configuration as .json or .yaml, instead of a preset.
        ema: Use the averaged weights.
        as_published: See `make_plan`.
        sha256: Expected hash of the file.

    Raises:
        CheckpointError: The file is damaged, is of another kind, or cannot be read without running code.
        ValueError: Its weights or its process are not recognised, or contradict the configuration.
    """
    path, out = Path(path), Path(out)
    _check_folder(out)
    given = None if config_file is None else read_config(Path(config_file))
    if preset_name is not None:
        preset(preset_name)
    file = read_published(path, sha256)
    try:
        seen = recognise(file.model)
        if file.average:
            seen = replace(seen, facts={**seen.facts, "model.ema_rate": file.average.decay})
        plan, source, notes = choose(seen, preset_name, given, as_published)
        backbone = _build(file, plan, ema)
    except CheckpointError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    config = _describe(file, plan, backbone, source, ema)
    save(out, config, backbone.state_dict())
    return Imported(file, plan, source, notes, backbone, config)


def _check_folder(out: Path) -> None:
    """Raises ValueError where anything but a checkpoint would be replaced."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out = '{out}' is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise ValueError(f"out = '{out}' is a folder that holds other files; give a new one")


def read_config(path: Path) -> tuple[str, Config]:
    """A published configuration's name and sections from a .json or .yaml file.

    Raises:
        ValueError: The file cannot be read, or lacks a key that an import needs.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ValueError(f"config = '{path}' cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"config = '{path}' is neither JSON nor YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"config = '{path}' has no sections; a published configuration has 'model', 'data', ...")
    return path.name, complete(values, f"config = '{path}'")


def choose(
    seen: Seen, preset_name: str | None, given: tuple[str, Config] | None, as_published: bool
) -> tuple[Plan, str, list[str]]:
    """The plan, the origin of its configuration, and notes.

    Raises:
        ValueError: The preset or configuration contradicts the file; or neither was given, and not exactly one fits.
    """
    if preset_name is not None and given is not None:
        raise ValueError("both a preset and a configuration were given; give one of them")
    if given is not None:
        kinds, sizes = differences(seen, given[1])
        _agree({**kinds, **sizes}, f"the configuration {given[0]}")
        return make_plan(given[1], as_published), f"configuration {given[0]}", _about_units(given[1])
    source = f"preset {preset_name}"
    if preset_name is None:
        preset_name = _only(candidates(seen))
        source = f"recognised as {preset_name}"
    config = preset(preset_name)
    kinds, sizes = differences(seen, config)
    _agree(kinds, f"the preset {preset_name}")
    notes = [f"not of the published size: {path.split('.')[1]} {text}" for path, text in sizes.items()]
    return make_plan(merged(seen, config), as_published), source, [*notes, *_about_units(config)]


def _about_units(config: Config) -> list[str]:
    """The note about data units, where they differ."""
    low = "images lie on [0, 1] in the authors' code and on [−1, 1] here, so noise levels are twice theirs"
    return [low] if unit(config) != 1.0 else []


def _agree(found: Mapping[str, str], owner: str) -> None:
    if found:
        each = "; ".join(f"{path}: {text}" for path, text in found.items())
        raise ValueError(f"{owner} does not fit this file: {each}")


def _only(fitting: Mapping[str, Plan]) -> str:
    """The first of the presets where all stand for the same plan; else raises ValueError with the candidates."""
    if not fitting:
        raise ValueError("no published configuration has such a network; give its own configuration with --config FILE")
    first, *others = fitting.items()
    if all(plan == first[1] for _, plan in others):
        return first[0]
    kinds = [plan for index, plan in enumerate(fitting.values()) if plan not in list(fitting.values())[:index]]
    named = [f"{_in_words(plan)}: {' or '.join(n for n, p in fitting.items() if p == plan)}" for plan in kinds]
    raise ValueError(
        "its weights do not show what they were trained for, since these published configurations name them alike: "
        f"{'; '.join(named)}. Choose one with --preset NAME, or give its own configuration with --config FILE"
    )


def _in_words(plan: Plan) -> str:
    """Process, levels and data of a plan, in words."""
    levels = plan.process["options"].get("levels")
    kind = f"{levels} levels" if levels else "continuous"
    data = f", {plan.dataset['name']}" if plan.dataset else ""
    return f"{plan.process['name']}, {kind}{data} at {plan.shape[1]} pixels"


# ---- the weights -----------------------------------------------------------------------------------------------------


def weights(file: PublishedFile, ema: bool) -> dict[str, Tensor]:
    """The weights by name: those of the average, with the model's own where they are not trained; or all the model's.

    The average is a list over the trained parameters, which are all but the table of noise levels and the random
    frequencies, in the model's order.

    Raises:
        CheckpointError: There is no average, or it does not fit the model.
        ValueError: Some weights are not finite.
    """
    chosen = {name: value for name, value in file.model.items() if name != "sigmas"}
    if ema:
        if file.average is None:
            raise CheckpointError(f"{file.name} has no average of its weights; --no-ema uses those of the last step")
        names = [name for name in chosen if name != FREQUENCIES]
        values = file.average.values
        if len(names) != len(values):
            raise CheckpointError(f"{file.name}: the average has {len(values)} tensors for {len(names)} parameters")
        for name, value in zip(names, values, strict=True):
            if value.shape != chosen[name].shape:
                was, now = tuple(chosen[name].shape), tuple(value.shape)
                raise CheckpointError(f"{file.name}: the average of {name} has shape {now}, the parameter {was}")
            chosen[name] = value
    for name, value in chosen.items():
        wrong = int((~value.isfinite()).sum())
        if wrong:
            which = "averaged weights" if ema else "weights of the last step"
            other = "; --no-ema uses those of the last step" if ema else ""
            raise ValueError(f"{wrong} of {value.numel()} entries of {name} in the {which} are not finite{other}")
    return chosen


FREQUENCIES = "all_modules.0.W"
"""The random frequencies of Fourier features: stored with the model, but not trained."""


def _build(file: PublishedFile, plan: Plan, ema: bool) -> Backbone:
    backbone = get_backbone(plan.backbone["name"], **plan.backbone["options"])
    backbone.load_published({name: value.to(torch.float32) for name, value in weights(file, ema).items()})
    return backbone.eval().requires_grad_(False)


def _describe(file: PublishedFile, plan: Plan, backbone: Backbone, source: str, ema: bool) -> dict[str, Any]:
    process = get_process(plan.process["name"], **plan.process["options"])
    average = file.average if ema else None
    about = describe(plan.process["name"], process, plan.backbone["name"], backbone)
    about |= {
        "shape": list(plan.shape),
        "scaling": plan.scaling,
        "imported": {
            "file": file.name,
            "bytes": file.size,
            "sha256": file.sha256,
            "step": file.step,
            "configuration": source,
            "ema": None if average is None else {"decay": average.decay, "num_updates": average.updates},
        },
    }
    return {**about, "dataset": plan.dataset} if plan.dataset else about
