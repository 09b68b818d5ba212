"""The bench's own metrics: Fréchet distance and the norm study. Others are in quality.py, vectors.py, likelihood.py."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from torch import Tensor

from genflow.data.base import Dataset
from genflow.evaluate.base import Context, Measured, Metric, Result
from genflow.evaluate.checks import NotMeasurable
from genflow.evaluate.features import Space, extract, extractor_for
from genflow.evaluate.frechet import Gaussian, frechet, frechet_distance, moments_of
from genflow.evaluate.likelihood import LikelihoodMetric as LikelihoodMetric
from genflow.evaluate.norm_z import norm_study
from genflow.evaluate.protocol import MISSING, bias_note, rank_note
from genflow.evaluate.reference import first_chunks, reference
from genflow.evaluate.spaces import space_for
from genflow.evaluate.weight_files import WeightsError
from genflow.process.base import Process


class FrechetMetric(Metric):
    """FD[extractor] of generated samples, decoded to raw levels, to the training split.

    Arguments:
        features: "own" is the data set's own space; else "digits", "mnist", "tiny", "identity", or a TorchScript file.
            Inception's distance is the metric `fid`.
    """

    def __init__(self, features: str = "own") -> None:
        if features == "inception":
            raise ValueError("features = 'inception' is the metric 'fid', which has its protocols; give --metric fid")
        self.features = features

    def measure(self, context: Context) -> Result:
        assert context.samples is not None
        return self._rows(context, context.samples, "generated samples")

    def floor(self, context: Context) -> Result:
        data = context.dataset
        raw = data.test if data.held else next(first_chunks(data, "test", context.config.samples, data.count("test")))
        return self._rows(context, raw, "the test split")

    def _rows(self, context: Context, raw: Tensor, what: str) -> Result:
        """The mean over blocks of the test split's size, so that the distance's bias is that of the floor."""
        try:
            space, real = self._real(context)
        except (WeightsError, NotMeasurable) as refusal:
            return Result([Measured(f"FD[{Path(self.features).stem}]", math.nan, len(raw), f"{MISSING}{refusal}")])
        size = min(len(raw), context.dataset.count("test"))
        blocks = [block for block in raw.split(size) if len(block) == size]
        values = [frechet(real, moments_of(extract(space.features, block))) for block in blocks]
        protocol = (
            f"Fréchet distance in float64 between {what} and the training split (n = {real.n}), "
            f"{space.about if self.features != 'own' else self._own_words(space, real)}, samples decoded to the data's "
            f"own units; mean and standard error over {len(values)} block{'s' * (len(values) > 1)} of n"
            + rank_note(size, len(real.mean))
            + bias_note(size)
        )
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Result([Measured(space.title("FD"), statistics.fmean(values), size, protocol, error)])

    def _own_words(self, space: Space, real: Gaussian) -> str:
        return f"features '{space.name}' (d = {len(real.mean)})"

    def _real(self, context: Context) -> tuple[Space, Gaussian]:
        if self.features == "own":
            return context.space, context.real
        space = space_for(self.features, context.dataset, device=context.config.device)
        return space, reference(context.dataset, "train", space)[0]


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
        name = context.space.name
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
