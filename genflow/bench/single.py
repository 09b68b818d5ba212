"""The bench's measurements on one checkpoint: the same code as its cells, nothing kept in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genflow.bench.cells import REAL
from genflow.bench.store import Store
from genflow.bench.worker import Tick, Worker
from genflow.config import BenchConfig, ConfigError
from genflow.process.base import Process
from genflow.registry import registries


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
    """

    def __init__(self, config: BenchConfig, process: Process, backbone: Any) -> None:
        super().__init__(config, lambda: False)
        self.store, self.pair = _Memory(), (process, backbone)

    def _model(self, key: str, preset: Mapping[str, Any]) -> tuple[Process, Any]:
        return self.pair

    def rows(self, tick: Tick) -> list[dict[str, Any]]:
        """Rows of results.csv, real data's among them.

        Raises:
            ConfigError: Nothing that was asked for can be measured on this process, with the reasons.
        """
        config, registry = self.config, registries()["metrics"]
        seed, name = config.seed[0], config.process[0]
        metrics = {m: registry.get(m) for m in config.metric}
        reasons = {m: metric.why_not(self.pair[0]) for m, metric in metrics.items()}
        able = [m for m in metrics if not reasons[m]]
        if not able:
            raise ConfigError(f"nothing to measure: {'; '.join(f'{m}: {reason}' for m, reason in reasons.items())}")
        budget = config.nfe[0] if registries()["solvers"].entry(config.solver[0]).tags.get("budget", True) else None
        sampled = {"process": name, "solver": config.solver[0], "nfe": budget, "seed": seed}
        if any(metrics[m].needs == "samples" for m in able):
            options = config.solver_options.get(config.solver[0], {})
            spec = {"solver": config.solver[0], "options": options, "nfe": budget, "samples": config.samples}
            cell = {"spec": {**spec, "seed": seed, "preset": {}}, "labels": sampled, "parents": [""]}
            self.store.held[""] = self._sample(cell, tick)  # type: ignore[attr-defined]  # the store is a _Memory
        found = []
        for metric in able:
            own = sampled if metrics[metric].needs == "samples" else {"process": name, "seed": seed}
            for labels in ({"process": REAL, "seed": seed}, own):
                cell = {"spec": {"metric": metric, "seed": seed, "preset": {}}, "labels": labels, "parents": [""]}
                found += json.loads(self._metric(cell, tick)["rows.json"])
        return found
