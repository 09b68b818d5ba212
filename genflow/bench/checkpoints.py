"""Checkpoints as the models of a bench, read without torch.

A checkpoint is identified by the hashes of its configuration and weights, wherever its folder is; its files are checked
against them when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genflow.checkpoint import CheckpointError, open_checkpoint, with_places
from genflow.config import BenchConfig, ConfigError, TrainConfig
from genflow.registry import Entry, registries


@dataclass(frozen=True)
class Finished:
    """A checkpoint folder that a bench measures.

    Arguments:
        path: The folder.
        content: Hash of its configuration and weights.
        process: Registered name of the process it was trained for.
        backbone: Registered name of its network.
        dataset: Name and options of its data, or None where the checkpoint does not record them.
    """

    path: str
    content: str
    process: str
    backbone: str
    dataset: Mapping[str, Any] | None

    @property
    def family(self) -> str:
        """Shared by the names under which it may be sampled."""
        return registries()["processes"].entry(self.process).family


def open_finished(path: str) -> Finished:
    """The facts that a checkpoint folder records.

    Raises:
        ConfigError: It is not a checkpoint, or its configuration is damaged or of another version of genflow.
    """
    try:
        opened = open_checkpoint(path)
    except CheckpointError as error:
        raise ConfigError(f"checkpoint: {error}") from None
    data = opened.data and {"name": opened.data["name"], "options": with_places(opened.data["options"])}
    return Finished(path, opened.content, opened.name, opened.about["backbone"]["name"], data)


def content_of(folder: Path) -> str:
    """Hash of a checkpoint, as `Finished.content`; raises CheckpointError."""
    return open_checkpoint(folder).content


def settle(config: BenchConfig, given: Mapping[str, str]) -> tuple[BenchConfig, dict[str, str]]:
    """Completes a bench of checkpoints: processes, network and data that were not given are the checkpoints' own.

    Arguments:
        config: The bench.
        given: Origin of each value that was given, by key.

    Returns:
        The bench, and the origin of its values.

    Raises:
        ConfigError: Checkpoints that do not go together, or settings that only training uses.
    """
    if not config.checkpoint:
        return config, dict(given)
    found = [open_finished(path) for path in config.checkpoint]
    _refuse_training(config)
    brought: dict[str, Any] = {"backbone": found[0].backbone}
    if "backbone" in given and config.backbone != found[0].backbone:
        raise ConfigError(
            f"backbone = '{config.backbone}' does not fit: the network of {found[0].path} is {found[0].backbone}; "
            "leave it out"
        )
    if "process" not in given:
        brought["process"] = tuple(dict.fromkeys(name for one in found for name in _modes(one, config.solver)))
    if "dataset" not in given:
        data = _shared_data(found)
        brought |= {
            "dataset": data["name"],
            "dataset_options": {data["name"]: data["options"], **config.dataset_options},
        }
    origin = {**given, **dict.fromkeys(brought, "the checkpoint")}
    return replace(config, **brought), origin


def _refuse_training(config: BenchConfig) -> None:
    unread = {
        "process_options": config.process_options,
        "backbone_options": config.backbone_options,
        "train": config.train != TrainConfig(),
    }
    for key, came in unread.items():
        if came:
            raise ConfigError(
                f"{key} was given, but nothing is trained here: each checkpoint has its own; leave it out"
            )


def _modes(one: Finished, solvers: Sequence[str]) -> list[str]:
    """Names of a checkpoint's family that one of the solvers samples; its own name where none fits."""
    served = {registries()["solvers"].entry(name).tags.get("mode", "ode") for name in solvers}
    family = [e for e in registries()["processes"].entries().values() if e.family == one.family]
    fitting = [entry.name for entry in family if entry.tags.get("mode", "ode") in served]
    return fitting or [registries()["processes"].entry(one.process).name]


def _shared_data(found: Sequence[Finished]) -> Mapping[str, Any]:
    """The data set of all checkpoints."""
    for one in found:
        if one.dataset is None:
            raise ConfigError(f"checkpoint: {one.path} does not record its data set; give --dataset")
        if one.dataset != found[0].dataset:
            raise ConfigError(
                f"checkpoint: {found[0].path} was trained on {found[0].dataset}, {one.path} on {one.dataset}; "
                "measure them separately, or give --dataset"
            )
    assert found[0].dataset is not None
    return found[0].dataset


def matching(config: BenchConfig) -> list[tuple[Finished, list[str]]]:
    """Each checkpoint of a bench with those of the bench's processes that it can be sampled as.

    Raises:
        ConfigError: A checkpoint is given twice or fits none of the processes, or a process has no checkpoint.
    """
    found = [open_finished(path) for path in config.checkpoint]
    entries = [registries()["processes"].entry(name) for name in config.process]
    pairs = [(one, [entry.name for entry in entries if entry.family == one.family]) for one in found]
    twice = next((one for i, one in enumerate(found) if one.content in {o.content for o in found[:i]}), None)
    if twice:
        raise ConfigError(f"checkpoint lists a model twice: {twice.path} holds the same as one before it")
    for one, names in pairs:
        if not names:
            raise ConfigError(
                f"checkpoint: {one.path} was trained for '{one.process}', which is none of {', '.join(config.process)}"
            )
    lost = next((e.name for e in entries if not any(e.name in names for _, names in pairs)), None)
    if lost:
        raise ConfigError(f"process '{lost}' has no checkpoint here: {', '.join(one.process for one in found)}")
    return pairs


def guide_of(config: BenchConfig, process: Entry) -> Finished | None:
    """The weaker checkpoint that guides samples of a process; None where no guides are given.

    Raises:
        ConfigError: None of those given, or more than one, is of the process's family.
    """
    found = [open_finished(path) for path in config.guide]
    own = [one for one in found if one.family == process.family]
    if found and len(own) != 1:
        given = ", ".join(f"{one.path} ({one.process})" for one in found)
        raise ConfigError(f"guide: {len(own)} of {given} guide '{process.name}'; give one checkpoint of its path")
    return own[0] if own else None


def labels(pairs: Sequence[tuple[Finished, Sequence[str]]]) -> dict[tuple[str, str], str]:
    """What tables call each (path, process): the process, or the folder where two checkpoints are of that process."""
    shared = {name for i, (_, names) in enumerate(pairs) for _, more in pairs[:i] for name in names if name in more}
    folders = _folder_names([one.path for one, _ in pairs])
    result = {}
    for one, names in pairs:
        for name in names:
            mode = f" {name}" if len(names) > 1 else ""
            result[one.path, name] = folders[one.path] + mode if name in shared else name
    return result


def _folder_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of paths that differ, joined by hyphens."""
    parts = {path: Path(path).absolute().parts for path in paths}
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {path: "-".join(p.strip("/") for p in parts[path][-length:]) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    return {path: path for path in paths}


def unset_by_mode(entry: Entry) -> list[str]:
    """Options that the names of a family set; the name that was asked for overrides those of a checkpoint."""
    family = [e for e in registries()["processes"].entries().values() if e.family == entry.family]
    return sorted({key for e in family for key in e.preset})
