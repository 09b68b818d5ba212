"""Likelihood by the probability-flow ODE: log p_t(x) = log p_prior(x_T) + ∫ div v ds from t to the prior's end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.checks import is_count, require
from genflow.data.base import Scaling
from genflow.devices import computing, device_of
from genflow.process.base import Process
from genflow.process.clock import Clock
from genflow.process.field import BackboneLike, Field
from genflow.process.grids import Spacing, times
from genflow.process.guidance import Guidance
from genflow.sampling import Labels, class_labels
from genflow.solver.adaptive import RK45
from genflow.solver.base import Solver
from genflow.solver.fields import announce
from genflow.solver.noise import Noise

TRACES = ("hutchinson", "exact")
PROBES = ("rademacher", "gaussian")


@dataclass(frozen=True)
class Likelihood:
    """What `log_likelihood` found.

    Arguments:
        log_prob: log p_t(x), shape (B,), float64, nats; on the host, as stderr is.
        latent: Where the ODE carries x, at the prior's end, shape (B, *).
        nfe: Backbone calls per sample; the mean where samples differ.
        stderr: Standard error of log_prob from the probes alone, shape (B,), nats: 0 for the exact trace, NaN for one
            probe, which does not tell its own error.
        t: Native time of the density.
    """

    log_prob: Tensor
    latent: Tensor
    nfe: float
    stderr: Tensor
    t: float


class DivergenceField:
    """A field on states (x, ∫ div v) of shape (B, N + K), from t to the prior's end.

    A call is one forward pass of the network and K backward passes to its input, one for each probe.

    Arguments:
        field: The field of x.
        shape: Shape of one x.
        probe: Hutchinson's e, shape (B, *) or (B, K, *), with independent entries of mean 0 and variance 1, fixed for
            the whole solve; None takes the exact trace by N backward passes, and K is 1.
        t: Native time at which the grid begins; None is the data's end of the training interval.

    div v is estimated as e·(∂v/∂x)e, unbiased (Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367).
    """

    def __init__(self, field: Field, shape: tuple[int, ...], probe: Tensor | None, t: float | None = None) -> None:
        single = probe is not None and probe.ndim == len(shape) + 1
        self.field, self.shape, self.size = field, shape, math.prod(shape)
        self.probe = probe[:, None] if probe is not None and single else probe
        self.t = t

    @property
    def evaluations(self) -> int:
        return self.field.evaluations

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = self._states(x).detach().requires_grad_()
            velocity = self.field.velocity(inner, t)
            divergence = self._exact(velocity, inner) if self.probe is None else self._estimates(velocity, inner)
        return torch.cat([velocity.detach().flatten(1), divergence], dim=1)

    def _estimates(self, velocity: Tensor, x: Tensor) -> Tensor:
        """e·(∂v/∂x)e of each probe, shape (B, K)."""
        assert self.probe is not None
        probes = self.probe.unbind(1)
        last = len(probes) - 1
        found = [_gradient(velocity, x, e, retain=k < last).flatten(1) for k, e in enumerate(probes)]
        return torch.stack([(g * e.flatten(1)).sum(1) for g, e in zip(found, probes, strict=True)], dim=1)

    def _exact(self, velocity: Tensor, x: Tensor) -> Tensor:
        """The trace, shape (B, 1)."""
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        flat = velocity.flatten(1)
        for i in range(self.size):
            total = total + _gradient(flat[:, i].sum(), x, None, retain=i < self.size - 1).flatten(1)[:, i]
        return total[:, None]

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("a likelihood follows the ODE; use an ODE solver")

    def natural_diffusion(self, t: Tensor) -> Tensor:
        raise ValueError("a likelihood follows the ODE; use an ODE solver")

    @property
    def cost(self) -> int:
        return self.field.cost

    @property
    def even_cost(self) -> bool:
        return self.field.even_cost

    def calls_at(self, t: Tensor) -> Tensor:
        return self.field.calls_at(t)

    def grid(self, steps: int, *, training: bool = False, spacing: Spacing = "process") -> Tensor:
        if self.t is None:
            return self.field.grid(steps, training=True, spacing=spacing).flip(0)
        process = self.field.process
        return times(process, steps, spacing, (self.t, process.training_interval[1])).flip(0)

    @property
    def clock(self) -> Clock:
        return self.field.clock

    def prepare(self, t: Tensor, x: Tensor) -> None:
        """Announces times, of states without the integral; see `Field.prepare`."""
        announce(self.field, t, self._states(x))

    def prepare_rows(self, t: Tensor, x: Tensor, beside: Tensor) -> tuple[list[Tensor], Tensor]:
        """Announces times of each row; see `Field.prepare_rows`."""
        asked = getattr(self.field, "prepare_rows", None)
        if asked is None:
            return list(t), beside.to(x.device, x.dtype)
        found: tuple[list[Tensor], Tensor] = asked(t, self._states(x), beside)
        return found

    def keep(self, rows: Tensor) -> None:
        if self.probe is not None:
            places = rows.cpu().nonzero().flatten().to(self.probe.device, non_blocking=True)
            self.probe = self.probe.index_select(0, places)
        self.field.keep(rows)

    def _states(self, x: Tensor) -> Tensor:
        return x[:, : self.size].reshape(-1, *self.shape)


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
    t: float | None = None,
    solver: Solver | None = None,
    nfe: int | None = None,
    trace: str = "hutchinson",
    probe: str = "rademacher",
    probes: int = 1,
    seed: int = 0,
    first_index: int = 0,
    labels: Labels = None,
    guidance: float | Guidance = 1.0,
) -> Likelihood:
    """Log density of states x at time t under the process's ODE.

    log p_t(x) = log p_prior(x_T) + ∫ div v ds along the path of x from t to the prior's end T.

    Arguments:
        process: What was trained.
        backbone: Its network, or an oracle.
        x: States at time t (B, *), data units; data themselves at the data's end. They are moved to the network.
        t: Native time, inside the training interval; None is its data's end.
        solver: An ODE solver; RK45 at rtol = atol = 1e-4 by default.
        nfe: Calls per sample for a fixed-step solver.
        trace: "hutchinson", an unbiased estimate, or "exact", N backward passes a call.
        probe: Entries of Hutchinson's probe: "rademacher", ±1, or "gaussian", standard normal, of larger variance.
        probes: Probes per sample, each drawn once for the whole solve; log_prob is the mean of their estimates.
            Every one is a backward pass a call, none a backbone call.
        seed: Seed of the probes; row k uses sample first_index + k, whatever the batch.
        first_index: Global index of the first row.
        labels: Class of each row, as `genflow.sampling.class_labels` reads it: then it is log p_t(x | class).
        guidance: Classifier-free guidance w; with w other than 1 it is the density of what the guided flow makes of
            the prior, and NFE counts both calls.

    Raises:
        ValueError: The process has no likelihood (with the reason), t lies outside the training interval, a setting is
            not known, or the labels do not fit.
    """
    check_likelihood(process)
    _check_end(solver)
    _check_settings(trace, probe, probes)
    solver, t = _ode_solver(solver), _inside(process, t)
    x = x.to(device_of(backbone, default=x.device))
    own = _labels(labels, x, first_index, getattr(backbone, "classes", 0))
    inner = process.field(backbone, labels=own, guidance=guidance)
    drawn = None
    if trace == "hutchinson":
        drawn = draw_probes(x, probe, int(probes), Noise(seed, range(first_index, first_index + len(x)), "probes"))
    field, size = DivergenceField(inner, tuple(x.shape[1:]), drawn, t), x[0].numel()
    zeros = torch.zeros(len(x), 1 if drawn is None else int(probes), dtype=x.dtype, device=x.device)
    with computing(backbone):
        solution = solver.solve(field, torch.cat([x.flatten(1), zeros], dim=1), nfe=nfe)
    latent, host = solution.x[:, :size].reshape(x.shape), solution.x.cpu().double()
    change = host[:, size:]
    log_prob = process.log_prior(host[:, :size].reshape(x.shape)) + change.mean(1)
    start = process.training_interval[0] if t is None else t
    return Likelihood(log_prob, latent, solution.nfe, _probe_error(change, drawn is None), start)


def _check_end(solver: Solver | None) -> None:
    if solver is not None and not solver.ending.is_default:
        raise ValueError(
            f"a likelihood follows the path from the data to the prior: '{solver.ending.words}' has no meaning there; "
            "leave it out, and give t to begin at another noise level"
        )
    if solver is not None and solver.frame != "native":
        raise ValueError(
            f"a likelihood counts the volume along the path in native time, not in frame = '{solver.frame}'; leave it "
            "out"
        )


def _check_settings(trace: str, probe: str, probes: int) -> None:
    require(
        "log_likelihood",
        {
            "trace": (trace, trace in TRACES, " or ".join(TRACES)),
            "probe": (probe, probe in PROBES, " or ".join(PROBES)),
            "probes": (probes, is_count(probes), "a whole number above 0"),
        },
    )


def _ode_solver(solver: Solver | None) -> Solver:
    solver = solver or RK45()
    if solver.mode != "ode":
        raise ValueError(f"a likelihood follows the ODE, and {type(solver).__name__} draws noise; give an ODE solver")
    return solver


def _inside(process: Process, t: float | None) -> float | None:
    """t as a number inside the training interval."""
    if t is not None:
        process.check_time(torch.tensor(float(t), dtype=torch.float64))
    return None if t is None else float(t)


def _labels(labels: Labels, x: Tensor, first_index: int, classes: int) -> Tensor | None:
    """Class of each row, (B,), on x's device; "all" goes by global index."""
    found = class_labels(labels, len(x), classes, "log_likelihood")
    if found is not None and isinstance(labels, str):
        found = (found + first_index) % classes
    return None if found is None else found.to(x.device)


def _probe_error(change: Tensor, exact: bool) -> Tensor:
    """Standard error (B,) of the mean of K independent estimates (B, K)."""
    count = change.shape[1]
    if count == 1:
        return torch.full_like(change[:, 0], 0.0 if exact else math.nan)
    return change.std(1) / math.sqrt(count)


def check_likelihood(process: Process) -> None:
    """Raises ValueError, with the reason, where the process's prior has no density."""
    reason = process.why_not("likelihood")
    if reason:
        raise ValueError(f"no likelihood: {reason}")


def draw_probes(x: Tensor, kind: str, count: int, noise: Noise) -> Tensor:
    """Hutchinson probes (B, count, *): the first `count` draws of each sample, or their signs."""
    drawn = torch.stack([noise.like(x) for _ in range(count)], dim=1)
    return drawn if kind == "gaussian" else torch.where(drawn < 0, -1.0, 1.0).to(x)


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


__all__ = ["Likelihood", "bits_per_dim", "check_likelihood", "log_likelihood"]
