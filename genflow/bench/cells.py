"""The plan of a bench: its cells, each with a key that is the hash of everything its numbers depend on.

A cell's key covers its own settings, the keys of the cells it builds on, and the source code of the parts of the
package that make it, so results of other settings or other code are never mixed in. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from genflow.bench.axes import (
    check_axes,
    labels_of,
    sampled_variants,
    sampler_labels,
    trained_variants,
    variant,
    varied,
)
from genflow.bench.checkpoints import guide_of
from genflow.bench.contents import contents, listing
from genflow.bench.external import EXTERNAL, externals
from genflow.bench.pairs import Pair, check_names, pairs
from genflow.bench.pairs import lacking as lacking
from genflow.bench.terms import sampler_options, settle, terms_of
from genflow.config import BenchConfig, deciding
from genflow.evaluate.facts import OWN_NFE as OWN_NFE
from genflow.evaluate.facts import cost, needs, settings
from genflow.evaluate.weight_files import sha256, stamp
from genflow.places import expand
from genflow.registry import Entry, registries

REAL = "data"
"""The process column of a row that measures real data."""

CODE = {
    "train": ("process", "backbone", "data", "solver/base.py", "training"),
    "sample": ("solver", "sampling.py"),
    "model": ("process", "backbone", "data", "solver/base.py", "checkpoint"),
    "external": ("data", "bench/external.py"),
    "metric": ("evaluate", "likelihood.py", "solver", "sampling.py", "data"),
}
"""Source that a kind of cell depends on, besides what its parents depend on."""


@dataclass(frozen=True)
class Cell:
    """A result with a key and a folder of its own.

    Arguments:
        kind: "train", "sample", or "metric".
        spec: What it does, as plain data; with parents and code, its identity.
        labels: process, solver, nfe and seed as tables show them; not part of the identity.
        parents: Keys of cells whose results it reads.
        cost: Rough number of network evaluations, for progress and for the estimate of time.
        folder: The checkpoint that it reads where no cell made it; its hash, not its place, is part of the identity.
    """

    kind: str
    spec: Mapping[str, Any]
    labels: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    cost: float = 0.0
    folder: str = ""
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
    def model(self) -> str:
        """The trained network that it makes or reads; "" for a measurement of samples or of real data."""
        if self.kind == "train":
            return self.key
        reads = self.kind == "sample" or self.spec.get("of") == "model"
        return (self.folder or "".join(self.parents)) if reads else ""

    @property
    def name(self) -> str:
        """For people: "train pfgm seed 0", "sample vp_ode heun 20 head=noise seed 0"."""
        words = [
            self.spec.get("metric", self.kind),
            *(self.labels.get(k) for k in ("process", "solver", "nfe", "variant")),
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
        ConfigError, UnknownNameError: A name or a pair cannot work; nothing has run.
    """
    config, _ = settle(config)
    check_names(config)
    listing.cache_clear()
    metrics = [registries()["metrics"].entry(m) for m in config.metric]
    fitting = list(pairs(config))
    check_axes(config, fitting)
    cells: list[Cell] = [_metric_cell(config, m, None, {"process": REAL, "seed": 0}) for m in metrics]
    for seed in config.seed[:1]:
        cells += _external_cells(config, metrics, seed)
    for seed in config.seed:
        for one in trained_variants(config):
            models = _finished(one, fitting, seed) if config.checkpoint else _trained(one, fitting, seed)
            cells += _seed_cells(one, metrics, models, seed)
    axes, known = varied(config), {cell.key: cell for cell in cells}
    return [replace(cell, labels={**cell.labels, "variant": variant(cell.labels, axes)}) for cell in known.values()]


def _external_cells(config: BenchConfig, metrics: Sequence[Entry], seed: int) -> Iterator[Cell]:
    """Samples that others drew, and their measurements."""
    for one in externals(config, config.process):
        spec = {"content": one.content, "samples": config.samples, "nfe": one.nfe, "dataset": _data_spec(config)}
        labels = {"process": one.name, "solver": "", "nfe": one.nfe, "seed": seed, "terms": EXTERNAL, "backbone": ""}
        given = Cell("external", spec, labels, cost=1.0, folder=one.place)
        yield given
        for metric in metrics:
            if needs(metric) == "samples":
                yield _metric_cell(config, metric, given, labels)


@dataclass(frozen=True)
class _Model:
    """What samples are drawn from: a process under a solver, and a network to be trained or from a checkpoint."""

    process: Entry
    solver: Entry
    labels: Mapping[str, Any]
    trained: Cell | None = None
    folder: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.trained.key,) if self.trained else ()


def _trained(config: BenchConfig, fitting: Sequence[Pair], seed: int) -> Iterator[_Model]:
    """The models that a bench trains; modes of a family share one."""
    known: dict[str, Cell] = {}
    for process, solver in fitting:
        cell = _train_cell(config, process, seed)
        labels = {"process": process.name, "seed": seed, "terms": terms_of(config, process.name)}
        labels |= labels_of(config, process)
        yield _Model(process, solver, labels, known.setdefault(cell.key, cell), identity=_network(config))


def _network(config: BenchConfig) -> dict[str, Any]:
    """How trained networks are run, where that is not plain float32."""
    plain = {f.name: f.default for f in fields(config)}
    changed = {name: value for name, value in config.network.items() if value != plain[name]}
    return {"network": changed} if changed else {}


