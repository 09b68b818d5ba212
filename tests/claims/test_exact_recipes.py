"""Recipes on exact fields, tiny: every claim is judged and every picture drawn; and the laws of what they measure."""

from __future__ import annotations

import math

import pytest
import torch

import genflow
from genflow.claims.papers import exact_digits, get_recipe
from genflow.claims.papers import interpolants_exact as studies
from genflow.claims.recipe import Work
from genflow.claims.results import Results
from genflow.claims.write import measured
from genflow.estimates import NOT_MEASURED
from genflow.process.distributions import GaussianMixture

PICTURES = {
    "si_epsilon": ["epsilon.png"],
    "si_learning": [],
    "si_gamma": ["gamma.png"],
    "si_kinds": [],
    "si_mixtures": [],
    "si_bound": [],
    "pfgmpp_phases": ["phases.png"],
    "pfgmpp_noise": ["robustness.png"],
    "pfgm_tolerance": ["tolerance.png"],
}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(studies, "SIZES", {"small": studies.Size(60, 8, 4, 2)})
    monkeypatch.setattr(studies, "FEW", (4, 6))
    monkeypatch.setattr(exact_digits, "SIZES", {"small": exact_digits.Size(12, 24, 9)})
    monkeypatch.setattr(exact_digits, "TOLERANCES", (1e-2, 1e-3))


@pytest.mark.parametrize("name", PICTURES)
def test_a_study_measures_every_row_and_draws(name, tiny, tmp_path):
    recipe, work = get_recipe(name), Work("small", tmp_path, {}, Results("small"))
    work.results.rows = [{"part": "study", **one} for one in recipe.study(work)]
    assert all(math.isfinite(row["value"]) for row in work.results.rows)
    missing = [line.what for line in recipe.comparisons if isinstance(measured(line, work.results), str)]
    # numbers at the budgets and tolerances that this test leaves out
    left_out = ("at 10 calls", "at 20 calls", "at 5 calls", "at 0.0001", "at 1e-05")
    assert [what for what in missing if not what.endswith(left_out)] == []
    words = [claim.verdict(work.results).word for claim in recipe.claims]
    judged = [word for word in words if word != NOT_MEASURED]
    assert judged or name == "pfgm_tolerance"
    assert sorted(work.captions) == sorted(PICTURES[name])
    assert all((tmp_path / file).stat().st_size > 1000 for file in PICTURES[name])


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_the_kl_estimate_of_a_shifted_normal_is_half_the_shift_squared():
    law = GaussianMixture([[0.0, 0.0]], 1.0)
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0.0])
    found = studies.kl_of(x, law)
    assert found.value == pytest.approx(0.5, abs=4 * found.error)
    assert found.error < 0.05


def test_the_errors_put_in_have_their_size():
    x = 4 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    added = studies.wrong(lambda x, c: torch.zeros(len(x), 4, dtype=x.dtype), 0.6, 1.2)(x, None)
    assert added[:, :2].square().mean().sqrt() == pytest.approx(0.6, rel=0.02)
    assert added[:, 2:].square().mean().sqrt() == pytest.approx(1.2, rel=0.02)


def test_the_bound_is_beneath_the_density_and_tight_for_small_steps():
    process = studies.interpolant(gamma="brownian", head="velocity_score", channels=2)
    oracle, law = process.oracle(studies.target()), studies.target()
    x = law.sample((60, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = law.log_density(x, 1.0, 0.0)
    gaps = [(studies.sde_bound(process, oracle, x, 0.5, steps) - truth).mean() for steps in (25, 400)]
    assert gaps[0] < gaps[1] < 0.05
    assert gaps[1] > -0.15


def test_the_posterior_is_the_prior_far_off_and_one_image_nearby():
    points = torch.randn(10, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for d in (1.0, 128.0):
        process = genflow.get_process("pfgmpp", D=d, head="data")
        assert float(exact_digits.variation(process, points + 1e-4, 1e-3, points).min()) == pytest.approx(0.9, abs=0.02)
        assert float(exact_digits.variation(process, points, 1e4, points).max()) < 1e-3


def test_the_posterior_s_weights_are_the_density_s():
    points = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    process, x = genflow.get_process("pfgmpp", D=8.0, head="data"), points[:3] + 0.7
    weights = torch.stack([process.base.log_prob((x - y) / 0.5) for y in points], 1).softmax(1)
    want = (weights - 1 / 6).abs().sum(1) / 2
    assert exact_digits.variation(process, x, 0.5, points).numpy() == pytest.approx(want.numpy(), rel=1e-9)
