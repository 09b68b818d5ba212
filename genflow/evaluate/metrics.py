"""The bench's own metrics: Fréchet distance and the norm study. Others are in quality.py, vectors.py, likelihood.py."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from genflow.config import BenchConfig, NormConfig, build, flatten
from genflow.data.base import Dataset
from genflow.evaluate.base import Context, Measured, Metric, Result
from genflow.evaluate.likelihood import LikelihoodMetric as LikelihoodMetric
from genflow.evaluate.norm_z import norm_study
from genflow.evaluate.protocol import FD_WORDS, bias_note, rank_note
from genflow.evaluate.quality import BESIDE, QualityMetric
from genflow.process.base import Process
from genflow.solver.ending import Ending, words_of


class FrechetMetric(QualityMetric):
    """FD[extractor] of generated samples, decoded to raw levels, to the training split, and what stands beside it.

    Arguments:
        features: "own" is the data set's own space; else "digits", "mnist", "tiny", "identity", or a TorchScript file.
            Inception's distance is the metric `fid`.
        beside: Which of "limit", "test", "kid", "nearer" and "balance" of `QualityMetric` are measured too.
        keep: Most features of each set that pairwise numbers compare.
    """

    def __init__(self, features: str = "own", beside: Sequence[str] = BESIDE, keep: int = 10_000) -> None:
        if features == "inception":
            raise ValueError(
                "features = 'inception' is the metric 'fid', which has Inception's protocols; give --metric fid"
            )
        super().__init__(("fd", *((beside,) if isinstance(beside, str) else beside)), features, keep=keep)


def fd(x: Tensor, dataset: Dataset) -> tuple[str, float]:
    """Fréchet distance of samples to a data set's training split, and its name, e.g. ("FD[digits]", 9.7).

    Arguments:
        x: Samples (n, *shape), data units; decoded to the data's own levels here.
        dataset: Real data.
    """
    context = Context(BenchConfig(), dataset, 0)
    return context.space.title("FD"), context.frechet(dataset.scaling.decode(x))


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
        frame = words_of(given, plain_end=True)
        where_to = (" to its plain end" if not Ending.of(given).is_default else "") + (f" ({frame})" if frame else "")
        real, source = context.against(context.space)
        words = (
            f"Fréchet distance in float64 to {source}, {context.space.about}, "
            "one block of n" + rank_note(n, len(real.mean)) + bias_note(n)
        )
        title = context.space.title("FD")
        for factor, raw in study.pushed.items():
            protocol = (
                f"|x| times {factor:g} at t = {study.push_time:.4g}, where noise to signal is {cfg.level:g}; "
                f"then the same {cfg.solver} path on{where_to}{FD_WORDS}{words}"
            )
            value = context.frechet(raw)
            rows.append(
                Measured(
                    f"{title}@norm*{factor:g}",
                    value,
                    len(raw),
                    protocol,
                    nfe=study.nfe,
                    solver=cfg.solver,
                )
            )
        return Result(rows, study.arrays)

    def why_not(self, process: Process) -> str | None:
        return process.why_not("norm")
