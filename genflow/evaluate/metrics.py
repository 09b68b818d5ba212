"""The bench's own metrics: Fréchet distance and the norm study. Others are in quality.py, vectors.py, likelihood.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from genflow.config import BenchConfig, NormConfig, build, flatten
from genflow.data.base import Dataset
from genflow.evaluate.base import Context, Measured, Metric, Result, unmeasured
from genflow.evaluate.checks import NotMeasurable
from genflow.evaluate.features import Space, extract, extractor_for
from genflow.evaluate.frechet import Gaussian, frechet, frechet_distance, moments_of
from genflow.evaluate.likelihood import LikelihoodMetric as LikelihoodMetric
from genflow.evaluate.norm_z import norm_study
from genflow.evaluate.protocol import FD_WORDS, bias_note, rank_note
from genflow.evaluate.reference import first_chunks, statistics_of
from genflow.evaluate.spaces import check_features, space_for, unfitting
from genflow.evaluate.weight_files import WeightsError
from genflow.process.base import Process
from genflow.solver.ending import words_of


class FrechetMetric(Metric):
    """FD[extractor] of generated samples, decoded to raw levels, to the training split.

    Arguments:
        features: "own" is the data set's own space; else "digits", "mnist", "tiny", "identity", or a TorchScript file.
            Inception's distance is the metric `fid`.
    """

    def __init__(self, features: str = "own") -> None:
        if features == "inception":
            raise ValueError(
                "features = 'inception' is the metric 'fid', which has Inception's protocols; give --metric fid"
            )
        check_features(features)
        self.features = features

    def least(self) -> dict[str, int]:
        return {"train": 2, "test": 2, "samples": 2}  # a covariance

    def why_not_data(self, config: BenchConfig, dataset: Dataset) -> str | None:
        reason = unfitting(self.features, dataset)
        if config.reference and not reason:
            statistics_of(config.reference, space_for(self.features, dataset, device=config.device))
        return reason

    def measure(self, context: Context) -> Result:
        assert context.samples is not None
        raw = context.samples
        return self._rows(context, raw, min(len(raw), context.dataset.count("test")), "generated samples")

    def floor(self, context: Context) -> Result:
        data, n = context.dataset, context.floor_size
        raw = data.test if data.held else next(first_chunks(data, "test", n, n))
        return self._rows(context, raw, n, "the test split")

    def _rows(self, context: Context, raw: Tensor, size: int, what: str) -> Result:
        """The mean over blocks of one size for samples and floor, so that the distance's bias is the same."""
        try:
            space = self._space(context)
            real, source = context.against(space)
        except (WeightsError, NotMeasurable) as refusal:
            return unmeasured(refusal, [f"FD[{Path(self.features).stem}]"], len(raw))
        blocks = [block for block in raw.split(size) if len(block) == size]
        values = [frechet(real, moments_of(extract(space.features, block))) for block in blocks]
        protocol = (
            f"Fréchet distance in float64 between {what} and {source}, "
            f"{space.about if self.features != 'own' else _own_words(space, real)}, samples decoded to the data's "
            f"own units; mean and standard error over {len(values)} block{'s' * (len(values) > 1)} of n"
            + rank_note(size, len(real.mean))
            + bias_note(size)
        )
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Result([Measured(space.title("FD"), statistics.fmean(values), size, protocol, error)])

    def _space(self, context: Context) -> Space:
        own = self.features == "own"
        return context.space if own else space_for(self.features, context.dataset, device=context.config.device)


def _own_words(space: Space, real: Gaussian) -> str:
    return f"features '{space.name}' (d = {len(real.mean)})"


def fd(x: Tensor, dataset: Dataset) -> tuple[str, float]:
    """Fréchet distance of samples to a data set's training split, and its name, e.g. ("FD[digits]", 9.7).

    Arguments:
        x: Samples (n, *shape), data units; decoded to the data's own levels here.
        dataset: Real data.
    """
    name, extractor = extractor_for(dataset.name, dataset.shape)
    return f"FD[{name}]", frechet_distance(extractor(dataset.train), extractor(dataset.scaling.decode(x)))


def _pushed_words(space: Space, real: Gaussian, source: str, n: int) -> str:
    """How the Fréchet distance of pushed paths is measured."""
    return (
        f"Fréchet distance in float64 to {source}, {_own_words(space, real)}, one block of n"
        + rank_note(n, len(real.mean))
        + bias_note(n)
    )


class NormMetric(Metric):
    """Norm against noise level, and the Fréchet distance after the norm is pushed off mid-way.

    Arguments:
        factors, level, nfe, solver: As in `NormConfig`; the bench's `norm` where they are not given.
    """

    needs = "model"

    def __init__(
        self,
        factors: Sequence[float] | None = None,
        level: float | None = None,
        nfe: int | None = None,
        solver: str | None = None,
    ) -> None:
        given = {"factors": factors, "level": level, "nfe": nfe, "solver": solver}
        self.given = {name: value for name, value in given.items() if value is not None}
        build(NormConfig, self.given)  # refuses what is out of range

    def least(self) -> dict[str, int]:
        return {"train": 2, "test": 2, "samples": 2}  # a covariance

    def measure(self, context: Context) -> Result:
        assert context.process is not None
        assert context.backbone is not None
        cfg: NormConfig = build(NormConfig, flatten(context.config.norm) | self.given)
        study = norm_study(context.process, context.backbone, context, norm=cfg)
        noisy = f"over the {'{}'}, mean of the times with noise to signal of at least {cfg.level:g}"
        spread = f"interquartile range of ln|x| at given time {noisy}"
        tied = f"share of the variance of ln|x| that time explains (correlation ratio) {noisy}"
        where = {"train": "draws of x_t from the training split", "path": "sampling paths"}
        n = study.count
        rows = [Measured(f"norm_spread[{k}]", study.spread[k], n, spread.format(where[k])) for k in where]
        rows += [Measured(f"norm_tied[{k}]", study.tied[k], n, tied.format(where[k])) for k in where]
        given = context.config.solver_options.get(cfg.solver, {})
        where_to = " to its plain end" if words_of(given) else ""
        name, words = context.space.name, _pushed_words(context.space, *context.against(context.space), n)
        for factor, raw in study.pushed.items():
            protocol = (
                f"|x| times {factor:g} at t = {study.push_time:.4g}, where noise to signal is {cfg.level:g}; "
                f"then the same {cfg.solver} path on{where_to}{FD_WORDS}{words}"
            )
            value = context.frechet(raw)
            rows.append(
                Measured(f"FD[{name}]@norm*{factor:g}", value, len(raw), protocol, nfe=study.nfe, solver=cfg.solver)
            )
        return Result(rows, study.arrays)

    def why_not(self, process: Process) -> str | None:
        return process.why_not("norm")
