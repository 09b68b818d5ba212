"""Recipes of trained models, with oracles in the place of networks, and verdicts on made-up numbers."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import genflow
from genflow import latent
from genflow.bench.cells import plan
from genflow.claims.papers import get_recipe, model_figures, pfgm_ablations, pfgm_speed
from genflow.claims.parts import Settings, open_parts
from genflow.claims.recipe import Work
from genflow.claims.results import Results, row
from genflow.claims.write import measured
from genflow.estimates import FAILS, HOLDS, NOT_MEASURED, ONE_SEED, UNDECIDED

DIGITS = genflow.get_dataset("digits")


class Exact(torch.nn.Module):
    """An oracle as a network, whose inner noise stands for a training's."""

    def __init__(self, oracle, error, seed):
        super().__init__()
        self.oracle, self.error, self.weight = oracle, error, torch.nn.Parameter(torch.zeros(1))
        self.bias = error * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed))

    def forward(self, x, condition):
        return self.oracle(x, condition) + self.bias.to(x)


@pytest.fixture
def models(monkeypatch):
    """Two trainings of each process by the name of the recipe's part: exact fields of 20 digits, a little off."""
    monkeypatch.setattr(model_figures, "SIZES", {"small": (10, 10)})
    monkeypatch.setattr(latent, "encode", partial(latent.encode, solver="heun", nfe=30))  # RK45 takes hundreds

    def opened(work, part=None):
        for name in ("vp_ode", "subvp_ode" if "gradient" in next(iter(work.benches)) else "pfgm"):
            points = DIGITS.scaling.encode(DIGITS.train[:20], torch.Generator().manual_seed(0))
            process = genflow.get_process(name, head="data").for_data(points)
            for seed in (0, 1):
                yield name, seed, process, Exact(process.oracle(points), 0.02, seed + 10 * len(part or "")), DIGITS

    monkeypatch.setattr(model_figures, "opened", opened)


def run(name, folder):
    recipe = get_recipe(name)
    benches = {part.name: None for part in recipe.parts_of("small")}
    work = Work("small", folder, benches, Results("small"))
    work.results.rows = [{"part": "study", **one} for one in recipe.study(work)]
    return recipe, work


@pytest.mark.parametrize("name", ["sde_class_gradient", "sde_encoding", "pfgm_nearest"])
def test_a_study_measures_every_row_and_draws(name, models, tmp_path):
    recipe, work = run(name, tmp_path)
    assert all(math.isfinite(one["value"]) for one in work.results.rows)
    assert [line.what for line in recipe.comparisons if isinstance(measured(line, work.results), str)] == []
    assert all(claim.verdict(work.results).word != NOT_MEASURED for claim in recipe.claims)
    assert work.captions
    assert all((tmp_path / file).stat().st_size > 1000 for file in work.captions)


def test_an_exact_field_copies_and_says_so(models, tmp_path):
    """A field of 20 images makes those images: no sample is far from the training split."""
    recipe, work = run("pfgm_nearest", tmp_path)
    assert recipe.claims[0].verdict(work.results).word != HOLDS


# ---- verdicts --------------------------------------------------------------------------------------------------------

FD = "FD[digits]"


def curve(process, solver, values, seeds=(0, 1, 2), noise=0.02):
    return [
        row(
            *(FD, value * (1 + noise * (-1) ** seed)),
            process=process,
            solver=solver,
            budget=b,
            nfe=b,
            seed=seed,
            n=500,
            protocol="p",
            seconds=b * 0.5,
            network_seconds=b * 0.4,
            backbone="mlp",
            part="pfgm_speed_small",
            entry="fd",
        )
        for b, value in values.items()
        for seed in seeds
    ]


SLOW = {10: 90, 20: 70, 50: 40, 100: 24, 200: 16, 500: 11, 1000: 10}
QUICK = {10: 14, 20: 10.5, 50: 10, 100: 10, 200: 10, 500: 10, 1000: 10}
MIDDLING = {10: 80, 20: 50, 50: 30, 100: 20, 200: 10, 500: 9.9, 1000: 9.8}


@pytest.mark.parametrize(
    ("pfgm", "vp", "words"),
    [
        (QUICK, MIDDLING, (HOLDS, FAILS, HOLDS)),
        (QUICK, QUICK, (HOLDS, HOLDS, UNDECIDED)),
        (MIDDLING, QUICK, (FAILS, HOLDS, FAILS)),
        ({b: 3 * v for b, v in QUICK.items()}, QUICK, (FAILS, HOLDS, NOT_MEASURED)),
    ],
)
def test_whose_the_factor_is(pfgm, vp, words, tmp_path):
    rows = [*curve("pfgm", "euler", pfgm), *curve("vp_ode", "euler", vp), *curve("vp_sde", "euler_maruyama", SLOW)]
    results, claims = Results("small", rows), pfgm_speed.speed.claims
    assert tuple(claims[k].verdict(results).word for k in (0, 1, 4)) == words
    one = Results("small", [r for r in rows if r["seed"] == 0])
    assert claims[0].verdict(one).word in (ONE_SEED, UNDECIDED)


def test_calls_and_seconds_are_rows_and_not_reached_is_said(tmp_path):
    far = {b: 3 * v for b, v in QUICK.items()}
    rows = [*curve("pfgm", "euler", QUICK), *curve("vp_ode", "euler", far), *curve("vp_sde", "pc", SLOW)]
    work = Work("small", tmp_path, {}, Results("small", rows))
    work.results.rows += [{"part": "study", **one} for one in pfgm_speed.speeds(work)]
    found = {line.what: measured(line, work.results) for line in pfgm_speed.speed.comparisons}
    assert 10 < found["PFGM, euler: calls"].value < 20.1
    assert found["PFGM, euler: seconds of 1,000 samples"].value == pytest.approx(found["PFGM, euler: calls"].value)
    assert found["PFGM, euler: of these in the network"].value == pytest.approx(0.8 * found["PFGM, euler: calls"].value)
    assert "not reached" in found["VP, euler: calls"]
    assert "speed.png" in pfgm_speed.speed.draw(work.results, tmp_path)


def test_each_ablation_is_a_training_of_its_own(tmp_path):
    parts = open_parts(pfgm_ablations.ablations, Settings("small", tmp_path, tmp_path, tmp_path))
    keys = [
        cell.key for part in parts for cell in plan(part.config) if cell.kind == "train" and cell.labels["seed"] == 0
    ]
    assert len(set(keys)) == len(pfgm_ablations.CHANGES)


def test_an_ablation_is_judged_against_the_published_setting(tmp_path):
    rows = []
    for name in pfgm_ablations.CHANGES:
        value = 10.0 if name != "γ ten times" else 5.0
        value = 20.0 if name == "no large batch" else value
        part = pfgm_ablations._part("small", name)
        rows += [one | {"part": part} for one in curve("pfgm", "rk45", {80: value})]
    results = Results("small", [one | {"value": one["value"] + 1e-3 * k} for k, one in enumerate(rows)])
    words = {claim.text: claim.verdict(results).word for claim in pfgm_ablations.ablations.claims}
    assert words["Samples are better as published than with no large batch."] == HOLDS
    assert words["Samples are better as published than with γ ten times."] == FAILS
    assert "ablations.png" in pfgm_ablations.ablations.draw(results, tmp_path)
