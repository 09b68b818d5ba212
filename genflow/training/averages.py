"""Moving averages of the weights: the one that samples, further ones, and snapshots for post-hoc EMA."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genflow.checks import is_number, require

Weights = dict[str, Tensor]
"""Parameters by name."""


def rate(width: float) -> float:
    """γ of the power-function average of relative width σ: σ² = (γ + 1)/((γ + 2)² (γ + 3)).

    The weights w(t) ∝ t^γ on [0, T] have the standard deviation σ T. Every width below 0.289, the width of uniform
    weights, belongs to one γ > 0.

    Raises:
        ValueError: No such γ.

    Source: Karras et al. 2024, arXiv:2312.02696.
    """
    fits = is_number(width) and 0 < width < math.sqrt(1 / 12)
    require("post-hoc EMA", {"width": (width, fits, "a number between 0 and 0.288")})
    low, high = 0.0, 2.0 / width
    for _ in range(200):
        middle = (low + high) / 2
        spread = (middle + 1) / ((middle + 2) ** 2 * (middle + 3))
        low, high = (middle, high) if spread > width**2 else (low, middle)
    return (low + high) / 2


def warm_decay(decay: float, step: int) -> float:
    """The decay after n = `step` steps: min(decay, (1 + n)/(10 + n)), the warm-up of the published code."""
    return min(decay, (1 + step) / (10 + step))


def power_decay(width: float, step: int) -> float:
    """The decay of a power-function average after n = `step` steps: (1 − 1/n)^(γ + 1)."""
    return (1 - 1 / step) ** (rate(width) + 1)


class Averages:
    """Averages of parameters, updated together: ema += (1 − d)(p − ema), fused over all tensors.

    Arguments:
        parameters: The trained weights, by name.
        decay: d of the average that sampling and evaluation use.
        more: Decays of further averages.
        widths: Relative widths of power-function averages.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        decay: float,
        more: Sequence[float] = (),
        widths: Sequence[float] = (),
    ) -> None:
        self.parameters = {name: p.detach() for name, p in parameters.items()}
        self.decay, self.more, self.widths = decay, tuple(more), tuple(widths)
        self.main = self._copy()
        self.others = {f"ema-{d:g}": self._copy() for d in self.more}
        self.powers = {f"power-{w:g}": self._copy() for w in self.widths}

    def _copy(self) -> Weights:
        return {name: p.clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates all averages with the weights after `step` steps."""
        current = list(self.parameters.values())
        for average, decay in self._decays(step):
            torch._foreach_lerp_(list(average.values()), current, 1 - decay)

    def _decays(self, step: int) -> Iterator[tuple[Weights, float]]:
        yield self.main, warm_decay(self.decay, step)
        yield from ((average, warm_decay(d, step)) for average, d in zip(self.others.values(), self.more, strict=True))
        for average, width in zip(self.powers.values(), self.widths, strict=True):
            yield average, power_decay(width, step)

    def extra(self) -> dict[str, Weights]:
        """All averages except the main one, by name."""
        return {**self.others, **self.powers}


class Snapshot(NamedTuple):
    """A power-function average after some steps."""

    width: float
    step: int
    weights: Mapping[str, Tensor]


def profile_product(first: tuple[float, int], second: tuple[float, int]) -> float:
    """∫ p q dt of two power-function profiles (γ, last step T): p(t) = (γ + 1) t^γ/T^(γ + 1) on [0, T]."""
    (g, a), (h, b) = sorted((first, second), key=lambda item: item[1])
    return (g + 1) * (h + 1) / (g + h + 1) * math.exp(h * math.log(a) - (h + 1) * math.log(b))


def combination(profiles: Sequence[tuple[float, int]], wanted: tuple[float, int]) -> list[float]:
    """Weights of snapshots (width, step) whose profiles add up to the wanted one, by least squares."""
    stored = [(rate(width), step) for width, step in profiles]
    target = (rate(wanted[0]), wanted[1])
    gram = torch.tensor([[profile_product(p, q) for q in stored] for p in stored], dtype=torch.float64)
    right = torch.tensor([profile_product(p, target) for p in stored], dtype=torch.float64)
    return torch.linalg.lstsq(gram, right[:, None], driver="gelsd").solution[:, 0].tolist()


def posthoc(snapshots: Sequence[Snapshot], width: float, step: int | None = None) -> Weights:
    """The average of any relative width, from the snapshots of a few.

    Arguments:
        snapshots: All of one run.
        width: Relative width of the result.
        step: Last step of the average; None: that of the last snapshot.

    Raises:
        ValueError: No snapshot up to that step, or a width out of range.

    Source: Karras et al. 2024, arXiv:2312.02696.
    """
    step = max((s.step for s in snapshots), default=0) if step is None else step
    used = [s for s in snapshots if s.step <= step]
    if not used:
        raise ValueError(f"post-hoc EMA has no snapshot up to step {step}; train with train.posthoc, e.g. 0.05,0.1")
    shares = combination([(s.width, s.step) for s in used], (width, step))
    total: Weights = {}
    for share, snapshot in zip(shares, used, strict=True):
        for name, value in snapshot.weights.items():
            part = share * value.double()
            total[name] = total[name] + part if name in total else part
    return {name: value.to(used[0].weights[name].dtype) for name, value in total.items()}
