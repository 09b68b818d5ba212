"""SDE methods of torchsde under this interface: a step of theirs for each of our grid, noise from our generators."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from genflow.checks import require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.fields import FieldLike
from genflow.solver.noise import Noise
from genflow.solver.sde import Epsilon, FreeDiffusion, is_noiseless_end, needed


class TorchSDE(FreeDiffusion):
    """A fixed-step method of torchsde. The noise is additive, so Itô's and Stratonovich's methods solve the same SDE.

    It is there to check other solvers, and to compare with. Methods that call the drift twice end a budget as Heun's
    does: the step to the data's end is an Euler step without noise, two steps of one call where the budget is even.

    Arguments:
        method: torchsde's name of the method; `methods` lists those that take additive noise without Lévy areas.
        diffusion: Factor on ε(t).
        grid: Spacing of the times; see `genflow.process.grids`.
        epsilon: Shape of ε(t); see `genflow.solver.sde.EPSILONS`.

    Source: Li et al. 2020, arXiv:2001.01328, github.com/google-research/torchsde.
    """

    methods: ClassVar[dict[str, tuple[str, int]]] = {
        "euler": ("ito", 1),
        "milstein": ("ito", 1),
        "srk": ("ito", 2),
        "euler_heun": ("stratonovich", 1),
        "heun": ("stratonovich", 2),
        "midpoint": ("stratonovich", 2),
    }
    """Name: its kind of SDE, and drifts a step."""

    def __init__(
        self, method: str, diffusion: float = 1.0, grid: Spacing = "process", epsilon: Epsilon = "natural"
    ) -> None:
        super().__init__(diffusion, grid, epsilon)
        require("torchsde", {"method": (method, method in self.methods, f"one of {', '.join(self.methods)}")})
        self.method = method
        self.kind, self.step_calls = self.methods[method]

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if calls < self.step_calls or is_noiseless_end(field, s):
            return self.one_call(field, x, t, s, noise)
        from torchsde import sdeint

        length = abs(float(s - t))
        sde = _SDE(self, field, x, t, s)
        path = _brownian(needed(noise, self), x, length, self.method == "srk")
        times = torch.tensor([0.0, length], dtype=torch.float64)
        with _same_global_state(x.device):  # torchsde probes shapes with torch.randn
            moved = sdeint(sde, x.flatten(1), times, bm=path, method=self.method, dt=length)
        return moved[-1].reshape(x.shape).to(x.dtype)


class _SDE:
    """The SDE rule in the distance u travelled from t, on flat states, as torchsde asks for it."""

    noise_type = "additive"

    def __init__(self, solver: TorchSDE, field: FieldLike, x: Tensor, t: Tensor, s: Tensor) -> None:
        self.solver, self.field, self.shape, self.t, self.s = solver, field, x.shape, t, s
        self.sde_type, self.length = solver.kind, abs(float(s - t))
        self.sign = math.copysign(1.0, float(s - t))
        self.known: tuple[Tensor, float, Tensor] | None = None

    def time(self, u: Any) -> Tensor:
        return self.s if float(u) == self.length else self.t + self.sign * float(u)

    def f(self, u: Any, y: Tensor) -> Tensor:
        """The drift; asked again for the same state it is not evaluated again, as torchsde does to learn its shape."""
        if self.known is None or self.known[0] is not y or self.known[1] != float(u):
            slope, _ = self.solver.slope(self.field, Combination.of(y.reshape(self.shape)), self.time(u), self.sign)
            self.known = (y, float(u), (self.sign * slope).value().flatten(1))
        return self.known[2]

    def g_prod(self, u: Any, y: Tensor, v: Tensor) -> Tensor:
        """sqrt(2 ε) v."""
        return math.sqrt(2 * self.solver.epsilon_at(self.field, self.time(u))) * v


def _brownian(noise: Noise, x: Tensor, length: float, area: bool) -> Any:
    """One increment W of variance `length`, and its time integral U where it is wanted, from the samples' own noise.

    Given W, U is normal with mean length·W/2 and variance length³/12.
    """
    from torchsde import BaseBrownian

    step = math.sqrt(length) * noise.like(x).flatten(1)
    integral = length / 2 * step + math.sqrt(length**3 / 12) * noise.like(x).flatten(1) if area else None

    class Increment(BaseBrownian):
        """What torchsde asks for over one step."""

        levy_area_approximation = "space-time" if area else "none"
        dtype, device, shape = step.dtype, step.device, tuple(step.shape)

        def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
            return (step, integral) if return_U else step

        def __repr__(self) -> str:
            return f"Increment({length:g})"

    return Increment()


@contextlib.contextmanager
def _same_global_state(device: torch.device) -> Iterator[None]:
    """torch's global generators as they were, afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
