"""A whole training run: its steps until the end or a stop, its files, and its resumption."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from genflow.backbone.base import Backbone
from genflow.checkpoint import (
    CONFIG,
    FACTS,
    STATE,
    STATS,
    WEIGHTS,
    CheckpointError,
    Checkpoints,
    SaveError,
    config_bytes,
    model_bytes,
    open_state,
    write_file,
    write_folder,
)
from genflow.config import TrainConfig
from genflow.data.base import Dataset
from genflow.distributed import ALONE, Team
from genflow.memory import peak_megabytes, to_bytes
from genflow.process.base import Process
from genflow.training.loop import NonFiniteLossError, Trainer

LOG = logging.getLogger("genflow")

SNAPSHOTS = "posthoc"
"""Folder of the snapshots for post-hoc EMA."""


@dataclass
class TrainResult:
    """The backbone with its EMA weights in eval mode, the process fitted to the data, and the loss curve."""

    process: Process
    backbone: Backbone
    steps: int
    losses: list[dict[str, float]] = field(default_factory=list)
    finished: bool = True


Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, smoothed loss)."""


@dataclass(frozen=True)
class Keeping:
    """What a run writes to disk.

    Arguments:
        root: Its folder: checkpoints, `stats.jsonl`, snapshots.
        about: The description of the model in every checkpoint, from `checkpoint.describe`; None: states only.
        keep: Number of checkpoints that are kept, the newest.
        on_save_error: "stop", or "warn" to continue when a checkpoint cannot be written.
        allow: Keys of the configuration that may differ from those of the checkpoint that is resumed.
        verify: False resumes from files whose hash differs.
        last: Whether to write a checkpoint at the end of the run.
        notes: Text files by name, written once the run has begun or resumed, so a refused run changes none.
    """

    root: Path
    about: Mapping[str, Any] | None = None
    keep: int = 1
    on_save_error: str = "stop"
    allow: tuple[str, ...] = ()
    verify: bool = True
    last: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


