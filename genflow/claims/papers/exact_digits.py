"""Recipes on the exact fields of digits: PFGM++'s phase alignment and robustness along D, calls against tolerance.

The papers' figures had no numbers at hand. Nothing is trained. Torch is imported inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genflow.bench.rows import Row
from genflow.claims.claim import Claim, Judge, Verdict
from genflow.claims.judge import less, of, of_numbers
from genflow.claims.papers import pfgmpp
from genflow.claims.papers.measuring import mean_row
from genflow.claims.papers.sources import XU
from genflow.claims.recipe import Recipe, Work, both, unpublished
from genflow.claims.results import EXACT, Number, Results, row
from genflow.estimates import Estimate, all_of, bootstrap, exact, judge, mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Size:
    """How many images are the data, how many states are drawn, and calls of a solve."""

    images: int
    draws: int
    calls: int


SIZES = {"small": Size(300, 800, 35), "full": Size(1500, 5000, 79)}
_NOTE = "Exact fields of 300 digits (full: 1,500), so nothing is trained and nothing but the process differs."


def _points(count: int) -> Tensor:
    """Digits, data units."""
    import torch

    import genflow

    data = genflow.get_dataset("digits")
    return data.scaling.encode(data.train[:count], torch.Generator().manual_seed(0))


def _process(dimension: str, points: Tensor) -> Any:
    import genflow

    return genflow.get_process("pfgmpp", D=pfgmpp.NAMED[dimension], head="data").for_data(points)


# ---- phase alignment -------------------------------------------------------------------------------------------------

DIMENSIONS = ("1", "8", "128", "2048", "∞")
HALF, DRIFT = "ln σ where the posterior is half-way", "field's distance from diffusion's"
SIGMAS = [0.05 * (400 ** (k / 15)) for k in range(16)]


def variation(process: Any, x: Tensor, sigma: float, points: Tensor) -> Tensor:
    """Total variation between the posterior over points (M, *) given states x (n, *) at σ, and their prior: (n,)."""
    import torch

    flat, own = x.flatten(1), points.flatten(1).to(x)
    cross = own.square().sum(1) - 2 * flat @ own.T
    norm2, scale = flat.square().sum(1, keepdim=True), torch.full((len(x), 1), sigma, dtype=x.dtype)
    weights = process.base.log_weights(cross, norm2, scale, own.shape[1]).softmax(1)
    return (weights - 1 / len(points)).abs().sum(1) / 2


def phases(work: Work) -> list[Row]:
    """Where, for each D, the posterior turns from the whole data set to one image; and how far fields are from
    diffusion's there."""
    import torch

    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS

    size, rows, lines = SIZES[work.scale], [], []
    points = _points(size.images).double()
    for k, name in enumerate(DIMENSIONS):
        process, found = _process(name, points.float()), []
        generator = torch.Generator().manual_seed(1)
        for sigma in SIGMAS:
            y = points[torch.randint(len(points), (size.draws,), generator=generator)]
            x = y + sigma * process.base.sample(y.shape, generator=generator, dtype=torch.float64)
            found.append(variation(process, x, sigma, points))
        every = torch.stack(found, 1)
        half = bootstrap(every.numpy(), _half_way, 200)
        words = f"where the mean total variation of posterior and prior over {len(points)} images falls to 1/2"
        fields: dict[str, Any] = {"process": f"D = {name}", "backbone": EXACT, "dataset": "digits"}
        rows.append(row(HALF, half.value, protocol=f"{words}; bootstrap", n=size.draws, stderr=half.error, **fields))
        rows.append(_drift_row(process, points, size.draws, fields))
        lines.append(Curve(f"D = {name}", SIGMAS, [mean(v.tolist()) for v in found], COLOURS[k], k % 4))
    picture = work.picture("phases.png", "Total variation between the posterior over the images and their prior")
    curves(picture, {"": lines}, Axes("σ = r/√D", "total variation", places=(0.05, 0.2, 1, 5, 20)))
    return rows


def _half_way(values: Any) -> float:
    """ln σ where a mean over rows (n, σ) falls through 1/2."""
    import numpy as np

    found = values.mean(0)
    return float(np.interp(-0.5, -found, np.log(SIGMAS)))


def _drift_row(process: Any, points: Tensor, count: int, fields: dict[str, Any]) -> Row:
    """|X̂_D − X̂_∞|²/E|X̂_∞|² at states of the Gaussian path at σ = 1."""
    import torch

    generator, sigma = torch.Generator().manual_seed(2), torch.tensor(1.0, dtype=torch.float64)
    y = points[torch.randint(len(points), (count,), generator=generator)]
    x = y + sigma * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    own, gaussian = (
        one.oracle(points).means(x, sigma)[0].flatten(1) for one in (process, _process("∞", points.float()))
    )
    gap = (own - gaussian).square().sum(1) / gaussian.square().sum(1).mean()
    words = "|X̂_D − X̂_∞|² over E|X̂_∞|² at states of diffusion's path, σ = 1"
    return mean_row(DRIFT, gap, words, **fields)


