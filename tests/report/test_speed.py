"""Speed to quality: crossings of known curves, coverage of the interval by simulation, and the table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genflow.estimates import Estimate, exact, interval, mean
from genflow.report.speed import Curve, best_sde, calls_words, crossing, falling, log_calls, speed_table

CALLS = (5, 10, 20, 50, 100, 200)
FD = "FD[digits]"


def falls(calls, scale=40.0, end=8.0):
    """A distance that falls in proportion to log calls from `scale` at 5 calls to `end` at 200."""
    share = np.log(np.asarray(calls) / CALLS[0]) / math.log(CALLS[-1] / CALLS[0])
    return scale + (end - scale) * share


def known_crossing(target, scale=40.0, end=8.0):
    return CALLS[0] * (CALLS[-1] / CALLS[0]) ** ((scale - target) / (scale - end))


def curve(values):
    return Curve("a", CALLS, values, [math.nan] * len(CALLS), [math.nan] * len(CALLS))


@pytest.mark.parametrize("target", [39.0, 20.0, 11.0, 8.5])
def test_a_curve_straight_in_log_calls_is_crossed_exactly(target):
    assert crossing(CALLS, falls(CALLS), target) == pytest.approx(known_crossing(target))


@pytest.mark.parametrize(("target", "calls"), [(7.9, math.inf), (41.0, 5.0), (40.0, 5.0)])
def test_never_and_from_the_start(target, calls):
    assert crossing(CALLS, falls(CALLS), target) == calls


def test_the_falling_fit_is_sklearn_s():
    from sklearn.isotonic import IsotonicRegression

    values = np.random.default_rng(0).normal(falls(CALLS), 12)
    want = IsotonicRegression(increasing=False).fit_transform(range(len(values)), values)
    assert falling(values) == pytest.approx(want)


def test_one_lucky_dip_does_not_count():
    """A value below the target between two above is noise to a falling curve."""
    assert crossing((10, 20, 50, 100), (20.0, 9.0, 19.0, 8.0), 10.0) > 50


def trial(rng, seeds):
    """(curve, reference) over seeds that share a level, and differ by noise of each budget besides."""
    level = rng.normal(0, 2.0, seeds)
    drawn = {b: falls([b])[0] + level + rng.normal(0, 0.7, seeds) for b in CALLS}
    reference = 10.0 + level + rng.normal(0, 0.7, seeds)
    numbers = [mean(dict(enumerate(one)), "training seeds", seeds) for one in (*drawn.values(), reference)]
    return curve(numbers[:-1]), numbers[-1]


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_over_seeds_covers_the_crossing(seeds):
    """Target 1.1 · 10 = 11, known; 95 % promised, 400 trials have a standard error of 1 %."""
    rng, want, hits = np.random.default_rng(seeds), math.log(known_crossing(11.0)), []
    for _ in range(400):
        found = log_calls(*trial(rng, seeds))
        low, high = interval(found)
        hits.append(not (low > want or high < want))  # an unknown bound excludes nothing
    assert 0.92 <= np.mean(hits) <= 0.995


def test_the_interval_of_one_training_covers_the_crossing():
    rng, want, hits = np.random.default_rng(0), math.log(known_crossing(11.0)), []
    for _ in range(200):
        values = [Estimate(rng.normal(v, 0.7), 0.7, 500, "samples or blocks", {}, 1) for v in falls(CALLS)]
        low, high = interval(log_calls(curve(values), Estimate(rng.normal(10, 0.5), 0.5, 500, "", {}, 1)))
        hits.append(not (low > want or high < want))
    assert np.mean(hits) >= 0.9


def test_words():
    plain = curve([exact(v) for v in falls(CALLS)])
    assert calls_words(log_calls(plain, exact(1.0)), plain) == "not reached"
    assert calls_words(log_calls(plain, exact(99.0)), plain).startswith("at most 5")
    seeds = {0: 7.0, 1: 9.0, 2: 14.0}
    values = [mean({k: v + d for k, d in seeds.items()}, "training seeds", 3) for v in falls(CALLS, end=0)]
    found = calls_words(log_calls(curve(values), exact(9.1)), curve(values))
    assert "not reached with every seed" in found


def row(process, solver, budget, value, seed=0, **more):
    fields = {"process": process, "solver": solver, "budget": budget, "nfe": budget, "metric": FD, "value": value}
    timed = {"seconds": 500 * (budget or 60) * 1e-3, "network_seconds": 500 * (budget or 60) * 8e-4}
    return {**fields, "stderr": None, "n": 500, "seed": seed, "protocol": "p", "entry": "fd", **timed, **more}


ROWS = [
    *(row("vp_ode", "heun", b, v + s, s) for s in (0, 1, 2) for b, v in zip(CALLS, falls(CALLS), strict=True)),
    *(row("vp_sde", "euler_maruyama", b, v + s, s) for s in (0, 1, 2) for b, v in ((5, 90), (20, 50), (100, 10))),
    row("vp_ode", "rk45", None, 9.0, nfe=60.0),
]


def test_the_table_has_calls_seconds_and_its_reference():
    table = speed_table(ROWS)
    assert best_sde(ROWS, FD).name == "vp_sde, euler_maruyama"
    assert "vp_sde, euler_maruyama at 100 calls" in table.caption
    lines = {line[0]: line for line in table.rows}
    calls = float(lines["vp_ode, heun"][1].partition(" ")[0])
    assert float(lines["vp_ode, heun"][2]) == pytest.approx(1000 * calls * 1e-3, rel=0.02)
    assert float(lines["vp_ode, heun"][3]) == pytest.approx(1000 * calls * 8e-4, rel=0.02)
    assert lines["vp_ode, rk45"][1].startswith("at most 60")


def test_without_a_curve_there_is_no_table():
    assert speed_table([]) is None
    assert speed_table([r for r in ROWS if r["budget"] in (5, 100)]) is None
    assert speed_table([r for r in ROWS if r["solver"] == "heun"]) is None


def test_the_network_s_seconds_are_those_of_its_calls():
    import time

    from torch import nn

    from genflow.devices import network_clock

    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x

    net = Slow()
    with network_clock(net, "cpu") as spent:
        for _ in range(3):
            net(1)
        time.sleep(0.05)
        found = spent()
    assert 0.06 <= found < 0.1
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    with network_clock(lambda x: x, "cpu") as spent:
        assert spent() is None
