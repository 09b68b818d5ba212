"""Noise of given relative size in the drift: what an estimation error does to samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from genflow.claims.studies import Outcome
from genflow.claims.studies.experiment import Altered, Experiment
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.series import Series, label
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.process.base import Process
from genflow.process.field import BackboneLike, Field
from genflow.process.shapes import dimension, like_rows
from genflow.solver.noise import Noise


class NoisyField(Field):
    """A field whose velocity is off by noise ξ, standard normal, of a relative size s.

    In the drift: v + s |v|/√N ξ, so E|error|² = s² |v|². In the posterior mean: X̂ + s |X̂|/√N ξ, which moves
    v = a' X̂ + b' (x − a X̂)/b by a' − b' a/b times as much. A solver that steps in σ sees the drift d(x/a)/dσ = N̂,
    which has noise in the same two ways.

    Arguments:
        size: s.
        carrier: "drift" or "mean".
        noise: Gives ξ, sample k from its own generator.
        held: Whether each sample keeps the ξ of its first call.
    """

    def __init__(
        self, process: Process, backbone: BackboneLike, size: float, carrier: str, noise: Noise, held: bool, **more: Any
    ) -> None:
        super().__init__(process, backbone, **more)
        self.path = process
        self.size, self.carrier, self.noise, self.held = size, carrier, noise, held
        self._first: Tensor | None = None

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        if self.carrier == "drift":
            (v,) = super()._read(["velocity"], x, t)
            return v + self._error(v)
        v, mean = super()._read(["velocity", "data_mean"], x, t)
        c = self.path.at(t, x)
        return v + (c.da - c.db * c.a / c.b) * self._error(mean)

    def base(self, x: Tensor, t: Tensor) -> Tensor:
        """N̂ = (x − a X̂)/b, the drift of x/a in σ = b/a."""
        (mean,) = super()._read(["data_mean"], x, t)
        c = self.path.at(t, x)
        noise = (x - c.a * mean) / c.b
        return noise + (self._error(noise) if self.carrier == "drift" else -c.a / c.b * self._error(mean))

    def _error(self, of: Tensor) -> Tensor:
        if self._first is None or not self.held:
            self._first = self.noise.like(of)
        scale = of.flatten(1).norm(dim=1) / dimension(of) ** 0.5
        return self.size * like_rows(scale, of) * self._first

    def keep(self, rows: Tensor) -> None:
        raise ValueError("noise in the drift follows its samples; choose a fixed-step solver")

    def _read(self, names: Sequence[str], x: Tensor, *times: Tensor) -> list[Tensor]:
        raise ValueError("noise is in the drift, which this solver does not read alone; choose euler, heun or rk4")


def noisy(process: Process, size: float, carrier: str, held: bool, seed: int) -> Altered:
    """The process with noise of that size in the drift that solvers see; the process itself for size 0."""

    def altered(rows: range) -> Process:
        changed: Any = copy.copy(process)
        noise = Noise(seed, rows, "injected")
        changed.field = lambda backbone, **more: NoisyField(process, backbone, size, carrier, noise, held, **more)
        return changed

    return altered if size else lambda rows: process


CODE = (NoisyField, noisy)
Way = tuple[str, str]
"""What carries the noise, and how it is drawn."""


def run(experiment: Experiment) -> Outcome:
    """FD against the size of the injected noise."""
    config, subjects = experiment.config, experiment.subjects()
    ways = [(carrier, kind) for carrier in config.noise_in for kind in config.noise_kind]
    series = Series(experiment.distance, lambda size: f"{size:g}" if size else "no noise")
    experiment.expect(len(subjects) * (1 + len(ways) * len(config.drift_noise)))
    for subject in subjects:
        solver, nfe = experiment.setting(subject)
        for way, size, found in _measured(experiment, subject, solver, nfe, ways):
            how = f"noise {_words(way)}, its root mean square {size:g} of that" if size else "no noise"
            experiment.add_distance(subject, found, solver, f"{way[1]} noise in the {way[0]}", size, how)
            series.add(_words(way), label(subject, subjects), size, found)
    table = series.table(
        "by relative size of the noise", "process, noise", experiment.protocol, lambda way, name: f"{name}, {way}"
    )
    notes = [
        "Noise is relative, at each sample and call, to the root mean square of what carries it. The drift is the one "
        "that the solver follows: that of x in the process's own time, where |x| falls from hundreds to a few and a "
        "share of it is a large error in data units; or, with frame = sigma, that of x/a in σ. A share of the "
        "posterior mean is the same error for every process."
    ]
    return Outcome(
        experiment.rows,
        [table],
        lambda out: series.draw(out / "noise.png", "size of the noise over that of what carries it", log_x=False),
        verdicts=[
            verdict
            for way in series.panels
            for size in series.levels()[1:]
            for verdict in series.growths(way, size, 0.0, f"with noise {way}, of size {size:g}")
        ],
        notes=notes,
    )


def _measured(
    experiment: Experiment, subject: Subject, solver: str, nfe: int, ways: Sequence[Way]
) -> Iterator[tuple[Way, float, Blocks]]:
    clean = experiment.plain(subject, solver, nfe)
    for carrier, kind in ways:
        reason = subject.process.why_not("affine") if carrier == "mean" else None
        if reason:
            raise ConfigError(f"noise_in = 'mean' does not fit '{subject.name}': {reason}; leave 'mean' out")
        yield (carrier, kind), 0.0, clean
        for size in sorted(experiment.config.drift_noise):
            change: dict[str, Any] = {"noise": size, "in": carrier, "kind": kind}
            process = noisy(subject.process, size, carrier, kind == "held", subject.seed)
            yield (carrier, kind), size, experiment.changed(subject, solver, nfe, change, process, subject.backbone)


def _words(way: Way) -> str:
    what = "the drift" if way[0] == "drift" else "the posterior mean"
    return f"in {what}, " + ("drawn anew at every call" if way[1] == "fresh" else "drawn once for each path")
