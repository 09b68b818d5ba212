"""Prediction heads: what the network's output means.

A head is an invertible map between the output F(x, t) and the posterior mean X̂ = E[X | x_t = x]. With x_t = a X + b N
and N̂ = (x − a X̂)/b:

    data      F = X̂
    noise     F = N̂
    velocity  F = a' X̂ + b' N̂
    score     F = −N̂/b                                 a Gaussian base only
    edm       X̂ = c_skip x + c_out F                   Karras et al. 2022, arXiv:2206.00364
    edm_rms   the same at the noise that each state shows by its size
    field     F = −√N (x − X̂, z)/(|(x − X̂, z)| + γ)    Xu et al. 2022, arXiv:2209.11178

The first six are linear in X̂, so regression on single pairs (X, N) has the right minimum. The Poisson field is not:
its target is computed from X̂ over a large batch. Heads differ in what an error of F does to X̂, v and s near the two
ends of the path; they define the same model. Free paths have heads of their own, in `genflow.process.free_heads`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from genflow.former import moved
from genflow.process import inverse
from genflow.process.affine_path import Coefficients
from genflow.process.shapes import dimension, like_rows


class Head(ABC):
    """What the network predicts. Coefficients come shaped to multiply x (B, *)."""

    extra_channels = 0
    linear = True
    """Linear in X̂: then regression on single pairs finds the posterior mean, and no average target is needed."""
    by_state = False
    """Whether the coefficients of that line depend on x, and not on the time alone."""

    def encode(self, mean: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        """The output whose posterior mean is `mean`: what an oracle answers at x."""
        return self.encode_pair(mean, (x - c.a * mean) / c.b, c)

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        """The output for a data point and a base draw, or for their conditional means: the training target."""
        raise ValueError(f"the head {type(self).__name__} is not a function of single pairs: its target is an average")

    @abstractmethod
    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        """(X̂, N̂) from an output, each of shape (B, *)."""

    @property
    def linear_head(self) -> Head:
        """The head whose output `regressor` is: this one, unless coefficients depend on x."""
        return self

    def regressor(self, output: Tensor, x: Tensor, c: Coefficients, a: float | None = None) -> Tensor:
        """What velocity, means and score are linear in, beside x, with factors that depend on the time alone.

        Arguments:
            a: c.a where it is that of all rows and known as a number.
        """
        return output

    def on_host(self, output: Tensor, x: Tensor, a: float, b: float) -> Tensor:
        """`regressor` at one time of tensors that numpy may read."""
        return output

    def table(self, c: Coefficients, dim: int) -> list[Tensor]:
        """Numbers (n,) that `velocity` is read by at n times: of a linear head its factors of x and `regressor` last.

        Arguments:
            c: Coefficients, float64, shape (n, 1).
            dim: Entries of a state.
        """
        one, zero = torch.ones_like(c.b), torch.zeros_like(c.b)
        return [self.velocity(zero, one, c)[:, 0], self.velocity(one, zero, c)[:, 0]]

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        """a' X̂ + b' N̂."""
        data, base = self.decode(output, x, c)
        return c.da * data + c.db * base

    def residual(self, output: Tensor, target: Tensor, c: Coefficients) -> Tensor:
        """The errors whose squares the loss averages, shape (B, entries), of about the same size at every time."""
        return (output - target).flatten(1)

    def noise_gain(self, c: Coefficients, x: Tensor | None = None) -> Tensor:
        """|dN̂/d residual|, shaped as c: what an error of the residual is worth as an error of N̂; x only `by_state`."""
        raise ValueError(f"the head {type(self).__name__} has no constant gain: its loss cannot be weighted by time")


class Noise(Head):
    """N̂ itself: ε-prediction, the denoiser η of one-sided interpolants. Needs a > 0."""

    def noise_gain(self, c: Coefficients, x: Tensor | None = None) -> Tensor:
        return torch.ones_like(c.b)

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        return base

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        return (x - c.b * output) / c.a, output

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        ratio = c.da / c.a
        return ratio * x + (c.db - ratio * c.b) * output


class Score(Noise):
    """The score −N̂/b, for a Gaussian base. Its loss is weighted by b², so errors count as those of N̂."""

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        return -base / c.b

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        return (x + c.b * c.b * output) / c.a, -c.b * output

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        return super().velocity(-c.b * output, x, c)

    def residual(self, output: Tensor, target: Tensor, c: Coefficients) -> Tensor:
        return (c.b * (output - target)).flatten(1)


class Data(Head):
    """X̂ itself. Needs b > 0."""

    def noise_gain(self, c: Coefficients, x: Tensor | None = None) -> Tensor:
        return (c.a / c.b).abs()

    def encode(self, mean: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        return mean

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        return data

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        return output, (x - c.a * output) / c.b


class Velocity(Head):
    """dx/dt itself. With D = a b' − a' b: X̂ = (b' x − b v)/D, N̂ = (a v − a' x)/D."""

    def noise_gain(self, c: Coefficients, x: Tensor | None = None) -> Tensor:
        return (c.a / (c.a * c.db - c.da * c.b)).abs()

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        return c.da * data + c.db * base

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        det = c.a * c.db - c.da * c.b
        return (c.db * x - c.b * output) / det, (c.a * output - c.da * x) / det

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        return output


INVERSES = ("exact", "projected", "ratio", "published")


@dataclass(frozen=True)
class PoissonField(Head):
    """The normalised Poisson field of N + 1 numbers; only for x_t = X + z N, that is a = 1 and b = z.

    (v_x, v_z) = −√N (x − X̂, z) / (R + γ), R = |(x − X̂, z)|. The backbone emits one channel more than x has, and
    v_z is that channel's mean. With q = |v_x|/√N and p = −v_z/√N the velocity is dx/dz = −v_x/√N / p*, where p* is
    an estimate of z/(R + γ) that depends on `inverse`; all agree where the output is a Poisson field.

    Arguments:
        gamma: γ, data units; it bounds the field near the data.
        inverse: "exact" finds p* from q alone: r = |x − X̂| is the root of (r − qγ)² = q²(r² + z²) with r > qγ.
            "ratio" takes p* = p. "projected" weighs both by how well a perturbed output determines them: the
            first-order least-squares point on the curve (q(R), p(R)). "published" is p* = p above z_exp, and
            below it z/(R' + γ) with R'² = (γq/(1−q))² + z².
        z_exp: Where "published" changes its rule.
        radius: Bound on |X̂|, data units. "exact" and "projected" keep r within radius of |x|, which a posterior
            mean cannot leave; so a network's overshoot q >= 1 stays finite, and far out only its direction counts.

    Source: Xu et al. 2022, arXiv:2209.11178; "published" as in the authors' code; "projected" is derived in
    docs/math.md.
    """

    gamma: float = 5.0
    inverse: str = "projected"
    z_exp: float = 5.0
    radius: float = 3000.0

    extra_channels = 1
    linear = False

    def encode(self, mean: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        gap = x - mean
        reach = torch.hypot(length(gap), c.b.reshape(-1))
        scale = like_rows(-math.sqrt(dimension(x)) / (reach + self.gamma), x)
        return torch.cat([gap, c.b.expand(x.shape[0], 1, *x.shape[2:])], dim=1).mul_(scale)

    def entries(self, output: Tensor) -> Tensor:
        """(v_x, v_z) of each row, shape (B, N + 1)."""
        return torch.cat([output[:, :-1].flatten(1), output[:, -1:].flatten(1).mean(1, keepdim=True)], dim=1)

    def residual(self, output: Tensor, target: Tensor, c: Coefficients) -> Tensor:
        return self.entries(output - target)

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        slope = self.velocity(output, x, c)
        return x - c.b * slope, slope

    def table(self, c: Coefficients, dim: int) -> list[Tensor]:
        return inverse.table(self, c.b[:, 0], dim) if self.inverse in ("exact", "projected") else []

    def velocity(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        return output[:, :-1] / self.divisor(output, x, c)

    def divisor(self, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
        """−√N p*, by which v_x gives the velocity, one number per row, shaped to divide x."""
        root, z = math.sqrt(dimension(x)), c.b.reshape(-1)
        table = getattr(c, "table", None)
        if table is not None and not (torch.is_grad_enabled() and (output.requires_grad or x.requires_grad)):
            return like_rows(inverse.divisor(output, x, table), x)
        q, p = length(output[:, :-1]) / root, output[:, -1:].flatten(1).mean(1) / -root
        if self.inverse == "ratio":
            share = p
        elif self.inverse == "published":
            share = self._published(q, p, z) - 1e-5 / root  # the published code adds 1e-5 to v_z
        else:
            share = self._weighed(q, p, length(x), z)
        return like_rows(-root * share, x)

    def _weighed(self, q: Tensor, p: Tensor, distance: Tensor, z: Tensor) -> Tensor:
        """p* by "exact" or "projected"; `distance` is |x|. Gradients flow through it; `inverse.divisor` is faster.

        It is z/(R + γ) for some r with | r − |x| | <= radius; and z |velocity| = q z/p*, which is r, is not above that.
        """
        share = self._exact(q, z)
        if self.inverse == "projected":
            share = self._projected(share, p, z)
        near, far = (distance - self.radius).clip(0), distance + self.radius
        lowest = z / ((far * far + z * z) ** 0.5 + self.gamma)
        highest = z / ((near * near + z * z) ** 0.5 + self.gamma)
        return share.clip(lowest, highest).clip(q * z / far.clip(1e-30))

    def _exact(self, q: Tensor, z: Tensor) -> Tensor:
        """z/(R + γ) = z (1 − q²)/(γ + sqrt(q²γ² + (1 − q²) z²)); zero or less where q says "beyond infinity"."""
        rest = 1 - q * q
        return z * rest / (self.gamma + (self.gamma**2 * (1 - rest) + rest * z * z).clip(0) ** 0.5)

    def _projected(self, exact: Tensor, p: Tensor, z: Tensor) -> Tensor:
        """(p + w p_exact)/(1 + w), w = (dq/dp)² = ((z² + Rγ)/(z r))² along the curve."""
        reach = z / exact.clip(1e-6 * z) - self.gamma
        near = z * z * (reach * reach - z * z).clip(0)
        weight = z * z + reach * self.gamma
        return exact + (p - exact) * near / (near + weight * weight)

    def _published(self, q: Tensor, p: Tensor, z: Tensor) -> Tensor:
        reach = ((self.gamma * q / (1 - q)) ** 2 + z * z).sqrt()
        return torch.where(z < self.z_exp, z / (reach + self.gamma), p)


@dataclass(frozen=True)
class EDM(Head):
    """The network F of EDM's preconditioning: X̂ = c_skip x + c_out F, where F has about unit size at every noise level.

    With S² = b² + a² σ_d²: c_skip = a σ_d²/S², c_out = b σ_d/S; a = 1 gives the published ones. The mean squared
    error of F is the published weighted error of X̂, whose weight is 1/c_out². Backbones scale their own input, which
    is the published c_in. Finite at both ends, a = 0 and b = 0, except that the target needs b > 0.

    Arguments:
        sigma_data: σ_d, standard deviation of the data's entries, data units.

    Source: Karras et al. 2022, arXiv:2206.00364.
    """

    sigma_data: float = 0.5

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        return (c.b * data - c.a * self.sigma_data**2 * base) / (self.sigma_data * self._size(c))

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        size = self._size(c)
        skip, out = c.a * self.sigma_data**2 / size**2, c.b * self.sigma_data / size
        return skip * x + out * output, c.b / size**2 * x - c.a * self.sigma_data / size * output

    def noise_gain(self, c: Coefficients, x: Tensor | None = None) -> Tensor:
        return (c.a * self.sigma_data / self._size(c)).abs()

    def _size(self, c: Coefficients) -> Tensor:
        """S, the standard deviation of x's entries for a base of unit variance."""
        return torch.hypot(c.b, self.sigma_data * c.a)


@dataclass(frozen=True)
class EDMRMS(Head):
    """EDM's preconditioning at the noise that each state shows: for any base, with or without a variance.

    With y = x/a and σ = b/a, the noise level of a state is n = σ for most draws of a Gaussian base, and more where y is
    larger than data and σ explain, as under heavy tails:

        n² = max(σ², |y|²/N − M², min(|y|²/N − σ_d², (5σ)²)),  S² = n² + σ_d²,  c_skip = σ_d²/S²,  c_out = n σ_d/S

    The second entry is noise for certain, the third perhaps: a large data point looks alike, so n must vanish with σ,
    or errors of F would not. Targets larger than 3 count by their size in the loss. `docs/math.md` has the reasons.

    Arguments:
        sigma_data: σ_d, standard deviation of the data's entries, data units.
        largest_rms: M, largest root mean square of a data point's entries, data units.
    """

    sigma_data: float = 0.5
    largest_rms: float = 1.0

    MOST: ClassVar[float] = 5.0  # that n may be of σ where it could be a data point's own size
    USUAL: ClassVar[float] = 3.0  # root mean square from which on targets count by their size

    by_state = True

    @property
    def linear_head(self) -> Head:
        return Data()

    def regressor(self, output: Tensor, x: Tensor, c: Coefficients, a: float | None = None) -> Tensor:
        """X̂, by two numbers a row from the row's mean square; they are found where x is."""
        table = getattr(c, "table", None)
        if table is None:
            return self.decode(output, x, c)[0]
        less, least, most, surely, more, scale = table[:6]
        norm = length(x)
        likely = torch.clamp(torch.addcmul(less, norm, norm), least, most)
        noise = torch.maximum(likely, torch.addcmul(surely, norm, norm))
        size = torch.add(more, noise, alpha=self.sigma_data**-2)
        scaled = like_rows((noise / size).sqrt(), x) * output
        if a is not None:
            return torch.addcdiv(scaled, x, like_rows(size, x), value=a * dimension(x))
        return torch.addcmul(scaled, like_rows(scale / size, x), x)

    def on_host(self, output: Tensor, x: Tensor, a: float, b: float) -> Tensor:
        """`regressor` at one time by numpy, which is quicker with a few numbers; see `quick_on_host`."""
        flat, dim = x.numpy().reshape(len(x), -1), dimension(x)
        signal, each, least = dim * (a * self.sigma_data) ** 2, (len(x), *(1,) * (x.ndim - 1)), dim * b * b
        square = np.einsum("ij,ij->i", flat, flat)
        noise = np.clip(square - signal, least, self.MOST**2 * least)
        np.maximum(noise, square - dim * (a * self.largest_rms) ** 2, out=noise)
        size = noise + signal
        noise /= size
        np.sqrt(noise, out=noise)
        np.divide(dim * a * self.sigma_data**2, size, out=size)
        skip, out = torch.from_numpy(size.reshape(each)), torch.from_numpy(noise.reshape(each))
        return (skip * x).addcmul_(out, output, value=self.sigma_data)

    def table(self, c: Coefficients, dim: int) -> list[Tensor]:
        """In terms of |x|² of a row: −N a² σ_d², the least and the most of N b², −N a² M², N a², and a factor of x."""
        signal, a = dim * c.a[:, 0].square(), dim * c.a[:, 0]
        least, surely = dim * c.b[:, 0].square(), -(self.largest_rms**2) * signal
        head = [-(self.sigma_data**2) * signal, least, self.MOST**2 * least, surely, signal, a]
        return [*head, *Data().table(c, dim)]

    def encode_pair(self, data: Tensor, base: Tensor, c: Coefficients) -> Tensor:
        size, share = self._size(c.a * data + c.b * base, c)
        noise = (share * size).sqrt()  # n, times a
        return (noise / self.sigma_data * data - c.a * self.sigma_data * (c.b / noise) * base) / size.sqrt()

    def decode(self, output: Tensor, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        size, share = self._size(x, c)
        scaled = self.sigma_data * share.sqrt() * output
        return c.a * self.sigma_data**2 / size * x + scaled, (share * x - c.a * scaled) / c.b

    def noise_gain(self, c: Coefficients, x: Tensor | None = None) -> Tensor:
        if x is None:
            raise ValueError("the gain of the head EDMRMS depends on the state; give x")
        return (c.a / c.b).abs() * self.sigma_data * self._size(x, c)[1].sqrt()

    def _size(self, x: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        """S², and its share that is noise, 1 − a² σ_d²/S², shaped to multiply x."""
        signal = (c.a * self.sigma_data).square()
        level, square = c.b.square(), like_rows(x.flatten(1).square().mean(1), x)
        likely = torch.clamp(square - signal, level, self.MOST**2 * level)
        noise = torch.maximum(likely, square - (c.a * self.largest_rms).square())
        return noise + signal, noise / (noise + signal)

    def residual(self, output: Tensor, target: Tensor, c: Coefficients) -> Tensor:
        size = target.flatten(1).square().mean(1, keepdim=True).sqrt()
        return super().residual(output, target, c) / (size / self.USUAL).clamp_min(1)


def length(rows: Tensor) -> Tensor:
    """|row| of each row (B, *), shape (B,), with gradient zero, not NaN, at zero."""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


HEADS: dict[str, type[Head]] = {"noise": Noise, "data": Data, "velocity": Velocity, "edm": EDM, "edm_rms": EDMRMS}
"""Heads of every affine process; the score comes with a Gaussian base, the Poisson field with its process."""


__getattr__ = moved("genflow.process.heads")
