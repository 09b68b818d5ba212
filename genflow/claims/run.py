"""Runs a recipe (its benches in one shared cells folder, then what they do not measure) or a study, and writes it.

Imports no torch; the benches' workers do, and what is computed here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genflow.bench.cells import Cell, code_digest
from genflow.bench.choose import BenchPlan, prepare
from genflow.bench.rows import Row, collect
from genflow.bench.runner import CellError, Report, Runner, Start
from genflow.bench.start import start_workers
from genflow.bench.store import Store
from genflow.checkpoint import write_file
from genflow.claims.parts import Part, Settings, absences, open_parts
from genflow.claims.recipe import Bench, Recipe, Study, Weights, Work
from genflow.claims.results import Results
from genflow.claims.studies import Outcome, entry
from genflow.claims.studies.config import StudyConfig
from genflow.claims.write import write_recipe, write_study
from genflow.config import BenchConfig, ConfigError

Show = Callable[[Report], None]


def run_recipe(
    recipe: Recipe,
    settings: Settings,
    show: Show = lambda report: None,
    start: Start = start_workers,
    command: str = "",
) -> Work:
    """Runs what is missing of a recipe, and writes its outputs.

    Arguments:
        recipe: What to reproduce.
        settings: How.
        show: Called now and then with the progress of the bench at hand.
        start: Gives the workers of a bench.
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
    work = Work(settings.scale, settings.out, {}, Results(settings.scale), settings.changes)
    for part in parts:
        bench, failures = _run_part(part, settings, show, start)
        work.benches[part.name] = bench
        work.failures |= failures
        _gather(work.results, part.name, bench)
    settings.out.mkdir(parents=True, exist_ok=True)
    if recipe.study:
        work.results.rows += _study_rows(recipe.name, recipe.study, work)
    write_recipe(recipe, settings, parts, work, command)
    return work


def run_study(name: str, config: StudyConfig, command: str, show: Show = lambda report: None) -> Outcome:
    """Measures what is not stored yet, and writes everything anew.

    Arguments:
        name: Of the study.
        config: As `settled` gives it.
        command: What was typed, for the files.
        show: Called with the progress.

    Raises:
        ConfigError: The configuration does not fit the study, or its folder cannot be written.
        CellError, Interrupted, BusyError: From the training of models that were missing.
    """
    from genflow.claims.studies.experiment import Experiment

    known, folder = entry(name), Path(config.out)
    module = importlib.import_module(known.module)
    found: Outcome = module.run(Experiment(name, config, show, getattr(module, "CODE", ())))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out = '{folder}' cannot be written: {error.strerror}; choose another folder") from None
    write_study(name, known, found, folder, command)
    return found


def _run_part(part: Part, settings: Settings, show: Show, start: Start) -> tuple[Bench, dict[str, str]]:
    config = part.config
    if part.weights and not part.lacking:
        for one, path in part.weights:
            _import(one, path, part.folder(one))
        config = part.measuring()
    store = Store(Path(config.out))
    store.prepare()
    with store.lock():
        plan, failures = _finish(config, start, show)
    return Bench(config, store, store.finished(plan.cells)), failures


def _finish(config: BenchConfig, start: Start, show: Show) -> tuple[BenchPlan, dict[str, str]]:
    """Does what is missing of a bench; a cell that fails leaves the rest to be done."""
    plan = prepare(config)
    plan.store.sweep()
    runner = Runner(config, plan.store, start, show, keep_going=True)
    try:
        runner.run(plan.cells, plan.todo)
    except CellError:
        return plan, runner.failures
    return plan, {}


def _import(one: Weights, path: Path, folder: Path) -> None:
    """Makes the checkpoint of a published file, once for each content."""
    from genflow.convert.importer import import_checkpoint

    mark = folder.parent / f"{folder.name}.source"
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    if not (folder.exists() and mark.exists() and mark.read_text() == content):
        folder.parent.mkdir(parents=True, exist_ok=True)
        import_checkpoint(path, folder, preset_name=one.preset, as_published=one.as_published)
        write_file(mark, content)


def _gather(results: Results, part: str, bench: Bench) -> None:
    """Rows and arrays of a finished bench."""
    results.rows += [row | {"part": part} for row in collect(bench.store, bench.cells)]
    arrays = results.arrays.setdefault(part, {})
    for cell in bench.cells:
        if cell.kind == "metric" and cell.labels["process"] not in arrays:
            found = _arrays(bench.store, cell)
            if found:
                arrays[cell.labels["process"]] = found


def _arrays(store: Store, cell: Cell) -> Mapping[str, Any]:
    path = store.folder(cell.key) / "arrays.npz"
    if not path.exists():
        return {}
    with np.load(path) as file:
        return dict(file)


def _study_rows(name: str, study: Study, work: Work) -> list[Row]:
    """Rows of a recipe's study: computed where they, or a picture of theirs, are not there yet."""
    mark, digest = work.folder / "study.json", _study_digest(name, study, work)
    if mark.exists():
        stored = json.loads(mark.read_text())
        if stored["digest"] == digest and all((work.folder / name).exists() for name in stored["pictures"]):
            work.captions |= stored["pictures"]
            return list(stored["rows"])
    rows = [{"part": "study", **row} for row in study(work)]
    found = {"digest": digest, "pictures": work.captions, "rows": rows}
    write_file(mark, json.dumps(found, indent=1, ensure_ascii=False))
    return rows


def _study_digest(name: str, study: Study, work: Work) -> str:
    """Hash of all that a study's rows depend on: scale, changes, the models it may read, and the code."""
    models = [
        cell.spec["checkpoint"] if cell.folder else cell.key
        for bench in work.benches.values()
        for cell in bench.cells
        if cell.folder or cell.kind in ("train", "sample")
    ]
    facts = [name, work.scale, work.changes, sorted(set(models)), _source(study.__module__)]
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
            used = re.findall(rf"from {package}((?:\.\w+)*) import \(?([\w,\s]+)", content.decode())
            look += [package + part for part, _ in used]
            look += [f"{package}{part}.{word.strip()}" for part, words in used for word in words.split(",")]
    return sorted(seen.values())
