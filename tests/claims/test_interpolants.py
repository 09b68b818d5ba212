"""Recipes of interpolants: Gaussians against scipy, lengths against closed forms, verdicts that turn."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import genflow
from genflow.claims.papers import interpolants, interpolants_plane
from genflow.claims.papers import interpolants_measures as studies
from genflow.claims.recipe import Work
from genflow.claims.results import EXACT, Results, row
from genflow.data.base import ToyDataset
from genflow.estimates import NOT_MEASURED, ONE_SEED

LIPMAN = {6.35, 2.99, 7.48, 3.12, 5.02, 3.53, 6.99, 3.54}
"""What was read in Table 1 of the flow-matching paper."""


def results(*rows, scale="small"):
    return Results(scale, [{"part": "study", **one} for one in rows])


def measured(metric, value, process="", error=None, **more):
    """A row whose error is over samples: nothing was trained, unless `backbone` says so."""
    return row(metric, value, protocol="", n=500, process=process, stderr=error, **{"backbone": EXACT, **more})


def test_published_numbers_are_those_that_were_read():
    for recipe in interpolants.RECIPES:
        for told in (line.published for line in recipe.comparisons if line.published):
            assert told.value in LIPMAN
            assert "Lipman" in told.source
    assert not any(line.published for line in interpolants.tabular.comparisons)


@pytest.mark.parametrize("scale", ["small", "full"])
def test_rows_name_parts_that_are_run(scale):
    for recipe in interpolants.RECIPES:
        parts = {part.name for part in recipe.parts_of(scale)}
        named = {line.find[scale]["part"] for line in recipe.comparisons if "part" in line.find.get(scale, {})}
        assert named <= parts, recipe.name


def test_each_table_is_a_part():
    assert [part.changes[0] for part in interpolants.tabular.parts_of("full")] == [
        f"dataset={name}" for name in ("power", "gas", "hepmass", "miniboone", "bsds300")
    ]


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_the_fitted_gaussian_is_scipy_s():
    from scipy.stats import multivariate_normal

    data = genflow.get_dataset("wine")
    x, y = data.train.double().numpy(), data.test.double().numpy()
    want = -multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(y)
    assert studies.gaussian_nats(data.train, data.test).numpy() == pytest.approx(want, rel=1e-9)
    config = SimpleNamespace(dataset="wine", dataset_options={})
    work = Work("small", None, {"a": SimpleNamespace(config=config)}, Results("small"))
    found = studies.fitted_gaussians(work)[0]
    assert found["value"] == pytest.approx(want.mean())
    assert found["dataset"] == "wine"


class Shifted(ToyDataset):
    """N((2, 0), 1): from the standard normal the optimal map is a shift, of squared length 4."""

    name = "shifted"

    def sample(self, count, *, generator):
        return torch.randn(count, 2, generator=generator) + torch.tensor([2.0, 0.0])


def velocity(process, factor=1.0):
    """v = a' m + (S'/S)(x − a m), S² = a² + b², as a backbone."""

    def backbone(x, condition):
        c = process.at(process.time(condition.double()), x)
        mean, square = torch.tensor([2.0, 0.0]).to(x), c.a**2 + c.b**2
        return factor * (c.da * mean + (c.a * c.da + c.b * c.db) / square * (x - c.a * mean))

    return backbone


def test_lengths_are_closed_forms_and_agree_only_for_the_exact_velocity():
    process, x = genflow.get_process("si_fourier"), Shifted(size=40_000).test
    length, lower = studies.path_lengths(process, velocity(process), x)
    want = math.pi**2 / 8 * 4
    assert length == pytest.approx(want, rel=0.02)
    assert lower == pytest.approx(want, rel=0.03)
    length, lower = studies.path_lengths(process, velocity(process, 1.5), x)
    assert length == pytest.approx(2.25 * want, rel=0.02)
    assert lower == pytest.approx(0.75 * want, rel=0.05)


def test_the_least_length_is_that_of_the_shift():
    found = studies._bound(Shifted(size=500), 500)
    assert found["value"] == pytest.approx(4.0, rel=0.1)


def test_light_squares_are_half_of_the_board(tmp_path):
    x = 4 * np.random.RandomState(0).rand(4000, 2) - 2
    buffer = io.BytesIO()
    np.savez(buffer, raw=x.astype(np.float32))
    cell = SimpleNamespace(kind="sample", key="k", labels={"process": "si_trig", "solver": "rk45", "seed": 0})
    store = SimpleNamespace(files=lambda key: {"samples.npz": buffer.getvalue()})
    bench = SimpleNamespace(cells=[cell], store=store, config=SimpleNamespace(backbone="mlp", dataset="checkerboard"))
    benches = {"si_checkerboard_small": bench, "si_checkerboard_map_small": bench}
    rows = studies.board(Work("small", tmp_path, benches, Results("small")))
    assert [one["process"] for one in rows] == ["si_trig", studies.MAPPED]
    assert rows[0]["value"] == pytest.approx(50, abs=4 * rows[0]["stderr"])
    assert (tmp_path / "board.png").stat().st_size > 1000


@pytest.mark.slow
def test_paths_are_learnt_and_measured_by_one_loop(tmp_path, monkeypatch):
    for name, value in {"SEEDS": (0,), "POINTS": 20, "ASSIGNED": 100}.items():
        monkeypatch.setattr(studies, name, value)
    rows = studies.shorter_paths(Work("small", tmp_path, {}, Results("small"), ("train.steps=6", "seed=0")))
    by = {(one["process"], one["metric"]): one["value"] for one in rows}
    assert set(by) == {("data", studies.BOUND)} | {
        (process, metric)
        for process in ("fixed path", "learnt path")
        for metric in (studies.LENGTH, studies.FUNCTIONAL, studies.DIVERGENCE, studies.CALLS)
    }
    assert all(math.isfinite(value) for value in by.values())
    assert (tmp_path / "path.png").exists()


def test_a_held_path_stays_where_it_was():
    from genflow.config import TrainConfig

    config, data = TrainConfig(steps=10, batch_size=64), genflow.get_dataset("checkerboard", size=500)
    held, moved = (studies._learn(data, config, 0, moving).process.config() for moving in (False, True))
    assert max(map(abs, (*held["alpha"], *held["beta"]))) < 1e-9
    assert max(map(abs, (*moved["alpha"], *moved["beta"]))) > 1e-3


# ---- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "word"),
    [
        (1.05, "holds"),
        (1.09, "undecided"),
        (0.91, "undecided"),
        (1.5, "does not hold"),
        (0.2, NOT_MEASURED),
        (None, NOT_MEASURED),
    ],
)
def test_least_length(length, word):
    rows = [measured(studies.BOUND, 1.0, "data", 0.01)]
    rows += [] if length is None else [measured(studies.LENGTH, length, "learnt path", 0.01)]
    assert interpolants_plane.within_a_tenth(results(*rows)).word == word


@pytest.mark.parametrize(("third", "word"), [(1.0, "holds"), (9.0, "does not hold"), (2.0, "undecided")])
def test_one_table_against_it_is_enough(third, word):
    rows = []
    for table, value in zip(interpolants.SMALL_TABLES, (1.0, 1.0, third), strict=True):
        rows.append(measured(interpolants.NATS, value, "si_trig", 0.1, dataset=table))
        rows.append(measured(interpolants.NATS, 2.0, studies.GAUSSIAN, 0.1, dataset=table))
    found = interpolants.tabular.claims[0].judge(results(*rows))
    assert found.word == word
    assert all(table in found.evidence for table in interpolants.SMALL_TABLES)


@pytest.mark.parametrize(("calls", "word"), [(40, "holds"), (58, "undecided"), (90, "does not hold")])
def test_calls_are_compared(calls, word):
    def rows(seeds):
        spent = (("si_linear", calls, 1), ("vp_ode", 60, -1))
        return [
            measured("FD[digits]", 1.0, process, nfe=middle + sign * seed, seed=seed, backbone="mlp")
            for process, middle, sign in spent
            for seed in seeds
        ]

    assert interpolants.cifar10.claims[-1].judge(results(*rows((-1, 0, 1)))).word == word
    assert interpolants.cifar10.claims[-1].judge(results(*rows((0,)))).word == ONE_SEED


@pytest.mark.parametrize(("share", "word"), [(3.0, "holds"), (9.5, "undecided"), (30.0, "does not hold")])
def test_samples_off_the_board(share, word):
    claim = interpolants_plane.checkerboard.claims[0]
    assert claim.judge(results(measured(studies.OUTSIDE, share, "si_trig", 0.5))).word == word
