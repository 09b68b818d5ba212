"""What a worker does: one task of a bench at a time. It trains, draws samples or a shard of them, and measures."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import genflow
from genflow.bench import external, shards
from genflow.bench.axes import solver_variants, trained_variants
from genflow.bench.cells import REAL
from genflow.bench.checkpoints import content_of, open_finished
from genflow.bench.data import UnavailableData, data_of
from genflow.bench.guides import check_guides, guidance_of, words_of_guidance
from genflow.bench.store import UNAVAILABLE, Store
from genflow.bench.terms import settle
from genflow.checkpoint import CheckpointError, describe, save, with_places, write_folder
from genflow.config import BenchConfig
from genflow.data.base import Dataset
from genflow.data.downloads import DataError
from genflow.devices import Execution, check_device, network_clock, trained_network
from genflow.evaluate.base import Context, Measured, Metric, Result, rows_as_dicts
from genflow.evaluate.checks import NotMeasurable, check_metrics
from genflow.evaluate.protocol import MISSING, is_missing
from genflow.evaluate.weight_files import WeightsError
from genflow.memory import MemoryExhaustedError
from genflow.process.base import Process
from genflow.registry import registries
from genflow.sampling import sample
from genflow.solver.ending import words_of
from genflow.solver.fields import Solution
from genflow.training import check_data, train

Tick = Callable[[float, str], None]
"""Called with the share done and a note on progress."""

OUT_OF_REACH = (NotMeasurable, WeightsError, DataError)
"""Errors that keep one metric from being measured here, and nothing else."""


SAMPLED = ("labels", "guidance", "end")
"""Facts of samples that are part of a number's protocol."""


class Stopped(Exception):
    """The bench asked the worker to stop; what can be saved is saved."""


