"""Likelihood by the probability-flow ODE: log p(x) = log p_prior(x_T) + ∫ div v dt from the data end to the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.data.base import Scaling
from genflow.process.base import BackboneLike, Field, Process, require
from genflow.process.grids import Spacing
from genflow.solver.adaptive import RK45
from genflow.solver.base import Noise, Solver

TRACES = ("hutchinson", "exact")


@dataclass(frozen=True)
class Likelihood:
    """log_prob (B,) in nats, the latent x at the prior end (B, *), and the mean NFE."""

    log_prob: Tensor
    latent: Tensor
    nfe: float


class DivergenceField:
    """A field on states (x, ∫ div v) of shape (B, N + 1): one forward and one backward pass a call.

    Arguments:
        field: The field of x.
        shape: Shape of one x.
        probe: Hutchinson's e (B, *), entries ±1, fixed for the whole solve; None takes the exact trace by N
            backward passes.

    div v is estimated as e·(∂v/∂x)e, unbiased for independent ±1 (Hutchinson 1990; Grathwohl et al. 2019,
    arXiv:1810.01367).
    """

    def __init__(self, field: Field, shape: tuple[int, ...], probe: Tensor | None) -> None:
        self.field, self.shape, self.probe = field, shape, probe

    @property
    def evaluations(self) -> int:
        return self.field.evaluations

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = x[:, :-1].reshape(-1, *self.shape).detach().requires_grad_()
            velocity = self.field.velocity(inner, t)
            divergence = self._divergence(velocity, inner)
        return torch.cat([velocity.detach().flatten(1), divergence[:, None]], dim=1)

    def _divergence(self, velocity: Tensor, x: Tensor) -> Tensor:
        if self.probe is not None:
            return (_gradient(velocity, x, self.probe) * self.probe).flatten(1).sum(1)
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        flat = velocity.flatten(1)
        for i in range(flat.shape[1]):
            total = total + _gradient(flat[:, i].sum(), x, None, retain=True).flatten(1)[:, i]
        return total

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("a likelihood follows the ODE; use an ODE solver")

    def natural_diffusion(self, t: Tensor) -> Tensor:
        raise ValueError("a likelihood follows the ODE; use an ODE solver")

    @property
    def cost(self) -> int:
        return self.field.cost

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        return self.field.grid(steps, training=True, spacing=spacing).flip(0)

    def to_clock(self, t: Tensor) -> Tensor:
        return self.field.to_clock(t)

    def from_clock(self, s: Tensor) -> Tensor:
        return self.field.from_clock(s)

    def clock_rate(self, t: Tensor) -> Tensor:
        return self.field.clock_rate(t)

    def keep(self, rows: Tensor) -> None:
        if self.probe is not None:
            self.probe = self.probe[rows.to(self.probe.device)]
        self.field.keep(rows)


def _gradient(y: Tensor, x: Tensor, weights: Tensor | None, retain: bool = False) -> Tensor:
    """dy/dx with output weights; zero where y does not depend on x."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(y, x, weights, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def log_likelihood(
    process: Process,
    backbone: BackboneLike,
    x: Tensor,
    *,
    solver: Solver | None = None,
    nfe: int | None = None,
    trace: str = "hutchinson",
    seed: int = 0,
    first_index: int = 0,
) -> Likelihood:
    """Log density of x under the process's ODE.

    Arguments:
        process: What was trained.
        backbone: Its network, or an oracle.
        x: Data (B, *), data units.
        solver: An ODE solver; RK45 at rtol = atol = 1e-4 by default.
        nfe: Calls per sample for a fixed-step solver.
        trace: "hutchinson", one ±1 probe per sample drawn once, or "exact", N backward passes a call.
        seed: Seed of the probes; row k uses sample first_index + k.
        first_index: Global index of the first row.

    Returns:
        log_prob (B,) in nats, the latent, and the mean NFE.
    """
    require("log_likelihood", {"trace": (trace, trace in TRACES, " or ".join(TRACES))})
    noise = Noise(seed, range(first_index, first_index + len(x)))
    probe = noise.like(x).sign() if trace == "hutchinson" else None
    field = DivergenceField(process.field(backbone), tuple(x.shape[1:]), probe)
    start = torch.cat([x.flatten(1), torch.zeros(len(x), 1, dtype=x.dtype, device=x.device)], dim=1)
    solution = (solver or RK45()).solve(field, start, nfe=nfe)
    latent = solution.x[:, :-1].reshape(x.shape)
    log_prob = process.log_prior(latent.double()) + solution.x[:, -1].double()
    return Likelihood(log_prob, latent, solution.nfe)


BPD_FORMULA = "bits/dim = −[log p(x) + N log s] / (N ln 2), x = s (r + u) + shift, u ~ U[0,1)^N"


def bits_per_dim(log_prob: Tensor, dim: int, scaling: Scaling) -> tuple[float, float]:
    """Mean bits per dimension of whole grey levels, and its standard error.

    bits/dim = −[log p(x) + N log s] / (N ln 2) for x = s (r + u) + shift with u ~ U[0, 1)^N: by Jensen's inequality
    an upper bound, in expectation, of the discrete model's −log2 P(r)/N.

    Arguments:
        log_prob: Log density in data units of dequantised samples (B,), nats.
        dim: N.
        scaling: The data set's scaling, with whole levels.
    """
    bits = -(log_prob.double() + scaling.log_det(dim)) / (dim * math.log(2))
    error = float(bits.std() / math.sqrt(len(bits))) if len(bits) > 1 else math.nan
    return float(bits.mean()), error


__all__ = ["Likelihood", "bits_per_dim", "log_likelihood"]
