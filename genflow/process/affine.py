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

from genflow.checks import is_above, is_count, is_number, is_positive, require
from genflow.process.affine_path import AffinePath, Coefficients
from genflow.process.base import Mode, Perturbed, Process
from genflow.process.bases import Gaussian
from genflow.process.distributions import Distribution
from genflow.process.grids import time_at_ratio, time_of_noise_left
from genflow.process.guidance import NO_CLASS
from genflow.process.heads import EDM, EDMRMS, HEADS, Head, Score
from genflow.process.memory import Memory
from genflow.process.oracles import DataLaw, Oracle, make_oracle
from genflow.process.posterior import posterior_mean
from genflow.process.rules import Rule, linear_rule, mix
from genflow.process.shapes import dimension
from genflow.process.weighting import DATA_WEIGHTS, TIMES, WEIGHTINGS, quantile

OBJECTIVES = ("own", "stable")
FRAMES = ("path", "sigma")


@dataclass(kw_only=True)
class AffineProcess(AffinePath, Process):
    """A process that is fixed by its coefficients; a leaf class gives `coefficients` and its two times.

    Arguments:
        head: What the backbone predicts: "noise", "data", "velocity", "edm", "edm_rms", or "score" where the base is
            Gaussian; see `genflow.process.heads`.
        mode: How it is sampled: "ode", or "sde" where the base is Gaussian.
        objective: The target. "own": each training point's is from its own data point. "stable": from E[X | x_t] over
            the batch and `large_batch` points more, which has less variance (Xu et al. 2023, arXiv:2302.00670). Heads
            that are not linear in X̂ always take the second.
        large_batch: Data points of that average beside the batch itself, or "all" for the whole training set.
        sigma_data: Standard deviation σ_d of the data's entries, data units, for the heads and weights that need it.
            None: as `for_data` finds it, else 0.5.
        times: Density of the training times: "clock", "log_uniform", "log_normal" or "logit_normal"; see
            `genflow.process.weighting`. All but the first are densities of σ = b/a.
        P_mean: Mean of ln σ in training where it is normal. None: the density's own.
        P_std: Standard deviation of ln σ in training where it is normal. None: the density's own.
        weighting: Which errors of a training point count alike at all times: "unit", those of the head; "likelihood",
            those of the score as they bound the likelihood (Song et al. 2021, arXiv:2101.09258); "edm", "min_snr" and
            "velocity", see `genflow.process.weighting`.
        sigma_min: Smallest σ = b/a of training and sampling, data units. None: where the path ends.
        sigma_max: Largest σ = b/a of training and sampling, data units. None: where the path begins.
        relative: sigma_min, sigma_max and exp(P_mean) are multiples of σ_d.
        frame: What the backbone receives. "path": x_t and the process's clock. "sigma": x_t/a and ln(σ)/4, which are
            the same on every path with one base.
    """

    head: str = "noise"
    mode: Mode = "ode"
    objective: str = "own"
    large_batch: int | str = 512
    sigma_data: float | None = None
    times: str = "clock"
    P_mean: float | None = None
    P_std: float | None = None
    weighting: str = "unit"
    sigma_min: float | None = None
    sigma_max: float | None = None
    relative: bool = False
    frame: str = "path"

    def __post_init__(self) -> None:
        large, data, low, high = self.large_batch, self.sigma_data, self.sigma_min, self.sigma_max
        mean, std = self.P_mean, self.P_std
        require(
            type(self).__name__,
            {
                "head": (self.head, self.head in self.heads(), f"one of {', '.join(self.heads())}"),
                "mode": (self.mode, self.mode in ("ode", "sde"), "'ode' or 'sde'"),
                "objective": (self.objective, self.objective in OBJECTIVES, " or ".join(OBJECTIVES)),
                "large_batch": (large, large == "all" or is_count(large, 0), "a whole number of at least 0, or 'all'"),
                "sigma_data": (data, data is None or is_positive(data), "a number above 0"),
                "times": (self.times, self.times in TIMES, " or ".join(TIMES)),
                "P_mean": (mean, mean is None or is_number(mean), "a number"),
                "P_std": (std, std is None or is_positive(std), "a number above 0"),
                "weighting": (self.weighting, self.weighting in WEIGHTINGS, " or ".join(WEIGHTINGS)),
                "sigma_min": (low, low is None or is_positive(low), "a number above 0"),
                "sigma_max": (
                    high,
                    high is None or (is_above(high, low or 0) and is_number(high)),
                    "a number above sigma_min",
                ),
                "relative": (self.relative, isinstance(self.relative, bool), "true or false"),
                "frame": (self.frame, self.frame in FRAMES, " or ".join(FRAMES)),
            },
        )
        if self.mode == "sde" and self.why_not("sde"):
            raise ValueError(f"{type(self).__name__}: mode = 'sde' is not possible: {self.why_not('sde')}")
        self.prediction = self.make_head()
        self.extra_channels = self.prediction.extra_channels
        averages = self.objective == "stable" or not self.prediction.linear
        self.reference_batch = (sys.maxsize if large == "all" else int(large)) if averages else 0
        self._check_sigma()

    def _check_sigma(self) -> None:
        """Raises ValueError where options ask for σ, or for a weight, that the process does not have."""
        name = type(self).__name__
        asked = {
            "times": self.times != "clock",
            "weighting": self.weighting != "unit",
            "sigma_min": self.sigma_min is not None,
            "sigma_max": self.sigma_max is not None,
            "frame": self.frame == "sigma",
        }
        given = next((option for option, is_asked in asked.items() if is_asked), None)
        if given and self.why_not("affine"):
            raise ValueError(
                f"{name}: {given} = {getattr(self, given)!r} needs the noise level σ = b/a of each time: "
                f"{self.why_not('affine')}; leave {given} out"
            )
        if self.weighting != "unit":
            self._check_weighting()
        fitted = not self.relative or self.sigma_data is not None
        if fitted and (self.sigma_min is not None or self.sigma_max is not None):
            self._check_range()

    def _check_weighting(self) -> None:
        """Raises ValueError where errors of the head cannot be counted as the weighting asks."""
        reason = None if self.prediction.linear else f"errors of the head '{self.head}' have no constant size"
        if self.weighting == "likelihood":
            reason = self.why_not("score") or reason
        if type(self).weight is not AffineProcess.weight:
            reason = "it has a weight of its own"
        if reason:
            raise ValueError(f"{type(self).__name__}: weighting = '{self.weighting}' is not possible: {reason}")

    def _check_range(self) -> None:
        """Raises ValueError where the path does not reach the ends of the range of σ."""
        low, high = self._sigmas((self.t_data, self.t_prior)).tolist()
        for option, end in zip(("sigma_min", "sigma_max"), self._sigmas(self.safe_interval).tolist(), strict=True):
            wanted, slack = self._absolute(option), 1e-6
            if wanted is None:
                continue
            inside = low * (1 - slack) <= wanted <= high * (1 + slack)
            if not inside or not math.isclose(end, wanted, rel_tol=slack):
                raise ValueError(
                    f"{type(self).__name__}: {option} = {getattr(self, option):g}{self._unit()} is not on its path, "
                    f"whose σ = b/a runs from {low:.4g} to {high:.4g} (data units)"
                )

    def _unit(self) -> str:
        return f" times sigma_data = {self.data_scale:g}" if self.relative else ""

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
        if self.head in ("edm", "edm_rms"):
            return {"edm": EDM, "edm_rms": EDMRMS}[self.head](self.data_scale)
        return Score() if self.head == "score" else HEADS[self.head]()

    def for_data(self, x: Tensor) -> Self:
        """With sigma_data, where an option wants it and it was not given, from data (n, *): the standard deviation
        of all entries."""
        wanted = self.head in ("edm", "edm_rms") or self.weighting in DATA_WEIGHTS or self.relative
        if not wanted or self.sigma_data is not None:
            return self
        return type(self)(**{**self.config(), "sigma_data": float(x.double().std(correction=0)) or 1.0})

    # ---- σ = b/a -----------------------------------------------------------------------------------------

    @property
    def data_scale(self) -> float:
        """σ_d: as given or found, else 0.5."""
        return 0.5 if self.sigma_data is None else self.sigma_data

    def _absolute(self, option: str) -> float | None:
        """sigma_min or sigma_max in data units."""
        value = getattr(self, option)
        return None if value is None else value * (self.data_scale if self.relative else 1.0)

    def _sigmas(self, times: tuple[float, float]) -> Tensor:
        """σ at two times, float64; infinite where a is 0."""
        t = torch.tensor(times, dtype=torch.float64)
        a, b = (torch.as_tensor(v, dtype=torch.float64).expand(2) for v in self.coefficients(t)[:2])
        return b / a

    def time_at(self, sigma: Tensor) -> Tensor:
        """The native time at which b/a is sigma (), or (n,): the inverse of `noise_ratio`, float64.

        By bisection in the clock; a leaf class whose path can be inverted does that instead.
        """
        return time_at_ratio(self, sigma, (self.t_data, self.t_prior))

    def _between(self, interval: tuple[float, float]) -> tuple[float, float]:
        """An interval with the ends that sigma_min and sigma_max ask for in the place of its own."""
        given = [self._absolute(option) for option in ("sigma_min", "sigma_max")]
        near, far = (
            end if sigma is None else float(self.time_at(torch.tensor(sigma, dtype=torch.float64)))
            for end, sigma in zip(interval, given, strict=True)
        )
        return near, far

    @property
    def path_interval(self) -> tuple[float, float]:
        """The interval of sampling where no range of σ is given; a leaf class gives it."""
        return self.t_data, self.t_prior

    @property
    def path_training_interval(self) -> tuple[float, float]:
        """The interval of training and likelihoods where no range of σ is given."""
        return self.path_interval

    @cached_property
    def safe_interval(self) -> tuple[float, float]:
        return self._between(self.path_interval)

    @cached_property
    def training_interval(self) -> tuple[float, float]:
        return self._between(self.path_training_interval)

    def condition(self, t: Tensor) -> Tensor:
        return self.noise_ratio(t).log() / 4 if self.frame == "sigma" else super().condition(t)

    def time(self, condition: Tensor) -> Tensor:
        return self.time_at((4 * condition).exp()) if self.frame == "sigma" else super().time(condition)

    def network_input(self, x: Tensor, t: Tensor) -> Tensor:
        return self.in_data_units(x, t) if self.frame == "sigma" else x

    def state(self, network_input: Tensor, t: Tensor) -> Tensor:
        return network_input * self.at(t, network_input).a if self.frame == "sigma" else network_input

    # ---- training ----------------------------------------------------------------------------------------

    def sample_time(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Training times (count,), float64, over the training interval: uniform in the clock, or by a density of σ.

        One time from each of `count` equally likely parts: every batch covers the interval, which lowers the variance
        of its loss (Kingma et al. 2021, arXiv:2107.00630).
        """
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        u = (torch.arange(count, device=generator.device) + u) / count
        if self.times != "clock":
            return self.time_at(quantile(self.times, u, self._training_sigmas(), self._centre(), self.P_std))
        ends = self.to_clock(torch.tensor(self.training_interval, dtype=torch.float64)).tolist()
        return self.from_clock(ends[0] + (ends[1] - ends[0]) * u)

    def _training_sigmas(self) -> tuple[float, float]:
        """Ends of the training interval as σ: those given, to the last digit, so that paths share their draws."""
        found = self._sigmas(self.training_interval).tolist()
        low, high = (
            self._absolute(option) or end for option, end in zip(("sigma_min", "sigma_max"), found, strict=True)
        )
        return low, high

    def _centre(self) -> float | None:
        """Mean of ln σ, σ in data units, where it is given."""
        return self.P_mean if self.P_mean is None or not self.relative else self.P_mean + math.log(self.data_scale)

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
        weight = self.weight(t) if self.weighting == "unit" else self.weight(t, x_t)
        return Perturbed(x_t, t, target, weight.to(x.device, x.dtype))

    def weight(self, t: Tensor, x_t: Tensor | None = None) -> Tensor:
        """Weight of a training point's loss, shape (B,): λ(σ) (dX̂/d residual)², or 1 for the weighting "unit".

        Arguments:
            t: Native times, shape (B,).
            x_t: States, shape (B, *), for heads whose gain depends on them.
        """
        if self.weighting == "unit":
            return torch.ones_like(t)
        flat = torch.ones(len(t), 1, dtype=torch.float64, device=t.device) if x_t is None else x_t.double()
        c = self.at(t, flat)
        gain = self.prediction.noise_gain(c, None if x_t is None else flat).reshape(-1)  # of N̂: σ times it is of X̂
        sigma = self.noise_ratio(t).to(gain.device)
        if self.weighting != "likelihood":
            return DATA_WEIGHTS[self.weighting](sigma, self.data_scale) * (sigma * gain).square()
        return 2 * self._sigma_rate(t).to(gain.device) * gain.square()

    def _sigma_rate(self, t: Tensor) -> Tensor:
        """|d ln σ| for a unit of what training times are even in: the clock, or ln σ."""
        if self.times != "clock":
            return torch.ones_like(t)
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(t.double())))
        return (c.db / c.b - c.da / c.a).abs() * self.own_clock.rate(t)

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
        found = self.noise_ratio(t) if self.frame == "sigma" else self.coefficients(t)[1]
        return torch.as_tensor(found, dtype=torch.float64)

    @cached_property
    def _rules(self) -> Memory:
        return Memory()

    def rule(self, x: Tensor, t: Tensor) -> Rule | None:
        """How velocity, means and score follow from x and an output, as numbers: for one time and a linear head.

        Kept, since a solver asks at the times of its grid in every batch; None where there is no such rule.
        """
        head = self.prediction
        if t.ndim or t.requires_grad or head.by_state or not (head.linear and self.is_affine and x.is_floating_point()):
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
        c = Coefficients(*(torch.as_tensor(v, dtype=torch.float64) for v in self.coefficients(t.double())))
        toward_prior = 1.0 if self.t_prior > self.t_data else -1.0
        return toward_prior * (c.b * c.db - c.da / c.a * c.b * c.b)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.why_not("affine"):
            raise ValueError(self.why_not("affine"))
        a, b = (torch.as_tensor(v, dtype=torch.float64).expand(t.shape) for v in self.coefficients(t.double())[:2])
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
