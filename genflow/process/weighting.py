"""Which noise levels training draws, and how errors at each level count, in σ = b/a alone.

Every affine path with one base is the same path in σ (`docs/math.md`), so a density and a weight that are functions of
σ mean the same on all of them: equal uniforms give equal σ, and equal errors of X̂ count alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Density(NamedTuple):
    """Mean and standard deviation of ln σ unless they are given; None: ln σ is uniform."""

    mean: float | None
    std: float | None


TIMES: dict[str, Density | None] = {
    "clock": None,
    "log_uniform": Density(None, None),
    "log_normal": Density(-1.2, 1.2),
    "logit_normal": Density(0.0, 1.0),
}
"""Densities of training times. "clock": uniform in the process's own clock, the only one that depends on the path.
"logit_normal": σ/(1 + σ), the time of the linear path, is the logistic of a normal, so that ln σ is that normal itself.

Sources: Karras et al. 2022, arXiv:2206.00364 (log-normal); Esser et al. 2024, arXiv:2403.03206 (logit-normal)."""


def quantile(times: str, u: Tensor, ends: tuple[float, float], mean: float | None, std: float | None) -> Tensor:
    """σ at the quantiles u (B,) of a density that is cut off at the ends, float64.

    Arguments:
        times: A name of `TIMES` other than "clock".
        u: In [0, 1], 0 at the data.
        ends: Smallest and largest σ, data units.
        mean: Of ln σ where it is normal. None: the density's own.
        std: Its standard deviation. None: the density's own.
    """
    density, (low, high) = TIMES[times], torch.tensor(ends, dtype=torch.float64, device=u.device).log()
    assert density is not None
    if density.mean is None or density.std is None:
        return (low + (high - low) * u).exp()
    centre, spread = density.mean if mean is None else mean, density.std if std is None else std
    below, above = torch.special.ndtr((low - centre) / spread), torch.special.ndtr((high - centre) / spread)
    draw = centre + spread * torch.special.ndtri(below + (above - below) * u)
    return draw.clamp(low, high).exp()


SNR_LIMIT = 5.0
"""γ of min-SNR. Source: Hang et al. 2023, arXiv:2303.09556."""


def _edm(sigma: Tensor, data: float) -> Tensor:
    return (sigma.square() + data**2) / (sigma * data).square()


def _min_snr(sigma: Tensor, data: float) -> Tensor:
    return (data / sigma).square().clamp(max=SNR_LIMIT) / data**2


def _velocity(sigma: Tensor, data: float) -> Tensor:
    return ((sigma.square() + data**2) / (sigma * data**2)).square()


DATA_WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {"edm": _edm, "min_snr": _min_snr, "velocity": _velocity}
"""Weights of a squared error of X̂ at σ, for data of standard deviation σ_d: 1/data units².

edm: 1/σ² + 1/σ_d², which is also that of v-prediction. min_snr: min(σ_d²/σ², 5)/σ_d². velocity: ((σ² + σ_d²)/(σ
σ_d²))², an error of dy/dφ with y = x/a and tan φ = σ/σ_d, the angle of the trigonometric path."""

WEIGHTINGS = ("unit", "likelihood", *DATA_WEIGHTS)
"""Names of loss weights: of the head's own errors ("unit"), of the score in the bound on the likelihood, of X̂."""
