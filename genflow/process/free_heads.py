"""Heads of free paths, which have no posterior mean of their own: the network learns the velocity itself.

Source: Albergo et al. 2023, arXiv:2303.08797.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genflow.process.affine_path import Coefficients
from genflow.process.heads import Head


class FreeVelocity(Head):
    """dx/dt of a free path x_t = a X + b N + g Z, whose draws X, N and Z have no known law given x_t.

    The target is a' X + b' N + g' Z itself; it does not determine the three means, so there is no score.
    """

    def __init__(self, channels: int = 0) -> None:
        self.extra_channels = 0

    def encode(self, mean: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        raise ValueError("a free path has no target from the data's mean alone; use encode_means")

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        raise ValueError("the velocity of a free path does not determine E[X | x_t]; use head = 'velocity_denoiser'")

    def encode_means(self, data: Tensor, base: Tensor, latent: Tensor, c: Coefficients) -> Tensor:
        """The output for draws, or conditional means, of X, N and Z."""
        return c.da * data + c.db * base + _latent_rate(c) * latent

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        return output

    def latent_mean(self, output: Tensor, c: Coefficients) -> Tensor:
        """Ẑ = E[Z | x_t]."""
        raise ValueError("the velocity of a free path does not determine the score; use head = 'velocity_denoiser'")


class VelocityDenoiser(FreeVelocity):
    """dx/dt and the latent's mean Ẑ (η of the interpolant papers) in twice x's channels; the score is −Ẑ/g.

    With r = x − g Ẑ, w = v − g' Ẑ and D = a b' − a' b: X̂ = (b' r − b w)/D, N̂ = (a w − a' r)/D.

    Arguments:
        channels: Channels of x; 0 where the data are not known yet.
    """

    def __init__(self, channels: int = 0) -> None:
        self.extra_channels = channels

    def encode_means(self, data: Tensor, base: Tensor, latent: Tensor, c: Coefficients) -> Tensor:
        return torch.cat([super().encode_means(data, base, latent, c), self.encode_latent(latent, c)], dim=1)

    def encode_latent(self, latent: Tensor, c: Coefficients) -> Tensor:
        """Ẑ from the second half of the output."""
        return latent

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        return output[:, : x.shape[1]]

    def latent_mean(self, output: Tensor, c: Coefficients) -> Tensor:
        return output[:, output.shape[1] // 2 :]

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        latent = self.latent_mean(output, c)
        rest, rate = x - c.g * latent, self.velocity(output, x, c) - _latent_rate(c) * latent
        det = c.a * c.db - c.da * c.b
        return (c.db * rest - c.b * rate) / det, (c.a * rate - c.da * rest) / det


class VelocityScore(VelocityDenoiser):
    """dx/dt and the score s = −Ẑ/g; the error of s is weighted by g², so that it counts as one of Ẑ."""

    def encode_latent(self, latent: Tensor, c: Coefficients) -> Tensor:
        return -latent / c.g

    def latent_mean(self, output: Tensor, c: Coefficients) -> Tensor:
        return -c.g * super().latent_mean(output, c)

    def residual(self, output: Tensor, target: Tensor, c: Coefficients) -> Tensor:
        velocity, score = (output - target).chunk(2, dim=1)
        return torch.cat([velocity, c.g * score], dim=1).flatten(1)


def _latent_rate(c: Coefficients) -> Tensor | float:
    """g' = g g'/g, zero where there is no latent."""
    g = torch.as_tensor(c.g)
    return torch.where(g > 0, torch.as_tensor(c.gdg) / torch.where(g > 0, g, 1.0), 0.0)


FREE_HEADS: dict[str, type[FreeVelocity]] = {
    "velocity": FreeVelocity,
    "velocity_denoiser": VelocityDenoiser,
    "velocity_score": VelocityScore,
}
"""Heads of free interpolants."""
