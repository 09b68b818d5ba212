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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from genflow.checks import is_count, is_positive, require
from genflow.process.affine_path import Coefficients
from genflow.process.base import Mode, Perturbed
from genflow.process.bases import Gaussian
from genflow.process.distributions import Distribution
from genflow.process.grids import time_of_noise_left
from genflow.process.guidance import NO_CLASS
from genflow.process.heads import EDM, EDMRMS, HEADS, Head, PoissonField, Score
from genflow.process.linear import Combination
from genflow.process.memory import Memory, crosses
from genflow.process.noise_levels import NoiseLevels
from genflow.process.oracles import DataLaw, Oracle, make_oracle
from genflow.process.posterior import Shard, posterior_mean
from genflow.process.rules import Rule, combined, linear_rules, mix
from genflow.process.shapes import dimension, in_float64, like_rows, over, quick_on_host
from genflow.process.weighting import DATA_WEIGHTS

OBJECTIVES = ("own", "stable")


@dataclass(kw_only=True)
class AffineProcess(NoiseLevels):
    """A process that is fixed by its coefficients; a leaf class gives `coefficients` and its two times.

    The options that are functions of the noise level alone are those of `genflow.process.noise_levels`.

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
        largest_rms: Largest root mean square of a data point's entries, data units, for the head "edm_rms". None: as
            `for_data` finds it beside sigma_data, else twice that.
    """

    head: str = "noise"
    mode: Mode = "ode"
    objective: str = "own"
    large_batch: int | str = 512
    sigma_data: float | None = None
    largest_rms: float | None = None

    def __post_init__(self) -> None:
        large, data, rms = self.large_batch, self.sigma_data, self.largest_rms
        require(
            type(self).__name__,
            {
                "head": (self.head, self.head in self.heads(), f"one of {', '.join(self.heads())}"),
                "mode": (self.mode, self.mode in ("ode", "sde"), "'ode' or 'sde'"),
                "objective": (self.objective, self.objective in OBJECTIVES, " or ".join(OBJECTIVES)),
                "large_batch": (large, large == "all" or is_count(large, 0), "a whole number of at least 0, or 'all'"),
                "sigma_data": (data, data is None or is_positive(data), "a number above 0"),
                "largest_rms": (rms, rms is None or is_positive(rms), "a number above 0"),
            },
        )
        if self.mode == "sde" and self.why_not("sde"):
            raise ValueError(f"{type(self).__name__}: mode = 'sde' is not possible: {self.why_not('sde')}")
        self.extra_channels = self.prediction.extra_channels
        averages = self.objective == "stable" or not self.prediction.linear
        self.reference_batch = (sys.maxsize if large == "all" else int(large)) if averages else 0
        super().__post_init__()

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
        if self.head == "edm_rms":
            return EDMRMS(self.data_scale, self.largest_rms or 2 * self.data_scale)
        if self.head == "edm":
            return EDM(self.data_scale)
        return Score() if self.head == "score" else HEADS[self.head]()

    def for_data(self, x: Tensor) -> Self:
        """With sigma_data and largest_rms, where an option wants them and they were not given, from data (n, *): the
        standard deviation of all entries, and the largest root mean square of a point's."""
        wanted = self.head in ("edm", "edm_rms") or self.weighting in DATA_WEIGHTS or self.relative
        if not wanted or self.sigma_data is not None:
            return self
        found = {**self.config(), "sigma_data": float(in_float64(x).std(correction=0)) or 1.0}
        if self.head == "edm_rms" and self.largest_rms is None:
            found["largest_rms"] = float(in_float64(x).flatten(1).square().mean(1).max().sqrt()) or 1.0
        return type(self)(**found)

    # ---- training ----------------------------------------------------------------------------------------

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
        return Perturbed(x_t, t, target, self.weight_like(t, x_t))

    def row_numbers(self, t: Tensor) -> dict[str, Any]:
        more = {"condition": self.condition(t), "noise_level": self.noise_level(t)}
        if self.weighting == "unit" or not self.prediction.by_state:
            more["weight"] = self.weight(t)
        return {**super().row_numbers(t), **more}

    def weight_like(self, t: Tensor, x_t: Tensor) -> Tensor:
        """`weight` at x_t in its dtype and on its device."""
        if self.weighting != "unit" and self.prediction.by_state:
            return self.weight(t, x_t).to(x_t.device, x_t.dtype)
        if crosses(t, x_t):
            return self._rows.get(t, x_t, lambda: self.row_numbers(t.double()))["weight"]
        return self.weight(t).to(x_t.device, x_t.dtype)

    def average_target(self, x: Tensor, x_t: Tensor, t: Tensor, refs: Tensor | Shard | None) -> Tensor:
        """What the backbone should answer at x_t, from E[X | x_t] over the batch and the references."""
        mean = posterior_mean(x_t, t, [x] if refs is None else [x, refs], self)
        return self.prediction.encode(mean, x_t, self.at(t, x_t))

    @property
    def takes_parts(self) -> bool:  # type: ignore[override]
        return type(self).average_target is AffineProcess.average_target

    @property
    def averages(self) -> bool:
        return self.is_affine and (self.objective == "stable" or not self.prediction.linear)

    def own_class(self, pairs: Perturbed, labels: Tensor, points: Tensor, classes: Tensor) -> Perturbed:
        """Over all classes the average would be E[X | x_t]; a row of class c is to learn E[X | x_t, c]."""
        if not self.averages:
            return pairs
        mean = posterior_mean(pairs.x_t, pairs.t, points, self, (labels, classes))
        target = self.prediction.encode(mean, pairs.x_t, self.at(pairs.t, pairs.x_t))
        return pairs._replace(target=torch.where(like_rows(labels == NO_CLASS, target), pairs.target, target))

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
        """How velocity, means and score follow from x and `Head.regressor`, as numbers: at one time of a linear head.

        Kept, since a solver asks at the times of its grid in every batch; None where there is no such rule.
        """
        if t.ndim or t.requires_grad or not (self._has_rules and x.is_floating_point()):
            return None

        def make() -> Rule:
            self.check_time(t)
            return self._rules_at([float(t)])[0]

        found: Rule = self._rules.get(float(t), make)
        return found

    @cached_property
    def _has_rules(self) -> bool:
        return self.prediction.linear and self.is_affine

    def _rules_at(self, times: list[float]) -> list[Rule]:
        t, one = torch.tensor(times, dtype=torch.float64), torch.ones(len(times), 1, dtype=torch.float64)
        c = Coefficients(*(over(value, one).expand(len(t), 1) for value in self.coefficients(t)))
        return linear_rules(self.prediction.linear_head, c)

    def prepare(self, t: Tensor, x: Tensor, *, noise_level: bool) -> None:
        super().prepare(t, x, noise_level=noise_level)
        low, high = sorted(self.training_interval)
        new = [s for s in t.tolist() if low <= s <= high and s not in self._rules] if self._has_rules else []
        for s, rule in zip(new, self._rules_at(new) if new else [], strict=True):
            self._rules.put(s, rule)

    def numbers(self, t: Tensor, x: Tensor) -> list[Tensor]:
        found = super().numbers(t, x)
        if not self.is_affine:
            return found
        return found + self.prediction.table(Coefficients(*(v[:, None] for v in found)), dimension(x))

    def at(self, t: Tensor, x: Tensor) -> Coefficients:
        moment = self._moments.get(id(t))
        if moment is not None and moment.fits(x) and moment.at is not None and moment.at.b.ndim == x.ndim:
            return moment.at
        return super().at(t, x)

    def terms(self, names: Sequence[str], output: Tensor, x: Combination, t: Tensor) -> list[Combination]:
        if "score" in names and self.why_not("score"):
            raise ValueError(self.why_not("score"))
        state = x.value()
        if rule := self.rule(state, t):
            output = self._regressor(output, state, t, rule)
            return [combined(x, output, getattr(rule, name)) for name in names]
        if t.ndim or t.requires_grad or not isinstance(self.prediction, PoissonField) or not self.is_affine:
            return self._computed(names, output, x, t)
        self.check_time(t)
        c = self.at(t, state)
        slope = Combination.of(output[:, :-1], per=self.prediction.divisor(output, state, c))
        return [x - self.schedule_at(t)[1] * slope if name == "data" else slope for name in names]

    def _regressor(self, output: Tensor, x: Tensor, t: Tensor, rule: Rule) -> Tensor:
        head = self.prediction
        if not head.by_state:
            return output
        if quick_on_host(x, output):
            return head.on_host(output, x, rule.a, rule.b)
        return head.regressor(output, x, self.at(t, x), rule.a)

    def _computed(self, names: Sequence[str], output: Tensor, x: Combination, t: Tensor) -> list[Combination]:
        if "base" not in names:
            return super().terms(names, output, x, t)
        self.check_time(t)
        data, base = self.prediction.decode(output, x.value(), self.at(t, x.value()))
        return [Combination.of(data), Combination.of(base)]

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if rule := self.rule(x, t):
            return mix(x, self._regressor(output, x, t, rule), rule.velocity)
        c = self.at(t, x)
        table = getattr(c, "table", None)
        if table is not None and self.prediction.linear:  # announced times, so they are inside
            of_x, of_output = (like_rows(factor, x) for factor in table[-2:])
            return torch.addcmul(of_x * x, of_output, self.prediction.regressor(output, x, c))
        self.check_time(t)
        return self.prediction.velocity(output, x, c)

    def data_mean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if rule := self.rule(x, t):
            return mix(x, self._regressor(output, x, t, rule), rule.data)
        self.check_time(t)
        return self.prediction.decode(output, x, self.at(t, x))[0]

    def ddim_step(self, output: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """a(s) X̂ + b(s) N̂."""
        if not (t.ndim or s.ndim) and self.is_affine:
            means = self.terms(("data", "base"), output, Combination.of(x), t)
            then = self.rule(x, s)
            if then is None:
                self.check_time(s)
            a, b = (then.a, then.b) if then else self.schedule_at(s)
            return (a * means[0] + b * means[1]).value()
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
            return mix(x, self._regressor(output, x, t, rule), rule.score)
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