def _aligned(name: str) -> Judge:
    """Claims that the σ of half-way is that of D → ∞ up to a tenth."""

    def decide(one: Number, other: Number) -> Verdict:
        gap = one - other
        text = f"half-way at σ = {math.exp(one.value):.3g} for D = {name}, {math.exp(other.value):.3g} for ∞: ratio "
        text += f"{math.exp(gap.value):.3g}, allowed 0.9 to 1.1; at equal r it would be "
        text += f"{math.exp(gap.value) * math.sqrt(pfgmpp.NAMED[name] / pfgmpp.NAMED['2048']):.3g} of that of D = 2048"
        width = math.log(1.1)
        return Verdict(all_of([judge(exact(width) - gap), judge(gap - exact(-width))]), text)

    return of_numbers({name: of(f"D = {name}", HALF), "∞": of("D = ∞", HALF)}, decide)


phase = Recipe(
    name="pfgmpp_phases",
    title="PFGM++: phase alignment by r = σ √D",
    paper=pfgmpp.PAPER,
    claim="With r = σ √D the phases of all D, from the whole data set to one image, fall at the same σ, so that "
    "hyper-parameters carry over from diffusion; as D grows the field turns into diffusion's.",
    comparisons=unpublished(
        (f"D = {name}: {metric}", both(of(f"D = {name}", metric))) for metric in (HALF, DRIFT) for name in DIMENSIONS
    ),
    claims=(
        *(
            Claim(f"The phase of D = {name} is that of diffusion, up to a tenth in σ.", _aligned(name))
            for name in DIMENSIONS[:-1]
        ),
        Claim(
            "The field of D = 2048 is nearer to diffusion's than that of D = 128.",
            less(of("D = 2048", DRIFT), of("D = 128", DRIFT), ("D = 2048", "D = 128")),
        ),
    ),
    parts={},
    study=phases,
    notes=(_NOTE,),
)

# ---- robustness along D ----------------------------------------------------------------------------------------------

ALPHAS = (0.0, 0.1, 0.2, 0.5)


def at_noise(alpha: float) -> str:
    """The distance from the data under an α, as rows call it."""
    return f"rms from the nearest image at α = {alpha:g}"


