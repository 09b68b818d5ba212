"""Paths that are learnt: the interpolant of least path length, by max-min, towards optimal transport.

With v* the velocity of a path I_t, the functional G(v) = E[|v(I_t)|² − 2 I'_t · v(I_t)] has the minimum −E|v*|², the
path's length up to its sign. Maximising that minimum over the path makes the length least; over all paths it would be
the squared Wasserstein distance (Benamou & Brenier). The networks are trained by the one loop, on a path that moves.

Source: Albergo & Vanden-Eijnden 2023, arXiv:2209.15571.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genflow.backbone.base import Backbone
from genflow.checks import is_positive, require
from genflow.config import TrainConfig
from genflow.data.base import Dataset
from genflow.process.base import Process
from genflow.process.field import BackboneLike
from genflow.training import Progress, Trainer, stream


@dataclass
class LearntPath:
    """The process on its learnt path, the network as trained on the way, and the length after every step.

    `lengths` are noisy estimates on one batch, data units² per unit of time; their running mean tells the trend.
    """

    process: Process
    backbone: Backbone
    lengths: list[float]


def path_functional(process: Process, backbone: BackboneLike, x: Tensor, *, generator: torch.Generator) -> Tensor:
    """G(v) on a batch: E[|v|² − 2 v* · v], v* the target of single pairs; a scalar.

    Arguments:
        process: With head "velocity".
        backbone: v.
        x: Data, shape (B, *), data units.
        generator: Source of the draws.
    """
    pairs = process.perturb(x, generator=generator)
    velocity = process.field(backbone).velocity(pairs.x_t, pairs.t)
    return (velocity.square() - 2 * pairs.target * velocity).flatten(1).sum(1).mean()


def learn_path(
    process: Process,
    backbone: Backbone,
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    path_lr: float = 0.01,
    path_every: int = 5,
    device: str = "cpu",
    progress: Progress | None = None,
) -> LearntPath:
    """Learns the coefficients of a path: the network descends G at every step, the path ascends it at every few.

    Arguments:
        process: With coefficients to learn (`process.learnable()`) and head "velocity".
        backbone: Its weights are drawn anew from the seed.
        dataset: Examples.
        config: Numbers of the loop; its steps are the network's.
        seed: Of weights, data order and draws.
        path_lr: Learning rate of the coefficients (Adam, falling to zero).
        path_every: Steps of the network to one of the path: the minimum is to be near before the path moves.
        device: Where it runs.
        progress: Called after every step with (steps, of how many, length).

    Raises:
        ValueError: The process has nothing to learn, or another head.
    """
    config = TrainConfig() if config is None else config
    if not process.learnable():
        raise ValueError(f"the path of {type(process).__name__} is fixed: it has nothing to learn")
    if process.config().get("head", "velocity") != "velocity":
        raise ValueError("a path is learnt with head = 'velocity', which the functional is written in")
    require("learn_path", {"path_lr": (path_lr, is_positive(path_lr), "a number above 0")})
    require("learn_path", {"path_every": (path_every, path_every >= 1, "a whole number of at least 1")})
    process = process.for_data(dataset.fitting_points())
    terms = {name: value.requires_grad_() for name, value in process.learnable().items()}
    ascent = torch.optim.Adam(terms.values(), lr=path_lr, maximize=True)
    trainer = Trainer(process, backbone, dataset, config, seed, device)
    lengths = []
    while trainer.step < config.steps:
        trainer.process = process.with_path({name: value.detach() for name, value in terms.items()})
        trainer.advance()
        if trainer.step % path_every == 0:
            for group in ascent.param_groups:
                group["lr"] = path_lr * (1 - trainer.step / config.steps)
            x = trainer.batches.batch(trainer.step).to(device)
            generator = stream(seed, "path", trainer.step)
            value = path_functional(process.with_path(terms), backbone, x, generator=generator)
            ascent.zero_grad()
            value.backward()
            ascent.step()
            lengths.append(-float(value.detach()))
            if progress:
                progress(trainer.step, config.steps, lengths[-1])
    found = process.with_path({name: value.detach() for name, value in terms.items()})
    return LearntPath(found, trainer.finish(), lengths)


__all__ = ["LearntPath", "learn_path", "path_functional"]
