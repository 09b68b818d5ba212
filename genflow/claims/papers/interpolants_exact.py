"""Studies of interpolants between Gaussian mixtures in the plane, whose b and s are known. Torch is imported inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genflow.bench.rows import Row
from genflow.claims.papers.measuring import mean_row
from genflow.claims.recipe import Work
from genflow.claims.results import EXACT, row
from genflow.estimates import Estimate, mean

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.process.distributions import GaussianMixture
    from genflow.process.interpolant import Interpolant


@dataclass(frozen=True)
class Size:
    """How much a study does: samples, calls of the fine solves, training steps, and seeds of a training."""

    samples: int
    calls: int
    steps: int
    seeds: int


SIZES = {"small": Size(2000, 200, 600, 3), "full": Size(20_000, 500, 20_000, 5)}
KL = "KL[nats]"
EPSILONS = (0.0, 0.1, 0.3, 1.0, 3.0)
FIELDS = {"exact": (0.0, 0.0), "b wrong": (0.6, 0.0), "s wrong": (0.0, 1.2), "both wrong": (0.6, 1.2)}
"""Size of the error in b and in s, by name."""
NEIGHBOURS = 4
"""Of the entropy estimate."""


def target() -> GaussianMixture:
    """Five unequal lumps on a ring: the data."""
    from genflow.process.distributions import GaussianMixture

    angles = [2 * math.pi * k / 5 for k in range(5)]
    return GaussianMixture([[2 * math.cos(a), 2 * math.sin(a)] for a in angles], 0.35, weights=(3, 1, 2, 1, 2))


def kl_of(x: Tensor, law: GaussianMixture) -> Estimate:
    """KL divergence of points (n, N) from a known density, nats: −entropy − E log p, with the entropy by nearest
    neighbours (Kozachenko & Leonenko 1987)."""
    import torch
    from scipy.spatial import cKDTree
    from scipy.special import digamma, gammaln

    count, dim = x.shape
    reach = cKDTree(x.numpy()).query(x.numpy(), NEIGHBOURS + 1)[0][:, -1]
    ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    entropy = digamma(count) - digamma(NEIGHBOURS) + ball + dim * torch.from_numpy(reach).clamp_min(1e-12).log()
    return mean((-entropy - law.log_density(x.double(), 1.0, 0.0)).tolist())


def interpolant(name: str = "si_linear", **options: Any) -> Interpolant:
    """An interpolant in the plane by its SDE, whose head has b and s apart."""
    import genflow

    process: Any = genflow.get_process(name, **{"mode": "sde", **options})
    return process


def drawn_kl(process: Any, backbone: Any, solver: Any, count: int, nfe: int) -> tuple[Estimate, float]:
    """KL divergence of samples from the target, and their calls."""
    from genflow.sampling import sample

    found = sample(process, backbone, solver, count, nfe=nfe, seed=0, shape=(2,))
    return kl_of(found.x.cpu(), target()), found.nfe


def _kl_row(metric: str, found: tuple[Estimate, float], count: int, what: str, **more: Any) -> Row:
    words = f"KL of {count} samples from the known density by nearest neighbours, nats: {what}"
    fields = {"backbone": EXACT, "dataset": "five lumps", "nfe": found[1], **more}
    return row(metric, found[0].value, protocol=words, n=count, stderr=found[0].error, **fields)


# ---- KL against ε ----------------------------------------------------------------------------------------------------


def at_epsilon(epsilon: float) -> str:
    """The KL divergence at an ε, as rows call it."""
    return f"{KL} at ε = {epsilon:g}"


def wrong(oracle: Callable[..., Tensor], of_b: float, of_s: float) -> Callable[..., Tensor]:
    """A backbone whose b and s are off by smooth fields of these root mean squares per entry."""
    import torch

    def call(x: Tensor, condition: Tensor) -> Tensor:
        waves = math.sqrt(2) * torch.cat([of_b * (2 * x.flip(1)).sin(), of_s * (2 * x).cos()], 1)
        return oracle(x, condition) + waves

    return call


def against_epsilon(work: Work) -> list[Row]:
    """KL of the SDE's samples at every ε under exact and wrong fields, and the bound that the errors give."""
    import genflow
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS

    size = SIZES[work.scale]
    process = interpolant(gamma="brownian", head="velocity_score", channels=2)
    oracle = process.oracle(target())
    rows, lines = [], []
    for k, (name, (of_b, of_s)) in enumerate(FIELDS.items()):
        found = []
        for epsilon in EPSILONS:
            solver = genflow.get_solver("euler_maruyama", diffusion=epsilon, epsilon="constant")
            one = drawn_kl(process, wrong(oracle, of_b, of_s), solver, size.samples, size.calls)
            rows.append(_kl_row(at_epsilon(epsilon), one, size.samples, "Euler–Maruyama, constant ε", process=name))
            found.append(one[0])
            if epsilon:
                bound = of_b**2 * 2 / (2 * epsilon) + epsilon / 2 * of_s**2 * 2
                words = "∫E|δb|²/(2ε) + ε ∫E|δs|²/2 of the errors that were put in, two entries"
                rows.append(row(f"bound at ε = {epsilon:g}", bound, protocol=words, n=1, process=name, backbone=EXACT))
        lines.append(Curve(name, [max(e, 0.03) for e in EPSILONS], found, COLOURS[k], k))
    picture = work.picture("epsilon.png", "KL divergence of samples against ε (ε = 0 is drawn at 0.03)")
    curves(picture, {"": lines}, Axes("ε", "KL divergence, nats", places=[0.03, *EPSILONS[1:]]))
    return rows


