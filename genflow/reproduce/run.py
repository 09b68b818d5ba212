"""Runs a recipe: its benches in one shared cells folder, its study, and then its table, findings and pictures.

Imports no torch; the benches' workers do, and a study where there is one to compute.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from genflow.bench.cells import Cell, code_digest
from genflow.bench.checkpoints import settle
from genflow.bench.choose import Plan, prepare
from genflow.bench.crew import crew
from genflow.bench.runner import CellError, Hire, Report, Runner
from genflow.bench.store import Store
from genflow.bench.tables import Row, collect
from genflow.checkpoint import write_file
from genflow.config import BenchConfig, ConfigError, TrainConfig, build, flatten
from genflow.config_file import read_yaml
from genflow.reproduce.base import SCALES, Bench, Recipe, Results, Variant, Weights, Work

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
        """Published files that are not there."""
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
    values |= changes | {"out": str(settings.shared)}
    files = tuple((one, settings.published / one.file) for one in weights)
    return Part(variant, build(BenchConfig, values), files, tuple(values), tuple(changes))


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is not of the form KEY=VALUE, e.g. train.steps=100")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"'{value}' in '{text}' is not a value; quote it as YAML would") from None


def absences(parts: Sequence[Part], settings: Settings) -> list[str]:
    """What a recipe needs and is not here: published files and files of data sets, with where they are from."""
    lines = []
    for part in parts:
        for one, path in () if settings.train else part.lacking:
            lines.append(f"{path}: {one.origin}. Put it there, or train instead with --train")
    for config in {part.config.dataset: part.config for part in parts}.values():
        lines += _absent_data(config)
    return list(dict.fromkeys(lines))


def _absent_data(config: BenchConfig) -> list[str]:
    import genflow
    from genflow.data.files import DataError

    try:
        genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))
    except DataError as error:
        return [f"data set {config.dataset}: {error}"]
    return []


def commands(part: Part, settings: Settings) -> list[str]:
    """The same by hand: imports and the bench, as commands."""
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
    """Values of a configuration as options of `genflow bench`."""
    values, words = flatten(config), []
    for path in paths:
        name, value = "--" + path.replace(".", "-").replace("_", "-"), values[path]
        if isinstance(value, dict):
            words += [f"{name} {owner}.{k}={v}" for owner, inner in value.items() for k, v in inner.items()]
        else:
            words.append(f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)


# ---- running ---------------------------------------------------------------------------------------------------------


@dataclass
class Done:
    """What became of a recipe's run.

    Arguments:
        results: All that was measured.
        benches: By part.
        failures: Cells that failed, by name, with the reason.
        pictures: (file, caption) in the output folder.
    """

    results: Results
    benches: dict[str, Bench]
    failures: dict[str, str] = field(default_factory=dict)
    pictures: list[tuple[str, str]] = field(default_factory=list)


Show = Callable[[Report], None]
Hiring = Callable[[BenchConfig, Store], Any]


def run_recipe(
    recipe: Recipe,
    settings: Settings,
    show: Show = lambda report: None,
    hiring: Hiring = crew,
    command: str = "",
) -> Done:
    """Runs what is missing of a recipe, and writes its outputs.

    Arguments:
        recipe: What to reproduce.
        settings: How.
        show: Told now and then how far the bench at hand is.
        hiring: Gives the workers of a bench; see `genflow.bench.crew.crew`.
        command: What was typed, for the table.

    Raises:
        ConfigError: Files are missing, or a part refuses its options.
        BusyError: Another bench holds the shared folder.
        Interrupted: A signal came; finished cells are kept.
    """
    parts = open_parts(recipe, settings)
    absent = absences(parts, settings) if settings.scale == "full" else []
    if absent:
        raise ConfigError(f"{recipe.name} at full scale needs files that are not here:\n  " + "\n  ".join(absent))
    done = Done(Results(settings.scale), {})
    for part in parts:
        bench, failures = _run_part(part, settings, show, hiring)
        done.benches[part.name] = bench
        done.failures |= failures
        _gather(done.results, part.name, bench)
    settings.out.mkdir(parents=True, exist_ok=True)
    if recipe.study:
        work = Work(settings.scale, settings.out, done.benches, done.results, settings.changes)
        rows, pictures = _kept(recipe, work)
        done.results.rows += rows
        done.pictures += pictures.items()
    from genflow.reproduce.write import write_all

    write_all(recipe, settings, parts, done, command)
    return done


def _run_part(part: Part, settings: Settings, show: Show, hiring: Hiring) -> tuple[Bench, dict[str, str]]:
    config = part.config
    if part.weights and not part.lacking:
        for one, path in part.weights:
            _import(one, path, part.folder(one))
        config = part.measuring()
    store = Store(Path(config.out))
    store.prepare()
    with store.lock(), hiring(config, store) as hire:
        plan, failures = _finish(config, hire, show)
    return Bench(config, store, store.finished(plan.cells)), failures


def _finish(config: BenchConfig, hire: Hire, show: Show) -> tuple[Plan, dict[str, str]]:
    """Does what is missing of a bench; a cell that fails leaves the rest to be done."""
    plan = prepare(config)
    plan.store.sweep()
    runner = Runner(config, plan.store, hire, show, keep_going=True)
    try:
        runner.run(plan.cells, plan.todo)
    except CellError:
        return plan, runner.failures
    return plan, {}


def _import(one: Weights, path: Path, folder: Path) -> None:
    """Makes the checkpoint of a published file, once for each content."""
    from genflow.published.importer import import_checkpoint

    mark = folder.parent / f"{folder.name}.source"
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    if not (folder.exists() and mark.exists() and mark.read_text() == content):
        folder.parent.mkdir(parents=True, exist_ok=True)
        import_checkpoint(path, folder, preset_name=one.preset, as_published=one.as_published)
        write_file(mark, content)


def _gather(results: Results, part: str, bench: Bench) -> None:
    """Rows, arrays and losses of a finished bench."""
    results.rows += [row | {"part": part} for row in collect(bench.store, bench.cells)]
    arrays = results.arrays.setdefault(part, {})
    losses = results.losses.setdefault(part, {})
    for cell in bench.cells:
        if cell.kind == "metric" and cell.labels["process"] not in arrays:
            found = _arrays(bench.store, cell)
            if found:
                arrays[cell.labels["process"]] = found
        if cell.kind == "train":
            lines = bench.store.files(cell.key).get("stats.jsonl", b"").decode().splitlines()
            several = len(bench.config.seed) > 1
            name = cell.labels["process"] + (f" seed {cell.labels['seed']}" if several else "")
            losses[name] = [json.loads(line) for line in lines]


def _arrays(store: Store, cell: Cell) -> Mapping[str, Any]:
    path = store.folder(cell.key) / "arrays.npz"
    if not path.exists():
        return {}
    with np.load(path) as file:
        return dict(file)


# ---- studies are kept, too -------------------------------------------------------------------------------------------


def _kept(recipe: Recipe, work: Work) -> tuple[list[Row], dict[str, str]]:
    """Rows and pictures of a recipe's study: computed where they, or a picture of theirs, are not there yet."""
    assert recipe.study is not None
    mark = work.folder / "study.json"
    digest = _study_digest(recipe, work)
    if mark.exists():
        held = json.loads(mark.read_text())
        if held["digest"] == digest and all((work.folder / name).exists() for name in held["pictures"]):
            return list(held["rows"]), dict(held["pictures"])
    before = {path: path.stat().st_mtime_ns for path in _pictures(work.folder)}
    rows = [{"part": "study", **row} for row in recipe.study(work)]
    drawn = sorted(p.name for p in _pictures(work.folder) if before.get(p) != p.stat().st_mtime_ns)
    pictures = {name: work.captions.get(name, Path(name).stem.replace("_", " ")) for name in drawn}
    found = {"digest": digest, "pictures": pictures, "rows": rows}
    write_file(mark, json.dumps(found, indent=1, ensure_ascii=False))
    return rows, pictures


