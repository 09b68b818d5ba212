"""What to run: a bench as cells, each with a key that is the hash of everything its numbers depend on.

A cell's key covers its own settings, the keys of the cells it builds on, and the source code of the parts of the
package that make it, so results of other settings or other code are never mixed in. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from genflow.config import BenchConfig, ConfigError, check_owners
from genflow.registry import Entry, registries

REAL = "data"
"""What stands in the process column of a row that measures real data."""

CODE = {
    "train": ("process", "backbone", "data", "solver/base.py", "training.py"),
    "sample": ("solver", "sampling.py"),
    "metric": ("evaluate", "likelihood.py", "solver", "sampling.py", "data"),
}
"""Source that a kind of cell depends on beside what its parents depend on."""


@dataclass(frozen=True)
class Cell:
    """One piece of work with one result folder.

    Arguments:
        kind: "train", "sample", or "metric".
        spec: What it does, plain data: the identity together with parents and code.
        labels: process, solver, nfe, seed as the tables name them; no part of the identity.
        parents: Keys of cells whose results it reads.
        cost: Rough number of network evaluations, to share out progress and estimate time.
    """

    kind: str
    spec: Mapping[str, Any]
    labels: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    cost: float = 0.0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        identity = {
            "kind": self.kind,
            "spec": self.spec,
            "parents": self.parents,
            "code": code_digest(self.kind),
        }
        text = json.dumps(identity, sort_keys=True)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:20])

    @property
    def name(self) -> str:
        """For people: "train pfgm seed 0", "sample vp_ode heun 20 seed 0"."""
        words = [
            self.spec.get("metric", self.kind),
            *(self.labels.get(k) for k in ("process", "solver", "nfe")),
        ]
        return " ".join(str(w) for w in words if w not in (None, "")) + f" seed {self.labels['seed']}"

    def to_json(self) -> dict[str, Any]:
        """For a worker."""
        return {**asdict(self), "key": self.key}


@cache
def code_digest(kind: str) -> str:
    """Hash of the package's source that a kind of cell depends on."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for part in CODE[kind]:
        files = sorted(f for f in (root / part).rglob("*") if f.is_file()) if (root / part).is_dir() else [root / part]
        for file in files:
            if file.suffix == ".pyc":
                continue
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def plan(config: BenchConfig) -> list[Cell]:
    """All cells of a bench, parents before children.

    Raises:
        ConfigError, UnknownNameError: A name or a pair that can not work, before anything runs.
    """
    names = {k: registries()[k] for k in ("processes", "backbones", "solvers", "datasets", "metrics")}
    names["backbones"].entry(config.backbone), names["datasets"].entry(config.dataset)
    for plural in ("process", "solver", "metric"):
        values = getattr(config, plural)
        if len(set(values)) != len(values):
            raise ConfigError(f"{plural} lists a name twice: {', '.join(values)}")
    for key, used in _option_owners(config):
        check_owners(key, getattr(config, key), used)
    _check_norm_solver(config)
    metrics = [names["metrics"].entry(m) for m in config.metric]
    pairs = list(_pairs(config))
    cells: list[Cell] = [_metric_cell(config, m, None, {"process": REAL, "seed": s}) for m in metrics for s in [0]]
    for seed in config.seed:
        cells += _seed_cells(config, metrics, pairs, seed)
    return list({cell.key: cell for cell in cells}.values())


def _option_owners(config: BenchConfig) -> Iterator[tuple[str, list[str]]]:
    processes = registries()["processes"]
    yield "process_options", [*config.process, *(processes.entry(p).family for p in config.process)]
    yield "backbone_options", [config.backbone]
    yield "solver_options", [*config.solver, config.norm.solver]
    yield "dataset_options", [config.dataset]


def _check_norm_solver(config: BenchConfig) -> None:
    """The pushed paths need an ODE solver with a given number of steps."""
    registry = registries()["solvers"]
    tags = registry.entry(config.norm.solver).tags
    if tags.get("mode", "ode") != "ode" or not tags.get("budget", True):
        fitting = [n for n, e in registry.entries().items() if e.tags.get("mode") == "ode" and e.tags.get("budget")]
        raise ConfigError(
            f"norm.solver = '{config.norm.solver}' does not fit: the pushed paths need a fixed-step ODE solver: "
            + ", ".join(fitting)
        )


def _pairs(config: BenchConfig) -> Iterator[tuple[Entry, Entry]]:
    """Every (process, solver) that runs: same mode, nothing missing. A process that none of the solvers fits is an
    error."""
    registry = registries()
    for name in config.process:
        process = registry["processes"].entry(name)
        mode = process.tags.get("mode", "ode")
        fitting = [s for s in map(registry["solvers"].entry, config.solver) if s.tags.get("mode", "ode") == mode]
        if not fitting:
            raise ConfigError(
                f"process '{name}' is sampled as an {mode.upper()}, and none of the solvers "
                f"{', '.join(config.solver)} is for that; known for {mode.upper()}: "
                + ", ".join(n for n, e in registry["solvers"].entries().items() if e.tags.get("mode") == mode)
            )
        able = [solver for solver in fitting if not lacking(process, solver)]
        if not able:
            raise ConfigError(f"process '{name}' can not be sampled by {lacking(process, fitting[0])}")
        yield from ((process, solver) for solver in able)


