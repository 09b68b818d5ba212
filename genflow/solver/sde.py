"""Solvers of the one SDE rule dx = v dt + ε s |dt| + sqrt(2 ε |dt|) ξ."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from genflow.checks import is_number, require
from genflow.process.grids import Spacing
from genflow.process.linear import Combination
from genflow.solver.base import FixedStep
from genflow.solver.fields import FieldLike, has_schedule, read, schedule_at
from genflow.solver.noise import Noise

EPSILONS = {
    "natural": "the process's own ε(t), which for score SDEs gives the published reverse SDE",
    "constant": "ε = 1 data unit² per unit of native time",
    "bump": "ε = sin²(πu), u the share of the native time interval: zero at both ends",
}
"""Names of diffusions ε(t), each times the factor `diffusion`."""

Epsilon = str | Callable[[Tensor], Tensor | float]
"""A name of `EPSILONS`, or in Python a callable of the native time."""


class FreeDiffusion(FixedStep):
    """A solver whose ε(t) >= 0 is free: every choice has the same marginals, 0 is the ODE.

    The step to the data's end adds no noise, so its ε takes away variance, 2 ε |h| of it. It is to be that of the noise
    in x_t and not of the data: there ε |h| is at most b², and 0 where b is not known. A natural ε is far below it at
    any budget above ten calls; a constant one is not.

    Arguments:
        diffusion: Factor on ε(t).
        grid: Spacing of the times; see `genflow.process.grids`.
        epsilon: Shape of ε(t); see `EPSILONS`.

    Source: Song et al. 2021, arXiv:2011.13456; free ε: Albergo et al. 2023, arXiv:2303.08797.
    """

    mode = "sde"
    order = 1
    needs = ("sde",)

    def __init__(self, diffusion: float = 1.0, grid: Spacing = "process", epsilon: Epsilon = "natural") -> None:
        super().__init__(grid)
        factor = is_number(diffusion) and diffusion >= 0
        shape = callable(epsilon) or (isinstance(epsilon, str) and epsilon in EPSILONS)
        require(
            type(self).__name__,
            {
                "diffusion": (diffusion, factor, "a number of at least 0"),
                "epsilon": (epsilon, shape, f"one of {', '.join(EPSILONS)}, or in Python a callable of t"),
            },
        )
        self.diffusion, self.epsilon = diffusion, epsilon

    def epsilon_at(self, field: FieldLike, t: Tensor) -> float:
        """ε(t), the factor included.

        Raises:
            ValueError: A callable gave a negative or non-finite ε.
        """
        if self.diffusion == 0:
            return 0.0
        if self.epsilon == "natural":
            value = float(field.natural_diffusion(t))
        elif callable(self.epsilon):
            value = float(self.epsilon(t))
            require("epsilon(t)", {f"value at t = {float(t):g}": (value, 0 <= value < math.inf, "ε of at least 0")})
        else:
            value = 1.0 if self.epsilon == "constant" else math.sin(math.pi * share_of_time(field, t)) ** 2
        return self.diffusion * value

    def slope(
        self, field: FieldLike, x: Combination, t: Tensor, sign: float, most: float = math.inf
    ) -> tuple[Combination, float]:
        """v ± ε s, the drift per unit of native time in the direction of travel, and ε <= most; one evaluation."""
        epsilon = min(self.epsilon_at(field, t), most)
        velocity, score = read(field, x, t, "velocity", "score")
        return velocity + sign * epsilon * score, epsilon

    def one_call(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None) -> Tensor:
        """One explicit Euler–Maruyama step; to the data's end it adds no noise, and ε |h| is at most that of x_t."""
        source, start = needed(noise, self), Combination.of(x)
        h, last = float(s - t), is_noiseless_end(field, s)
        most = noise_variance(field, t) / abs(h) if last else math.inf
        slope, epsilon = self.slope(field, start, t, math.copysign(1.0, h), most)
        mean = start + h * slope
        return (mean if last else mean + drawn(source, x, math.sqrt(2 * epsilon * abs(h)))).value()


class EulerMaruyama(FreeDiffusion):
    """One explicit step of the SDE rule, with signed dt in native time; the step to the data's end adds no noise."""

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        return self.one_call(field, x, t, s, noise)


class HeunSDE(FreeDiffusion):
    """The trapezoid of the drift at both ends of an Euler–Maruyama step, with one draw of noise for both.

    The draw's variance is |h| (ε(t) + ε(s)). The noise does not depend on x, so the weak order is 2, the strong order
    1. The step to the data's end is an Euler step without noise, which an odd budget spends; an even one ends on two
    steps of one call.

    Source of the step: Kloeden & Platen 1992, Numerical Solution of Stochastic Differential Equations.
    """

    order = 2
    step_calls = 2

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if calls == 1:
            return self.one_call(field, x, t, s, noise)
        h, start = float(s - t), Combination.of(x)
        sign = math.copysign(1.0, h)
        first, before = self.slope(field, start, t, sign)
        kick = drawn(needed(noise, self), x, math.sqrt(abs(h) * (before + self.epsilon_at(field, s))))
        second, _ = self.slope(field, start + h * first + kick, s, sign)
        return (start + h / 2 * (first + second) + kick).value()


def needed(noise: Noise | None, owner: object) -> Noise:
    """The noise, which an SDE solver cannot do without."""
    if noise is None:
        raise ValueError(f"{type(owner).__name__} needs noise: give Noise(seed, indices), or use genflow.sample")
    return noise


def drawn(noise: Noise, x: Tensor, scale: float) -> Combination:
    """scale · ξ, a draw like x."""
    return Combination.of(noise.like(x), scale)


def is_noiseless_end(field: FieldLike, s: Tensor) -> bool:
    """Whether the step to s adds no noise: s is where the field's own grid ends, and nothing follows that takes it."""
    asked = getattr(field, "is_noiseless_end", None)
    return bool(asked(s)) if asked else float(s) == float(field.grid(1)[-1])


def noise_variance(field: FieldLike, t: Tensor) -> float:
    """b² at t where x_t = a X + b N, else 0."""
    refused = field.why_not("affine") if has_schedule(field) else "it gives no a and b"
    return 0.0 if refused else schedule_at(field, t)[1] ** 2


def share_of_time(field: FieldLike, t: Tensor) -> float:
    """How far t lies between the ends of the field's grid, 0 to 1."""
    start, end = field.grid(1).tolist()
    return min(max((float(t) - start) / (end - start), 0.0), 1.0)


def transition(t: tuple[float, float], s: tuple[float, float]) -> tuple[float, float]:
    """r = a_t/a_s and V = b_t² − r² b_s² from (a, b) at t and s: x_t = r x_s + sqrt(V) ξ is the forward transition."""
    (a_t, b_t), (a_s, b_s) = t, s
    r = a_t / a_s
    return r, (b_t - r * b_s) * (b_t + r * b_s)