def disturbed(oracle: Any, alpha: float, seed: int = 4) -> Any:
    """A backbone whose X̂ has independent noise of α in every call."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def call(x: Tensor, condition: Tensor) -> Tensor:
        drawn: Tensor = oracle(x, condition) + alpha * torch.randn(x.shape, generator=generator)
        return drawn

    return call


def robustness(work: Work) -> list[Row]:
    """How far samples end from the data where X̂ has noise of α in every call, by D."""
    import torch

    import genflow
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS
    from genflow.sampling import sample

    size, rows = SIZES[work.scale], list[Row]()
    points, found = _points(size.images), dict[float, list[Estimate]]()
    for name in DIMENSIONS:
        process = _process(name, points)
        oracle = process.oracle(points)
        for alpha in ALPHAS:
            drawn = sample(
                process,
                disturbed(oracle, alpha),
                genflow.get_solver("heun", grid="edm(7)"),
                size.draws // 4,
                nfe=size.calls,
                shape=tuple(points.shape[1:]),
            )
            near = torch.cdist(drawn.x.flatten(1), points.flatten(1)).min(1).values / math.sqrt(points[0].numel())
            words = f"Heun, {size.calls} calls, X̂ with independent noise of deviation α in every call, data units"
            fields: dict[str, Any] = {"backbone": EXACT, "dataset": "digits", "solver": "heun", "nfe": drawn.nfe}
            rows.append(mean_row(at_noise(alpha), near, words, process=f"D = {name}", **fields))
            found.setdefault(alpha, []).append(mean(near.tolist()))
    lines = [
        Curve(f"α = {a:g}", range(len(DIMENSIONS)), values, COLOURS[k], k)
        for k, (a, values) in enumerate(found.items())
    ]
    picture = work.picture("robustness.png", "Distance of samples from the nearest image by D, for noise of α in X̂")
    curves(picture, {"": lines}, Axes("D", "rms distance, data units", names=DIMENSIONS))
    return rows


def _robuster(name: str, alpha: float) -> Judge:
    ours, theirs = (of(f"D = {one}", at_noise(alpha)) for one in (name, "∞"))
    return less(ours, theirs, (f"D = {name}", "D = ∞"))


noise = Recipe(
    name="pfgmpp_noise",
    title="PFGM++: robustness to errors of the field along D",
    paper=pfgmpp.PAPER,
    claim="Smaller D tolerates errors of the estimated field better than diffusion.",
    comparisons=unpublished(
        (f"D = {name}: {at_noise(alpha)}", both(of(f"D = {name}", at_noise(alpha))))
        for alpha in ALPHAS
        for name in DIMENSIONS
    ),
    claims=tuple(
        Claim(
            f"With noise of α = {alpha:g} samples of D = {name} end nearer to the data than diffusion's.",
            _robuster(name, alpha),
        )
        for alpha in (0.2, 0.5)
        for name in ("8", "128")
    ),
    parts={},
    study=robustness,
    notes=(_NOTE, "With an exact field every sample is one of the images, so the distance from them is the error."),
)

# ---- calls against tolerance -----------------------------------------------------------------------------------------

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
FLOWS = {
    "PFGM, log z": ("pfgm", "log"),
    "PFGM, z": ("pfgm", "native"),
    "VP": ("vp_ode", ""),
    "sub-VP": ("subvp_ode", ""),
    "VE": ("ve_ode", ""),
}


def at_tolerance(what: str, tolerance: float) -> str:
    """A number of RK45 at a tolerance, as rows call it."""
    return f"{what} at {tolerance:g}"


def tolerances(work: Work) -> list[Row]:
    """Calls and error of RK45 by its tolerance, along the exact field of each process."""
    import torch

    import genflow
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS
    from genflow.solver.adaptive import RK45

    size, rows, lines = SIZES[work.scale], [], []
    points, count = _points(size.images).double(), max(8, size.draws // 50)
    for k, (name, (process_name, clock)) in enumerate(FLOWS.items()):
        process: Any = genflow.get_process(process_name).for_data(points)
        if clock:
            process.clock = clock
        oracle, spent = process.oracle(points), []

        start = process.sample_prior((count, *points.shape[1:]), generator=torch.Generator().manual_seed(0)).double()

        def solve(tolerance: float, process: Any = process, oracle: Any = oracle, start: Tensor = start) -> Any:
            solver = RK45(tolerance, tolerance, max_nfe=100_000)
            found = solver.solve(process.field(oracle), start)
            assert found.nfe_per_sample is not None
            return found.x, found.nfe_per_sample.double()

        best, _ = solve(TOLERANCES[-1] / 10)
        for tolerance in TOLERANCES:
            x, calls = solve(tolerance)
            off = (x - best).flatten(1).square().mean(1).sqrt()
            fields: dict[str, Any] = {"process": name, "backbone": EXACT, "dataset": "digits", "solver": "rk45"}
            fields |= {"nfe": float(calls.mean())}
            words = f"RK45, rtol = atol = {tolerance:g}, exact field"
            rows.append(mean_row(at_tolerance("NFE", tolerance), calls, f"{words}, mean calls", **fields))
            rows.append(mean_row(at_tolerance("error", tolerance), off, f"{words}, rms from a tenth of 1e-5", **fields))
            spent.append(mean(calls.tolist()))
        lines.append(Curve(name, TOLERANCES, spent, COLOURS[k], k % 4))
    picture = work.picture("tolerance.png", "Calls of RK45 against its tolerance along exact fields")
    curves(picture, {"": lines}, Axes("rtol = atol", "NFE", places=TOLERANCES))
    return rows


def _twice(results: Results) -> Verdict:
    """The change of variable's factor at 1e-4, the tolerance of the authors' code."""

    def decide(log: Number, plain: Number) -> Verdict:
        twice = Estimate(2 * log.value, 2 * log.error, log.n)
        return Verdict(judge(plain - twice), f"NFE at 1e-4: log z {log}, z {plain}; twice wanted")

    query = at_tolerance("NFE", 1e-4)
    return of_numbers({"log z": of("PFGM, log z", query), "z": of("PFGM, z", query)}, decide)(results)


tolerance = Recipe(
    name="pfgm_tolerance",
    title="PFGM: calls against tolerance, and z against log z",
    paper=XU,
    claim="Stepping in log z halves the calls of an adaptive solver; they grow slowly as the tolerance falls.",
    comparisons=unpublished(
        (f"{name}: {at_tolerance(what, one)}", both(of(name, at_tolerance(what, one))))
        for what in ("NFE", "error")
        for one in TOLERANCES
        for name in FLOWS
    ),
    claims=(
        Claim("In log z RK45 takes half the calls that it takes in z, or fewer.", _twice),
        *(
            Claim(
                f"At 1e-4 PFGM's field takes fewer calls than {name}'s.",
                less(
                    of("PFGM, log z", at_tolerance("NFE", 1e-4)),
                    of(name, at_tolerance("NFE", 1e-4)),
                    ("PFGM", name),
                    "NFE",
                ),
            )
            for name in ("VP", "VE")
        ),
    ),
    parts={},
    study=tolerances,
    notes=(_NOTE, "Published terms: each process has its own clock, range and end."),
)

RECIPES = (phase, noise, tolerance)