def _pictures(folder: Path) -> list[Path]:
    return [*folder.glob("*.png"), *folder.glob("*.gif")]


def _study_digest(recipe: Recipe, work: Work) -> str:
    """Hash of all that a study's rows depend on: scale, changes, the models it may read, and the code."""
    assert recipe.study is not None
    models = [
        cell.spec["checkpoint"] if cell.folder else cell.key
        for bench in work.benches.values()
        for cell in bench.cells
        if cell.folder or cell.kind in ("train", "sample")
    ]
    facts = [recipe.name, work.scale, work.changes, sorted(set(models)), _source(recipe.study.__module__)]
    facts += [code_digest("model"), code_digest("sample"), code_digest("metric")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _source(module: str) -> list[str]:
    """Hashes of a module's file and, where it is one of this package, of those of the package that it imports."""
    package, seen, look = __package__, dict[str, str](), [module]
    while look:
        name = look.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or name in seen:
            continue
        content = Path(file).read_bytes()
        seen[name] = hashlib.sha256(content).hexdigest()
        if name.startswith(f"{package}."):
            used = re.findall(rf"from {package}(\.\w+)? import \(?([\w,\s]+)", content.decode())
            look += [package + part for part, _ in used if part]
            look += [f"{package}.{word.strip()}" for part, words in used if not part for word in words.split(",")]
    return sorted(seen.values())
