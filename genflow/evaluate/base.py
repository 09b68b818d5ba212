"""What a metric is: it turns samples or a model, in a context, into rows with their protocol."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from genflow.config import BenchConfig
from genflow.data.base import Dataset
from genflow.evaluate.facts import Number
from genflow.evaluate.features import Space, extract
from genflow.evaluate.frechet import Gaussian, frechet, moments_of
from genflow.evaluate.protocol import MISSING
from genflow.evaluate.reference import reference, statistics_of
from genflow.evaluate.weight_files import WeightsError
from genflow.process.base import Process
from genflow.process.field import BackboneLike


@dataclass(frozen=True)
class Measured:
    """One number: its name, value, standard error (NaN where unknown), sample count, NFE, solver and protocol; and the
    bounds of an interval at 95 %, which the protocol explains, where the metric gives one."""

    metric: str
    value: float
    n: int
    protocol: str
    stderr: float = math.nan
    nfe: float = math.nan
    solver: str = ""
    low: float = math.nan
    high: float = math.nan


@dataclass
class Result:
    """Rows of a measurement, and arrays that its plots need.

    Arguments:
        rows: The numbers.
        arrays: By name.
        wanting: What is missing on this machine where that kept a number from being measured; a bench tries again.
    """

    rows: list[Measured]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    wanting: str = ""


@dataclass
class Context:
    """What a metric is given.

    Arguments:
        config: The bench's configuration.
        dataset: Real data.
        seed: Seed of every draw.
        process, backbone: The trained model, for metrics that need one.
        samples: Raw generated examples (n, *shape), for metrics that need them.
        tick: Called now and then with the share done, in [0, 1].
    """

    config: BenchConfig
    dataset: Dataset
    seed: int
    process: Process | None = None
    backbone: BackboneLike | None = None
    samples: Tensor | None = None
    tick: Callable[[float], None] = lambda share: None

    @cached_property
    def space(self) -> Space:
        """The data set's own feature space."""
        from genflow.evaluate.spaces import space_for

        return space_for("own", self.dataset)

    @cached_property
    def real(self) -> Gaussian:
        """Moments of the reference in that space."""
        return self.against(self.space)[0]

    def against(self, space: Space) -> tuple[Gaussian, str]:
        """What samples are compared with, and its description: a file of statistics where one was given, else the
        training split without the rows that trained the space's extractor."""
        if self.config.reference_file:
            return statistics_of(self.config.reference_file, space)
        found = reference(self.dataset, "train", space)[0]
        return found, f"the training split (n = {found.n})"

    @property
    def real_size(self) -> int:
        """How many real examples take the place of samples: as many, or all of the test split where it has fewer."""
        return min(self.config.samples, self.dataset.count("test"))

    @property
    def floor_size(self) -> int:
        """Former name of `real_size`."""
        return self.real_size

    def frechet(self, raw: Tensor) -> float:
        """Fréchet distance of raw examples to the training split, in the data set's own space."""
        return frechet(self.real, moments_of(extract(self.space.features, raw)))


def unmeasured(error: Exception, names: Iterable[str], n: int) -> Result:
    """A row for each name with the reason why there is no number; tried again where a weight file is the reason."""
    rows = [Measured(name, math.nan, n, f"{MISSING}{error}") for name in names]
    return Result(rows, wanting=str(error) if isinstance(error, WeightsError) else "")


class Metric(ABC):
    """A measurement, and the facts about its numbers that tables, plots and rankings use.

    A built-in metric has the facts in its catalogue entry, so that a cached bench imports no class; a plugin's class
    may have them itself. A metric of one kind of number gives `label`, `better` ("lower" or "higher"), `unit` and
    `table`; one of several kinds gives `numbers`. See `genflow.evaluate.facts.Number`.
    """

    needs: ClassVar[Literal["samples", "model"]] = "samples"
    """What it is measured on."""
    label: ClassVar[str] = ""
    better: ClassVar[Literal["", "lower", "higher"]] = ""
    unit: ClassVar[str] = ""
    table: ClassVar[Literal["", "nfe", "model", "list"]] = ""
    numbers: ClassVar[tuple[Number, ...]] = ()

    @abstractmethod
    def measure(self, context: Context) -> Result:
        """The rows of one cell."""

    def real(self, context: Context) -> Result:
        """The same for real data in place of samples; no rows where that has no meaning."""
        former = type(self).floor
        return former(self, context) if former is not Metric.floor else Result([])

    def floor(self, context: Context) -> Result:
        """Former name of `real`; a class that gives this one works as before."""
        return self.real(context)

    def why_not(self, process: Process) -> str | None:
        """None where the metric can measure the process, else the reason."""
        return None

    def least(self) -> dict[str, int]:
        """Fewest examples of "train" and "test" and fewest "samples" that it needs; asked before any training."""
        return {}

    def why_not_data(self, config: BenchConfig, dataset: Dataset) -> str | None:
        """None where it has a meaning for a data set, of whatever size, else the reason; asked before `least`."""
        return None


def rows_as_dicts(rows: list[Measured]) -> list[dict[str, Any]]:
    """Plain data; NaN becomes None."""
    plain = [vars(row) for row in rows]
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in plain]
