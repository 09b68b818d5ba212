"""Figures of trained models: guidance by a classifier's gradient, identifiable encodings, nearest neighbours.

All read the models of `pfgm_speed` at the small scale. Torch is imported inside.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genflow.bench.rows import Row
from genflow.claims.claim import Claim, Judge, Verdict
from genflow.claims.judge import less, of, of_numbers
from genflow.claims.papers.measuring import mean_row, opened
from genflow.claims.papers.sources import POISSON, SONG, VP_ODE, XU, score_sde
from genflow.claims.recipe import Recipe, Variant, Work, both, unpublished
from genflow.claims.results import Number
from genflow.estimates import exact, judge

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.data.base import Dataset
    from genflow.process.base import Process

SIZES = {"small": (200, 600), "full": (5000, 20_000)}
"""Samples of each setting, and training steps of the classifier."""
_CHEAP = ("solver=[heun]", "nfe=[20]")
_FULL = ("solver=[rk45]",)
_NOTE = "Published terms. At the small scale digits and the MLPs of pfgm_speed."

# ---- a classifier's gradient -----------------------------------------------------------------------------------------

WEIGHTS = (0.0, 1.0, 3.0)


def right_at(weight: float) -> str:
    """The share of samples of the class that was asked for, as rows call it."""
    return f"of the class asked for, %, w = {weight:g}"


def noisy_classifier(process: Process, data: Dataset, steps: int, seed: int = 0) -> Any:
    """A classifier of noisy states (x (B, *), t ()) -> logits, trained at all times of the process."""
    import torch
    from torch import nn

    labels = data.labels("train")
    assert labels is not None
    x, classes = data.scaling.encode(data.train, torch.Generator().manual_seed(seed)), int(labels.max()) + 1
    size = math.prod(x.shape[1:])
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(size + 2, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, classes))

    def logits(x: Tensor, t: Tensor) -> Tensor:
        c = process.at(t, x)
        level = (c.b / c.a).log().reshape(-1, 1).expand(len(x), 1).to(x)
        unit = x.flatten(1) / (c.a**2 + c.b**2).sqrt().reshape(-1, 1).to(x)
        found: Tensor = net(torch.cat([unit, level / 4, torch.tanh(level)], 1))
        return found

    optimiser, generator = torch.optim.Adam(net.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,), generator=generator)
        pairs = process.perturb(x[rows], generator=generator)
        loss = nn.functional.cross_entropy(logits(pairs.x_t, pairs.t), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.requires_grad_(False)
    return logits


def guided_samples(work: Work) -> list[Row]:
    """Samples of every class by the gradient of a noisy classifier, judged by another one."""
    import torch

    import genflow
    from genflow.process.classifier_guidance import ClassifierField
    from genflow.report.pictures import save_rows
    from genflow.solver.noise import Noise

    (count, steps), rows, shown = SIZES[work.scale], list[Row](), {}
    for name, seed, process, backbone, data in opened(work):
        classifier = noisy_classifier(process, data, steps, seed)
        towards = torch.arange(count) % int(data.labels("train").max() + 1)  # type: ignore[union-attr]
        start = process.sample_prior((count, *data.shape), generator=torch.Generator().manual_seed(seed))
        for weight in WEIGHTS:
            field = ClassifierField(process, backbone, classifier, towards, weight)
            found = genflow.get_solver("heun").solve(field, start, nfe=40, noise=Noise(seed, range(count)))
            raw = data.scaling.decode(found.x)
            hit = 100.0 * (_judged(raw, data) == towards).double()
            words = (
                "share that the classifier of the class score, which gave no gradient, assigns to the class asked for"
            )
            fields: dict[str, Any] = {"process": name, "seed": seed, "dataset": data.name, "backbone": "of the bench"}
            fields |= {"solver": "heun", "nfe": found.nfe}
            rows.append(mean_row(right_at(weight), hit, words, **fields))
            if seed == 0:
                shown[f"w = {weight:g}"] = raw[:10][None].numpy()
    if shown:
        save_rows(work.picture("guided.png", "Samples guided towards 0 to 9"), shown, data.scaling.levels)
    return rows


def _judged(raw: Tensor, data: Dataset) -> Tensor:
    """Class of each raw example (B, *), by the network of the class score where there is one for the data."""
    from genflow.evaluate.features import own_space, shipped_space

    space = shipped_space(own_space(data.name))
    if space.logits is None:
        raise ValueError(f"no network that knows the classes of {data.name} ships, so guidance is not judged")
    found: Tensor = space.logits(space.features(raw)).argmax(1)
    return found


def _right(process: str) -> Judge:
    def decide(found: Number) -> Verdict:
        return Verdict(
            judge(found - exact(50)), f"{found} % of the samples at w = 1, above 50 wanted; a tenth by chance"
        )

    return of_numbers({process: of(process, right_at(1.0))}, decide)


_GUIDED = ("vp_ode", "subvp_ode")
gradient = Recipe(
    name="sde_class_gradient",
    title="Score SDEs: class-conditional samples by a classifier's gradient",
    paper=SONG,
    claim="An unconditional score model makes samples of a class by the gradient of a classifier of noisy states.",
    comparisons=unpublished(
        (f"{name}: {right_at(w)}", both(of(name, right_at(w)))) for name in _GUIDED for w in WEIGHTS
    ),
    claims=(
        *(Claim(f"{name}: most samples are of the class asked for.", _right(name)) for name in _GUIDED),
        *(
            Claim(
                f"{name}: a weight of 3 gives more of them than Bayes' rule's 1.",
                less(of(name, right_at(1.0)), of(name, right_at(3.0)), ("w = 1", "w = 3")),
            )
            for name in _GUIDED
        ),
    ),
    parts={
        "small": (Variant("sde_class_gradient_small", "pfgm_speed_small", ("process=[vp_ode, subvp_ode]", *_CHEAP)),),
        "full": (Variant("sde_class_gradient_full", "sde_cifar10_full", ("process=[vp_ode]", *_FULL)),),
    },
    weights={"sde_class_gradient_full": (VP_ODE,)},
    study=guided_samples,
    notes=(
        _NOTE,
        "The paper shows pictures. The classifier is trained by the recipe; the one that judges is that of the class "
        "score. None ships for CIFAR-10, so the full scale says that guidance is not judged there.",
    ),
)

# ---- identifiable encodings ------------------------------------------------------------------------------------------

SAME, OTHER = "rms between two networks' codes of an image", "rms between codes of two images"


def encodings(work: Work) -> list[Row]:
    """Codes of test images by independently trained networks, against codes of other images."""
    import torch

    from genflow.latent import encode
    from genflow.report.style import new_axes, save_figure

    codes: dict[str, list[Tensor]] = {}
    for part in work.benches:
        for name, _, process, backbone, data in opened(work, part):
            raw = data.examples("test", torch.arange(min(SIZES[work.scale][0] // 2, data.count("test"))))
            x = data.scaling.encode(raw, torch.Generator().manual_seed(0)).to(next(backbone.parameters()).device)
            found = encode(process, backbone, x, batch_size=100).x.cpu().double().flatten(1)
            codes.setdefault(name, []).append(found / found.square().mean().sqrt())
    rows = []
    for name, (first, *others) in codes.items():
        fields: dict[str, Any] = {"process": name, "backbone": "of the bench", "solver": "rk45", "dataset": data.name}
        gaps = torch.stack([(one - first).square().mean(1).sqrt() for one in others]).mean(0) if others else None
        if gaps is None:
            continue
        words = f"codes at unit rms; {len(others) + 1} networks of other seeds or widths"
        rows.append(mean_row(SAME, gaps, words, **fields))
        rows.append(mean_row(OTHER, (first - first.roll(1, 0)).square().mean(1).sqrt(), words, **fields))
        figure, left = new_axes(4.4, 4.0)
        left.scatter(first[:40].flatten(), others[0][:40].flatten(), s=3, alpha=0.4)
        left.set(xlabel="code by one network", ylabel="code by another", title=name)
        save_figure(
            figure, work.picture(f"codes_{name}.png", f"Entries of codes of test images by two networks, {name}")
        )
    return rows


_ENCODED = ("vp_ode", "pfgm")
encoding = Recipe(
    name="sde_encoding",
    title="Score SDEs: uniquely identifiable encodings",
    paper=SONG,
    claim="The ODE's code of an image is determined by the data's distribution, so two networks, trained "
    "independently, give nearly the same.",
    comparisons=unpublished((f"{name}: {what}", both(of(name, what))) for name in _ENCODED for what in (SAME, OTHER)),
    claims=tuple(
        Claim(
            f"{name}: two networks' codes of an image are nearer than codes of two images.",
            less(of(name, SAME), of(name, OTHER), ("same image", "other image")),
        )
        for name in _ENCODED
    ),
    parts={
        "small": (
            Variant("sde_encoding_small", "pfgm_speed_small", ("process=[vp_ode, pfgm]", "seed=[0, 1]", *_CHEAP)),
            Variant(
                "sde_encoding_wide_small",
                "pfgm_speed_small",
                ("process=[vp_ode, pfgm]", "seed=[2]", "backbone_options={mlp: {width: 192}}", *_CHEAP),
            ),
        ),
        "full": (
            Variant("sde_encoding_full", "sde_cifar10_full", ("process=[vp_ode]", *_FULL)),
            Variant(
                "sde_encoding_ddpm_full",
                "sde_cifar10_full",
                (
                    *("process=[vp_ode]", *_FULL, "backbone=ddpm"),
                    "backbone_options={ddpm: {size: cifar10, time_scale: 999, normalise: false}}",
                ),
            ),
        ),
    },
    weights={
        "sde_encoding_full": (VP_ODE,),
        "sde_encoding_ddpm_full": (score_sde("vp/ddpm/cifar10_continuous", "vp_ode"),),
    },
    study=encodings,
    notes=(
        _NOTE,
        "Errors are over images: the networks are few, so a verdict is on these networks.",
    ),
)

# ---- nearest neighbours ----------------------------------------------------------------------------------------------

NEAREST = "rms from the nearest training image"


def neighbours(work: Work) -> list[Row]:
    """Uncurated samples beside their nearest training images, and how near those are, against test images."""
    import numpy as np
    import torch

    from genflow.report.pictures import save_rows
    from genflow.sampling import sample

    rows, count = list[Row](), SIZES[work.scale][0]
    for name, seed, process, backbone, data in opened(work):
        train = data.fitting_points().flatten(1)
        if not rows:
            test = data.examples("test", torch.arange(min(count, data.count("test"))))
            near, _ = _nearest(data.scaling.encode(test, torch.Generator().manual_seed(0)).flatten(1), train)
            rows.append(mean_row(NEAREST, near, "test images", process="data", dataset=data.name))
        device = next(backbone.parameters()).device
        drawn = sample(process, backbone, "heun", count, nfe=50, seed=seed, shape=data.shape, device=device)
        near, which = _nearest(drawn.x.cpu().flatten(1), train)
        fields: dict[str, Any] = {"process": name, "seed": seed, "solver": "heun", "nfe": drawn.nfe}
        words = f"{count} samples, none chosen, root mean square over pixels, data units"
        rows.append(mean_row(NEAREST, near, words, dataset=data.name, backbone="of the bench", **fields))
        if seed == 0:
            pairs = [
                data.scaling.decode(one).numpy() for one in (drawn.x[:12].cpu(), data.fitting_points()[which[:12]])
            ]
            shown = {"samples above, nearest training images below": np.stack(pairs)}
            save_rows(
                work.picture(f"nearest_{name}.png", f"First samples of {name} and their neighbours"),
                shown,
                data.scaling.levels,
            )
    return rows


def _nearest(x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square difference of rows (n, N) to the nearest of points (m, N), and which it is."""
    import torch

    found = torch.cdist(x.double(), points.double()).min(1)
    return found.values / math.sqrt(x.shape[1]), found.indices