# ---- shapes and kinds ------------------------------------------------------------------------------------------------

SHAPES = ("none", "brownian", "quadratic", "sin_squared")
FEW = (5, 10, 20)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "one-sided linear": ("si_linear", {"head": "data"}),
    "one-sided trigonometric": ("si_trig", {"head": "data"}),
    "one-sided VP": ("vp_sde", {"head": "data"}),
    "two-sided, brownian γ": ("si_linear", {"gamma": "brownian", "head": "velocity_denoiser", "channels": 2}),
    "encoding-decoding": ("si_encdec", {"head": "data"}),
    "mirror": ("si_mirror", {"head": "data"}),
}


def at_calls(calls: int) -> str:
    """The KL divergence at a number of calls, as rows call it."""
    return f"{KL} at {calls} calls"


def gamma_shapes(work: Work) -> list[Row]:
    """KL of the ODE's samples at few and many calls by the shape of γ, from one mixture to another."""
    import genflow
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS

    size, rows, lines = SIZES[work.scale], list[Row](), []
    source = {"means": [[-2.0, 0.0], [2.0, 0.0]], "std": 0.35}
    for k, shape in enumerate(SHAPES):
        process = interpolant(mode="ode", gamma=shape, source="mixture", source_options=source)
        oracle, found = process.oracle(target()), []
        for calls in (*FEW, size.calls):
            one = drawn_kl(process, oracle, genflow.get_solver("heun"), size.samples, calls)
            rows.append(
                _kl_row(at_calls(calls), one, size.samples, "Heun, exact field, from two lumps", process=f"γ {shape}")
            )
            found.append(one[0])
        lines.append(Curve(f"γ {shape}", [*FEW, size.calls], found, COLOURS[k], k))
    picture = work.picture("gamma.png", "KL divergence against calls of Heun by the shape of γ, exact fields")
    curves(picture, {"": lines}, Axes("network calls", "KL divergence, nats", places=[*FEW, size.calls]))
    return rows


