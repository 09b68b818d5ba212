"""One run's state and its step: Adam, warm-up, clipping, averages, the same for every process."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genflow.backbone.base import Backbone
from genflow.checkpoint import FACTS, CheckpointError, check_tensors
from genflow.config import TrainConfig, deciding
from genflow.data.base import Dataset
from genflow.devices import Fast, loss_scaler, multiplying, prepare
from genflow.distributed import ALONE, Team
from genflow.memory import MemoryExhaustedError, is_out_of_memory
from genflow.process.base import Perturbed, Process
from genflow.registry import unknown
from genflow.training.averages import Averages, Weights
from genflow.training.batches import Batches, check_data, stream

LOG = logging.getLogger("genflow")


class NonFiniteLossError(RuntimeError):
    """A loss or gradient that is not finite; raised before the optimiser's step.

    Attributes:
        facts: Step, seed, rows, times and losses of the batch, plain data.
    """

    def __init__(self, message: str, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.facts = dict(facts)


class RefusedError(CheckpointError):
    """A state on disk that may not be taken up as it was asked for; nothing was changed."""

    exit_code = 2


class Trainer:
    """State of one run: network, averages, optimiser, step.

    Arguments:
        process: Fitted to the data already.
        backbone: Initialised here from the seed.
        dataset: Examples.
        config: Numbers of the loop.
        seed: Of the initial weights, the data order and every draw.
        device: Where it runs.
        team: The processes that share the run. Each draws the pairs of the whole batch, so that they are those of one
            alone, and works through its share of them.
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
        self.batches = Batches(dataset, config.batch_size, seed, team)
        if self.batches.batch_size < team.size:
            raise ValueError(f"a batch of {self.batches.batch_size} can not be shared by {team.size} processes")
        self.step, self.skipped, self.parts = 0, 0, config.accumulate
        self.gradient_norm = math.nan

    def _prepare(self) -> None:
        """The network as it is called: on the team, in the precision and layout of the configuration."""
        config = self.config
        fast = self.fast = Fast(config.precision, config.channels_last, config.compile, config.tf32)
        if fast.channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        self.parallel = self.team.parallel(self.backbone)
        plain = fast == Fast() and self.device == "cpu"
        self.network: Any = self.parallel if plain else prepare(self.parallel, fast, self.device)
        self.scaler = loss_scaler(fast, self.device)

    @property
    def ema(self) -> Weights:
        """The averaged weights that sample and measure, by name."""
        return self.averages.main

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant or half a cosine to zero."""
        config = self.config
        warm = min(1.0, (step + 1) / max(config.warmup, 1))
        if config.schedule == "constant":
            return config.lr * warm
        return config.lr * warm * (1 + math.cos(math.pi * min(step / config.steps, 1.0))) / 2

    # ---- one step ------------------------------------------------------------------------------------------

    def pairs(self) -> tuple[Perturbed, Tensor | None]:
        """Training pairs of the whole batch that is next, and its labels."""
        batches, step, asked = self.batches, self.step, self.process.reference_batch
        x = batches.batch(step).to(self.device)
        beside: dict[str, Any] = {"refs": batches.references(step, asked), "partner": batches.partners(step)}
        given = {name: value.to(self.device) for name, value in beside.items() if value is not None}
        labels = None
        if self.classes:
            labels = batches.labels(step, self.config.label_dropout).to(self.device)
            given |= {"labels": labels}
        if self.classes and self.process.averages:  # of one class as many references as of all without classes
            points, of = batches.pool(step, asked * self.classes)
            given |= {"pool": (points.to(self.device), of.to(self.device))}
        return self.process.training_pairs(x, generator=stream(self.seed, "noise", step), **given), labels

    def loss(self) -> Tensor:
        """The loss of the batch that is next, without gradients taken."""
        pairs, labels = self.pairs()
        with self._dropout_seed(0):
            return self.process.losses(self.network, pairs, labels).mean()

    def advance(self) -> float:
        """One gradient step; returns its loss.

        Raises:
            NonFiniteLossError: Before anything was changed.
            MemoryExhaustedError: One example does not fit.
        """
        pairs, labels = self.pairs()
        self.batches.read_ahead(self.step + 1, self.process.reference_batch * max(self.classes, 1))
        loss = self._gradients(pairs, labels)
        self.scaler.unscale_(self.optimiser)
        limit = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), limit)
        value, self.gradient_norm = torch.stack([loss, norm.to(loss)]).tolist()
        overflow = self.scaler.is_enabled() and math.isfinite(value) and not math.isfinite(self.gradient_norm)
        if not overflow:
            self._check(value, pairs)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        if overflow:  # float16 found its scale too large: the optimiser took no step
            self.skipped += 1
        else:
            self.averages.update(self.step)
        return value

    def pass_over(self) -> None:
        """Counts the next batch as skipped and moves on."""
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.skipped += 1

    def _gradients(self, pairs: Perturbed, labels: Tensor | None) -> Tensor:
        """Gradients of the batch's loss, in as many parts as memory asks for; returns the loss.

        Where a part does not fit, parts are halved: gradients add up to the same, but for rounding.
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
                        "one example at a time does not fit in memory; take a smaller backbone or smaller images"
                    ) from error
            self.parts = min(2 * self.parts, self.batches.batch_size)
            size = -(-self.batches.batch_size // self.parts)
            LOG.warning("out of memory; batches are worked through %d examples at a time", size)

    def _backward(self, pairs: Perturbed, labels: Tensor | None) -> Tensor:
        """The sum over parts of this rank's share, each weighed by its rows; the team's mean of it."""
        count, own = len(pairs.x_t), self.team.share(len(pairs.x_t))
        bounds = [own.start + i * len(own) // self.parts for i in range(self.parts + 1)]
        ranges = [(low, high) for low, high in pairwise(bounds) if high > low]
        total = torch.zeros((), device=self.device)
        with self._dropout_seed(self.team.rank):
            for low, high in ranges:
                rows = slice(low, high)
                part = Perturbed(*(v[rows.start : rows.stop] for v in pairs))
                told = None if labels is None else labels[rows]
                last = high == own.stop
                wait = nullcontext() if last or self.team.size == 1 else self.parallel.no_sync()  # type: ignore[operator]
                with wait, self.team.naming():
                    loss = self.process.losses(self.network, part, told).mean()
                    share = (high - low) / count
                    scaled = loss if share * self.team.size == 1.0 else loss * (share * self.team.size)
                    self._take(scaled)
                total += share * loss.detach()
        return self.team.total(total)

    def _take(self, loss: Tensor) -> None:
        """The backward pass."""
        with multiplying(self.fast) if self.fast.tf32 else nullcontext():
            self.scaler.scale(loss).backward()

    @contextmanager
    def _dropout_seed(self, rank: int) -> Iterator[None]:
        """Dropout takes torch's own generator; here it is the step's, another on each rank."""
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
            f"{what} at step {self.step} (seed {self.seed}); nothing was changed by this step. Try a smaller train.lr "
            "or train.grad_clip, look at the data, or pass over it with train.on_nan=skip:N"
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
        """The backbone with its averaged weights, in eval mode; on leaving, training goes on as if nothing was."""
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
        """The backbone with its averaged weights, in eval mode, for good."""
        self._put(self.ema)
        return self.backbone.eval().requires_grad_(False)

    # ---- a state on disk -----------------------------------------------------------------------------------

    def tensors(self) -> tuple[Weights, Weights]:
        """What a checkpoint holds: the model as it samples, and the rest of what the next step depends on."""
        model = {**self.backbone.state_dict(), **self.ema}
        rest = {f"model.{n}": p.detach() for n, p in self.backbone.named_parameters()}
        rest |= {f"{kind}/{n}": v for kind, weights in self.averages.extra().items() for n, v in weights.items()}
        state = self.optimiser.state_dict()["state"]
        rest |= {f"adam.{i}.{k}": torch.as_tensor(v) for i, row in state.items() for k, v in row.items()}
        return model, rest

    def facts(self) -> dict[str, Any]:
        """Numbers of the state, and the configuration it belongs to: plain data."""
        numbers = {"step": self.step, "images": self.batches.images(self.step), "skipped": self.skipped}
        numbers["adam"] = len(self.optimiser.state)
        return {**numbers, "scaler": self.scaler.state_dict(), "config": self.identity()}

    def identity(self) -> dict[str, Any]:
        """What must not change between a stop and its resumption, by dotted key."""
        run = {f"train.{k}": v for k, v in deciding(self.config).items()}
        run |= {"seed": self.seed, "dataset": self.dataset.name, "process": type(self.process).__name__}
        run |= {f"backbone.{k}": v for k, v in self.backbone.config().items()}
        run |= {f"process.{k}": v for k, v in self.process.config().items()}
        return json.loads(json.dumps(run))

    def check_allowed(self, allow: Collection[str], before: Collection[str] = ()) -> None:
        """Raises RefusedError for a key that is none of this run's, nor of the configuration it was begun with."""
        parts = {"process": self.process, "backbone": self.backbone}
        known = {f"{name}.{key}" for name, part in parts.items() for key in signature(type(part)).parameters}
        known |= {*self.identity(), *before}
        known |= {key.partition(".")[0] for key in known}
        for key in allow:
            if key not in known:
                raise RefusedError(str(unknown("key in allow_config_change", key, known)))

    def restore(self, facts: Mapping[str, Any], model: Weights, rest: Weights, allow: Collection[str] = ()) -> None:
        """Takes up a saved state.

        Arguments:
            facts: As `facts` gave them.
            model: As `tensors` gave it, first.
            rest: The second.
            allow: Keys of the configuration that may have changed; "train" stands for all that begin with it.

        Raises:
            RefusedError: The state belongs to a run of another configuration; each difference is named.
        """
        check_facts(facts)
        self.check_allowed(allow, facts["config"])
        check_same(facts["config"], self.identity(), allow)
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
        self.step, self.skipped = facts["step"], facts["skipped"]
        self.batches.start = (self.step, facts["images"])

    def _wanted(self, rest: Weights, changed: bool) -> Weights:
        """What a state has to hold beside the weights: the network, further averages, and what Adam has begun.

        Arguments:
            rest: What it holds.
            changed: Whether settings may differ from those it was saved with; then averages may come and go.
        """
        wanted: Weights = {f"model.{name}": value for name, value in self.backbone.named_parameters()}
        extra = {f"{kind}/{n}": v for kind, weights in self.averages.extra().items() for n, v in weights.items()}
        wanted |= {name: value for name, value in extra.items() if name in rest or not changed}
        if changed:
            wanted |= {name: value for name, value in rest.items() if "/" in name and name not in extra}
        for i, value in enumerate(self.backbone.parameters()):
            moments = {"exp_avg": value, "exp_avg_sq": value, "step": torch.zeros(())}
            if any(f"adam.{i}.{key}" in rest for key in moments):  # none of a parameter that has had no gradient
                wanted |= {f"adam.{i}.{key}": like for key, like in moments.items()}
        return wanted

    def _restore_adam(self, tensors: Weights) -> None:
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


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the numbers of a state are not as `Trainer.facts` gave them."""
    counts = {name: type(facts.get(name)) is int and facts[name] >= 0 for name in ("step", "images", "skipped")}
    mappings = {name: isinstance(facts.get(name), dict) for name in ("scaler", "config")}
    for name, fits in {**counts, **mappings, "smooth": isinstance(facts.get("smooth"), int | float)}.items():
        if not fits:
            came = repr(facts.get(name, "nothing"))[:80]
            want = "a mapping" if name in mappings else "a number" if name == "smooth" else "a whole number"
            raise CheckpointError(f"{FACTS} of the run is damaged: its '{name}' is {came}; want {want}")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], allow: Collection[str]) -> None:
    """Raises RefusedError where a run's configuration has changed in a key that is not allowed to."""
    missing = object()
    changed = [k for k in {**before, **now} if before.get(k, missing) != now.get(k, missing)]
    refused = [k for k in changed if not any(k == key or k.startswith(f"{key}.") for key in allow)]
    if refused:
        each = "; ".join(f"{k} was {before.get(k, 'not there')} and is {now.get(k, 'not there')}" for k in refused)
        raise RefusedError(
            f"this run was begun with another configuration: {each}. Give the old values, another folder, or allow it: "
            f"--allow-config-change {','.join(refused)}"
        )
