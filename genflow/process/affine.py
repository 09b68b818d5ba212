"""Affine processes: x_t = a(t) X + b(t) N, with data X and a base N that is drawn independently of them.

Two numbers a time and the law of N fix the whole model. From X̂ = E[X | x_t] follow

    N̂ = (x − a X̂)/b                          the base's mean
    v = a' X̂ + b' N̂                          the velocity of the flow that carries the law of x_t
    s = −N̂/b                                 the score, where N is Gaussian
    dx = v dt + ε s |dt| + √(2ε |dt|) ξ      an SDE with the same marginals for every ε(t) ≥ 0

so a network that gives X̂, or anything that X̂ can be read from (its *head*, `genflow.process.heads`), gives them all.
VE, VP and sub-VP are this path with a Gaussian N (Song et al. 2021, arXiv:2011.13456), one-sided interpolants too
(Albergo & Vanden-Eijnden 2023, arXiv:2209.15571), and Poisson flow with a Cauchy or Student-t N (Xu et al. 2022,
arXiv:2209.11178; 2023, arXiv:2302.04265). `docs/math.md` derives the lines above. A leaf class gives `coefficients`
and its two times; the path alone is `genflow.process.affine_path`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.process.affine_path import AffinePath, Coefficients
from genflow.process.base import Mode, Perturbed, Process
from genflow.process.bases import Gaussian
from genflow.process.distributions import Distribution
from genflow.process.grids import time_of_noise_left
from genflow.process.guidance import NO_CLASS
from genflow.process.heads import EDM, HEADS, Head, Score
from genflow.process.memory import Memory
from genflow.process.oracles import DataLaw, Oracle, make_oracle
from genflow.process.posterior import posterior_mean
from genflow.process.rules import Rule, linear_rule, mix
from genflow.process.shapes import dimension, in_float64

OBJECTIVES = ("own", "stable")


@dataclass(kw_only=True)
class AffineProcess(AffinePath, Process):
    """A process that is fixed by its coefficients; a leaf class gives `coefficients` and its two times.

    Arguments:
        head: What the backbone predicts: "noise", "data", "velocity", "edm", or "score" where the base is Gaussian.
        mode: How it is sampled: "ode", or "sde" where the base is Gaussian.
        objective: "own": each training point's target is from its own data point. "stable": from E[X | x_t] over the
            batch and `large_batch` points more, which has less variance (Xu et al. 2023, arXiv:2302.00670). Heads
            that are not linear in X̂ always take the second.
        large_batch: Data points of that average beside the batch itself, or "all" for the whole training set.
        sigma_data: Standard deviation of the data's entries for the head "edm", data units. None: as `for_data`
            finds it, else 0.5.
    """

    head: str = "noise"
    mode: Mode = "ode"
    objective: str = "own"
    large_batch: int | str = 512
    sigma_data: float | None = None

    def __post_init__(self) -> None:
        large, data = self.large_batch, self.sigma_data
        require(
            type(self).__name__,
            {
                "head": (self.head, self.head in self.heads(), f"one of {', '.join(self.heads())}"),
                "mode": (self.mode, self.mode in ("ode", "sde"), "'ode' or 'sde'"),
                "objective": (self.objective, self.objective in OBJECTIVES, " or ".join(OBJECTIVES)),
                "large_batch": (large, large == "all" or is_count(large, 0), "a whole number of at least 0, or 'all'"),
                "sigma_data": (data, data is None or is_positive(data), "a number above 0"),
            },
        )
        if self.mode == "sde" and self.why_not("sde"):
            raise ValueError(f"{type(self).__name__}: mode = 'sde' is not possible: {self.why_not('sde')}")
        self.prediction = self.make_head()
        self.extra_channels = self.prediction.extra_channels
        averages = self.objective == "stable" or not self.prediction.linear
        self.reference_batch = (sys.maxsize if large == "all" else int(large)) if averages else 0

    @property
    def drawn(self) -> Distribution | None:
        """The law that N is drawn from where it is not `base`."""
        return None

    @property
    def is_affine(self) -> bool:
        """x_t = a X + b N with this base drawn independently of X, so everything here holds."""
        return True

    def heads(self) -> tuple[str, ...]:
        """Names of the heads this process takes."""
        return (*HEADS, "score") if isinstance(self.base, Gaussian) else tuple(HEADS)

    def make_head(self) -> Head:
        """The head object behind the name."""
        if self.head == "edm":
            return EDM() if self.sigma_data is None else EDM(self.sigma_data)
        return Score() if self.head == "score" else HEADS[self.head]()

    def for_data(self, x: Tensor) -> Self:
        """With sigma_data, where the head wants it and it was not given, from data (n, *): the standard deviation
        of all entries."""
        if self.head != "edm" or self.sigma_data is not None:
            return self
        return type(self)(**{**self.config(), "sigma_data": float(in_float64(x).std(correction=0)) or 1.0})

    # ---- training ----------------------------------------------------------------------------------------

    def sample_time(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Training times (count,), float64, uniform in the clock over the training interval.

        One time from each of `count` equal parts: every batch covers the interval, which lowers the variance of its
        loss (Kingma et al. 2021, arXiv:2107.00630).
        """
        ends = self.to_clock(torch.tensor(self.training_interval, dtype=torch.float64)).tolist()
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        u = (torch.arange(count, device=generator.device) + u) / count
        return self.from_clock(ends[0] + (ends[1] - ends[0]) * u)

    def perturb(
        self, x: Tensor, *, generator: torch.Generator, refs: Tensor | None = None, partner: Tensor | None = None
    ) -> Perturbed:
        if partner is not None:
            raise ValueError(
                f"{type(self).__name__} draws its base itself; pairs need an interpolant, coupling='paired'"
            )
        self.check_batch(x)
        t = self.sample_time(len(x), generator=generator)
        return self.pairs(x, self.base_like(x, generator), t, refs)

    def check_batch(self, x: Tensor) -> None:
        """Raises ValueError unless x is a batch of data (B, *) in floating point with B >= 1."""
        if x.ndim < 2 or not len(x):
            raise ValueError(f"training pairs need at least one data point of shape (B, *), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"data have dtype {x.dtype}; give floating-point numbers, as from scaling.encode(...)")

    def pairs(self, x: Tensor, noise: Tensor, t: Tensor, refs: Tensor | None = None) -> Perturbed:
        """Training pairs from given draws: data x and noise (B, *), times (B,)."""
        x_t, c = self.interpolate(x, noise, t), self.at(t, x)
        own = self.objective == "own" and self.prediction.linear
        target = self.prediction.encode_pair(x, noise, c) if own else self.average_target(x, x_t, t, refs)
        return Perturbed(x_t, t, target, self.weight(t).to(x.device, x.dtype))

    def weight(self, t: Tensor) -> Tensor:
        """Weight of a training point's loss, shape (B,)."""
        return torch.ones_like(t)

    def average_target(self, x: Tensor, x_t: Tensor, t: Tensor, refs: Tensor | None) -> Tensor:
        """What the backbone should answer at x_t, from E[X | x_t] over the batch and the references."""
        mean = posterior_mean(x_t, t, [x] if refs is None else [x, refs], self)
        return self.prediction.encode(mean, x_t, self.at(t, x_t))

    @property
    def averages(self) -> bool:
        return self.is_affine and (self.objective == "stable" or not self.prediction.linear)

    def own_class(self, pairs: Perturbed, labels: Tensor, points: Tensor, classes: Tensor) -> Perturbed:
        """Over all classes the average would be E[X | x_t]; a row of class c is to learn E[X | x_t, c]."""
        if not self.averages:
            return pairs
        target = pairs.target.clone()
        for label in labels[labels != NO_CLASS].unique():
            rows = labels == label
            x_t, t = pairs.x_t[rows], pairs.t[rows.to(pairs.t.device)]
            target[rows] = self.average_target(points[classes == label], x_t, t, None)
        return pairs._replace(target=target)

    def loss_terms(self, output: Tensor, pairs: Perturbed) -> Tensor:
        return self.prediction.residual(output, pairs.target, self.at(pairs.t, pairs.x_t)).square().mean(1)

    # ---- sampling ----------------------------------------------------------------------------------------

    def noise_level(self, t: Tensor) -> Tensor:
        return torch.as_tensor(self.coefficients(t)[1], dtype=torch.float64)

    @cached_property
    def _rules(self) -> Memory:
        return Memory()

    def rule(self, x: Tensor, t: Tensor) -> Rule | None:
        """How velocity, means and score follow from x and an output, as numbers: for one time and a linear head.

        Kept, since a solver asks at the times of its grid in every batch; None where there is no such rule.
        """
        if t.ndim or t.requires_grad or not (self.prediction.linear and self.is_affine and x.is_floating_point()):
            return None

        def make() -> Rule:
            self.check_time(t)
            one = torch.ones(1, 1, dtype=torch.float64)
            return linear_rule(self.prediction, self.at(torch.tensor(float(t), dtype=torch.float64), one))

        found: Rule = self._rules.get(float(t), make)
        return found

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if rule := self.rule(x, t):
            return mix(x, output, rule.velocity)
        self.check_time(t)
        return self.prediction.velocity(output, x, self.at(t, x))

    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if rule := self.rule(x, t):
            return mix(x, output, rule.data)
        self.check_time(t)
        return self.prediction.decode(output, x, self.at(t, x))[0]

    def ddim_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """a(s) X̂ + b(s) N̂."""
        if (now := self.rule(x, t)) and (then := self.rule(x, s)):
            (of_x, of_output), (base_x, base_output) = now.data, now.base
            return mix(x, output, (then.a * of_x + then.b * base_x, then.a * of_output + then.b * base_output))
        self.check_time(t)
        self.check_time(s)
        data, base = self.prediction.decode(output, x, self.at(t, x))
        end = self.at(s, x)
        return end.a * data + end.b * base

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """−N̂/b, which holds for a Gaussian base."""
        if self.why_not("score"):
            raise ValueError(self.why_not("score"))
        if rule := self.rule(x, t):
            return mix(x, output, (-rule.base[0] / rule.b, -rule.base[1] / rule.b))
        self.check_time(t)
        c = self.at(t, x)
        return -self.prediction.decode(output, x, c)[1] / c.b

    def natural_diffusion(self, t: Tensor) -> Tensor:
        """ε = ±(b b' − (a'/a) b²), positive: half of the squared diffusion of the forward SDE."""
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(in_float64(t))))
        toward_prior = 1.0 if self.t_prior > self.t_data else -1.0
        return toward_prior * (c.b * c.db - c.da / c.a * c.b * c.b)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.why_not("affine"):
            raise ValueError(self.why_not("affine"))
        a, b = (torch.as_tensor(v, dtype=torch.float64).expand(t.shape) for v in self.coefficients(in_float64(t))[:2])
        return a, b

    def noise_ratio(self, t: Tensor) -> Tensor:
        a, b = self.schedule(t)
        return b / a

    def noise_left(self, t: Tensor) -> Tensor:
        """Scale of all noise in x_t/a at times t, float64, of t's shape, data units; infinite where a is 0."""
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64).expand(t.shape) for v in self.coefficients(t)))
        return torch.hypot(c.b, torch.as_tensor(c.g)) / c.a.abs()

    def end_time(self, noise: float) -> float:
        return time_of_noise_left(self, self.noise_left, noise)

    def in_data_units(self, x: Tensor, t: Tensor) -> Tensor:
        return x / self.at(t, x).a

    def why_not(self, capability: str) -> str | None:
        if capability in ("data", "oracle", "norm", "affine", "likelihood"):
            return None
        if capability in ("score", "sde"):
            return None if isinstance(self.base, Gaussian) else self._no_score()
        return super().why_not(capability)

    def _no_score(self) -> str:
        return (
            f"{type(self).__name__} has a {type(self.base).__name__} base: its velocity does not determine the "
            "score, so it has no reverse SDE; sample its ODE"
        )

    # ---- prior -------------------------------------------------------------------------------------------

    @property
    def prior_scale(self) -> float:
        """Scale of the base at t_prior."""
        return float(self.coefficients(torch.tensor(self.safe_interval[1], dtype=torch.float64))[1])

    def sample_prior(
        self, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return self.prior_scale * self.base.sample(shape, generator=generator, dtype=dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        return self.base.log_prob(x / self.prior_scale) - dimension(x) * math.log(self.prior_scale)

    # ---- known answers -----------------------------------------------------------------------------------

    def oracle(self, data: Tensor | DataLaw) -> Oracle:
        """A backbone that answers exactly for known data.

        Arguments:
            data: Points (M, *), each as likely; or a `GaussianMixture` or `Cauchy`. See `genflow.process.oracles`.

        Raises:
            ValueError: The exact field of such data under this process is not known, with the reason.
        """
        return make_oracle(self, data)

    def time_of_noise(self, ratio: float, *, dim: int) -> float:
        """The native time at which the median of |b N| is `ratio` times |a| √N: noise against signal.

        Found by bisection in the clock over the safe interval; its nearer end where the ratio is outside.
        """
        low, high = self.to_clock(torch.tensor(self.safe_interval, dtype=torch.float64)).tolist()
        goal = ratio * math.sqrt(dim) / self.base.median_radius(dim)
        for _ in range(80):
            middle = (low + high) / 2
            c = self.coefficients(self.from_clock(torch.tensor(middle, dtype=torch.float64)))
            low, high = (middle, high) if float(c[1]) < goal * abs(float(c[0])) else (low, middle)
        return float(self.from_clock(torch.tensor((low + high) / 2, dtype=torch.float64)))
