"""What a study works with: its models, its distance, and the numbers it asks for, each measured once."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import genflow
from genflow.bench.cells import REAL
from genflow.bench.pairs import pairs
from genflow.bench.rows import Row
from genflow.bench.runner import Report
from genflow.bench.store import Store
from genflow.checkpoint import CheckpointError
from genflow.claims.results import EXACT
from genflow.claims.studies.config import StudyConfig, bench_of
from genflow.claims.studies.measure import BlockDistance, Blocks, PointStore
from genflow.claims.studies.subjects import Loader, Show, Subject, exact, settings_of, trained
from genflow.config import BenchConfig, ConfigError
from genflow.data.base import Dataset
from genflow.process.base import Process
from genflow.process.field import BackboneLike
from genflow.sampling import sample
from genflow.solver.ending import words_of

Altered = Callable[[range], Process]
"""The process as samples of those numbers see it."""


@dataclass
class Experiment:
    """A study at work.

    Arguments:
        name: Of the study.
        config: As `settled` gives it.
        show: Called with the progress.
        code: Classes and functions whose source its points depend on, beside the package's own hash.
    """

    name: str
    config: StudyConfig
    show: Show = lambda report: None
    code: tuple[Any, ...] = ()
    total: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    spent: dict[str, None] = field(default_factory=dict, init=False)

    @cached_property
    def bench(self) -> BenchConfig:
        return bench_of(self.config)

    @cached_property
    def loader(self) -> Loader:
        return Loader(self.bench)

    @property
    def dataset(self) -> Dataset:
        return self.loader.dataset

    @cached_property
    def distance(self) -> BlockDistance:
        return BlockDistance(self.bench, self.dataset, self.config.features)

    @cached_property
    def common(self) -> dict[str, Any]:
        """What every point depends on beside its subject; files are read once."""
        return settings_of(self.bench)

    @cached_property
    def store(self) -> PointStore:
        return PointStore(Path(self.config.out) / "points", self.code)

    # ---- models --------------------------------------------------------------------------------------------

    def subjects(self, draw: bool = False) -> list[Subject]:
        """The processes under their networks, or under the exact field if the configuration says so."""
        return self.exact() if self.config.oracle else trained(self.bench, self.show, draw)

    def exact(self) -> list[Subject]:
        """The processes under the exact field."""
        return exact(self.bench, self.dataset)

    def settings(self, subject: Subject) -> Iterator[tuple[str, int | None]]:
        """Solvers that fit a subject, with each budget; None for a solver that chooses its own steps."""
        for process, solver in pairs(self.bench):
            if process.name == subject.entry:
                for nfe in self.config.nfe if solver.tags.get("budget", True) else (None,):
                    yield solver.name, nfe

    def setting(self, subject: Subject) -> tuple[str, int]:
        """The first fixed-step solver that fits a subject, and the largest budget.

        Raises:
            ConfigError: There is none.
        """
        found = [(solver, nfe) for solver, nfe in self.settings(subject) if nfe is not None]
        if not found:
            raise ConfigError(f"solver = '{','.join(self.config.solver)}': '{self.name}' needs a fixed-step solver")
        first, most = found[0][0], max(nfe for solver, nfe in found if solver == found[0][0])
        self.spent[f"{first}, NFE {most}"] = None
        return first, most

    # ---- distances -----------------------------------------------------------------------------------------

    def expect(self, points: int) -> None:
        """Announces how many distances will be asked for."""
        self.total += points

    def plain(self, subject: Subject, solver: str, nfe: int | None) -> Blocks:
        """The distance of a subject's samples: those that its bench has drawn, else drawn here."""
        files = self._drawn(subject.sampled.get((solver, nfe)))
        if files is None:
            return self.changed(subject, solver, nfe, {}, lambda rows: subject.process, subject.backbone)
        self._count(f"{subject.name} {solver} {nfe or ''}")
        facts = json.loads(files["facts.json"])
        raw = torch.from_numpy(np.load(io.BytesIO(files["samples.npz"]))["raw"])
        return Blocks(self.distance.blocks(raw), facts["nfe"], facts["seconds"], subject.network != EXACT)

    def _drawn(self, key: str | None) -> dict[str, bytes] | None:
        """The files of a sample cell; None where it is not there, or damaged."""
        store = Store(Path(self.bench.out))
        if key is None or not store.folder(key).exists():
            return None
        try:
            return store.files(key)
        except CheckpointError:
            return None

    def changed(
        self,
        subject: Subject,
        solver: str,
        nfe: int | None,
        change: dict[str, Any],
        process: Altered,
        backbone: BackboneLike,
    ) -> Blocks:
        """The distance of samples under a changed process or network, stored by what was changed.

        Arguments:
            subject: Whose; samples begin at the same draws of the prior whatever is changed.
            solver, nfe: How they are drawn.
            change: What is changed, plain data, by which the point is known.
            process: What samples see.
            backbone: The network.
        """
        identity = {**self.common, "subject": dict(subject.identity), "solver": solver, "nfe": nfe}
        identity |= {"options": self.config.solver_options.get(solver, {}), "seed": subject.seed, "change": change}
        identity["space"] = self.distance.space.digest
        self._count(f"{subject.name} {solver} {nfe or ''} {change or ''}")
        found = self.store.get(identity, lambda: self._draw(subject, solver, nfe, process, backbone))
        return replace(found, trained=subject.network != EXACT)

    def _draw(self, subject: Subject, solver: str, nfe: int | None, process: Altered, backbone: Any) -> Blocks:
        began, calls = time.monotonic(), 0.0
        batches: list[Tensor] = []
        made = genflow.get_solver(solver, **self.config.solver_options.get(solver, {}))
        for start in range(0, self.config.samples, self.config.sample_batch):
            rows = range(start, min(start + self.config.sample_batch, self.config.samples))
            given: dict[str, Any] = {"labels": self.loader.labels(rows, backbone), "first_index": start, "nfe": nfe}
            given |= {"seed": subject.seed, "shape": self.dataset.shape, "device": self.config.device}
            solution = sample(process(rows), backbone, made, len(rows), **given)
            batches.append(self.dataset.scaling.decode(solution.x))
            calls += solution.nfe * len(rows)
        blocks = self.distance.blocks(torch.cat(batches))
        return Blocks(blocks, calls / self.config.samples, time.monotonic() - began)

    def progress(self, words: str, share: float = 0.0) -> None:
        """Shows what is being done, and how much of it is."""
        total = max(self.total, self.done + 1)
        self.show(Report((self.done + share) / total, float("nan"), [words], self.done, total))

    def _count(self, words: str) -> None:
        self.progress(words)
        self.done += 1

    # ---- rows ----------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> list[Row]:
        """Rows of results.csv: real data first, then what is added."""
        floor = {"metric": self.distance.name, "value": self.distance.floor, "n": self.distance.size}
        return [self._row(process=REAL, protocol=self.distance.floor_protocol, **floor)]

    def _row(self, **given: Any) -> Row:
        return {"study": self.name, "dataset": self.config.dataset, **given}

    def add(self, subject: Subject, **given: Any) -> None:
        """Adds a row of a subject."""
        self.rows.append(self._row(**subject.label, **given))

    def add_distance(
        self, subject: Subject, blocks: Blocks, solver: str, setting: str, level: Any, protocol: str = ""
    ) -> None:
        """Adds the row of a distance.

        Arguments:
            subject, blocks: Whose, and what was measured.
            solver: What drew the samples.
            setting, level: What is varied, and its value.
            protocol: What the row has beside the protocols of the distance and of the subject.
        """
        pushed = setting == "push"  # which runs to the plain end
        end = words_of(self.config.solver_options.get(solver, {}), plain_end=pushed)
        own = (self.distance.protocol, subject.how, f"seed {subject.seed}", protocol, end)
        numbers = {"value": blocks.mean.value, "stderr": blocks.mean.error, "nfe": blocks.nfe, "n": self.distance.size}
        made: Row = {"metric": self.distance.name, "protocol": "; ".join(filter(None, own)), "solver": solver}
        made["seconds"] = round(blocks.seconds, 2)
        self.add(subject, setting=setting, level=level, **numbers, **made)

    @property
    def protocol(self) -> str:
        """That of the distance, with the solvers that `setting` chose and their budgets."""
        return "; ".join([self.distance.protocol, *([", ".join(sorted(self.spent))] if self.spent else [])])
