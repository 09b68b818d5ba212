"""Interpolants and couplings against torchcfm: its matchers' states and targets, its plans, costs and pairs.

Its t is 0 at the base and 1 at the data, as ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from genflow.process.couplings import assignment, couple, sinkhorn_plan, squared_distances
from genflow.process.interpolant import Interpolant
from genflow.process.paths import SILinear, SITrig


@dataclass(kw_only=True)
class Target(Interpolant):
    """The path of its target matcher: a = t, b = 1 − (1 − σ) t, which leaves noise σ on the data."""

    sigma: float = 0.0

    def path(self, t):
        one = torch.ones_like(t)
        return t, 1 - (1 - self.sigma) * t, one, -(1 - self.sigma) * one


CASES = {
    "icfm_s0": SILinear(),
    "target_s0": Target(sigma=0.0),
    "target_s005": Target(sigma=0.05),
    "vp_s0": SITrig(),
    "sb_s1": SILinear(coupling="ot", gamma="brownian", gamma_scale=1.0),
    "sb_s05": SILinear(coupling="ot", gamma="brownian", gamma_scale=0.5),
}
"""Its matchers and the path of ours that each is. Its icfm and vp with σ > 0 add noise of a fixed size to x_t, which
is in no derivative: they are no path between data and base, and have no counterpart."""


@pytest.fixture
def stored(load):
    return load("interpolants/torchcfm.npz")


@pytest.mark.parametrize("name", CASES)
def test_states_and_targets(stored, error, name):
    """x_t and dx/dt from the same draws; with a target matcher the base's draw is what it adds as noise."""
    process, t = CASES[name], stored["t"]
    want = {k.removeprefix(f"{name}/"): v for k, v in stored.items() if k.startswith(f"{name}/")}
    base = stored["eps"] if name.startswith("target") else stored["x0"]
    if process.is_affine:
        pairs = process.pairs(stored["x1"], base, t)
    else:
        pairs = process.free_pairs(stored["x1"], base, stored["eps"], t)
    c = process.at(t, stored["x1"])
    assert error(pairs.x_t, want["xt"]) < 1e-9
    velocity = want["ut"]
    if name.startswith("sb"):  # its γ'/γ is (1 − 2t)/(2t(1 − t) + 1e-8): the 1e-8 is taken out again
        straight, twice = stored["x1"] - stored["x0"], (2 * t * (1 - t))[:, None]
        velocity = straight + (velocity - straight) * (twice + 1e-8) / twice
    assert error(process.velocity(pairs.target, pairs.x_t, t), velocity) < 1e-9
    spread = c.b if name.startswith("target") else c.g
    mean = c.a * stored["x1"] + (0 if name.startswith("target") else c.b * stored["x0"])
    assert error(mean, want["mu"]) < 1e-9
    torch.testing.assert_close(spread.expand(len(t), 1)[:, 0], want["sigma"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sb_s1", "sb_s05"])
def test_weight_of_the_bridge_s_score(stored, error, name):
    """Its λ(t) = 2 σ_t/(σ² + 1e-8), by which it weights the score, from the latent of ours."""
    process, t, sigma = CASES[name], stored["t"], 1.0 if name == "sb_s1" else 0.5
    g = process.at(t, stored["x1"]).g[:, 0]
    assert error(2 * g / (sigma**2 + 1e-8), stored[f"{name}/lam"]) < 1e-9


def test_costs_plan_and_distances(stored, error):
    cost = squared_distances(stored["ot/x0"], stored["ot/x1"])
    assert error(cost, stored["ot/cost"]) < 1e-9
    columns = assignment(cost)
    plan = torch.zeros(8, 8, dtype=torch.float64)
    plan[torch.arange(8), columns] = 1 / 8
    assert error(plan, stored["ot/exact_plan"]) < 1e-9
    assert math.sqrt(float((plan * cost).sum())) == pytest.approx(float(stored["ot/w2"]), rel=1e-9)
    first = assignment(cost.sqrt())
    mean = float(cost.sqrt()[torch.arange(8), first].mean())
    assert mean == pytest.approx(float(stored["ot/w1"]), rel=1e-9)


def test_pairs_of_the_plan(stored):
    """Its pairs by assignment are reordered on the data's side, ours on the base's: the same pairs."""
    base, data = stored["ot/x0"], stored["ot/x1"]
    ours = couple(data, base, "ot", generator=torch.Generator())
    found = {(tuple(b), tuple(d)) for b, d in zip(ours.tolist(), data.tolist(), strict=True)}
    theirs = zip(stored["ot/scipy_x0"].tolist(), stored["ot/scipy_x1"].tolist(), strict=True)
    assert found == {(tuple(b), tuple(d)) for b, d in theirs}
    plan = stored["ot/exact_plan"]
    drawn = zip(stored["ot/np_seed0_i"].tolist(), stored["ot/np_seed0_j"].tolist(), strict=True)
    assert all((tuple(base[i].tolist()), tuple(data[j].tolist())) in found and plan[i, j] > 0 for i, j in drawn)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("regularisation", [0.05, 0.5, 2.0])
def test_sinkhorn_plans(stored, error, regularisation):
    pytest.importorskip("ot")
    cost = squared_distances(stored["ot/x0"], stored["ot/x1"])
    plan, want = sinkhorn_plan(cost, regularisation), stored[f"ot/sinkhorn_plan_{regularisation}"]
    if regularisation > 0.1:
        assert error(plan, want) < 1e-6
        return
    # the stored plan stopped after its 1000 rounds: its columns are off by 1e-4, the plan by a few times that
    off = [float((p.sum(0) - 1 / 8).abs().max()) for p in (plan, want)]
    assert off[0] < 1e-5 < off[1] < 2e-4
    assert float((plan - want).abs().max()) < 4 * off[1]
    for p in (plan, want):  # both are u K v: log p + cost/regularisation is a sum of a row and a column
        log_uv = p.log() + cost / regularisation
        mixed = log_uv - log_uv.mean(0, keepdim=True) - log_uv.mean(1, keepdim=True) + log_uv.mean()
        assert float(mixed.abs().max()) < 1e-9