def _finished(config: BenchConfig, fitting: Sequence[Pair], seed: int) -> Iterator[_Model]:
    """The checkpoints that a bench measures."""
    from genflow.bench.checkpoints import labels, matching, unset_by_mode
    from genflow.checkpoint import with_places

    found = matching(config)
    named = labels(found)
    for one, names in found:
        for process, solver in fitting:
            if process.name in names:
                shown = {"process": named[one.path, process.name], "backbone": one.backbone, "seed": seed}
                shown |= {"terms": config.terms}
                data = _data_spec(config)
                own = one.dataset == {"name": data["name"], "options": with_places(data["options"])}
                identity: dict[str, Any] = {"checkpoint": one.content, "as": process.name}
                identity |= {"unset": unset_by_mode(process), "dataset": data, "own data": own}
                identity |= {"device": config.device, "code": code_digest("model")}
                identity |= _network(config)
                yield _Model(process, solver, shown, folder=one.path, identity=identity)


def _seed_cells(config: BenchConfig, metrics: list[Entry], models: Iterable[_Model], seed: int) -> Iterator[Cell]:
    measured: set[str] = set()
    for model in models:
        if model.trained:
            yield model.trained
        shown = model.labels["process"]
        if shown not in measured:
            measured.add(shown)
            for metric in metrics:
                if needs(metric) == "model":
                    yield _metric_cell(config, metric, None, model.labels, model)
        budgets = config.nfe if model.solver.tags.get("budget", True) else (None,)
        for one, nfe in product(sampled_variants(config, model.solver.name), budgets):
            sampled = _sample_cell(one, model, nfe, seed)
            yield sampled
            for metric in metrics:
                if needs(metric) == "samples":
                    yield _metric_cell(config, metric, sampled, sampled.labels, model)


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
    options = config.dataset_options.get(config.dataset, {})
    files = contents(options)
    spec = {"name": config.dataset, "class": _origin(entry), "options": options}
    return spec | ({"files": files} if files else {})


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
        "train": deciding(config.train),
        "seed": seed,
        "device": config.device,
    }
    cost = 4.0 * config.train.steps * config.train.batch_size
    labels = {"process": process.family or process.name, "seed": seed, **labels_of(config, process)}
    return Cell("train", spec, labels, cost=cost)


def _sample_cell(config: BenchConfig, model: _Model, nfe: int | None, seed: int) -> Cell:
    spec = {
        "process": model.process.name,
        "preset": dict(model.process.preset),
        "solver": model.solver.name,
        "class": _origin(model.solver),
        "options": sampler_options(config, model.process.name, model.solver.name),
        "nfe": nfe,
        "samples": config.samples,
        "seed": seed,
        **({"sample_batch": config.sample_batch} if _shares_batch(config, model) else {}),
        **guidance_spec(config, model.process),
        **model.identity,
    }
    labels = {**model.labels, "solver": model.solver.name, "nfe": nfe}
    labels |= sampler_labels(config, model.process, model.solver)
    cost = float(config.samples * (nfe or OWN_NFE))
    return Cell("sample", spec, labels, model.parents, cost, model.folder)


def guidance_spec(config: BenchConfig, process: Entry) -> dict[str, Any]:
    """How samples are guided, where they are; of the guide its hash counts, not its place."""
    if config.guidance == 1:
        return {}
    guide = guide_of(config, process)
    interval = list(config.guidance_interval) or None
    return {"guidance": {"weight": config.guidance, "interval": interval, "guide": guide and guide.content}}


def _shares_batch(config: BenchConfig, model: _Model) -> bool:
    """Whether a solver's options make a sample depend on those drawn with it; the tag `batch_options` says which do."""
    solver = model.solver
    options = {**solver.preset, **sampler_options(config, model.process.name, solver.name)}
    return any(options.get(name) == value for name, value in solver.tags.get("batch_options", {}).items())


def _metric_cell(
    config: BenchConfig,
    metric: Entry,
    sampled: Cell | None,
    labels: Mapping[str, Any],
    model: _Model | None = None,
) -> Cell:
    """A measurement of samples, of a model where there are none, or of real data where there is no model."""
    spec: dict[str, Any] = {"metric": metric.name, "class": _origin(metric), "dataset": _data_spec(config)}
    spec |= {"seed": labels["seed"], "preset": dict(model.process.preset) if model else {}}
    spec["of"] = "samples" if sampled else "real data" if model is None else "model"
    section = metric.tags.get("section", "")
    own = asdict(settings(config, metric.name)) if section else {}
    options = {**metric.preset, **config.metric_options.get(metric.name, {})}
    options = {k: v for k, v in options.items() if k not in own}
    spec |= stamp(options, config.inception if "weights" in metric.tags else None)
    if config.reference_file and (not section or "reference" in metric.tags.get("reads", ())):
        spec |= {"reference": sha256(expand(config.reference_file))}
    if spec["of"] == "real data" and needs(metric) == "samples":
        spec |= {"samples": config.samples}  # real data are measured at their number
    if model is None or sampled is not None:
        return Cell("metric", _plain(spec), labels, (sampled.key,) if sampled else (), 1.0)
    read = {"samples": config.samples, "solvers": config.solver_options.get(own.get("solver", config.norm.solver), {})}
    if section:
        spec |= {section: own} | {k: v for k, v in read.items() if k in metric.tags.get("reads", ())}
    else:  # a plugin may read any of them
        spec |= {**read, "norm": asdict(config.norm), "bpd": asdict(config.bpd)}
    spec = _plain(spec | dict(model.identity))
    return Cell("metric", spec, labels, model.parents, cost(config, metric), model.folder)


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(spec))
