"""Does one cell at a time in a process of its own: JSON lines in, JSON lines out.

The bench talks to it over pipes, so it can be stopped without losing what is finished, and never outlives it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

import genflow
from genflow.bench.cells import REAL
from genflow.bench.store import Store
from genflow.checkpoint import describe, save, write_folder
from genflow.config import BenchConfig, build
from genflow.data.base import Dataset
from genflow.devices import check_device
from genflow.evaluate.base import Context, Metric, Result, rows_as_dicts
from genflow.process.base import Process
from genflow.registry import registries
from genflow.sampling import sample
from genflow.training import check_data, train

Tick = Callable[[float, str], None]
"""Called with the share done and a word on how it goes."""


class Stopped(Exception):
    """The bench asked for an end; what could be saved is saved."""


class Worker:
    """Runs cells of one bench.

    Arguments:
        config: The bench's configuration.
        should_stop: Asked between steps.
    """

    def __init__(self, config: BenchConfig, should_stop: Callable[[], bool]) -> None:
        self.config, self.should_stop = config, should_stop
        self.store = Store(Path(config.out))
        self.dataset: Dataset = genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))

    def check(self) -> None:
        """Builds everything the bench names, so that a refused option or pair is known before anything runs.

        Raises:
            ValueError: With the reason, from the part that refused.
        """
        config = self.config
        check_device(config.device)
        registry = registries()["processes"]
        for name in config.process:
            options = {
                **config.process_options.get(registry.entry(name).family, {}),
                **config.process_options.get(name, {}),
            }
            process = self._process(name, options)
            backbone = self._backbone(process.extra_channels, config.backbone_options.get(config.backbone, {}))
            check_data(self.dataset, getattr(backbone, "classes", 0))
        for name in (*config.solver, config.norm.solver):
            genflow.get_solver(name, **config.solver_options.get(name, {}))

    def _backbone(self, extra_channels: int, options: dict[str, Any]) -> Any:
        return genflow.get_backbone(
            self.config.backbone, shape=self.dataset.shape, extra_channels=extra_channels, **options
        )

    def run(self, cell: dict[str, Any], tick: Tick) -> None:
        """Does a cell and writes its folder."""
        started = time.monotonic()
        files = getattr(self, f"_{cell['kind']}")(cell, tick)
        if files is None:
            return
        seconds = round(time.monotonic() - started, 3)
        facts = {k: cell[k] for k in ("kind", "spec", "labels", "parents")} | {"seconds": seconds}
        write_folder(self.store.folder(cell["key"]), {"cell.json": json.dumps(facts, indent=1).encode(), **files})

    def _train(self, cell: dict[str, Any], tick: Tick) -> None:
        """Trains, keeping a resumable state; the finished folder is a checkpoint that `genflow.load` reads."""
        spec, state, started = cell["spec"], self.store.state_folder(cell["key"]), time.monotonic()
        process = self._process(cell["labels"]["process"], spec["process"]["options"])
        backbone = self._backbone(process.extra_channels, spec["backbone"]["options"])
        result = train(
            process,
            backbone,
            self.dataset,
            self.config.train,
            seed=spec["seed"],
            device=self.config.device,
            state=state,
            progress=lambda step, steps, loss: tick(step / steps, f"loss {loss:.4f}"),
            should_stop=self.should_stop,
        )
        if not result.finished:
            raise Stopped
        config = describe(cell["labels"]["process"], result.process, self.config.backbone, result.backbone) | {
            "cell": {k: cell[k] for k in ("kind", "spec", "labels", "parents")},
            "seconds": round(time.monotonic() - started, 3),
        }
        lines = "".join(json.dumps(line) + "\n" for line in result.losses)
        save(
            self.store.folder(cell["key"]),
            config,
            result.backbone.state_dict(),
            {"stats.jsonl": lines.encode()},
        )
        shutil.rmtree(state, ignore_errors=True)

    def _process(self, name: str, options: dict[str, Any]) -> Process:
        """Fitted to the data, since the channels that the backbone needs may follow from them."""
        process: Process = genflow.get_process(name, **options)
        return process.for_data(self.dataset.scaling.encode(self.dataset.train))

    def _labels(self, count: int, backbone: Any) -> Tensor | None:
        """Classes of `count` samples: those of the training examples, in their order and again from the start."""
        labels = self.dataset.labels("train") if getattr(backbone, "classes", 0) else None
        return None if labels is None else labels[torch.arange(count) % len(labels)]

    def _model(self, key: str, preset: dict[str, Any]) -> tuple[Process, Any]:
        """A trained pair from its checkpoint, in the mode of the process that is asked for."""
        process, backbone = genflow.load(self.store.folder(key))
        if preset:
            process = type(process)(**{**process.config(), **preset})
        process = process.for_data(self.dataset.scaling.encode(self.dataset.train))  # a base of data is not in the file
        return process, backbone.to(self.config.device)

    def _sample(self, cell: dict[str, Any], tick: Tick) -> dict[str, bytes]:
        spec = cell["spec"]
        process, backbone = self._model(cell["parents"][0], spec["preset"])
        labels = self._labels(spec["samples"], backbone)
        started = time.monotonic()

        def on_batch(done: int) -> None:
            tick(done / spec["samples"], "")
            if self.should_stop():
                raise Stopped

        solution = sample(
            process,
            backbone,
            genflow.get_solver(spec["solver"], **spec["options"]),
            spec["samples"],
            nfe=spec["nfe"],
            seed=spec["seed"],
            shape=self.dataset.shape,
            batch_size=self.config.sample_batch,
            device=self.config.device,
            labels=labels,
            on_batch=on_batch,
        )
        raw = self.dataset.scaling.decode(solution.x).numpy()
        facts: dict[str, Any] = {"nfe": solution.nfe, "seconds": round(time.monotonic() - started, 3)}
        facts |= {} if labels is None else {"told": "each sample told the class of one training example in turn"}
        return {"samples.npz": _npz({"raw": raw}), "facts.json": json.dumps(facts).encode()}

    def _metric(self, cell: dict[str, Any], tick: Tick) -> dict[str, bytes]:
        spec, labels, started = cell["spec"], cell["labels"], time.monotonic()
        metric: Metric = registries()["metrics"].get(spec["metric"])
        context = Context(self.config, self.dataset, spec["seed"], tick=lambda share: self._tick(share, tick))
        sampled: dict[str, Any] = {}
        if labels["process"] == REAL:
            result = metric.floor(context)
        elif metric.needs == "samples":
            files = self.store.files(cell["parents"][0])
            sampled = json.loads(files["facts.json"])
            context.samples = torch.from_numpy(np.load(io.BytesIO(files["samples.npz"]))["raw"])
            result = metric.measure(context)
        else:
            context.process, context.backbone = self._model(cell["parents"][0], spec["preset"])
            result = Result([]) if metric.why_not(context.process) else metric.measure(context)
            sampled = {"told": "told no class"} if getattr(context.backbone, "classes", 0) else {}
        seconds = sampled.get("seconds", round(time.monotonic() - started, 3))
        rows = [self._row(row, labels, sampled, seconds) for row in rows_as_dicts(result.rows)]
        files = {"rows.json": json.dumps(rows, indent=1).encode()}
        return files | ({"arrays.npz": _npz(result.arrays)} if result.arrays else {})

    def _row(
        self, row: dict[str, Any], labels: dict[str, Any], sampled: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """A row of results.csv: what was measured, with the cell's labels where the metric says nothing itself."""
        return {
            "process": labels["process"],
            "backbone": "" if labels["process"] == REAL else self.config.backbone,
            "dataset": self.config.dataset,
            "solver": row["solver"] or labels.get("solver", ""),
            "nfe": sampled.get("nfe", row["nfe"]),
            "budget": labels.get("nfe"),
            "metric": row["metric"],
            "value": row["value"],
            "stderr": row["stderr"],
            "n": row["n"],
            "seed": labels["seed"],
            "protocol": "; ".join(filter(None, (row["protocol"], sampled.get("told")))),
            "seconds": seconds,
        }

    def _tick(self, share: float, tick: Tick) -> None:
        tick(share, "")
        if self.should_stop():
            raise Stopped


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