def _no_copies(process: str) -> Judge:
    """Claims that samples are at least half as far from the training images as test images are."""

    def decide(own: Number, real: Number) -> Verdict:
        text = f"rms from the nearest training image: samples {own}, test images {real}; half of that wanted"
        half = exact(real.value / 2)
        return Verdict(judge(own - half), text)

    return of_numbers({process: of(process, NEAREST), "data": of("data", NEAREST)}, decide)


nearest = Recipe(
    name="pfgm_nearest",
    title="PFGM: uncurated samples and their nearest neighbours",
    paper=XU,
    claim="Samples are not copies of training images.",
    comparisons=unpublished((name, both(of(name, NEAREST))) for name in ("pfgm", "vp_ode", "data")),
    claims=tuple(
        Claim(f"{name}: samples are no copies of training images.", _no_copies(name)) for name in ("pfgm", "vp_ode")
    ),
    parts={
        "small": (Variant("pfgm_nearest_small", "pfgm_speed_small", ("process=[pfgm, vp_ode]", *_CHEAP)),),
        "full": (Variant("pfgm_nearest_full", "pfgm_cifar10_full"),),
    },
    weights={"pfgm_nearest_full": (POISSON,)},
    study=neighbours,
    notes=(
        _NOTE,
        "The paper shows pictures; distances are in pixels. Half a test image's distance is this recipe's bound.",
    ),
)

RECIPES = (gradient, encoding, nearest)
