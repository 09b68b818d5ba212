"""What a network costs: FLOPs, seconds of a call and of a training step, measured on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genflow.bench.worker import Worker
from genflow.config import BenchConfig
from genflow.devices import computing, synchronise

BATCHES, PATIENCE = 3, 0.05
"""Batches that are timed, and seconds that one may take for a larger one to be tried."""

LONG = 60.0
"""Seconds of calls that make a bench long enough to count its FLOPs."""


def measure_costs(worker: Worker, calls: float) -> dict[str, Any]:
    """Costs of the bench's network, for its first process or checkpoint.

    Arguments:
        worker: Knows the bench.
        calls: How many calls for one sample the bench will take. FLOPs are counted where that is longer than `LONG`
            seconds, since torch imports its compiler to count them, which takes a few.

    Returns:
        flops: Of one call for one sample, or None.
        call: Seconds of one call for one sample, in as large a batch as is quickly timed.
        step: Seconds of a training step for one example: the call, forwards and backwards.
        batch: Samples of the timed call.
        parameters: Of the network.
        numbers: Of one sample.
    """
    process, backbone = _pair(worker)
    backbone = backbone.to(worker.config.device)
    t = process.grid(2)[1]

    def calling(network: Any) -> Callable[[int], Tensor]:
        field = process.field(network)
        return lambda count: field.output(torch.zeros(count, *worker.dataset.shape, device=worker.config.device), t)

    network = worker.network(backbone)
    call = calling(network)
    with torch.no_grad(), computing(network):
        batch, seconds = _grow(call, worker.config.sample_batch, worker.config.device)
        flops = _flops(partial(call, 1)) if calls * seconds > LONG else None
    return {
        "flops": flops,
        "call": seconds,
        "step": 0.0 if worker.config.checkpoint else _step(calling(backbone), backbone, batch, worker.config),
        "batch": batch,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "numbers": torch.Size(worker.dataset.shape).numel(),
    }


def _pair(worker: Worker) -> tuple[Any, Any]:
    if worker.config.checkpoint:
        import genflow

        return genflow.load(worker.config.checkpoint[0])
    return worker.fresh(worker.config.process[0])


def _flops(function: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def _timed(function: Any, device: str) -> float:
    """Seconds of the quickest of a few calls."""
    took = []
    for _ in range(BATCHES):
        began = time.monotonic()
        function()
        synchronise(device)
        took.append(time.monotonic() - began)
    return min(took)


def _grow(call: Any, most: int, device: str) -> tuple[int, float]:
    """The largest batch, up to `most`, that is timed quickly, and its seconds for one sample."""
    count = 1
    while True:
        began = time.monotonic()
        call(count)
        synchronise(device)
        if count == most or time.monotonic() - began > PATIENCE:
            return count, _timed(partial(call, count), device) / count
        count = min(most, 4 * count)


def _step(call: Any, backbone: Any, most: int, config: BenchConfig) -> float:
    """Seconds of forwards and backwards for one example."""
    count = min(most, config.train.batch_size, 16)
    backbone.train().requires_grad_(True)

    def step() -> None:
        call(count).square().mean().backward()

    step()
    return _timed(step, config.device) / count
