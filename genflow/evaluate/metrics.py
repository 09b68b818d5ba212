"""The metrics of the bench: Fréchet distance, the norm study, and bits/dim."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from genflow.data.base import Dataset
from genflow.evaluate.base import Context, Measured, Metric, Result
from genflow.evaluate.features import extractor_for
from genflow.evaluate.frechet import frechet_distance
from genflow.evaluate.norm_z import norm_study
from genflow.likelihood import BPD_FORMULA, bits_per_dim, log_likelihood
from genflow.process.base import Process
from genflow.solver.adaptive import RK45


class FrechetMetric(Metric):
    """FD[extractor] of generated samples, decoded to raw levels, to the training split."""

    def measure(self, context: Context) -> Result:
        assert context.samples is not None
        return self._rows(context, context.samples, "generated samples")

    def floor(self, context: Context) -> Result:
        return self._rows(context, context.dataset.test, "the test split")

    def _rows(self, context: Context, raw: Tensor, what: str) -> Result:
        """The mean over blocks of the test split's size, so that the distance's bias is that of the floor."""
        name, _, reference = context.reference
        size = min(len(raw), len(context.dataset.test))
        values = [context.frechet(block) for block in raw.split(size) if len(block) == size]
        protocol = (
            f"Fréchet distance in float64 between {what} and the training split (n = {len(reference)}), "
            f"features '{name}' (d = {reference.shape[1]}), samples decoded to the data's own units; "
            f"mean and standard error over {len(values)} block{'s' * (len(values) > 1)} of n"
        )
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Result([Measured(f"FD[{name}]", statistics.fmean(values), size, protocol, error)])


def fd(x: Tensor, dataset: Dataset) -> tuple[str, float]:
    """Fréchet distance of samples to a data set's training split, and its name, e.g. ("FD[digits]", 9.7).

    Arguments:
        x: Samples (n, *shape), data units; decoded to the data's own levels here.
        dataset: Real data.
    """
    name, extractor = extractor_for(dataset.name, dataset.shape)
    return f"FD[{name}]", frechet_distance(extractor(dataset.train), extractor(dataset.scaling.decode(x)))


class NormMetric(Metric):
    """Norm against noise level, and what happens when the norm is pushed off mid-way."""

    needs = "model"

    def measure(self, context: Context) -> Result:
        assert context.process is not None
        assert context.backbone is not None
        study = norm_study(context.process, context.backbone, context)
        noisy = f"over the {'{}'}, mean of the times with noise to signal of at least {context.config.norm.level:g}"
        spread = f"interquartile range of ln|x| at given time {noisy}"
        tied = f"share of the variance of ln|x| that time explains (correlation ratio) {noisy}"
        where = {"train": "draws of x_t from the training split", "path": "sampling paths"}
        n, cfg = study.count, context.config.norm
        rows = [Measured(f"norm_spread[{k}]", study.spread[k], n, spread.format(where[k])) for k in where]
        rows += [Measured(f"norm_tied[{k}]", study.tied[k], n, tied.format(where[k])) for k in where]
        name = context.reference[0]
        for factor, raw in study.pushed.items():
            protocol = (
                f"|x| times {factor:g} at t = {study.push_time:.4g}, where noise to signal is {cfg.level:g}; "
                f"then the same {cfg.solver} path on; FD as in its own row"
            )
            value = context.frechet(raw)
            rows.append(
                Measured(f"FD[{name}]@norm*{factor:g}", value, len(raw), protocol, nfe=study.nfe, solver=cfg.solver)
            )
        return Result(rows, study.arrays)

    def why_not(self, process: Process) -> str | None:
        return process.why_not("norm")


class LikelihoodMetric(Metric):
    """bits/dim of the test split, dequantised once."""

    needs = "model"

    def why_not(self, process: Process) -> str | None:
        return process.why_not("likelihood")

    def measure(self, context: Context) -> Result:
        assert context.process is not None
        assert context.backbone is not None
        cfg, data = context.config.bpd, context.dataset
        raw = data.test[: cfg.examples]
        x = data.scaling.encode(raw, torch.Generator().manual_seed(context.seed))
        solver, parts = RK45(cfg.rtol, cfg.atol), []
        calls = 0.0
        chunks = x.split(context.config.sample_batch)
        for i, chunk in enumerate(chunks):
            part = log_likelihood(
                context.process,
                context.backbone,
                chunk.to(context.config.device),
                solver=solver,
                seed=context.seed,
                first_index=i * context.config.sample_batch,
            )
            parts.append(part.log_prob.cpu())
            calls += part.nfe * len(chunk)
            context.tick((i + 1) / len(chunks))
        return Result([self._row(context, torch.cat(parts), calls / len(x), x)])

    def _row(self, context: Context, log_prob: Tensor, nfe: float, x: Tensor) -> Measured:
        cfg, scaling, dim = context.config.bpd, context.dataset.scaling, x[0].numel()
        solver = f"rk45({cfg.rtol:g})"
        if scaling.levels is None:
            nats = -log_prob
            error = float(nats.std() / math.sqrt(len(nats)))
            protocol = f"mean −log p of the test split by the ODE, {solver}, Hutchinson ±1 probe drawn once"
            return Measured("nll[nats]", float(nats.mean()), len(x), protocol, error, nfe, solver)
        value, error = bits_per_dim(log_prob, dim, scaling)
        protocol = (
            f"{BPD_FORMULA}, s = 2/{scaling.levels}; test split by the ODE, {solver}, Hutchinson ±1 probe drawn once"
        )
        return Measured("bits/dim", value, len(x), protocol, error, nfe, solver)
