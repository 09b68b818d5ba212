"""The one training loop: Adam, warm-up, clipping, EMA, seeds, resume; the same for every process."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genflow.backbone.base import Backbone, check_labels
from genflow.checkpoint import CheckpointError, read_folder, write_folder
from genflow.config import TrainConfig
from genflow.data.base import Dataset
from genflow.process.base import Process
from genflow.process.field import NO_CLASS
from genflow.solver.base import sample_generator

STREAMS = {"order": 1, "dequantise": 2, "noise": 3, "references": 4, "labels": 5, "path": 6, "dropout": 7}
"""Independent random streams. Each step or epoch has its own generator in each stream, so a resumed run needs no
random state, and processes see the same data whatever they draw beside it."""


class NonFiniteLossError(RuntimeError):
    """A loss that is not finite; raised before the optimiser's step."""


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


def stream(seed: int, name: str, index: int) -> torch.Generator:
    """The generator of one step or epoch of a stream."""
    return sample_generator(seed * 16 + STREAMS[name], index)


class Batches:
    """The data order: a fresh permutation each epoch, dequantised anew, the same for every process.

    Arguments:
        dataset: Where the training split comes from.
        batch_size: Examples a step.
        seed: The run's seed.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int) -> None:
        self.raw, self.scaling, self.dataset = dataset.train, dataset.scaling, dataset
        self.batch_size, self.seed = min(batch_size, len(dataset.train)), seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Rows of the training split at a step; an epoch's incomplete last batch is left out."""
        epoch, place = divmod(step, len(self.raw) // self.batch_size)
        if epoch != self._epoch:
            order = torch.randperm(len(self.raw), generator=stream(self.seed, "order", epoch))
            self._epoch, self._order = epoch, order
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> Tensor:
        """The batch in data units, dequantised."""
        return self.scaling.encode(self.raw[self.indices(step)], stream(self.seed, "dequantise", step))

    def labels(self, step: int, dropout: float) -> Tensor:
        """The batch's classes (B,), a share `dropout` of them `NO_CLASS`."""
        labels = self._classes[self.indices(step)]
        hidden = torch.rand(len(labels), generator=stream(self.seed, "labels", step)) < dropout
        return torch.where(hidden, NO_CLASS, labels)

    @cached_property
    def _classes(self) -> Tensor:
        labels = self.dataset.labels("train")
        assert labels is not None
        return labels

    def partners(self, step: int) -> Tensor | None:
        """The draws of the base that belong to the batch, (B, *shape); None where the data come alone."""
        return None if self.dataset.partners is None else self.dataset.partners[self.indices(step)]

    def references(self, step: int, count: int) -> Tensor | None:
        """`count` more examples, other than the batch's own where the split is large enough; None for none."""
        return self._references(step, count)[0] if count else None

    def pool(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """The batch and `count` references, (M, *), and their classes (M,)."""
        more, rows = self._references(step, min(count, len(self.raw)))
        batch = self.batch(step)
        points = batch if more is None else torch.cat([batch, more])
        return points, self._classes[torch.cat([self.indices(step), rows])]

    def _references(self, step: int, count: int) -> tuple[Tensor | None, Tensor]:
        """Up to `count` examples beside the batch, None for none, and their rows."""
        generator = stream(self.seed, "references", step)
        others = torch.ones(len(self.raw), dtype=torch.bool)
        others[self.indices(step)] = False
        rows = others.nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
        return self.scaling.encode(self.raw[rows], generator) if len(rows) else None, rows


def check_data(dataset: Dataset, classes: int) -> None:
    """Raises ValueError where a data set's labels do not fit a backbone of that many classes, or partners its rows."""
    name, labels = dataset.name, dataset.labels("train") if classes else None
    if classes and labels is None:
        raise ValueError(f"the backbone has classes = {classes}, but '{name}' has no labels; give it classes = 0")
    if classes and dataset.classes > classes:
        raise ValueError(
            f"the data set '{name}' has {dataset.classes} classes, the backbone {classes}; "
            f"give it classes = {dataset.classes}"
        )
    wanted = tuple(dataset.train.shape)
    if labels is not None:
        check_labels(labels, classes, f"labels of the data set '{name}'")
        if tuple(labels.shape) != wanted[:1]:
            came = tuple(labels.shape)
            raise ValueError(f"the data set '{name}' has labels of shape {came} for {wanted[0]} examples")
    if dataset.partners is not None and tuple(dataset.partners.shape) != wanted:
        came = tuple(dataset.partners.shape)
        raise ValueError(f"the data set '{name}' has partners of shape {came} for examples of shape {wanted}")


class Trainer:
    """State of one run: network, EMA, optimiser, step.

    Arguments:
        process: Fitted to the data already.
        backbone: Initialised here from the seed.
        dataset: Examples.
        config: Numbers of the loop.
        seed: Of the initial weights, the data order and every draw.
        device: Where it runs.
    """

    def __init__(
        self,
        process: Process,
        backbone: Backbone,
        dataset: Dataset,
        config: TrainConfig,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.process, self.backbone, self.config, self.dataset = process, backbone, config, dataset
        self.seed, self.device = seed, device
        self.classes = getattr(backbone, "classes", 0)
        check_data(dataset, self.classes)
        backbone.initialise(seed)
        backbone.to(device).train()
        self.dropout = any(isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p for m in backbone.modules())
        self.ema = {name: p.detach().clone() for name, p in backbone.named_parameters()}
        self.optimiser = torch.optim.Adam(backbone.parameters(), lr=config.lr, betas=(0.9, config.beta2), fused=True)
        self.batches = Batches(dataset, config.batch_size, seed)
        self.step = 0
        self.losses: list[dict[str, float]] = []
        self._smooth, self._start = math.nan, time.monotonic()

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant or half a cosine to zero."""
        config = self.config
        warm = min(1.0, (step + 1) / max(config.warmup, 1))
        if config.schedule == "constant":
            return config.lr * warm
        return config.lr * warm * (1 + math.cos(math.pi * step / config.steps)) / 2

    def loss(self) -> Tensor:
        """The loss of the batch that is next."""
        batches, step, asked = self.batches, self.step, self.process.reference_batch
        x = batches.batch(step).to(self.device)
        beside: dict[str, Any] = {"refs": batches.references(step, asked), "partner": batches.partners(step)}
        given = {name: value.to(self.device) for name, value in beside.items() if value is not None}
        if self.classes:  # as many references of one class as there are of all without classes
            points, of = batches.pool(step, asked * self.classes)
            given["labels"] = batches.labels(step, self.config.label_dropout).to(self.device)
            given["pool"] = (points.to(self.device), of.to(self.device))
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices, enabled=self.dropout):  # dropout takes torch's own generator
            if self.dropout:
                torch.manual_seed(stream(self.seed, "dropout", step).initial_seed())
            return self.process.loss(self.backbone, x, generator=stream(self.seed, "noise", step), **given)

    def advance(self) -> float:
        """One gradient step; returns its loss.

        Raises:
            NonFiniteLossError: Before anything was changed.
        """
        loss = self.loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the loss is {value} at step {self.step} (seed {self.seed}); nothing was changed by this "
                "step. Try a smaller train.lr or train.grad_clip, or look at the data"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        limit = self.config.grad_clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), limit))
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the gradient's norm is {norm} at step {self.step} (seed {self.seed}), its loss {value:g}; nothing "
                "was changed by this step. Try a smaller train.lr, or look at the data"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimiser.step()
        self.step += 1
        self._update_ema()
        return value

    @torch.no_grad()
    def _update_ema(self) -> None:
        """ema += (1 − d)(p − ema), d = min(decay, (1 + n)/(10 + n))."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        parameters = [p.detach() for p in self.backbone.parameters()]
        torch._foreach_lerp_(list(self.ema.values()), parameters, 1 - decay)

    def record(self, loss: float) -> None:
        """Smooths the loss, and keeps a line of statistics every `log_every` steps."""
        self._smooth = loss if math.isnan(self._smooth) else 0.98 * self._smooth + 0.02 * loss
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self.losses.append(
                {
                    "step": self.step,
                    "images": self.step * self.batches.batch_size,
                    "loss": loss,
                    "smoothed_loss": self._smooth,
                    "lr": self.learning_rate(self.step - 1),
                    "seconds": round(time.monotonic() - self._start, 3),
                }
            )

    def result(self) -> TrainResult:
        """The backbone with its EMA weights, in eval mode."""
        with torch.no_grad():
            for name, parameter in self.backbone.named_parameters():
                parameter.copy_(self.ema[name])
        self.backbone.eval().requires_grad_(False)
        return TrainResult(self.process, self.backbone, self.step, self.losses, self.step >= self.config.steps)

    # ---- resume ------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Everything that the next step depends on, as one atomic folder of plain tensors and numbers."""
        from safetensors.torch import save as to_bytes

        tensors = {f"model.{n}": v for n, v in self.backbone.state_dict().items()}
        tensors |= {f"ema.{n}": v for n, v in self.ema.items()}
        state = self.optimiser.state_dict()["state"]
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for i, row in state.items() for k, v in row.items()}
        facts = {
            "step": self.step,
            "smooth": self._smooth,
            "losses": self.losses,
            "config": self._identity(),
        }
        write_folder(
            path,
            {
                "state.json": json.dumps(facts).encode(),
                "state.safetensors": to_bytes({n: v.cpu().contiguous() for n, v in tensors.items()}),
            },
        )

    def _identity(self) -> dict[str, Any]:
        """What must not change between a stop and its resumption."""
        run = {"seed": self.seed, "backbone": self.backbone.config(), "process": type(self.process).__name__}
        return {**asdict(self.config), **run, "process_options": self.process.config(), "dataset": self.dataset.name}

    def restore(self, path: Path) -> None:
        """Takes up a saved run.

        Raises:
            CheckpointError: The folder is damaged, or belongs to a run with another configuration.
        """
        from safetensors.torch import load as from_bytes

        files = read_folder(path)
        facts = json.loads(files["state.json"])
        if facts["config"] != (now := self._identity()):
            changed = [k for k in now if facts["config"].get(k) != now[k]]
            raise CheckpointError(f"{path} was written with other values of {', '.join(changed)}")
        tensors = from_bytes(files["state.safetensors"])
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "adam": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            groups[kind][rest] = value
        self.backbone.load_state_dict(groups["model"])
        for name, value in groups["ema"].items():
            self.ema[name].copy_(value)
        self._restore_adam(groups["adam"])
        self.step, self._smooth, self.losses = facts["step"], facts["smooth"], facts["losses"]
        self._start = time.monotonic() - (self.losses[-1]["seconds"] if self.losses else 0.0)

    def _restore_adam(self, tensors: dict[str, Tensor]) -> None:
        """Puts the moments back in the memory layout of their parameter: a fused Adam pairs them by address."""
        parameters = list(self.backbone.parameters())
        rows: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".")
            like = parameters[int(index)]
            same = value.shape == like.shape
            rows.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(value) if same else value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": rows, "param_groups": groups})


def train(
    process: Process,
    backbone: Backbone,
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    state: Path | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **numbers: Any,
) -> TrainResult:
    """Trains a backbone for a process on a data set.

    Arguments:
        process: Fitted to the data with `process.for_data` here.
        backbone: Its weights are drawn anew from the seed.
        dataset: Examples.
        config: Numbers of the loop; or give them by name, e.g. `steps=500, lr=1e-3`.
        seed: Of the initial weights, the data order and every draw.
        device: Where it runs.
        state: Folder of the resumable state: taken up where it exists, written every `save_seconds` and on a stop.
        progress: Called after every step.
        should_stop: Asked after every step; True saves and returns with `finished` False.

    Returns:
        The backbone with EMA weights, the fitted process, and the loss curve.

    Raises:
        NonFiniteLossError: With step and seed; nothing was changed by that step.
    """
    config = TrainConfig(**numbers) if config is None else config
    process = process.for_data(dataset.scaling.encode(dataset.train))
    trainer = Trainer(process, backbone, dataset, config, seed, device)
    if state is not None and (state.exists() or state.with_name(f"{state.name}.old").exists()):
        trainer.restore(state)
    saved = time.monotonic()
    while trainer.step < config.steps:
        trainer.record(trainer.advance())
        if progress:
            progress(trainer.step, config.steps, trainer._smooth)
        stop = bool(should_stop and should_stop())
        if state is not None and (stop or time.monotonic() - saved > config.save_seconds):
            trainer.save(state)
            saved = time.monotonic()
        if stop:
            break
    return trainer.result()
