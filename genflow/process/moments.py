"""What a network and its readings need of a time, found on the host in float64 for all times of a solve at once.

A copy to the device for each number would make it wait, so solvers announce their times, and all numbers go over
together.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from genflow.process.affine_path import Coefficients
from genflow.process.memory import Memory


class Moment(NamedTuple):
    """What network and readings need at one time of each row, where x is: see `Process.prepare`."""

    t: Tensor
    condition: Tensor
    at: Coefficients | None

    def fits(self, x: Tensor) -> bool:
        """Whether it was made for states like x."""
        return self.condition.dtype == x.dtype and self.condition.device == x.device and len(self.condition) == len(x)


class Moments:
    """The part of a process that keeps what it found for the times of a solve."""

    if TYPE_CHECKING:

        @property
        def _conditions(self) -> Memory: ...
        def condition(self, t: Tensor) -> Tensor: ...
        def noise_level(self, t: Tensor) -> Tensor: ...

    @cached_property
    def _coefficients(self) -> Memory:
        return Memory()

    @cached_property
    def _moments(self) -> dict[int, Moment]:
        return {}

    def numbers(self, t: Tensor, x: Tensor) -> list[Tensor]:
        """What readings of the output need of times (n,), each (n,), float64 on the host; `placed` takes them."""
        return []

    def placed(self, numbers: Tensor, x: Tensor) -> Coefficients | None:
        """`numbers` as they are used, from x's device: of one time, shape (k, 1), or of one a row, (k, B)."""
        return None

    def prepare(self, t: Tensor, x: Tensor, *, noise_level: bool) -> None:
        """Announces the times t (T,) of a grid; nothing but speed depends on it."""
        if x.is_cpu or torch.is_inference_mode_enabled():
            return
        keys = [(s, noise_level, x.dtype, x.device) for s in t.tolist()]
        new = [i for i, key in enumerate(keys) if key not in self._conditions]
        if new:
            for i, moment in zip(new, self._moments_at(t[new, None], x, noise_level, None)[0], strict=True):
                self._conditions.put(keys[i], moment.condition.reshape(()))
                self._coefficients.put((keys[i][0], x.shape[1:], x.dtype, x.device), moment.at)

    def prepare_rows(self, t: Tensor, x: Tensor, beside: Tensor, *, noise_level: bool) -> tuple[list[Tensor], Tensor]:
        """Announces a time of each row for S stages, t (S, B): they are known by the tensors that come out.

        Arguments:
            beside: More numbers (K, B), float64 on the host, that are to come along.

        Returns:
            The S times (B,), known until the next call, and `beside` in x's dtype and on its device.
        """
        moments, moved = self._moments_at(t, x, noise_level, beside)
        self._moments.clear()
        self._moments.update({id(moment.t): moment for moment in moments})
        return [moment.t for moment in moments], moved

    def _moments_at(
        self, t: Tensor, x: Tensor, noise_level: bool, beside: Tensor | None
    ) -> tuple[list[Moment], Tensor]:
        """The moments of times (S, B), B = 1 where they are those of all rows, and `beside`, in one copy."""
        flat = t.reshape(-1)
        condition = (self.noise_level if noise_level else self.condition)(flat)
        columns = torch.stack([condition, *self.numbers(flat, x)])
        held = columns if beside is None else torch.cat([columns.reshape(-1), beside.reshape(-1)])
        moved = held.to(x.device, x.dtype, non_blocking=True).reshape(-1)
        rows = moved[: columns.numel()].reshape(-1, *t.shape)
        found = [Moment(s, rows[0, i], self.placed(rows[1:, i], x)) for i, s in enumerate(t.unbind())]
        return found, moved[columns.numel() :].reshape(-1, t.shape[1])
