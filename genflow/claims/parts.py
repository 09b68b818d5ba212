"""A recipe's benches at a scale, the files they are missing, and the equivalent commands. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genflow.bench.checkpoints import settle
from genflow.claims.recipe import SCALES, Recipe, Variant, Weights
from genflow.config import BenchConfig, ConfigError, TrainConfig, build, flatten
from genflow.config_file import read_yaml
from genflow.scalars import Scalar

CONFIGS = Path(__file__).parent / "configs"
"""The configurations; in the repository they are in configs/reproduce."""


@dataclass(frozen=True)
class Settings:
    """How a recipe is run.

    Arguments:
        scale: "small" or "full".
        out: Folder of table, findings and pictures.
        shared: Folder of the cells of all recipes.
        published: Folder of the published files that the full scale reads.
        train: Train where the published files are missing.
        changes: key=value of every configuration, e.g. "train.steps=100".
    """

    scale: str = "small"
    out: Path = Path("runs/reproduce")
    shared: Path = Path("runs/reproduce/shared")
    published: Path = Path("runs/reproduce/published")
    train: bool = False
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"scale = '{self.scale}' is not one of {', '.join(SCALES)}")


@dataclass(frozen=True)
class Part:
    """A bench of a recipe.

    Arguments:
        variant: Its configuration and name.
        config: Its bench as the configuration has it: training, where no published file takes its place.
        weights: Published files that do, and where each is looked for.
        given: Keys that the configuration or a change sets.
        changed: Those that a change sets.
    """

    variant: Variant
    config: BenchConfig
    weights: tuple[tuple[Weights, Path], ...]
    given: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def lacking(self) -> list[tuple[Weights, Path]]:
        """Published files that are missing."""
        return [(one, path) for one, path in self.weights if not path.is_file()]

    def folder(self, one: Weights) -> Path:
        """Where the checkpoint made of a published file lies."""
        return Path(self.config.out) / "checkpoints" / Path(one.file).stem

    def measuring(self) -> BenchConfig:
        """The bench of the checkpoints made of the published files: nothing is trained."""
        brought = {"train": TrainConfig(), "process_options": {}, "backbone_options": {}}
        folders = tuple(str(self.folder(one)) for one, _ in self.weights)
        process = tuple(dict.fromkeys(name for one, _ in self.weights for name in one.process))
        config = replace(self.config, checkpoint=folders, process=process, **brought)  # type: ignore[arg-type]
        return settle(config, dict.fromkeys(("process", "dataset"), "the recipe"))[0]


# ---- what is to be run -----------------------------------------------------------------------------------------------


def open_parts(recipe: Recipe, settings: Settings) -> list[Part]:
    """The benches of a recipe at a scale, their results in the shared folder.

    Raises:
        ConfigError: The recipe has none at this scale, or a change names an unknown key or a bad value.
    """
    variants = recipe.parts_of(settings.scale)
    if not variants and recipe.study is None:
        raise ConfigError(f"{recipe.name} has nothing to run at scale {settings.scale}")
    return [_part(variant, recipe.weights.get(variant.name, ()), settings) for variant in variants]


def _part(variant: Variant, weights: Sequence[Weights], settings: Settings) -> Part:
    values, _ = read_yaml(CONFIGS / f"{variant.config}.yaml", BenchConfig)
    changes = dict(map(_change, (*variant.changes, *settings.changes)))
    values = {"terms": "published", **values, **changes, "out": str(settings.shared)}
    files = tuple((one, settings.published / one.file) for one in weights)
    return Part(variant, build(BenchConfig, values), files, tuple(values), tuple(changes))


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is not of the form KEY=VALUE, e.g. train.steps=100")
    if key == "out":
        raise ConfigError("--set out: folders are given by --out (tables) and --cells (finished work)")
    return key, Scalar(value)


def absences(parts: Sequence[Part], settings: Settings) -> list[str]:
    """Files that a recipe needs and that are missing: published ones and data, with where to get them."""
    lines = []
    for part in parts:
        for one, path in () if settings.train else part.lacking:
            lines.append(f"{path}: {one.origin}. Put it there, or train instead with --train")
    for config in {part.config.dataset: part.config for part in parts}.values():
        lines += _absent_data(config)
    return list(dict.fromkeys(lines))


def _absent_data(config: BenchConfig) -> list[str]:
    import genflow
    from genflow.data.downloads import DataError

    try:
        genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))
    except DataError as error:
        return [f"data set {config.dataset}: {error}"]
    return []


def commands(part: Part, settings: Settings) -> list[str]:
    """The equivalent commands: imports and the bench."""
    if not part.weights or (settings.train and part.lacking):
        file = f"configs/reproduce/{part.variant.config}.yaml"
        return [f"genflow bench --config {file} {flag_words(part.config, (*part.changed, 'out'))}"]
    lines = []
    for one, path in part.weights:
        authors = " --as-published" if one.as_published else ""
        lines.append(f"genflow import {path} --preset {one.preset}{authors} --out {part.folder(one)}")
    folders = ",".join(str(part.folder(one)) for one, _ in part.weights)
    kept = [k for k in part.given if not k.startswith(("train", "process", "backbone"))]
    return [*lines, f"genflow bench --checkpoint {folders} {flag_words(part.config, kept)}"]


def flag_words(config: BenchConfig, paths: Sequence[str]) -> str:
    """A configuration's values as options of `genflow bench`."""
    values, words = flatten(config), []
    for path in paths:
        name, value = "--" + path.replace(".", "-").replace("_", "-"), values[path]
        if isinstance(value, dict):
            words += [f"{name} {owner}.{k}={v}" for owner, inner in value.items() for k, v in inner.items()]
        else:
            words.append(f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)