class _Lines:
    """JSON lines to the bench, progress at most ten times a second."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.last = file, 0.0

    def send(self, **message: Any) -> None:
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()

    def progress(self, share: float, note: str) -> None:
        now = time.monotonic()
        if now - self.last > 0.1:
            self.last = now
            self.send(share=share, note=note)


def main() -> None:
    """Reads {"config", "threads"} and then cells from standard input until it closes."""
    lines = _Lines(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = json.loads(sys.stdin.readline())
    torch.set_num_threads(first["threads"])
    try:
        worker = Worker(build(BenchConfig, first["config"]), stop.is_set)
        worker.check()
    except (ValueError, TypeError) as error:
        lines.send(refused=str(error))
        return
    lines.send(ready=True)
    if "--check" in sys.argv:
        return
    inbox = _inbox()
    while (text := inbox()) and not stop.is_set():
        cell = json.loads(text)
        try:
            worker.run(cell, lines.progress)
            lines.send(done=cell["key"])
        except Stopped:
            lines.send(stopped=cell["key"])
            return
        except Exception as error:
            lines.send(failed=cell["key"], error=f"{type(error).__name__}: {error}")


def _inbox() -> Callable[[], str]:
    """Next line of standard input; when the bench is gone the process ends at once, whatever it is doing."""
    import queue

    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return waiting.get


if __name__ == "__main__":
    main()
