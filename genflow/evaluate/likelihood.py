"""bits/dim and nats, and the likelihood from which they and the KL divergence are computed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genflow.config import LikelihoodConfig, build, flatten
from genflow.evaluate.base import Context, Measured, Metric, Result
from genflow.evaluate.reference import first_chunks
from genflow.likelihood import BPD_FORMULA, bits_per_dim, log_likelihood
from genflow.process.base import Process
from genflow.solver.adaptive import RK45


class OdeLikelihood(Metric):
    """A metric of a model by its likelihood.

    Arguments:
        examples, rtol, atol: As in `LikelihoodConfig`; the bench's `bpd` where they are not given.
    """

    needs = "model"

    def __init__(self, examples: int | None = None, rtol: float | None = None, atol: float | None = None) -> None:
        given = {"examples": examples, "rtol": rtol, "atol": atol}
        self.given = {name: value for name, value in given.items() if value is not None}
        build(LikelihoodConfig, self.given)  # refuses what is out of range

    def settings(self, context: Context) -> LikelihoodConfig:
        """How it is measured in a bench."""
        found: LikelihoodConfig = build(LikelihoodConfig, flatten(context.config.bpd) | self.given)
        return found

    def why_not(self, process: Process) -> str | None:
        return process.why_not("likelihood")

    def least(self) -> dict[str, int]:
        return {"test": 2}  # a standard error


def model_log_prob(
    context: Context, x: Tensor, cfg: LikelihoodConfig, trace: str = "hutchinson"
) -> tuple[Tensor, float, str]:
    """log p_model of examples in data units (n, *shape) by the ODE: (n,) nats, mean backbone calls, and the solver."""
    assert context.process is not None
    assert context.backbone is not None
    size = context.config.sample_batch
    solver, parts, calls = RK45(cfg.rtol, cfg.atol), [], 0.0
    chunks = x.split(size)
    for i, chunk in enumerate(chunks):
        part = log_likelihood(
            context.process,
            context.backbone,
            chunk,
            solver=solver,
            trace=trace,
            seed=context.seed,
            first_index=i * size,
        )
        parts.append(part.log_prob)
        calls += part.nfe * len(chunk)
        context.tick((i + 1) / len(chunks))
    return torch.cat(parts), calls / len(x), f"rk45({cfg.rtol:g})"


class LikelihoodMetric(OdeLikelihood):
    """bits/dim of the test split, dequantised once; nats in data units where the data have no grey levels."""

    def measure(self, context: Context) -> Result:
        data, cfg = context.dataset, self.settings(context)
        raw = torch.cat(list(first_chunks(data, "test", cfg.examples)))
        x = data.scaling.encode(raw, torch.Generator().manual_seed(context.seed))
        log_prob, nfe, solver = model_log_prob(context, x, cfg)
        scaling, dim = data.scaling, x[0].numel()
        if scaling.levels is None:
            nats = -log_prob
            error = float(nats.std() / math.sqrt(len(nats)))
            protocol = f"mean −log p of the test split by the ODE, {solver}, Hutchinson ±1 probe drawn once"
            return Result([Measured("nll[nats]", float(nats.mean()), len(x), protocol, error, nfe, solver)])
        value, error = bits_per_dim(log_prob, dim, scaling)
        protocol = (
            f"{BPD_FORMULA}, s = 2/{scaling.levels}; test split by the ODE, {solver}, Hutchinson ±1 probe drawn once"
        )
        return Result([Measured("bits/dim", value, len(x), protocol, error, nfe, solver)])