class Worker:
    """Runs cells of one bench.

    Arguments:
        config: The bench's configuration.
        should_stop: Asked between steps.
    """

    def __init__(self, config: BenchConfig, should_stop: Callable[[], bool]) -> None:
        self.config, self.should_stop = settle(config)[0], should_stop
        self.store = Store(Path(config.out))
        self._loaded: tuple[str, tuple[Process, Any]] | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The bench's data; only their shape and scaling where a bench of checkpoints does not find them."""
        config = self.config
        options = config.dataset_options.get(config.dataset, {})
        if not config.checkpoint:
            return genflow.get_dataset(config.dataset, **options)
        return data_of(config.dataset, options, config.checkpoint[0])

    def check(self) -> None:
        """Builds everything the bench names, so that an option or pair is refused before anything runs.

        Raises:
            ValueError: With the reason, from the part that refused.
            CheckpointError: A checkpoint is damaged.
        """
        config = self.config
        check_device(config.device)
        reason = Execution(**config.network).why_not(config.device)
        if reason:
            raise ValueError(reason)
        norm = config.norm.solver
        for name, options in (*solver_variants(config), (norm, config.solver_options.get(norm, {}))):
            genflow.get_solver(name, **options)
        for folder in config.checkpoint:
            _, backbone = genflow.load(folder)
            if not isinstance(self.dataset, UnavailableData) and tuple(backbone.shape) != tuple(self.dataset.shape):
                raise ValueError(
                    f"checkpoint: {folder} makes samples of shape {tuple(backbone.shape)}, and examples of "
                    f"'{config.dataset}' have {tuple(self.dataset.shape)}; give the data set it was trained on"
                )
        for folder in config.checkpoint:
            check_guides(config, genflow.load(folder), folder, open_finished(folder).family, self.network)
        variants = () if config.checkpoint else tuple(trained_variants(config))
        for variant, name in product(variants, config.process):
            process, backbone = self.fresh(name, variant)
            check_data(self.dataset, getattr(backbone, "classes", 0))
            check_guides(config, (process, backbone), name, registries()["processes"].entry(name).family, self.network)
        for one in external.externals(config):
            external.read(one, self.dataset, config.samples)
        check_metrics(config, self.dataset)

    def _measure_of(self, name: str) -> Metric:
        metric: Metric = registries()["metrics"].get(name, **self.config.metric_options.get(name, {}))
        return metric

    def fresh(self, name: str, variant: BenchConfig | None = None) -> tuple[Process, Any]:
        """A process of the bench or of a variant of it, fitted to the data, and a network that is not trained."""
        config, entry = variant or self.config, registries()["processes"].entry(name)
        options = {**config.process_options.get(entry.family, {}), **config.process_options.get(name, {})}
        process = self._process(name, options)
        return process, self._backbone(process.extra_channels, config.backbone_options.get(config.backbone, {}))

    def _backbone(self, extra_channels: int, options: dict[str, Any]) -> Any:
        return genflow.get_backbone(
            self.config.backbone, shape=self.dataset.shape, extra_channels=extra_channels, **options
        )

    def _process(self, name: str, options: dict[str, Any]) -> Process:
        """Fitted to the data, since the channels that the backbone needs may depend on them."""
        try:
            process: Process = genflow.get_process(name, **options)
            return process.for_data(self.dataset.fitting_points())
        except ValueError as error:
            if self.config.terms == "published" or self.config.checkpoint:
                raise
            raise ValueError(
                f"{error}. '{name}' was to have {self.config.terms} terms: change its options, leave it out, or give "
                "--terms published"
            ) from error

    # ---- tasks -------------------------------------------------------------------------------------------

    def run(self, cell: dict[str, Any], tick: Tick, part: shards.Part | None = None) -> None:
        """Does a cell and writes its folder, or draws one shard of its samples and saves that."""
        started = time.monotonic()
        if part:
            return shards.write_shard(self.store, cell["key"], part, self._draw(cell, part, tick))
        files = getattr(self, f"_{cell['kind']}")(cell, tick)
        if files is not None:
            took = json.loads(files.get("facts.json", b"{}")).get("seconds", time.monotonic() - started)
            facts = {k: cell[k] for k in ("kind", "spec", "labels", "parents")} | {"seconds": round(took, 3)}
            write_folder(self.store.folder(cell["key"]), {"cell.json": json.dumps(facts, indent=1).encode(), **files})
        return shards.discard(self.store, cell["key"])

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
            fit=False,
        )
        if not result.finished:
            raise Stopped
        names = cell["labels"]["process"], self.config.backbone
        config = describe(names[0], result.process, names[1], result.backbone, self.dataset) | {
            "dataset": {
                "name": self.config.dataset,
                "options": with_places(self.config.dataset_options.get(self.config.dataset, {})),
            },
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

    def _model(self, cell: dict[str, Any]) -> tuple[Process, Any]:
        """The trained pair that a cell reads, in the mode that its process name asks for."""
        spec, folder = cell["spec"], cell["folder"]
        key = json.dumps([folder, cell["parents"], spec["preset"], spec.get("as")])
        if self._loaded is None or self._loaded[0] != key:
            pair = self._finished(folder, spec) if folder else self._trained(cell["parents"][0], spec["preset"])
            self._loaded = key, pair
        return self._loaded[1]

    def _trained(self, key: str, preset: dict[str, Any]) -> tuple[Process, Any]:
        process, backbone = genflow.load(self.store.folder(key))
        if preset:
            process = type(process)(**{**process.config(), **preset})
        process = process.for_data(self.dataset.fitting_points())  # a base of data is not in the file
        return process, self.network(backbone)

    def network(self, backbone: Any) -> Any:
        """A trained network on the bench's device, run as its options say."""
        return trained_network(backbone, Execution(**self.config.network), self.config.device)

    def _finished(self, folder: str, spec: dict[str, Any]) -> tuple[Process, Any]:
        """A checkpoint as it was trained, except for the mode."""
        if content_of(Path(folder)) != spec["checkpoint"]:
            raise CheckpointError(f"{folder} has changed since the bench began; start the bench again")
        process, backbone = genflow.load(folder)
        options = {k: v for k, v in process.config().items() if k not in spec["unset"]}
        process = type(process)(**{**options, **spec["preset"]})
        if spec["own data"] and not isinstance(self.dataset, UnavailableData):
            process = process.for_data(self.dataset.fitting_points())
        return process, self.network(backbone)

    # ---- samples -----------------------------------------------------------------------------------------

    def _labels(self, part: shards.Part, backbone: Any) -> tuple[Tensor | None, str]:
        """Classes of samples by number, those of the training examples in turn, and the words of the protocol."""
        classes = getattr(backbone, "classes", 0)
        if not classes:
            return None, ""
        if isinstance(self.dataset, UnavailableData):
            return torch.arange(*part) % classes, "the class of sample k is k mod the number of classes"
        known = self.dataset.labels("train")
        if known is None:
            return None, ""
        return known[
            torch.arange(*part) % len(known)
        ], "the classes of the samples are those of the training examples in turn"

    def _sample(self, cell: dict[str, Any], tick: Tick) -> dict[str, bytes]:
        """All samples of a cell: its shards where some are saved, after drawing the missing ones; else in one go."""
        key, cut = cell["key"], shards.cut(cell["spec"]["samples"], self.config)
        if not cut or not self.store.shard_folder(key).exists():
            return self._draw(cell, (0, cell["spec"]["samples"]), tick)
        for part in cut:
            if not shards.is_whole(self.store, key, part):
                shards.write_shard(self.store, key, part, self._draw(cell, part, tick))
        found = [shards.read_shard(self.store, key, part) for part in cut]
        facts = [json.loads(files["facts.json"]) for files in found]
        raw = [np.load(io.BytesIO(files["samples.npz"]))["raw"] for files in found]
        calls = sum(one["nfe"] * len(rows) for one, rows in zip(facts, raw, strict=True))
        whole = facts[0] | {"nfe": calls / sum(map(len, raw)), "seconds": round(sum(f["seconds"] for f in facts), 3)}
        if all("network_seconds" in f for f in facts):
            whole["network_seconds"] = sum(f["network_seconds"] for f in facts)
        whole["stopped"] = sum(f.get("stopped", 0) for f in facts)
        return {"samples.npz": pack({"raw": np.concatenate(raw)}), "facts.json": json.dumps(whole).encode()}

    def _external(self, cell: dict[str, Any], tick: Tick) -> dict[str, bytes]:
        """Samples that others drew, as those of a cell."""
        (one,) = (e for e in external.externals(self.config) if e.name == cell["labels"]["process"])
        raw, words = external.read(one, self.dataset, cell["spec"]["samples"])
        facts = {"nfe": one.nfe, "seconds": 0.0, "labels": words}
        return {"samples.npz": pack({"raw": raw.numpy()}), "facts.json": json.dumps(facts).encode()}

    def _draw(self, cell: dict[str, Any], part: shards.Part, tick: Tick) -> dict[str, bytes]:
        """The samples of a cell from one number to another."""
        process, backbone = self._model(cell)
        labels, words = self._labels(part, backbone)
        started = time.monotonic()
        with network_clock(backbone, self.config.device) as in_network:
            solution = self._solve(cell["spec"], process, backbone, part, labels, tick)
            network = in_network()
        raw = self.dataset.scaling.decode(solution.x).numpy()
        facts: dict[str, Any] = {"nfe": solution.nfe, "seconds": round(time.monotonic() - started, 3)}
        facts |= {} if network is None else {"network_seconds": round(network, 4)}
        facts |= {"labels": words} if words else {}
        facts |= {"end": ending} if (ending := words_of(cell["spec"]["options"])) else {}
        facts |= {"guidance": words_of_guidance(cell["spec"])} if "guidance" in cell["spec"] else {}
        facts |= {"stopped": int(solution.stopped.sum())} if solution.stopped is not None else {}
        return {"samples.npz": pack({"raw": raw}), "facts.json": json.dumps(facts).encode()}

    def _solve(
        self,
        spec: dict[str, Any],
        process: Process,
        backbone: Any,
        part: shards.Part,
        labels: Tensor | None,
        tick: Tick,
    ) -> Solution:
        count = part[1] - part[0]

        def drawn(done: int) -> None:
            if "sample_batch" in spec and done % self.config.sample_batch and done != count:
                raise MemoryExhaustedError(
                    f"{self.config.sample_batch} samples at a time do not fit in memory, and with these options of "
                    f"{spec['solver']} samples depend on their batch; give a smaller --sample-batch"
                )
            self._tick(done / count, tick)

        return sample(
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
            on_batch=drawn,
            first_index=part[0],
        )

    # ---- measurements ------------------------------------------------------------------------------------

    def _metric(self, cell: dict[str, Any], tick: Tick) -> dict[str, bytes]:
        labels, started = cell["labels"], time.monotonic()
        sampled: dict[str, Any] = {}
        try:
            result, sampled = self._measure(cell, tick)
        except OUT_OF_REACH as error:
            return self._unmeasured(cell, error)
        took = 0.0 if result.wanting else round(time.monotonic() - started, 3)
        seconds = sampled.get("seconds", took)
        rows = [self._row(row, labels, sampled, seconds) for row in rows_as_dicts(result.rows)]
        files = {"rows.json": json.dumps(rows, indent=1).encode()} | _again(result.wanting)
        return files | ({"arrays.npz": pack(result.arrays)} if result.arrays else {})

    def _measure(self, cell: dict[str, Any], tick: Tick) -> tuple[Result, dict[str, Any]]:
        """What a metric finds, and the facts of the samples or the model that it measured."""
        spec = cell["spec"]
        metric = self._measure_of(spec["metric"])
        context = Context(self.config, self.dataset, spec["seed"], tick=lambda share: self._tick(share, tick))
        if spec["of"] == "real data":
            return metric.real(context), {}
        if spec["of"] == "samples":
            files = self.store.files(cell["parents"][0])
            context.samples = torch.from_numpy(np.load(io.BytesIO(files["samples.npz"]))["raw"])
            return metric.measure(context), json.loads(files["facts.json"])
        context.process, context.backbone = self._model(cell)
        result = Result([]) if metric.why_not(context.process) else metric.measure(context)
        return result, {"labels": "no class is given"} if getattr(context.backbone, "classes", 0) else {}

    def _unmeasured(self, cell: dict[str, Any], error: Exception) -> dict[str, bytes]:
        """A row with the reason why there is no number; where data or weights are missing, also a mark to try again."""
        metric, labels = cell["spec"]["metric"], cell["labels"]
        bare = rows_as_dicts([Measured(metric, math.nan, 0, f"{MISSING}{error}")])
        rows = [] if labels["process"] == REAL else [self._row(bare[0], labels, {}, 0.0)]
        wanting = str(error) if isinstance(error, DataError | WeightsError) else ""
        return {"rows.json": json.dumps(rows, indent=1).encode()} | _again(wanting)

    def _row(
        self, row: dict[str, Any], labels: dict[str, Any], sampled: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """A row of results.csv: what was measured, with the cell's labels where the metric gives none."""
        own = labels["process"] == REAL or labels.get("terms") == external.EXTERNAL
        network = "" if own else Execution(**self.config.network).words
        words = () if is_missing(row) else (*(sampled.get(k) for k in SAMPLED), network)  # a reason stands alone
        return {
            "process": labels["process"],
            "backbone": "" if labels["process"] == REAL else labels.get("backbone", self.config.backbone),
            "dataset": self.config.dataset,
            "solver": row["solver"] or labels.get("solver", ""),
            "nfe": sampled.get("nfe", row["nfe"]),
            "budget": labels.get("nfe"),
            "metric": row["metric"],
            "value": row["value"],
            "stderr": row["stderr"],
            "n": row["n"],
            "seed": labels["seed"],
            "protocol": "; ".join(filter(None, (row["protocol"], *words))),
            "seconds": seconds,
            "network_seconds": sampled.get("network_seconds"),
            "stopped": sampled.get("stopped") or None,
            "low": row.get("low"),
            "high": row.get("high"),
        }

    def _tick(self, share: float, tick: Tick) -> None:
        tick(share, "")
        if self.should_stop():
            raise Stopped


def _again(reason: str) -> dict[str, bytes]:
    """The file that marks a cell to be tried again; none without a reason."""
    return {UNAVAILABLE: json.dumps({"reason": reason}).encode()} if reason else {}


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
