"""Speed to quality: network calls and wall clock until a sampler comes within a share of a reference's distance.

A sampler is a process with a solver; its distances at several budgets are made monotone (isotonic regression) and
crossed with the target by linear interpolation in log calls. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from genflow.bench.cells import REAL
from genflow.bench.external import EXTERNAL
from genflow.bench.rows import Row
from genflow.bench.tables import Table, estimate
from genflow.estimates import Estimate, interval, mean, of_rows, short
from genflow.evaluate.facts import facts, title
from genflow.registry import registries

MARGIN = 1.1
"""Of the reference's distance: within a tenth of it."""

LEAST_BUDGETS = 3
"""With fewer a bench has no curve to interpolate."""


@dataclass(frozen=True)
class Curve:
    """A sampler's distance against its calls.

    Arguments:
        name: Process and solver.
        calls: Backbone calls per sample at each budget, rising.
        values: The distance there.
        seconds, network: Seconds of wall clock per sample, and of these in the network; NaN where not known.
    """

    name: str
    calls: Sequence[float]
    values: Sequence[Estimate]
    seconds: Sequence[float]
    network: Sequence[float]

    @property
    def last(self) -> Estimate:
        """The distance at the most calls."""
        return self.values[-1]

    def at(self, calls: float, cost: Sequence[float]) -> float:
        """A cost per sample at a number of calls, by interpolation in proportion to calls."""
        return float(np.interp(calls, self.calls, cost)) if math.isfinite(calls) else math.nan


def curve_of(rows: Sequence[Row]) -> Curve:
    """The curve of one process, solver and metric from its rows at all budgets and seeds; adaptive solvers have one."""
    budgets = {row.get("budget"): [r for r in rows if r.get("budget") == row.get("budget")] for row in rows}
    groups = sorted(budgets.values(), key=lambda own: of_rows(own, "nfe").value)
    costs = [[_cost(own, column) for own in groups] for column in ("seconds", "network_seconds")]
    calls = [of_rows(own, "nfe").value for own in groups]
    name = f"{rows[0]['process']}, {rows[0]['solver']}"
    return Curve(name, calls, [estimate(own) for own in groups], *costs)


def _cost(rows: Sequence[Row], column: str) -> float:
    found = [row[column] / row["n"] for row in rows if row.get(column) is not None]
    return math.fsum(found) / len(found) if found else math.nan


def falling(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never rises, in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((m * a + n * b) / (m + n), m + n)]
    return [value for value, count in blocks for _ in range(count)]


def crossing(calls: Sequence[float], values: Sequence[float], target: float) -> float:
    """Fewest calls at which a falling curve through the values is at the target: ∞ where it never is, and the fewest
    that were measured where it already is there."""
    smooth = falling(values)
    for k, value in enumerate(smooth):
        if value <= target:
            if k == 0 or smooth[k - 1] == value:
                return float(calls[k])
            share = (smooth[k - 1] - target) / (smooth[k - 1] - value)
            return math.exp(math.log(calls[k - 1]) + share * math.log(calls[k] / calls[k - 1]))
    return math.inf


def log_calls(curve: Curve, reference: Estimate, margin: float = MARGIN, draws: int = 400) -> Estimate:
    """ln of the calls to come within `margin` of the reference; its value is ∞ where the curve does not come so near.

    With several training seeds (or seeds of the draws) the replicates are the jackknife's pseudo-values by seed, so
    two curves are compared in pairs. With one the error is the deviation over normal draws of every distance from its
    own error. It is NaN where the target is not reached in all of them.
    """
    numbers = [*curve.values, reference]
    plain = _log(curve.calls, [one.value for one in numbers], margin)
    keys = [key for key in numbers[0].values if all(key in one.values for one in numbers)]
    if math.isinf(plain):
        return Estimate(plain, seeds=reference.seeds)
    if len(keys) > 1:
        return _jackknife(curve.calls, numbers, keys, plain, margin)
    rng = np.random.default_rng(0)
    errors = np.nan_to_num([one.error for one in numbers])
    near = rng.normal([one.value for one in numbers], errors, (draws, len(numbers)))
    found = [_log(curve.calls, list(row), margin) for row in near]
    error = float(np.std(found)) if np.isfinite(found).all() and errors.any() else math.nan
    return Estimate(plain, error, draws, reference.over, {}, reference.seeds)


def _log(calls: Sequence[float], values: Sequence[float], margin: float) -> float:
    return math.log(crossing(calls, values[:-1], margin * values[-1]))


