"""A run's state and its step: Adam, warm-up, clipping and averages, the same for every process."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genflow.backbone.base import Backbone
from genflow.checkpoint import CheckpointError, check_tensors
from genflow.config import TrainConfig
from genflow.data.base import Dataset
from genflow.devices import Execution, loss_scaler, multiplying, prepare
from genflow.distributed import ALONE, Team
from genflow.memory import MemoryExhaustedError, is_out_of_memory
from genflow.process.base import Perturbed, Process
from genflow.registry import unknown
from genflow.training.averages import Averages, Weights
from genflow.training.batches import Batches, check_data, stream
from genflow.training.identity import RefusedError, check_facts, check_same, run_facts

LOG = logging.getLogger("genflow")


class NonFiniteLossError(RuntimeError):
    """A loss or gradient that is not finite; raised before the optimiser takes its step.

    Attributes:
        facts: Step, seed, rows, times and losses of the batch, plain data.
    """

    def __init__(self, message: str, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.facts = dict(facts)


class Trainer:
    """The state of one run: network, averages, optimiser, step.

    Arguments:
        process: Already fitted to the data.
        backbone: Its weights are initialised here, from the seed.
        dataset: Training examples.
        config: Settings of the loop.
        seed: Seed of the initial weights, the data order and every draw.
        device: Where it runs.
        team: The ranks that share the run. Each draws the pairs of the whole batch, so they equal those of a single
            process, and works through its share of them.
    """

    def __init__(
        self,
        process: Process,
        backbone: Backbone,
        dataset: Dataset,
        config: TrainConfig,
        seed: int = 0,
        device: str = "cpu",
        team: Team = ALONE,
    ) -> None:
        self.process, self.backbone, self.config, self.dataset = process, backbone, config, dataset
        self.seed, self.device, self.team = seed, device, team
        self.classes = getattr(backbone, "classes", 0)
        check_data(dataset, self.classes)
        backbone.initialise(seed)
        backbone.to(device).train()
        self._prepare()
        self.dropout = any(isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p for m in backbone.modules())
        self.averages = Averages(dict(backbone.named_parameters()), config.ema, config.more_ema, config.posthoc)
        self.optimiser = torch.optim.Adam(backbone.parameters(), lr=config.lr, betas=(0.9, config.beta2), fused=True)
        self.batches = Batches(dataset, config.batch_size, seed, team, device=device)
        if self.batches.batch_size < team.size:
            raise ValueError(f"a batch of {self.batches.batch_size} cannot be shared by {team.size} ranks")
        self.step, self.skipped, self.parts = 0, 0, config.accumulate
        self.gradient_norm = math.nan
        self._ahead: tuple[Any, ...] = ()

    def _prepare(self) -> None:
        """Sets up how the network is called: its team, precision and layout."""
        config = self.config
        execution = self.execution = Execution(config.precision, config.channels_last, config.compile, config.tf32)
        plain = execution == Execution() and self.device == "cpu"
        if not plain:  # before the team sees it: DistributedDataParallel lays out its sums as the weights are then
            prepare(self.backbone, execution, self.device)
        self.parallel = self.team.parallel(self.backbone)
        self.network: Any = self.parallel if plain else prepare(self.parallel, execution, self.device)
        self.scaler = loss_scaler(execution, self.device)

    @property
    def ema(self) -> Weights:
        """The averaged weights that sampling and evaluation use, by name."""
        return self.averages.main

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant, or half a cosine down to zero."""
        config = self.config
        warm = min(1.0, (step + 1) / max(config.warmup, 1))
        if config.schedule == "constant":
            return config.lr * warm
        return config.lr * warm * (1 + math.cos(math.pi * min(step / config.steps, 1.0))) / 2

    # ---- one step ------------------------------------------------------------------------------------------

    def pairs(self, step: int | None = None) -> tuple[Perturbed, Tensor | None]:
        """Training pairs of a step's batch as a whole, the next one's by default, and its labels."""
        step = self.step if step is None else step
        batches, count = self.batches, self.process.reference_batch
        x, refs = batches.points(step, count, self.process.takes_parts)
        inputs: dict[str, Any] = {"refs": refs, "partner": batches.partners(step)}
        if self.classes:
            inputs["labels"] = batches.labels(step, self.config.label_dropout)
            if self.process.averages:  # as many references of one class as there are of all without classes
                inputs["pool"] = batches.pool(step, count * self.classes)
        inputs = {name: value for name, value in inputs.items() if value is not None}
        pairs = self.process.training_pairs(x, generator=stream(self.seed, "noise", step), **inputs)
        return pairs, inputs.get("labels")

    def _made(self, step: int) -> tuple[Perturbed, Tensor | None]:
        """`pairs` of a step, those made ahead where there are any; starts to read what the step after it needs."""
        kept, self._ahead = self._ahead, ()
        if kept and kept[0] == step and kept[1] is self.process:
            return kept[2]
        made = self.pairs(step)
        self.batches.read_ahead(step + 1, self.process.reference_batch * max(self.classes, 1))
        return made

    def loss(self) -> Tensor:
        """The loss of the next batch; no gradient is taken and nothing changes."""
        pairs, labels = self.pairs()
        with self._dropout_seed(0):
            return self.process.losses(self.network, pairs, labels).mean()

    def advance(self) -> float:
        """Takes one gradient step; returns its loss.

        On a device the host waits once, for the loss and the gradient's norm, and before that it queues the next
        step's pairs, so the device is busy while it waits.

        Raises:
            NonFiniteLossError: Raised before anything has changed.
            MemoryExhaustedError: Not even one example fits in memory.
        """
        pairs, labels = self._made(self.step)
        loss = self._gradients(pairs, labels)
        self.scaler.unscale_(self.optimiser)
        gradients = [p.grad for p in self.backbone.parameters() if p.grad is not None]
        norms = torch._foreach_norm(gradients) if gradients else ()
        found = torch.stack([loss, *(norm.to(loss) for norm in norms)])
        if self.device != "cpu" and self.step + 1 < self.config.steps:
            self._ahead = (self.step + 1, self.process, self._made(self.step + 1))
        found = found.cpu()
        value, norm = float(found[0]), torch.linalg.vector_norm(found[1:])
        self.gradient_norm = float(norm)
        overflow = self.scaler.is_enabled() and math.isfinite(value) and not math.isfinite(self.gradient_norm)
        if not overflow:
            self._check(value, pairs)
        shrink = float(((self.config.grad_clip or math.inf) / (norm + 1e-6)).clamp(max=1.0))
        if gradients and shrink < 1.0:
            torch._foreach_mul_(gradients, shrink)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        if overflow:  # the scale was too large for float16: the optimiser took no step
            self.skipped += 1
        else:
            self.averages.update(self.step)
        return value

    def skip(self) -> None:
        """Skips the next batch and counts it."""
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.skipped += 1

    def _gradients(self, pairs: Perturbed, labels: Tensor | None) -> Tensor:
        """Computes the gradient of the batch's loss in as many parts as memory requires; returns the loss.

        Where a part does not fit, the parts are halved: their gradients add up to the same, up to rounding.
        """
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            try:
                return self._backward(pairs, labels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.team.size > 1:
                    raise
                if self.parts >= self.batches.batch_size:
                    raise MemoryExhaustedError(
                        "not even one example at a time fits in memory; take a smaller backbone or smaller images"
                    ) from error
            self.parts = min(2 * self.parts, self.batches.batch_size)
            size = -(-self.batches.batch_size // self.parts)
            LOG.warning("out of memory; batches are now processed %d examples at a time", size)

    def _backward(self, pairs: Perturbed, labels: Tensor | None) -> Tensor:
        """Adds up the parts of this rank's share, weighted by their rows; returns the mean over the team."""
        count, own = len(pairs.x_t), self.team.share(len(pairs.x_t))
        bounds = [own.start + i * len(own) // self.parts for i in range(self.parts + 1)]
        ranges = [(low, high) for low, high in pairwise(bounds) if high > low]
        total: Tensor | None = None
        with self._dropout_seed(self.team.rank):
            for low, high in ranges:
                rows = slice(low, high)
                part = pairs if high - low == count else Perturbed(*(v[rows] for v in pairs))
                last = high == own.stop
                wait = nullcontext() if last or self.team.size == 1 else self.parallel.no_sync()  # type: ignore[operator]
                with wait, self.team.naming():
                    loss = self.process.losses(self.network, part, None if labels is None else labels[rows]).mean()
                    share = (high - low) / count
                    scaled = loss if share * self.team.size == 1.0 else loss * (share * self.team.size)
                    self._take(scaled)
                done = loss.detach() if share == 1.0 else share * loss.detach()
                total = done if total is None else total + done
        assert total is not None
        return self.team.total(total)

    def _take(self, loss: Tensor) -> None:
        with multiplying(self.execution):
            self.scaler.scale(loss).backward()

    @contextmanager
    def _dropout_seed(self, rank: int) -> Iterator[None]:
        """Seeds torch's own generator, which dropout uses, by the step and the rank."""
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices, enabled=self.dropout):
            if self.dropout:
                torch.manual_seed(stream(self.seed, "dropout", self.step).initial_seed() + rank)
            yield

    def _check(self, loss: float, pairs: Perturbed) -> None:
        """Raises NonFiniteLossError where the loss or the gradient is not finite."""
        bad = not math.isfinite(loss)
        if not bad and math.isfinite(self.gradient_norm):
            return
        what = f"the loss is {loss}" if bad else f"the gradient's norm is {self.gradient_norm}, its loss {loss:g},"
        message = (
            f"{what} at step {self.step} (seed {self.seed}); this step changed nothing. Try a smaller "
            "train.lr or train.grad_clip, look at the data, or skip such batches with train.on_nan=skip:N"
        )
        finite = pairs.x_t.flatten(1).isfinite().all(1) & pairs.target.flatten(1).isfinite().all(1)
        facts = {
            "step": self.step,
            "seed": self.seed,
            "loss": str(loss),
            "gradient_norm": str(self.gradient_norm),
            "rows": self.batches.indices(self.step).tolist(),
            "t": pairs.t.tolist(),
            "places_of_inputs_not_finite": (~finite).nonzero().flatten().tolist(),
        }
        raise NonFiniteLossError(message, facts)

    @contextmanager
    def averaged(self) -> Iterator[Backbone]:
        """The backbone with its averaged weights, in eval mode, for the length of a block; training is not affected."""
        held = {name: p.detach().clone() for name, p in self.backbone.named_parameters()}
        self._put(self.ema)
        self.backbone.eval()
        try:
            yield self.backbone
        finally:
            self._put(held)
            self.backbone.train()

    @torch.no_grad()
    def _put(self, weights: Weights) -> None:
        for name, parameter in self.backbone.named_parameters():
            parameter.copy_(weights[name])

    def finish(self) -> Backbone:
        """The backbone with its averaged weights, in eval mode: the end of the run."""
        self._put(self.ema)
        return self.backbone.eval().requires_grad_(False)

    # ---- a state on disk -----------------------------------------------------------------------------------

    def tensors(self) -> tuple[Weights, Weights]:
        """What a checkpoint holds: the weights that sample, and all else that the next step depends on."""
        model = {**self.backbone.state_dict(), **self.ema}
        rest = {f"model.{n}": p.detach() for n, p in self.backbone.named_parameters()}
        rest |= {f"{kind}/{n}": v for kind, weights in self.averages.extra().items() for n, v in weights.items()}
        state = self.optimiser.state_dict()["state"]
        rest |= {f"adam.{i}.{k}": torch.as_tensor(v) for i, row in state.items() for k, v in row.items()}
        return model, rest

    def facts(self) -> dict[str, Any]:
        """Counters of the state, and the facts of the run it belongs to: plain data."""
        numbers = {"step": self.step, "images": self.batches.images(self.step), "skipped": self.skipped}
        numbers["adam"] = len(self.optimiser.state)
        return {**numbers, "scaler": self.scaler.state_dict(), "config": self.identity}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The facts of this run, which must not change between a stop and its resumption; see `run_facts`."""
        return run_facts(self.process, self.backbone, self.dataset, self.config, self.seed)

    def check_allowed(self, allow: Collection[str], before: Collection[str] = ()) -> None:
        """Raises RefusedError for a key that neither this run nor the one that saved the state has."""
        parts = {"process": self.process, "backbone": self.backbone}
        known = {f"{name}.{key}" for name, part in parts.items() for key in signature(type(part)).parameters}
        known |= {*self.identity, *before}
        known |= {key.partition(".")[0] for key in known}
        for key in allow:
            if key not in known:
                raise RefusedError(str(unknown("key in allow_config_change", key, known)))

    def restore(self, facts: Mapping[str, Any], model: Weights, rest: Weights, allow: Collection[str] = ()) -> None:
        """Resumes from a saved state.

        Arguments:
            facts: From `facts`.
            model: From `tensors`, its first result.
            rest: Its second.
            allow: Keys of the configuration that may have changed; "train" stands for all that begin with it.

        Raises:
            RefusedError: The state belongs to a run with another configuration; each difference is named.
        """
        check_facts(facts)
        self.check_allowed(allow, facts["config"])
        check_same(facts["config"], self.identity, allow)
        check_tensors("the weights do not fit the run", model, self.tensors()[0])
        check_tensors("the state does not fit the run", rest, self._wanted(rest, bool(allow)))
        moments = sum(name.startswith("adam.") for name in rest) // 3
        if moments != facts.get("adam", moments):
            raise CheckpointError(f"the state does not fit the run: Adam has {moments} moments of {facts['adam']}")
        extra, parts = self.averages.extra(), {"model": {}, "adam": {}}  # type: tuple[Any, dict[str, Weights]]
        for name, value in rest.items():
            kind, _, inner = name.partition("/")
            if inner and kind in extra:
                extra[kind][inner].copy_(value)
            elif not inner:
                kind, _, inner = name.partition(".")
                parts[kind][inner] = value
        self.backbone.load_state_dict({**model, **parts["model"]})
        for name, average in self.ema.items():
            average.copy_(model[name])
        self._restore_adam(parts["adam"])
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.skipped, self._ahead = facts["step"], facts["skipped"], ()
        self.batches.start = (self.step, facts["images"])

    def _wanted(self, rest: Weights, changed: bool) -> Weights:
        """What a state must hold besides the weights: the network, further averages, and Adam's moments.

        Arguments:
            rest: What it does hold.
            changed: Whether the settings may differ from those it was saved with; then averages may come and go.
        """
        wanted: Weights = {f"model.{name}": value for name, value in self.backbone.named_parameters()}
        extra = {f"{kind}/{n}": v for kind, weights in self.averages.extra().items() for n, v in weights.items()}
        wanted |= {name: value for name, value in extra.items() if name in rest or not changed}
        if changed:
            wanted |= {name: value for name, value in rest.items() if "/" in name and name not in extra}
        for i, value in enumerate(self.backbone.parameters()):
            moments = {"exp_avg": value, "exp_avg_sq": value, "step": torch.zeros(())}
            if any(f"adam.{i}.{key}" in rest for key in moments):  # a parameter without a gradient so far has none
                wanted |= {f"adam.{i}.{key}": like for key, like in moments.items()}
        return wanted

    def _restore_adam(self, tensors: Weights) -> None:
        """Restores the moments in the memory layout of their parameters: a fused Adam matches them by address."""
        parameters = list(self.backbone.parameters())
        rows: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".")
            like = parameters[int(index)]
            same = value.shape == like.shape
            rows.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(value) if same else value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": rows, "param_groups": groups})
