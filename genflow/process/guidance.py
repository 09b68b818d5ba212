"""Guidance: what is read of a network is moved away from what a weaker one finds,

    f(x, t) + w (f(x, t | c) − f(x, t)),   f the velocity, the score or the posterior mean.

The weaker one is the same network without the class (classifier-free guidance), or another one (autoguidance), which
receives the class where it knows classes. An evaluation is two calls; w = 1 is the plain field and w = 0 that of the
weaker network, of one call each. The three f are affine in one another, so w means the same for every head and solver,
which it would not if raw outputs were combined.

On an interval of σ = b/a, both calls are made where low < σ ≤ high only; elsewhere w is 1, of one call.

Sources: Ho & Salimans 2022, arXiv:2207.12598, whose w is this one less 1; Kynkäänniemi et al. 2024, arXiv:2404.07724
(interval); Karras et al. 2024, arXiv:2406.02507 (autoguidance), whose w is this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genflow.checks import is_number, require

NO_CLASS = -1
"""The label that stands for "no class", in training and in the second call of guidance."""


class Guide(NamedTuple):
    """A weaker model of the same path: its process, which reads its outputs, and its network."""

    process: Any
    backbone: Callable[..., Tensor]


@dataclass(frozen=True)
class Guidance:
    """How strong guidance is, where, and away from what.

    Arguments:
        weight: w, at least 0; 1 is none.
        interval: (low, high), noise levels σ = b/a in data units between which it acts; None for all.
        guide: A weaker model that is guided away from; None for the network itself without the class.
    """

    weight: float = 1.0
    interval: tuple[float, float] | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        w, interval = self.weight, self.interval
        require(
            "field",
            {
                "guidance": (w, is_number(w) and w >= 0, "a number of at least 0"),
                "guidance interval": (interval, interval is None or _is_interval(interval), "two noise levels, "
                "0 <= low < high"),
            },
        )  # fmt: skip

    @classmethod
    def of(cls, given: float | Guidance) -> Guidance:
        """A number alone is w."""
        return given if isinstance(given, Guidance) else cls(given)

    @property
    def words(self) -> str:
        """For protocols and captions; "" for none."""
        if self.weight == 1:
            return ""
        where = "" if self.interval is None else " for noise {:g} < σ <= {:g}".format(*self.interval)
        return f"guidance {self.weight:g}{where}" + (" away from a weaker model" if self.guide else "")

    def check(self, process: Any, labels: Tensor | None, classes: int) -> None:
        """Raises ValueError where nothing steers it, or a process does not fit it.

        Arguments:
            process: What is sampled.
            labels: Class of each row, or None.
            classes: How many classes the backbone knows.
        """
        if labels is not None and not classes:
            raise ValueError("labels were given, but this backbone knows no classes; train one with classes=K")
        if self.weight == 1:
            return
        if labels is None and self.guide is None:
            raise ValueError(
                f"guidance = {self.weight:g} needs labels: say which class to guide towards, or give a weaker model "
                "(a guide)"
            )
        if self.interval is not None and process.why_not("affine"):
            raise ValueError(f"guidance on an interval needs noise levels σ = b/a: {process.why_not('affine')}")
        if self.guide is not None:
            check_same_path(process, self.guide.process)


def _is_interval(given: Any) -> bool:
    fits = isinstance(given, Sequence) and len(given) == 2 and all(map(is_number, given))
    return fits and 0 <= given[0] < given[1]


def check_same_path(process: Any, other: Any) -> None:
    """Raises ValueError unless both processes have the same x_t at the same times; heads and targets may differ."""
    grid = process.grid(8)
    same = type(process) is type(other) and torch.allclose(grid, other.grid(8), rtol=1e-3)
    if same and not process.why_not("affine"):
        pairs = zip(process.schedule(grid), other.schedule(grid), strict=True)
        same = all(torch.allclose(one, two, rtol=1e-3) for one, two in pairs)
    if not same:
        raise ValueError(
            f"the guide's path is another one ({type(other).__name__} with {other.config()}, not "
            f"{type(process).__name__} with {process.config()}); give a weaker model of the same path"
        )


def guided(without: Any, given: Any, weight: float) -> Any:
    """f + w (f_c − f) from what the weaker one finds and f_c, as tensors or as sums of them."""
    if isinstance(given, Tensor):
        return without + weight * (given - without)
    return (1 - weight) * without + weight * given