class Run:
    """A trainer, its statistics, and its folder.

    Arguments:
        trainer: At step 0, or at the step that `restore` reached.
        keeping: None: nothing is written.
    """

    def __init__(self, trainer: Trainer, keeping: Keeping | None) -> None:
        self.trainer, self.keeping = trainer, keeping
        self.losses: list[dict[str, float]] = []
        self.smooth, self._began, self._saved = math.nan, time.monotonic(), time.monotonic()
        self.writes = keeping is not None and trainer.team.leads
        self.saved_step = -1
        self.identity = {} if keeping is None else trainer.identity  # now: later a thread reads the data as well

    @property
    def checkpoints(self) -> Checkpoints:
        assert self.keeping is not None
        return Checkpoints(self.keeping.root, self.keeping.keep)

    # ---- statistics ----------------------------------------------------------------------------------------

    def record(self, loss: float) -> dict[str, float] | None:
        """Smooths the loss; every `log_every` steps, a line of statistics, which also goes to `stats.jsonl`."""
        trainer, config = self.trainer, self.trainer.config
        self.smooth = loss if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * loss
        if trainer.step % config.log_every and trainer.step != config.steps:
            return None
        images, seconds = trainer.batches.images(trainer.step), round(time.monotonic() - self._began, 3)
        last = self.losses[-1] if self.losses else {"images": trainer.batches.start[1], "seconds": 0.0}
        line = {
            "step": trainer.step,
            "images": images,
            "loss": loss,
            "smoothed_loss": self.smooth,
            "lr": trainer.learning_rate(trainer.step - 1),
            "gradient_norm": trainer.gradient_norm,
            "skipped": trainer.skipped,
            "seconds": seconds,
            "seconds_per_kimg": round(1000 * (seconds - last["seconds"]) / max(images - last["images"], 1), 4),
            "peak_memory_mib": round(peak_megabytes(trainer.device), 1),
        }
        self.losses.append(line)
        if self.writes:
            self._append(line)
        return line

    def _append(self, line: Mapping[str, float]) -> None:
        assert self.keeping is not None
        try:
            self.keeping.root.mkdir(parents=True, exist_ok=True)
            with (self.keeping.root / STATS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._complain(SaveError(f"{self.keeping.root / STATS} cannot be written: {error.strerror}"))

    def _complain(self, error: SaveError) -> None:
        """Raises the error, or logs it where the run is to continue."""
        assert self.keeping is not None
        if self.keeping.on_save_error == "stop":
            raise error
        LOG.warning("%s; training continues", error)

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether the next checkpoint is due."""
        return self.writes and time.monotonic() - self._saved > self.trainer.config.save_seconds

    def save(self) -> None:
        """Writes a checkpoint, where this rank writes and this step has none."""
        if not self.writes or self.saved_step == self.trainer.step:
            return
        assert self.keeping is not None
        try:
            self.checkpoints.write(self.trainer.step, state_files(self.trainer, self.smooth, self.keeping.about))
        except SaveError as error:
            self._complain(error)
        self._saved, self.saved_step = time.monotonic(), self.trainer.step

    def snapshot(self) -> None:
        """Writes the current power-function averages, for post-hoc EMA."""
        powers = self.trainer.averages.powers
        if not self.writes or not powers or self.trainer.step % self.trainer.config.posthoc_every:
            return
        assert self.keeping is not None
        files = {f"{name}.safetensors": to_bytes(weights) for name, weights in powers.items()}
        try:
            write_folder(self.keeping.root / SNAPSHOTS / f"step-{self.trainer.step:08d}", files)
        except SaveError as error:
            self._complain(error)

    def restore(self) -> None:
        """Resumes from the newest intact checkpoint; newer ones that are damaged are reported.

        Raises:
            CheckpointError: None is intact, or the configuration has changed.
        """
        keeping = self.keeping
        assert keeping is not None
        folder, files, wrong = self.checkpoints.find(verify=keeping.verify)
        if not files:
            self.trainer.check_allowed(keeping.allow)
            return
        for reason in wrong:
            LOG.warning("%s; resuming from the checkpoint before it", reason)
        facts, model, rest = open_state(folder, files, keeping.verify).state()
        try:
            self.trainer.restore(facts, model, rest, keeping.allow)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"cannot resume from {folder}: {' '.join(str(error).split())}") from error
        self.smooth, self.saved_step = facts["smooth"], self.trainer.step
        self.losses = read_stats(keeping.root / STATS, self.trainer.step)
        if self.writes:
            write_file(keeping.root / STATS, "".join(json.dumps(line) + "\n" for line in self.losses))
        self._began = time.monotonic() - (self.losses[-1]["seconds"] if self.losses else 0.0)

    def note(self) -> None:
        """Writes the notes."""
        if self.keeping is None or not self.writes:
            return
        for name, text in self.keeping.notes.items():
            write_file(self.keeping.root / name, text)

    def dump(self, facts: Mapping[str, Any]) -> str:
        """Writes what is known about a failed batch; returns where, for a message."""
        if not self.writes:
            return ""
        assert self.keeping is not None
        path = self.keeping.root / f"nan-{self.trainer.step:08d}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(facts, indent=1))
        except OSError:
            return ""
        return f" (its rows, times and seed are in {path})"


def state_files(trainer: Trainer, smooth: float, about: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The files of a checkpoint, plain tensors and numbers: the weights that sample, and what the next step needs."""
    model, rest = trainer.tensors()
    facts = {**trainer.facts(), "smooth": smooth}
    described = {} if about is None else {CONFIG: config_bytes(about)}
    return {
        **described,
        WEIGHTS: model_bytes(model, about),
        FACTS: json.dumps(facts).encode(),
        STATE: model_bytes(rest, about),
    }


def read_stats(path: Path, step: int) -> list[dict[str, float]]:
    """The complete lines of a statistics file up to a step; one that a kill cut off is left out."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("step", step + 1) <= step:
            found.append(line)
    return found


def train(
    process: Process,
    backbone: Backbone,
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    state: Path | Keeping | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    watch: Callable[[Run], None] | None = None,
    team: Team = ALONE,
    fit: bool = True,
    **numbers: Any,
) -> TrainResult:
    """Trains a backbone for a process on a data set.

    Arguments:
        process: Is fitted to the data here, with `process.for_data`, unless `fit` is False.
        backbone: Its weights are initialised again from the seed.
        dataset: Training examples.
        config: Settings of the loop; or give them by name, e.g. `steps=500, lr=1e-3`.
        seed: Seed of the initial weights, the data order and every draw.
        device: Where it runs.
        state: Folder of the run: resumed where it exists, written every `save_seconds` and on a stop.
        progress: Called after every step.
        should_stop: Called after every step; True saves and returns with `finished` False.
        watch: Called with the run after every step, on the rank that writes.
        team: The ranks that share the run.
        fit: False where the process is already fitted to the data.

    Returns:
        The backbone with EMA weights, the fitted process, and the loss curve.

    Raises:
        NonFiniteLossError: With step and seed; that step changed nothing.
        CheckpointError: The folder holds a run with another configuration, or no intact checkpoint.
        SaveError: A checkpoint cannot be written.
    """
    config = TrainConfig(**numbers) if config is None else config
    process = process.for_data(dataset.fitting_points()) if fit else process
    trainer = Trainer(process, backbone, dataset, config, seed, device, team)
    keeping = Keeping(state) if isinstance(state, Path) else state
    run = Run(trainer, keeping)
    if keeping is not None and keeping.root.exists():
        run.restore()
    run.note()
    team.wait()
    finished = _steps(run, progress, should_stop, watch)
    if keeping is not None and (keeping.last or not finished):
        run.save()
    team.wait()
    return TrainResult(process, trainer.finish(), trainer.step, run.losses, finished)


def _steps(
    run: Run,
    progress: Progress | None,
    should_stop: Callable[[], bool] | None,
    watch: Callable[[Run], None] | None,
) -> bool:
    """Runs steps until the last or a stop; returns whether the last was reached."""
    trainer, allowed = run.trainer, run.trainer.config.may_skip()
    while trainer.step < trainer.config.steps:
        try:
            run.record(trainer.advance())
        except NonFiniteLossError as error:
            where = run.dump(error.facts)
            if trainer.skipped >= allowed:
                raise NonFiniteLossError(f"{error}{where}", error.facts) from None
            trainer.skip()
            LOG.warning("step %d is skipped: its loss is not finite%s", trainer.step - 1, where)
        run.snapshot()
        if progress:
            progress(trainer.step, trainer.config.steps, run.smooth)
        if watch and trainer.team.leads:
            watch(run)
        if _agreed(trainer.team, bool(should_stop and should_stop())):
            return trainer.step >= trainer.config.steps
        if run.due():
            run.save()
    return True


def _agreed(team: Team, stop: bool) -> bool:
    """Whether any rank is to stop: then all stop after the same step."""
    return stop if team.size == 1 else bool(team.total(torch.tensor([float(stop)]))[0])