def _jackknife(
    calls: Sequence[float], numbers: Sequence[Estimate], keys: Sequence[Hashable], plain: float, margin: float
) -> Estimate:
    k = len(keys)
    without = {
        key: _log(calls, [math.fsum(one.values[o] for o in keys if o != key) / (k - 1) for one in numbers], margin)
        for key in keys
    }
    pseudo = {key: k * plain - (k - 1) * value for key, value in without.items()}
    over, seeds = numbers[-1].over, numbers[-1].seeds
    if not all(map(math.isfinite, pseudo.values())):
        return Estimate(plain, n=k, over=over, seeds=seeds)
    found = mean(pseudo, over, seeds)
    return Estimate(plain, found.error, k, over, found.values, seeds)


def calls_words(found: Estimate, curve: Curve) -> str:
    """Calls with their interval at 95 %: "31 [24, 40]"; "not reached"; "at most 10"."""
    if math.isinf(found.value):
        return "not reached"
    calls = math.exp(found.value)
    first = "at most " if calls <= curve.calls[0] * (1 + 1e-9) else ""
    if not found.error >= 0:
        return (
            f"{first}{short(calls)} [not reached with every seed or draw]" if found.n > 1 else f"{first}{short(calls)}"
        )
    low, high = (math.exp(min(one, 700.0)) for one in interval(found))
    return f"{first}{short(calls)}" + (f" [{short(low)}, {short(high)}]" if found.error else "")


# ---- tables ----------------------------------------------------------------------------------------------------------


def curves_of(rows: Sequence[Row], metric: str) -> list[Curve]:
    """Every sampler's curve of a metric."""
    drawn = [r for r in rows if r["process"] != REAL and r.get("terms") != EXTERNAL]
    own = [r for r in drawn if r["metric"] == metric and r["nfe"] and r["value"] is not None]
    pairs = dict.fromkeys((r["process"], r["solver"]) for r in own)
    return [curve_of([r for r in own if (r["process"], r["solver"]) == pair]) for pair in pairs]


def best_sde(rows: Sequence[Row], metric: str) -> Curve | None:
    """The curve of the SDE sampler with the least distance at its most calls; None where there is none."""
    known = registries()["solvers"].entries()
    sde = [row for row in rows if row["solver"] in known and known[row["solver"]].tags.get("mode") == "sde"]
    return min(curves_of(sde, metric), key=lambda one: one.last.value, default=None)


def speed_table(rows: Sequence[Row], metric: str = "", margin: float = MARGIN) -> Table | None:
    """Calls and seconds of every sampler to come within `margin` of the reference sampler's distance.

    The reference is the SDE sampler with the least distance at its most calls; without SDE samplers, the sampler with
    the least.

    Arguments:
        rows: Rows of a bench.
        metric: Which distance; the Fréchet distance of least order by default.
        margin: Of the reference's distance.

    Returns:
        None where there is no distance at three or more budgets.
    """
    distances = {r["metric"]: facts(r) for r in rows if r["process"] != REAL and r["nfe"] is not None}
    known = [name for name, fact in distances.items() if fact.bias and fact.sign == 1 and fact.table == "nfe"]
    metric = metric or min(known, key=lambda name: distances[name].order, default="")
    curves = curves_of(rows, metric)
    if len(curves) < 2 or max(len(one.calls) for one in curves) < LEAST_BUDGETS:
        return None
    reference = best_sde(rows, metric) or min(curves, key=lambda one: one.last.value)
    target = reference.last
    lines = [_line(curve, log_calls(curve, target, margin)) for curve in curves]
    several = " of several, picked by the same numbers" if len(curves) > 1 else ""
    caption = (
        f"Reference: {reference.name} at {short(reference.calls[-1])} calls, {target}, the best{several}. A falling "
        "curve through each sampler's distances is interpolated in log calls; [ ] at 95 %, over seeds where there are "
        "several, else over the distances' own errors; at most: the fewest calls that were measured are enough. "
        "Seconds are of 1,000 samples on this machine, with whatever else ran on it; those in the network are of the "
        "same run."
    )
    name = f"Speed to quality: {title(metric, distances[metric])} within {short(100 * (margin - 1))} % of the reference"
    return Table(name, ["process, solver", "calls", "seconds", "in the network"], lines, caption)


def _line(curve: Curve, found: Estimate) -> list[str]:
    calls = math.exp(found.value) if math.isfinite(found.value) else math.inf
    times = (curve.at(calls, curve.seconds), curve.at(calls, curve.network))
    return [curve.name, calls_words(found, curve), *(short(1000 * one) for one in times)]
