"""Studies of interpolants: fitted Gaussians, the board's light squares, learnt paths. Torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genflow.bench.rows import Row
from genflow.claims.papers.measuring import drawn_points, mean_row, outside_row, scatter, train_config
from genflow.claims.recipe import Work
from genflow.claims.results import row

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.config import TrainConfig
    from genflow.data.base import Dataset
    from genflow.process.base import Process
    from genflow.transport import LearntPath

GAUSSIAN, NATS = "fitted Gaussian", "nll[nats]"
OUTSIDE, MAPPED = "on light squares, %", "si_trig from eight Gaussians"
LENGTH, FUNCTIONAL, DIVERGENCE = "path length", "−G, a lower bound of it", "KL from the data, nats"
BOUND, CALLS = "squared Wasserstein distance", "NFE of RK45 at 1e-5"
"""Names of what is measured, in the rows and in the recipes that read them."""

# ---- tables ----------------------------------------------------------------------------------------------------------


def fitted_gaussians(work: Work) -> list[Row]:
    """Negative log likelihood of the test rows under a Gaussian fitted to the training rows, of every table."""
    import genflow

    rows = []
    for bench in work.benches.values():
        name = bench.config.dataset
        data = genflow.get_dataset(name, **bench.config.dataset_options.get(name, {}))
        nats = gaussian_nats(data.train, data.test)
        words = "mean −log p of the test rows under the Gaussian of the training rows' mean and covariance"
        rows.append(mean_row(NATS, nats, words, process=GAUSSIAN, dataset=name, training=None))
    return rows


def gaussian_nats(train: Tensor, test: Tensor) -> Tensor:
    """−log p of test rows (m, d) under the maximum-likelihood Gaussian of training rows (n, d): (m,), float64."""
    import torch

    x, y = train.double(), test.double()
    middle = x.mean(0)
    covariance = (x - middle).T @ (x - middle) / len(x)
    return -torch.distributions.MultivariateNormal(middle, covariance).log_prob(y)


# ---- the board -------------------------------------------------------------------------------------------------------


def board(work: Work) -> list[Row]:
    """Share of the samples of every model that lie on light squares, or beside the board."""
    import genflow
    from genflow.report.palette import COLOURS

    data, rows = genflow.get_dataset("checkerboard"), []
    drawn: dict[str, np.ndarray] = {}
    for part, bench in work.benches.items():
        for fields, x in drawn_points(bench):
            fields["process"] = MAPPED if "_map_" in part else fields["process"]
            rows.append(outside_row(OUTSIDE, x, data, **fields))
            drawn.setdefault(fields["process"], x)
    words = "Samples of each model, 2,000 of its first seed, on the board of unit squares"
    panels = [
        (name, [(x[:2000], {"s": 3, "color": COLOURS[k], "alpha": 0.6})]) for k, (name, x) in enumerate(drawn.items())
    ]
    view: dict[str, Any] = {"xlim": (-2.4, 2.4), "ylim": (-2.4, 2.4), "aspect": "equal"}
    scatter(work.picture("board.png", words), panels, size=(3.4, 3.4), most=2, **view)
    return rows


# ---- learnt paths ----------------------------------------------------------------------------------------------------

SEEDS, POINTS, ASSIGNED = (0, 1, 2), 1000, 2000
"""Of the learnt paths; test points of their densities; draws of the least length."""


def shorter_paths(work: Work) -> list[Row]:
    """Length, KL divergence and calls of the trigonometric path and of one that is learnt, at equal training."""
    import genflow

    steps, batch = (3000, 256) if work.scale == "small" else (7000, 2000)
    data, config = genflow.get_dataset("checkerboard"), train_config(work, steps=steps, batch_size=batch, lr=2e-3)
    rows, learnt = [_bound(data, ASSIGNED)], []
    for seed in SEEDS:
        for name in ("fixed path", "learnt path"):
            found = _learn(data, config, seed, name == "learnt path")
            rows += _path_rows(name, seed, found, data)
            learnt += [found] if name == "learnt path" else []
    words = "Coefficients of the path before (dashed) and after learning, and its length while it is learnt"
    _path_picture(work.picture("path.png", words), learnt)
    return rows


def _learn(data: Dataset, config: TrainConfig, seed: int, moving: bool) -> LearntPath:
    """The Fourier interpolant trained with its path learnt, or by the same loop with its path held (rate next to 0)."""
    import genflow
    from genflow.transport import learn_path

    network = genflow.get_backbone("mlp", shape=(2,))
    rate = 0.01 if moving else 1e-12
    return learn_path(genflow.get_process("si_fourier"), network, data, config, seed=seed, path_lr=rate)


def _bound(data: Dataset, count: int) -> Row:
    """Squared Wasserstein distance of draws of the base and the data: no path is shorter."""
    import torch
    from scipy.optimize import linear_sum_assignment

    x = data.test[:count].double()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost = torch.cdist(noise, x).square().numpy()
    pairs = cost[linear_sum_assignment(cost)]
    words = f"optimal assignment of {len(x)} draws of each, data units²; an overestimate for few points"
    return mean_row(BOUND, torch.from_numpy(pairs), words, process="data", dataset=data.name)


def _path_rows(name: str, seed: int, found: LearntPath, data: Dataset) -> list[Row]:
    from genflow.likelihood import log_likelihood
    from genflow.solver.adaptive import RK45

    length, lower = path_lengths(found.process, found.backbone, data.test)
    x = data.test[:POINTS]
    fields: dict[str, Any] = {"process": name, "seed": seed, "dataset": data.name, "backbone": "mlp"}
    density = log_likelihood(found.process, found.backbone, x, solver=RK45(1e-5, 1e-5), trace="exact")
    gap = data.log_prob(x) - density.log_prob
    n = len(data.test)
    both = f"over the {n} test points and uniform times, data units²"
    words = "mean of log p of the data and of the model at test points, exact trace, RK45 at 1e-5"
    return [
        row(LENGTH, length, protocol=f"E|v|² of the network {both}", n=len(data.test), **fields),
        row(
            FUNCTIONAL, lower, protocol=f"2 E v·v* − E|v|², v* the pairs' velocity, {both}", n=len(data.test), **fields
        ),
        mean_row(DIVERGENCE, gap, words, nfe=density.nfe, solver="rk45", **fields),
        row(CALLS, density.nfe, protocol="mean calls of that solve", n=len(x), solver="rk45", **fields),
    ]


def path_lengths(process: Process, backbone: Any, x: Tensor) -> tuple[float, float]:
    """E|v|² and −G = 2 E v·v* − E|v|² of a network on a path, both the path's length where the network is exact."""
    import torch

    with torch.no_grad():
        pairs = process.perturb(x, generator=torch.Generator().manual_seed(1))
        v = process.field(backbone).velocity(pairs.x_t, pairs.t)
    length = float(v.double().square().flatten(1).sum(1).mean())
    cross = float((v * pairs.target).double().flatten(1).sum(1).mean())
    return length, 2 * cross - length


def _path_picture(path: Path, learnt: list[LearntPath]) -> None:
    import torch

    import genflow
    from genflow.report.palette import COLOURS, GREY
    from genflow.report.style import new_axes, save_figure

    t = torch.linspace(1e-3, 1 - 1e-3, 200, dtype=torch.float64)
    figure, (left, right) = new_axes(9.0, 3.4, 2)
    for k, found in enumerate(learnt):
        c = found.process.schedule(t)
        left.plot(t, c[0], color=COLOURS[0], linewidth=1, label="a, learnt" if not k else None)
        left.plot(t, c[1], color=COLOURS[1], linewidth=1, label="b, learnt" if not k else None)
        smooth = (
            np.convolve(found.lengths, np.ones(25) / 25, mode="valid") if len(found.lengths) >= 25 else found.lengths
        )
        right.plot(smooth, color=COLOURS[2], linewidth=1)
    c = genflow.get_process("si_fourier").schedule(t)
    for k in (0, 1):
        left.plot(t, c[k], color=GREY, linestyle="--", linewidth=1, label="at the start" if not k else None)
    left.legend(fontsize=8)
    left.set(xlabel="t")
    right.set(xlabel="steps of the path", ylabel="−G, running mean")
    save_figure(figure, path)
