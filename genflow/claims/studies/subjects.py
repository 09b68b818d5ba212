"""The models of a study: a process under a network of a bench or checkpoint, or under the exact field of its data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import genflow
from genflow.bench.cells import Cell, plan
from genflow.bench.contents import contents, listing
from genflow.bench.runner import Report, Runner
from genflow.bench.store import Store, missing
from genflow.bench.worker import Worker
from genflow.claims.results import EXACT
from genflow.config import BenchConfig, ConfigError, to_dict
from genflow.data.base import Dataset
from genflow.process.base import Process
from genflow.process.field import BackboneLike
from genflow.registry import registries

Show = Callable[[Report], None]
"""Called a few times a second while a bench works."""


@dataclass(frozen=True)
class Subject:
    """A process under a network.

    Arguments:
        name: In tables.
        entry: Registered name of the process.
        process: Fitted to its data, in the mode it is sampled in.
        backbone: Its network, or an oracle.
        network: The network's name, or EXACT.
        seed: Of training and of every draw.
        how: What the network is, for the protocol.
        identity: All that its samples depend on, beside what they are asked for; plain data.
        sampled: Key of the cell of a bench that holds its samples, by (solver, budget).
        trained: The cell that trained it, where that was a bench.
    """

    name: str
    entry: str
    process: Process
    backbone: BackboneLike
    network: str
    seed: int
    how: str
    identity: Mapping[str, Any]
    sampled: Mapping[tuple[str, int | None], str] = field(default_factory=dict)
    trained: Cell | None = None

    @property
    def label(self) -> dict[str, Any]:
        """Columns of results.csv that identify it."""
        return {"process": self.name, "backbone": self.network, "seed": self.seed}


class Loader(Worker):
    """Reads the models of a bench as its cells do.

    Arguments:
        config: The bench.
    """

    def __init__(self, config: BenchConfig) -> None:
        super().__init__(config, lambda: False)

    def pair(self, cell: Cell) -> tuple[Process, Any]:
        """The model that a sample cell reads."""
        self._loaded = None
        return self._model(cell.to_json())

    def labels(self, rows: range, backbone: Any) -> Tensor | None:
        """Classes that samples of those numbers are conditioned on; None for none."""
        return self._labels((rows.start, rows.stop), backbone)[0]


def trained(config: BenchConfig, show: Show = lambda report: None, draw: bool = False) -> list[Subject]:
    """The models of a bench, one for each process and seed; those it lacks are trained in its folder first.

    Arguments:
        config: The bench; what it would measure is left alone.
        show: Called with the progress of training.
        draw: Also draw the bench's samples there, several models at once.

    Raises:
        ConfigError, CellError, Interrupted, BusyError: As a bench.
    """
    store, cells = Store(Path(config.out)), plan(config)
    wanted = [cell for cell in cells if cell.kind == "train" or (draw and cell.kind == "sample")]
    todo, _ = missing(store, wanted)
    if todo:
        store.prepare()
        with store.lock():
            Runner(config, store, report=show).run(cells, todo)
    return list(_subjects(config, cells))


def _subjects(config: BenchConfig, cells: Sequence[Cell]) -> Iterator[Subject]:
    loader, by_key = Loader(config), {cell.key: cell for cell in cells}
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        if cell.kind == "sample":
            groups.setdefault((cell.labels["process"], cell.labels["seed"]), []).append(cell)
    for (name, seed), own in groups.items():
        first = own[0]
        process, backbone = loader.pair(first)
        before = by_key[first.parents[0]] if first.parents else None
        network = first.labels.get("backbone", config.backbone)
        how = f"network {network}, " + (
            f"{config.train.steps} training steps" if before else f"checkpoint {first.spec['checkpoint']}"
        )
        identity = {"of": first.parents[0] if before else first.spec["checkpoint"], "preset": first.spec["preset"]}
        sampled = {(cell.labels["solver"], cell.labels["nfe"]): cell.key for cell in own}
        entry = first.spec["process"]
        yield Subject(name, entry, process, backbone, network, seed, how, identity, sampled, before)


def exact(config: BenchConfig, dataset: Dataset) -> list[Subject]:
    """Processes under the exact field of the training split, one for each seed.

    Raises:
        ConfigError: A process whose exact field is not known, with the reason.
    """
    points = dataset.scaling.encode(dataset.train)
    found = []
    for name in config.process:
        entry, given = registries()["processes"].entry(name), config.process_options
        options = {**given.get(entry.family, {}), **given.get(name, {})}
        process = genflow.get_process(name, **options).for_data(dataset.fitting_points())
        if process.why_not("oracle"):
            raise ConfigError(f"process '{name}' has no exact field here: {process.why_not('oracle')}")
        identity = {"oracle": name, "options": process.config(), "data": [config.dataset, config.dataset_options]}
        how = f"exact field of the {len(points)} training examples"
        oracle, plain = process.oracle(points), json.loads(json.dumps(identity))
        found += [Subject(name, entry.name, process, oracle, EXACT, seed, how, plain) for seed in config.seed]
    return found


def settings_of(config: BenchConfig) -> dict[str, Any]:
    """What of a bench its distances depend on beside the model, with what the data set's files hold: plain data."""
    whole = to_dict(config)
    listing.cache_clear()
    files = contents(config.dataset_options.get(config.dataset, {}))
    own = {key: whole[key] for key in ("samples", "dataset", "dataset_options", "device")}
    return own | ({"files": files} if files else {})
