"""Noise of given relative size in the drift: what an estimation error does to samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from genflow.bench.tables import Table
from genflow.claims.claim import Finding
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.studies.experiment import Altered, Lab, Study
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.results import Found, distance_row, floor_row, grid_table
from genflow.claims.studies.step_size import growths, label
from genflow.claims.studies.subjects import Subject
from genflow.config import ConfigError
from genflow.estimates import short
from genflow.process.base import Process
from genflow.process.field import BackboneLike, Field
from genflow.process.shapes import dimension, like_rows
from genflow.report.palette import palette
from genflow.solver.base import Noise

CLAIM = (
    "Poisson flow tolerates the estimation errors of a weak network better than score-based models (Xu et al. 2022, "
    "arXiv:2209.11178, abstract). The paper does not inject noise; here an error of known size stands for theirs."
)
NOISE_STREAM = 0x6E6F6973
"""Joined to the seed for injected noise, so that it shares nothing with the prior's draws."""


class NoisyField(Field):
    """A field whose velocity is off by noise ξ, standard normal, of a relative size s.

    In the drift: v + s |v|/√N ξ, so E|error|² = s² |v|². In the posterior mean: X̂ + s |X̂|/√N ξ, which moves
    v = a' X̂ + b' (x − a X̂)/b by a' − b' a/b times as much.

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
            (v,) = super()._read([self.process.velocity], x, t)
            return v + self._error(v)
        v, mean = super()._read([self.process.velocity, self.process.data_mean], x, t)
        c = self.path.at(t, x)
        return v + (c.da - c.db * c.a / c.b) * self._error(mean)

    def _error(self, of: Tensor) -> Tensor:
        if self._first is None or not self.held:
            self._first = self.noise.like(of)
        scale = of.flatten(1).norm(dim=1) / dimension(of) ** 0.5
        return self.size * like_rows(scale, of) * self._first

    def keep(self, rows: Tensor) -> None:
        raise ValueError("noise in the drift follows its samples; choose a fixed-step solver")

    def _read(self, readings: Sequence[Callable[..., Tensor]], x: Tensor, *times: Tensor) -> list[Tensor]:
        raise ValueError("noise is in the drift, which this solver does not read alone; choose euler, heun or rk4")


def noisy(process: Process, size: float, carrier: str, held: bool, seed: int) -> Altered:
    """The process with noise of that size in the drift that solvers see; the process itself for size 0."""

    def altered(rows: range) -> Process:
        changed: Any = copy.copy(process)
        noise = Noise(seed ^ NOISE_STREAM, rows)
        changed.field = lambda backbone, **more: NoisyField(process, backbone, size, carrier, noise, held, **more)
        return changed

    return altered if size else lambda rows: process


Way = tuple[str, str]
"""What carries the noise, and how it is drawn."""
Points = dict[tuple[str, Way], dict[float, Blocks]]
"""Distances by process with the way of its noise, and size."""


class NoiseStudy(Study):
    """FD against the size of the injected noise."""

    code = (NoisyField, noisy)

    def run(self, lab: Lab) -> Found:
        config, rows, points = lab.config, [floor_row(lab.name, lab.ruler)], Points()
        subjects = lab.subjects()
        lab.expect(len(subjects) * (1 + len(_ways(lab)) * len(config.drift_noise)))
        spent = set()
        for subject in subjects:
            solver, nfe = lab.setting(subject)
            for way, size, found in _measured(lab, subject, solver, nfe):
                said = f"noise {_words(way)}, its root mean square {size:g} of that" if size else "no noise"
                given = {"solver": solver, "setting": f"{way[1]} noise in the {way[0]}", "level": size}
                rows.append(distance_row(lab.name, lab.ruler, subject, found, protocol=said, **given))
                points.setdefault((label(subject, subjects), way), {})[size] = found
                spent.add(f"{solver}, NFE {nfe}")
        how = f"{lab.ruler.protocol}; {'; '.join(sorted(spent))}"
        notes = [
            "Noise is relative, at each sample and call, to the root mean square of what carries it. The drift is that "
            "of x in the process's own time: where |x| falls from hundreds to a few, a share of it is a large error in "
            "data units. A share of the posterior mean is the same error for every process."
        ]
        return Found(
            rows, [_table(lab, points, how)], CLAIM, _findings(points), lambda out: _draw(lab, points, out), notes
        )


def _ways(lab: Lab) -> list[Way]:
    return [(carrier, kind) for carrier in lab.config.noise_in for kind in lab.config.noise_kind]


def _measured(lab: Lab, subject: Subject, solver: str, nfe: int) -> Iterator[tuple[Way, float, Blocks]]:
    clean = lab.plain(subject, solver, nfe)
    for carrier, kind in _ways(lab):
        reason = subject.process.why_not("affine") if carrier == "mean" else None
        if reason:
            raise ConfigError(f"noise_in = 'mean' does not fit '{subject.name}': {reason}; leave 'mean' out")
        yield (carrier, kind), 0.0, clean
        for size in sorted(lab.config.drift_noise):
            change: dict[str, Any] = {"noise": size, "in": carrier, "kind": kind}
            process = noisy(subject.process, size, carrier, kind == "held", subject.seed)
            yield (carrier, kind), size, lab.changed(subject, solver, nfe, change, process, subject.backbone)


def _words(way: Way) -> str:
    what = "the drift" if way[0] == "drift" else "the posterior mean"
    return f"in {what}, " + ("drawn anew at every call" if way[1] == "fresh" else "drawn once for each path")


def _findings(points: Points) -> list[Finding]:
    said: list[Finding] = []
    for way in dict.fromkeys(way for _, way in points):
        own = {name: by for (name, w), by in points.items() if w == way}
        for size in [s for s in next(iter(own.values())) if s]:
            what = f"noise {_words(way)}, of {size:g} of it, raises the distance"
            said += growths(what, {name: (by[size], by[0.0]) for name, by in own.items()})
    return said


def _table(lab: Lab, points: Points, caption: str) -> Table:
    sizes = sorted({size for by in points.values() for size in by})
    lines = {"real test split": [short(lab.ruler.floor)] * len(sizes)}
    lines |= {f"{name}, {_words(way)}": [str(by[s].mean) for s in sizes] for (name, way), by in points.items()}
    places = [f"{size:g}" if size else "no noise" for size in sizes]
    return grid_table(f"{lab.ruler.name} by relative size of the noise", "process, noise", lines, places, caption)


def _draw(lab: Lab, points: Points, folder: Path) -> dict[str, str]:
    colours = palette(name for name, _ in points)
    groups: dict[str, list[Curve]] = {}
    for (name, way), by in points.items():
        curve = Curve(name, list(by), [b.mean for b in by.values()], colours[name], list(colours).index(name) % 4)
        groups.setdefault(_words(way), []).append(curve)
    sizes = sorted({size for by in points.values() for size in by})
    axes = Axes("size of the noise over that of what carries it", lab.ruler.name, lab.ruler.floor, sizes, log_x=False)
    curves(folder / "noise.png", groups, axes)
    return {"noise.png": f"{lab.ruler.name} against the size of the injected noise. Bars are one standard error."}
