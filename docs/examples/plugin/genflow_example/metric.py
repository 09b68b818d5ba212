"""A metric: how far the mean of the samples is from that of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from genflow.evaluate.base import Context, Measured, Metric, Result


class MeanError(Metric):
    """Root mean square over entries of (mean of the samples − mean of the training split), in raw units."""

    label, better, unit = "error of the mean", "lower", "raw units"

    def measure(self, context: Context) -> Result:
        """The row of generated samples."""
        assert context.samples is not None
        return self._row(context, context.samples, "generated samples")

    def floor(self, context: Context) -> Result:
        """The same for real data in place of samples, which no model is expected to beat."""
        rows = torch.arange(context.floor_size)
        return self._row(context, context.dataset.examples("test", rows), "the test split")

    def least(self) -> dict[str, int]:
        """What it needs; a bench refuses less before it trains."""
        return {"train": 1, "test": 1, "samples": 1}

    def _row(self, context: Context, x: Tensor, what: str) -> Result:
        data = context.dataset
        real = data.examples("train", torch.arange(data.count("train")))
        error = (x.double().mean(0) - real.double().mean(0)).square().mean().sqrt()
        protocol = f"RMS of the difference of the means of {what} and the training split, over entries"
        return Result([Measured("mean_error", float(error), len(x), protocol)])
