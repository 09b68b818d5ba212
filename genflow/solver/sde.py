"""Solvers of the one SDE rule dx = v dt + ε s |dt| + sqrt(2 ε |dt|) ξ."""

from __future__ import annotations

import math

from torch import Tensor

from genflow.process.base import is_number, require
from genflow.process.grids import Spacing
from genflow.solver.base import FieldLike, FixedStep, Noise


class EulerMaruyama(FixedStep):
    """One explicit step of the SDE rule, with signed dt in native time; the step to the data's end adds no noise.

    Arguments:
        grid: Spacing of the times; see `genflow.process.grids`.
        diffusion: Factor on the process's own ε(t), which for score SDEs is the published reverse SDE; 0 is the ODE.

    Source: Song et al. 2021, arXiv:2011.13456; free ε: Albergo et al. 2023, arXiv:2303.08797.
    """

    mode = "sde"
    order = 1
    needs = ("sde",)

    def __init__(self, diffusion: float = 1.0, grid: Spacing = "process") -> None:
        super().__init__(grid)
        require(
            "euler_maruyama",
            {
                "diffusion": (
                    diffusion,
                    is_number(diffusion) and diffusion >= 0,
                    "a number of at least 0",
                )
            },
        )
        self.diffusion = diffusion

    def step(self, field: FieldLike, x: Tensor, t: Tensor, s: Tensor, noise: Noise | None, calls: int) -> Tensor:
        if noise is None:
            raise ValueError("euler_maruyama needs noise: give Noise(seed, indices), or use genflow.sample")
        h = float(s - t)
        velocity, score = field.velocity_and_score(x, t)
        spread = self.diffusion * float(field.natural_diffusion(t)) * abs(h)
        mean = x + h * velocity + spread * score
        at_the_end = float(s) == float(field.grid(1)[-1])
        return mean if at_the_end else mean + math.sqrt(2 * spread) * noise.like(x)
