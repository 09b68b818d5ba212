"""Where a study works: its models, its ruler, and the distances it asks for, each measured once."""

from __future__ import annotations

import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import genflow
from genflow.bench.pairs import pairs
from genflow.bench.runner import Report
from genflow.bench.store import Store
from genflow.checkpoint import CheckpointError
from genflow.claims.studies.config import StudyConfig, bench_of
from genflow.claims.studies.measure import Blocks, Kept, Ruler
from genflow.claims.studies.results import Found
from genflow.claims.studies.subjects import EXACT, Loader, Subject, Tell, exact, settings_of, trained
from genflow.config import BenchConfig, ConfigError
from genflow.data.base import Dataset
from genflow.process.base import Process
from genflow.process.field import BackboneLike
from genflow.sampling import sample

Altered = Callable[[range], Process]
"""The process as samples of those numbers see it."""


@dataclass
class Lab:
    """A study's place of work.

    Arguments:
        name: Of the study.
        config: As `settled` gives it.
        tell: Hears how the work goes.
        code: Classes and functions whose source its points depend on, beside the package's own hash.
    """

    name: str
    config: StudyConfig
    tell: Tell = lambda report: None
    code: tuple[Any, ...] = ()
    total: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

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
    def ruler(self) -> Ruler:
        return Ruler(self.bench, self.dataset, self.config.features)

    @cached_property
    def settings_told(self) -> dict[str, Any]:
        """What every point depends on beside its subject; files are read once."""
        return settings_of(self.bench)

    @cached_property
    def kept(self) -> Kept:
        return Kept(Path(self.config.out) / "points", self.code)

    # ---- whom ----------------------------------------------------------------------------------------------

    def subjects(self, draw: bool = False) -> list[Subject]:
        """The processes under their networks, or under the exact field where that is asked."""
        return self.exact() if self.config.oracle else trained(self.bench, self.tell, draw)

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
        return found[0][0], max(nfe for solver, nfe in found if solver == found[0][0])

    # ---- distances -----------------------------------------------------------------------------------------

    def expect(self, points: int) -> None:
        """Says how many distances will be asked for."""
        self.total += points

    def plain(self, subject: Subject, solver: str, nfe: int | None) -> Blocks:
        """The distance of a subject's samples: those that its bench has drawn, else drawn here."""
        files = self._drawn(subject.sampled.get((solver, nfe)))
        if files is None:
            return self.changed(subject, solver, nfe, {}, lambda rows: subject.process, subject.backbone)
        self._count(f"{subject.name} {solver} {nfe or ''}")
        facts = json.loads(files["facts.json"])
        raw = torch.from_numpy(np.load(io.BytesIO(files["samples.npz"]))["raw"])
        return Blocks(self.ruler.blocks(raw), facts["nfe"], facts["seconds"], subject.network != EXACT)

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
        """The distance of samples under a changed process or network, kept by what was changed.

        Arguments:
            subject: Whose; samples begin at the same draws of the prior whatever is changed.
            solver, nfe: How they are drawn.
            change: What is changed, plain data, by which the point is known.
            process: What samples see.
            backbone: The network.
        """
        identity = {**self.settings_told, "subject": dict(subject.identity), "solver": solver, "nfe": nfe}
        identity |= {"options": self.config.solver_options.get(solver, {}), "seed": subject.seed, "change": change}
        identity["space"] = self.ruler.space.digest
        self._count(f"{subject.name} {solver} {nfe or ''} {change or ''}")
        found = self.kept.get(identity, lambda: self._draw(subject, solver, nfe, process, backbone))
        return replace(found, trained=subject.network != EXACT)

    def _draw(self, subject: Subject, solver: str, nfe: int | None, process: Altered, backbone: Any) -> Blocks:
        began, calls = time.monotonic(), 0.0
        batches: list[Tensor] = []
        made = genflow.get_solver(solver, **self.config.solver_options.get(solver, {}))
        for start in range(0, self.config.samples, self.config.sample_batch):
            rows = range(start, min(start + self.config.sample_batch, self.config.samples))
            told: dict[str, Any] = {"labels": self.loader.told(rows, backbone), "first_index": start, "nfe": nfe}
            told |= {"seed": subject.seed, "shape": self.dataset.shape, "device": self.config.device}
            solution = sample(process(rows), backbone, made, len(rows), **told)
            batches.append(self.dataset.scaling.decode(solution.x))
            calls += solution.nfe * len(rows)
        blocks = self.ruler.blocks(torch.cat(batches))
        return Blocks(blocks, calls / self.config.samples, time.monotonic() - began)

    def hear(self, words: str, share: float = 0.0) -> None:
        """Tells what is being done, and how much of it is."""
        total = max(self.total, self.done + 1)
        self.tell(Report((self.done + share) / total, float("nan"), [words], self.done, total))

    def _count(self, words: str) -> None:
        self.hear(words)
        self.done += 1


class Study(ABC):
    """A study: asks a lab for numbers, and says what they say."""

    code: ClassVar[tuple[Any, ...]] = ()
    """Classes and functions whose source the kept points depend on."""

    @abstractmethod
    def run(self, lab: Lab) -> Found:
        """Measures, and finds.

        Raises:
            ConfigError: The configuration does not let it.
        """
