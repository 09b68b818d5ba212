"""The bench's measurements on one checkpoint: the code of its cells, with the results held in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import genflow
from genflow.bench.cells import REAL, guidance_spec
from genflow.bench.external import EXTERNAL, External, read
from genflow.bench.guides import guidance_of
from genflow.bench.store import Store
from genflow.bench.worker import Tick, Worker, pack
from genflow.config import BenchConfig, ConfigError
from genflow.data.base import Dataset
from genflow.distributed import ALONE, Team
from genflow.process.base import Process
from genflow.registry import registries
from genflow.sampling import sample_together
from genflow.solver.fields import Solution


class _Memory(Store):
    """A store whose cells are held in memory."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.held: dict[str, dict[str, bytes]] = {}

    def files(self, key: str) -> dict[str, bytes]:
        return self.held[key]


class SingleWorker(Worker):
    """Samples and measures one trained pair.

    Arguments:
        config: A bench of one process, solver, budget and seed; its metrics are measured.
        process: The trained process.
        backbone: Its network, on the configuration's device.
        dataset: What it is compared with.
        team: The ranks that share the samples and the passes over them.
    """

    def __init__(
        self, config: BenchConfig, process: Process, backbone: Any, dataset: Dataset, team: Team = ALONE
    ) -> None:
        super().__init__(config, lambda: False)
        self.dataset = dataset
        self.store = self.memory = _Memory()
        self.pair, self.team = (process, backbone), team

    def _solve(self, spec: dict[str, Any], process: Process, backbone: Any, *rest: Any) -> Solution:
        part, labels, tick = rest
        count = part[1] - part[0]
        return sample_together(
            self.team,
            process,
            backbone,
            genflow.get_solver(spec["solver"], **spec["options"]),
            count,
            nfe=spec["nfe"],
            seed=spec["seed"],
            shape=self.dataset.shape,
            batch_size=self.config.sample_batch,
            device=self.config.device,
            labels=labels,
            guidance=guidance_of(self.config, spec, self.network),
            on_batch=lambda done: self._tick(done / count, tick),
        )

    def _model(self, cell: dict[str, Any]) -> tuple[Process, Any]:
        return self.pair

    def rows(self, tick: Tick) -> list[dict[str, Any]]:
        """Rows of results.csv, real data's among them.

        Raises:
            ConfigError: None of the metrics can be measured on this process; with the reasons.
        """
        config, registry = self.config, registries()["metrics"]
        seed, name = config.seed[0], config.process[0]
        metrics = {m: registry.get(m, **config.metric_options.get(m, {})) for m in config.metric}
        reasons = {m: metric.why_not(self.pair[0]) for m, metric in metrics.items()}
        able = [m for m in metrics if not reasons[m]]
        if not able:
            raise ConfigError(f"nothing to measure: {'; '.join(f'{m}: {reason}' for m, reason in reasons.items())}")
        budget = config.nfe[0] if registries()["solvers"].entry(config.solver[0]).tags.get("budget", True) else None
        sampled = {"process": name, "solver": config.solver[0], "nfe": budget, "seed": seed}
        if any(metrics[m].needs == "samples" for m in able):
            options = config.solver_options.get(config.solver[0], {})
            spec = {"solver": config.solver[0], "options": options, "nfe": budget, "samples": config.samples}
            spec |= guidance_spec(config, registries()["processes"].entry(name))
            cell = {"spec": {**spec, "seed": seed}, "labels": sampled}
            self.memory.held[""] = self._draw(cell, (0, config.samples), tick)
        found = []
        for metric in able:
            of = metrics[metric].needs
            own = sampled if of == "samples" else {"process": name, "seed": seed}
            for what, labels in (("real data", {"process": REAL, "seed": seed}), (of, own)):
                spec = {"metric": metric, "seed": seed, "of": what}
                files = self._metric({"spec": spec, "labels": labels, "parents": [""]}, tick)
                found += [row | {"entry": metric} for row in json.loads(files["rows.json"])]
        return found


def measure_external(
    config: BenchConfig, given: External, dataset: Dataset, check: Callable[[BenchConfig], None]
) -> list[dict[str, Any]]:
    """Rows of samples that others drew, all of them, and of real data.

    Arguments:
        config: A bench whose metrics are measured; `samples` is set to the number that there are.
        given: The samples.
        dataset: What they are compared with.
        check: Refuses, before anything is measured, what the metrics cannot be measured on.
    """
    raw, words = read(given, dataset, None)
    if len(raw) < 2:
        raise ConfigError(f"{given.place} holds {len(raw)} sample; at least 2 are needed")
    config = replace(config, samples=len(raw))
    check(config)
    worker, seed = Worker(config, lambda: False), config.seed[0]
    worker.dataset = dataset
    worker.store = memory = _Memory()
    facts = json.dumps({"nfe": given.nfe, "seconds": 0.0, "labels": words}).encode()
    memory.held[""] = {"samples.npz": pack({"raw": raw.numpy()}), "facts.json": facts}
    own = {"process": given.name, "solver": "", "nfe": given.nfe, "seed": seed, "terms": EXTERNAL, "backbone": ""}
    found = []
    for metric in config.metric:
        for what, labels in (("real data", {"process": REAL, "seed": seed}), ("samples", own)):
            cell = {"spec": {"metric": metric, "seed": seed, "of": what}, "labels": labels, "parents": [""]}
            rows = json.loads(worker._metric(cell, lambda share, note: None)["rows.json"])
            found += [row | {"entry": metric, "terms": labels.get("terms", "")} for row in rows]
    return found