def lacking(process: Entry, solver: Entry) -> str:
    """The first thing that a solver needs and a process has not got, with the reason, else ""."""
    missing = process.tags.get("missing", {})
    found = next((need for need in solver.tags.get("needs", ()) if need in missing), None)
    return f"{solver.name}, which needs '{found}': {missing[found]}" if found else ""


def _seed_cells(
    config: BenchConfig, metrics: list[Entry], pairs: list[tuple[Entry, Entry]], seed: int
) -> Iterator[Cell]:
    trained: dict[str, Cell] = {}
    measured: set[str] = set()
    for process, solver in pairs:
        cell = _train_cell(config, process, seed)
        if cell.key not in trained:
            yield cell
        cell = trained.setdefault(cell.key, cell)
        labels = {"process": process.name, "seed": seed}
        if process.name not in measured:
            measured.add(process.name)
            for metric in metrics:
                if metric.tags.get("needs", "samples") == "model":
                    yield _metric_cell(config, metric, cell, labels, process)
        for nfe in config.nfe if solver.tags.get("budget", True) else (None,):
            sampled = _sample_cell(config, process, solver, nfe, seed, cell)
            yield sampled
            for metric in metrics:
                if metric.tags.get("needs", "samples") == "samples":
                    yield _metric_cell(config, metric, sampled, sampled.labels, process)


def _origin(entry: Entry) -> str:
    """A plugin's distribution and version: its source is not under this package's hash."""
    if entry.origin in ("genflow", "this program"):
        return entry.target or entry.name
    try:
        version = metadata.version(entry.origin)
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    return f"{entry.target} of {entry.origin} {version}"


def _options(config: BenchConfig, process: Entry) -> dict[str, Any]:
    given = config.process_options
    return {**given.get(process.family, {}), **given.get(process.name, {})}


def _data_spec(config: BenchConfig) -> dict[str, Any]:
    entry = registries()["datasets"].entry(config.dataset)
    return {
        "name": config.dataset,
        "class": _origin(entry),
        "options": config.dataset_options.get(config.dataset, {}),
    }


def _train_cell(config: BenchConfig, process: Entry, seed: int) -> Cell:
    backbone = registries()["backbones"].entry(config.backbone)
    spec = {
        "process": {
            "name": process.name if not process.family else process.family,
            "class": _origin(process),
            "options": _options(config, process),
        },
        "backbone": {
            "name": config.backbone,
            "class": _origin(backbone),
            "options": config.backbone_options.get(config.backbone, {}),
        },
        "dataset": _data_spec(config),
        "train": {k: v for k, v in asdict(config.train).items() if k not in ("save_seconds",)},
        "seed": seed,
        "device": config.device,
    }
    cost = 4.0 * config.train.steps * config.train.batch_size
    return Cell("train", spec, {"process": process.family or process.name, "seed": seed}, cost=cost)


def _sample_cell(config: BenchConfig, process: Entry, solver: Entry, nfe: int | None, seed: int, trained: Cell) -> Cell:
    spec = {
        "process": process.name,
        "preset": dict(process.preset),
        "solver": solver.name,
        "class": _origin(solver),
        "options": config.solver_options.get(solver.name, {}),
        "nfe": nfe,
        "samples": config.samples,
        "seed": seed,
    }
    labels = {"process": process.name, "solver": solver.name, "nfe": nfe, "seed": seed}
    return Cell("sample", spec, labels, (trained.key,), cost=float(config.samples * (nfe or 80)))


def _metric_cell(
    config: BenchConfig,
    metric: Entry,
    parent: Cell | None,
    labels: Mapping[str, Any],
    process: Entry | None = None,
) -> Cell:
    spec: dict[str, Any] = {"metric": metric.name, "class": _origin(metric), "dataset": _data_spec(config)}
    spec |= {"seed": labels["seed"], "preset": dict(process.preset) if process else {}}
    cost = 1.0
    if metric.tags.get("needs", "samples") == "model" and parent is not None:
        spec |= {"samples": config.samples, "norm": asdict(config.norm), "bpd": asdict(config.bpd)}
        spec["solvers"] = config.solver_options.get(config.norm.solver, {})
        spec = _only_own(spec, metric.name)
        cost = _model_cost(config, metric.name)
    return Cell("metric", json.loads(json.dumps(spec)), labels, (parent.key,) if parent else (), cost=cost)


def _only_own(spec: dict[str, Any], metric: str) -> dict[str, Any]:
    """Leaves out settings that a built-in metric does not read, so that changing them reruns nothing."""
    unread = {"norm_z": ("bpd",), "bpd": ("norm", "samples", "solvers")}.get(metric, ())
    return {k: v for k, v in spec.items() if k not in unread}


def _model_cost(config: BenchConfig, metric: str) -> float:
    if metric == "bpd":
        return 3.0 * config.bpd.examples * 80
    return 0.5 * config.samples * config.norm.nfe * (1 + len(config.norm.factors))