def kinds(work: Work) -> list[Row]:
    """KL of the SDE's samples of every kind of interpolant under its exact field."""
    import torch

    import genflow

    size, rows = SIZES[work.scale], []
    points = target().sample((size.samples, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    for name, (process_name, options) in KINDS.items():
        process = interpolant(process_name, **options).for_data(points)
        solver = genflow.get_solver("euler_maruyama")
        one = drawn_kl(process, process.oracle(target()), solver, size.samples, size.calls)
        rows.append(
            _kl_row(KL, one, size.samples, "Euler–Maruyama, the process's own ε", process=name, solver="euler_maruyama")
        )
    one = kl_of(points, target()), math.nan
    return [*rows, _kl_row(KL, one, size.samples, "as many draws of the density itself", process="data", nfe=None)]


# ---- the exact field's laws ------------------------------------------------------------------------------------------

LAWS = ("continuity equation", "b = v − γ γ' s", "score of the density")


def mixture_laws(work: Work) -> list[Row]:
    """Residuals of the laws that exact b and s obey, relative, over points and times."""
    import torch

    rows = []
    for shape in SHAPES[1:]:
        process = interpolant(gamma=shape, head="velocity_score", channels=2)
        oracle, found = process.oracle(target()), [list[float]() for _ in LAWS]
        x = 3 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for at in (0.2, 0.5, 0.8):
            t = torch.tensor(at, dtype=torch.float64)
            for k, residual in enumerate(_residuals(process, oracle, x, t)):
                found[k].append(residual)
        for law, values in zip(LAWS, found, strict=True):
            words = "largest residual over its terms' size, root mean squares over 400 points, three times"
            rows.append(row(law, max(values), protocol=words, n=400, stderr=0.0, process=f"γ {shape}", backbone=EXACT))
    return rows


def _residuals(process: Any, oracle: Any, x: Tensor, t: Tensor) -> Sequence[float]:
    import torch

    field, h = process.field(oracle), 1e-4
    velocity, score = field.velocity_and_score(x, t)
    data, base, _ = oracle.means(x, t)
    c = process.at(t, x)
    rate = (oracle.log_prob(x, t + h) - oracle.log_prob(x, t - h)) / (2 * h)
    steps = h * torch.eye(2, dtype=x.dtype)
    spread = sum(((field.velocity(x + e, t) - field.velocity(x - e, t)) @ e) / (2 * h * h) for e in steps)
    law = oracle.score(x, t)
    flow = rate + spread + (velocity * law).sum(1)
    plain = c.da * data + c.db * base
    own = velocity - (plain - c.gdg * score)
    pairs = ((flow, rate), (own, velocity), (score - law, law))
    return [float(a.square().mean().sqrt() / b.square().mean().sqrt()) for a, b in pairs]


# ---- the SDE's likelihood --------------------------------------------------------------------------------------------

BOUND, ODE, TRUTH = "SDE bound, nats", "ODE, nats", "density, nats"


def sde_bound(process: Any, backbone: Any, x: Tensor, epsilon: float, steps: int, seed: int = 0) -> Tensor:
    """A lower bound, in expectation, of log p(x) of the SDE's discrete chain from the prior: (B,), nats.

    Generative steps are N(x + h (v + ε s), 2 ε h) from the prior to the data, those of the proposal run back from x as
    N(x − h (v − ε s), 2 ε h); E_q[log p_0(x_0) + Σ log p(x_{k+1} | x_k) − log q(x_k | x_{k+1})] ≤ log p(x) by Jensen,
    with equality as h → 0 where v and s are exact.
    """
    import torch

    field, noise = process.field(backbone), torch.Generator().manual_seed(seed)
    grid = process.grid(steps).flip(0)  # from the data to the prior
    found = torch.zeros(len(x), dtype=torch.float64)
    v, s = field.velocity_and_score(x, grid[0])
    for early, late in zip(grid[1:], grid[:-1], strict=True):
        h = abs(float(late - early))
        drawn = torch.randn(x.shape, generator=noise, dtype=x.dtype)
        back = x - h * (v - epsilon * s) + math.sqrt(2 * epsilon * h) * drawn
        v, s = field.velocity_and_score(back, early)
        gap = x - back - h * (v + epsilon * s)
        found += (drawn.square().sum(1) / 2 - gap.square().sum(1) / (4 * epsilon * h)).double()
        x = back
    return found + process.log_prior(x.double())


def likelihoods(work: Work) -> list[Row]:
    """The SDE's bound and the ODE's likelihood of draws of the density, exact and with a wrong score."""
    import torch

    from genflow.likelihood import log_likelihood
    from genflow.solver.adaptive import RK45

    size = SIZES[work.scale]
    process = interpolant(gamma="brownian", head="velocity_score", channels=2)
    oracle, count = process.oracle(target()), size.samples // 4
    x = target().sample((count, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    truth = target().log_density(x, 1.0, 0.0)
    fields: dict[str, Any] = {"backbone": EXACT, "dataset": "five lumps"}
    rows = [mean_row(TRUTH, truth, "mean log density of draws of it", process="data", **fields)]
    for name in ("exact", "s wrong"):
        backbone = wrong(oracle, *FIELDS[name])
        bound = sde_bound(process, backbone, x, 0.5, 4 * size.calls)
        ode = log_likelihood(process, backbone, x, solver=RK45(1e-4, 1e-4), trace="exact")
        words = f"evidence bound of the discrete chain, ε = 0.5, {4 * size.calls} steps, less the density's"
        rows.append(mean_row(BOUND, bound - truth, words, process=name, **fields))
        rows.append(
            mean_row(ODE, ode.log_prob - truth, "exact trace, RK45 at 1e-4, less the density's", process=name, **fields)
        )
    return rows


# ---- what is learnt --------------------------------------------------------------------------------------------------

LEARNT = {"b": "b, error", "v": "b from v and η, error", "s": "γ s, error", "η": "γ s from η, error"}
"""What a network learns, and the error that it is judged by."""


def learnt(work: Work) -> list[Row]:
    """Errors of b learnt as such and as v, and of the score learnt as such and as η, at equal training."""
    import torch

    size = SIZES[work.scale]
    process = interpolant(gamma="brownian", head="velocity_score", channels=2)
    oracle, rows = process.oracle(target()), []
    for seed in range(size.seeds):
        nets = {name: _fit(process, name, size.steps, seed) for name in LEARNT}
        draw = torch.Generator().manual_seed(99)
        x, noise, z, t = _draws(size.samples, draw)
        c = process.at(t, x)
        state = c.a * x + c.b * noise + c.g * z
        with torch.no_grad():
            out = {name: net(state, t.float()) for name, net in nets.items()}
            exact_b, exact_s = process.field(oracle).velocity_and_score(state, t)
        rate = c.gdg / c.g
        errors = {
            "b": out["b"] - exact_b,
            "v": out["v"] + rate * out["η"] - exact_b,
            "s": c.g * (out["s"] - exact_s),
            "η": -out["η"] - c.g * exact_s,
        }
        for name, error in errors.items():
            words = (
                f"mean squared error against the exact field over {size.samples} draws, {size.steps} steps of an MLP"
            )
            more: dict[str, Any] = {"process": name, "backbone": "mlp", "dataset": "five lumps", "seed": seed}
            rows.append(mean_row(LEARNT[name], error.double().square().sum(1), words, **more))
    return rows


def _draws(count: int, generator: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data, base, latent (count, 2), and times (count,) within 1e-2 of neither end."""
    import torch

    x = target().sample((count, 2), generator=generator, dtype=torch.float32)
    noise, z = (torch.randn(count, 2, generator=generator) for _ in range(2))
    return x, noise, z, 0.01 + 0.98 * torch.rand(count, generator=generator, dtype=torch.float64)


def _fit(process: Any, what: str, steps: int, seed: int) -> Any:
    """An MLP that has learnt one of `LEARNT` by its own quadratic loss."""
    import torch

    import genflow

    torch.manual_seed(seed)
    net = genflow.get_backbone("mlp", shape=(2,), width=64)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for k in range(steps):
        x, noise, z, t = _draws(256, generator)
        c = process.at(t, x)
        plain = c.da * x + c.db * noise
        goal = {"b": plain + c.gdg / c.g * z, "v": plain, "s": -z / c.g, "η": z}[what]
        loss = (net(c.a * x + c.b * noise + c.g * z, t.float()) - goal).square().sum(1).mean()
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - k / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()
