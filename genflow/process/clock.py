"""Clocks: the scales of time on which grids are even and adaptive solvers take their steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor


class Clock(ABC):
    """An increasing map s of native time t."""

    @abstractmethod
    def to_clock(self, t: Tensor) -> Tensor:
        """s at native time t, of t's shape."""

    @abstractmethod
    def from_clock(self, s: Tensor) -> Tensor:
        """The inverse of `to_clock`."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """dt/ds at native time t, of t's shape."""

    @abstractmethod
    def condition(self, t: Tensor) -> Tensor:
        """What a backbone receives as the time t, of t's shape."""

    @abstractmethod
    def time(self, condition: Tensor) -> Tensor:
        """The inverse of `condition`."""


class NativeClock(Clock):
    """s = t, and the backbone receives t itself."""

    def to_clock(self, t: Tensor) -> Tensor:
        return t

    def from_clock(self, s: Tensor) -> Tensor:
        return s

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def condition(self, t: Tensor) -> Tensor:
        return t

    def time(self, condition: Tensor) -> Tensor:
        return condition


class LogClock(Clock):
    """s = log t. The backbone receives log(t)/4, a quarter of the log noise level.

    Source of the quarter: Karras et al. 2022, arXiv:2206.00364.
    """

    def to_clock(self, t: Tensor) -> Tensor:
        return t.log()

    def from_clock(self, s: Tensor) -> Tensor:
        return s.exp()

    def rate(self, t: Tensor) -> Tensor:
        return t

    def condition(self, t: Tensor) -> Tensor:
        return t.log() / 4

    def time(self, condition: Tensor) -> Tensor:
        return (4 * condition).exp()


CLOCKS: dict[str, Clock] = {"native": NativeClock(), "log": LogClock()}
"""Clocks by the word of `Process.clock`."""


class Timed(Protocol):
    """What a time grid needs of a process."""

    t_data: float

    @property
    def own_clock(self) -> Clock: ...
    @property
    def safe_interval(self) -> tuple[float, float]: ...
    @property
    def training_interval(self) -> tuple[float, float]: ...
    def noise_ratio(self, t: Tensor) -> Tensor: ...
