"""Metrics of vectors and of exact densities: two-sample distances, and the KL divergence of a model from the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genflow.config import BenchConfig
from genflow.data.base import Dataset
from genflow.evaluate.base import Context, Measured, Metric, Result
from genflow.evaluate.kernels import energy_distance, median_distance, mmd, rbf_kernel
from genflow.evaluate.likelihood import OdeLikelihood, model_log_prob
from genflow.evaluate.protocol import MISSING, OVER_DIRECTIONS
from genflow.evaluate.reference import first_chunks
from genflow.evaluate.two_sample import classifier_test, sliced_wasserstein


class TwoSampleMetric(Metric):
    """Sliced Wasserstein distance, MMD², energy distance and classifier tests of samples against the test split.

    Arguments:
        points: Most points of each set; the pairwise numbers take memory for points².
        directions: Of the sliced distance.
        bandwidth: Of the Gaussian kernel, data's raw units; 0 takes the median distance of real points.

    Real data are the training split in place of samples.
    """

    LARGEST = 1024
    """Most dimensions that a vector may have: pairwise distances of large images say little."""

    def __init__(self, points: int = 2000, directions: int = 500, bandwidth: float = 0.0) -> None:
        if int(points) != points or points < 10:
            raise ValueError(f"points = {points} is not a whole number of at least 10")
        if int(directions) != directions or directions < 2:
            raise ValueError(f"directions = {directions} is not a whole number of at least 2")
        if not bandwidth >= 0:
            raise ValueError(f"bandwidth = {bandwidth} is not a number of at least 0")
        self.points, self.directions, self.bandwidth = int(points), int(directions), float(bandwidth)

    FOLDS = 5
    """Of the classifier tests: each needs a point of both sets."""

    def least(self) -> dict[str, int]:
        return {"train": self.FOLDS, "test": self.FOLDS, "samples": self.FOLDS}

    def why_not_data(self, config: BenchConfig, dataset: Dataset) -> str | None:
        dim = math.prod(dataset.shape)
        if dim > self.LARGEST:
            return f"two-sample distances are for vectors of up to {self.LARGEST} numbers; '{dataset.name}' has {dim}"
        n = min(config.samples, self.points, dataset.count("test"))
        if self.bandwidth or n < self.FOLDS:  # the least is asked for after this
            return None
        real = torch.cat(list(first_chunks(dataset, "test", n))).flatten(1)
        try:
            median_distance(*real.chunk(2))
        except ValueError as refusal:
            return f"test examples: {refusal}, --metric-options two_sample.bandwidth=NUMBER"
        return None

    def measure(self, context: Context) -> Result:
        assert context.samples is not None
        return self._rows(context, context.samples[: self.points], "generated samples")

    def real(self, context: Context) -> Result:
        return self._rows(context, self._examples(context, "train")[: context.config.samples], "the training split")

    def _examples(self, context: Context, split: str) -> Tensor:
        return torch.cat(list(first_chunks(context.dataset, split, self.points)))

    def _rows(self, context: Context, raw: Tensor, what: str) -> Result:
        reason = self.why_not_data(context.config, context.dataset)
        if reason:
            return Result([Measured("sliced_W2", math.nan, len(raw), MISSING + reason)])
        real = self._examples(context, "test").flatten(1)
        own = raw.flatten(1)
        n = min(len(real), len(own))
        x, y = real[:n], own[:n]
        width = self.bandwidth or median_distance(*x.chunk(2))
        draws = torch.Generator().manual_seed(context.seed)
        between = f"between {what} and the test split, {n} of each, raw units"
        found = {
            "sliced_W2": (
                sliced_wasserstein(x, y, generator=draws, directions=self.directions),
                f"√ mean W2² over {self.directions} directions {between}{OVER_DIRECTIONS}",
            ),
            "MMD²": (
                mmd(x, y, rbf_kernel(width)),
                f"unbiased MMD² with the kernel exp(−|x−y|²/2h²), h = {width:.4g} "
                f"({'given' if self.bandwidth else 'median distance of test points'}), {between}",
            ),
            "energy": (energy_distance(x, y), f"unbiased 2E|X−Y| − E|X−X'| − E|Y−Y'| {between}"),
        }
        for name in ("logistic", "knn"):
            words = f"{self.FOLDS}-fold accuracy of a {name} classifier that tells samples from data, 0.5 is best, "
            found[f"C2ST[{name}]"] = classifier_test(x, y, name, seed=context.seed, folds=self.FOLDS), words + between
        return Result([Measured(name, e.value, n, words, e.error) for name, (e, words) in found.items()])


class DivergenceMetric(OdeLikelihood):
    """KL(data ‖ model) on data with an exact density, by the model's likelihood: mean of log p_data − log p_model.

    Arguments:
        exact: Most dimensions up to which the divergence's trace is exact instead of estimated.
        examples, rtol, atol: As `OdeLikelihood` takes them.
    """

    def __init__(
        self, exact: int = 16, examples: int | None = None, rtol: float | None = None, atol: float | None = None
    ) -> None:
        super().__init__(examples, rtol, atol)
        self.exact = int(exact)

    def why_not_data(self, config: BenchConfig, dataset: Dataset) -> str | None:
        try:
            dataset.log_prob(torch.zeros(1, *dataset.shape))
        except ValueError as refusal:
            return str(refusal)
        return None

    def measure(self, context: Context) -> Result:
        cfg, data = self.settings(context), context.dataset
        n = min(cfg.examples, data.count("test"))
        x = data.scaling.encode(torch.cat(list(first_chunks(data, "test", n))))
        try:
            truth = data.log_prob(x).double()
        except ValueError as refusal:
            return Result([Measured("KL[nats]", math.nan, n, f"{MISSING}{refusal}")])
        trace = "exact" if math.prod(data.shape) <= self.exact else "hutchinson"
        found, nfe, solver = model_log_prob(context, x, cfg, trace)
        gap = truth - found
        protocol = (
            f"KL(data ‖ model) as the mean of log p_data − log p_model over the test split, by the ODE, {solver}, "
            f"{'exact trace' if trace == 'exact' else 'Hutchinson ±1 probe drawn once'}"
        )
        error = float(gap.std() / math.sqrt(n))
        return Result([Measured("KL[nats]", float(gap.mean()), n, protocol, error, nfe, solver)])
