"""Correlation against numpy, bands against Cauchy quantiles, and pushes against plain paths."""

import math

import numpy as np
import pytest
import torch

import genflow
from genflow.claims.studies.config import StudyConfig
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.norm_numbers import band, correlation
from genflow.claims.studies.norm_z import measure
from genflow.config import BenchConfig, build
from genflow.evaluate.base import Context
from genflow.evaluate.norm_z import norm_study, perturbed_norms
from genflow.process.poisson import PFGM
from genflow.sampling import draw_prior


def test_correlation_is_numpys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 50)), rng.normal(size=(7, 1))
    x = x + 2 * y
    expected = np.corrcoef(x.ravel(), np.broadcast_to(y, x.shape).ravel())[0, 1]
    assert correlation(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, abs=1e-12)


def test_bands_are_the_quantiles_of_a_cauchy_draw():
    """In one dimension |z C| has the quantiles z tan(π q / 2)."""
    process = PFGM(dim=1, norm=1.0)
    z = torch.tensor([0.5, 2.0], dtype=torch.float64)
    norms = perturbed_norms(process, torch.zeros(1, 1), z, seed=0, count=200_000)
    found = band(norms)
    for k, scale in enumerate(z.tolist()):
        for column, q in zip((2, 3, 4), (0.1, 0.5, 0.9), strict=True):
            assert float(found[k, column]) == pytest.approx(scale * math.tan(math.pi * q / 2), rel=0.02)


def test_a_bands_mean_and_deviation_are_the_samples():
    norms = torch.rand(3, 100, generator=torch.Generator().manual_seed(0))
    found = band(norms).numpy()
    assert found[:, 0] == pytest.approx(norms.double().numpy().mean(1))
    assert found[:, 1] == pytest.approx(norms.double().numpy().std(1, ddof=1))


def context(name):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name).for_data(data.scaling.encode(data.train))
    config = build(BenchConfig, {"samples": 40, "norm.factors": (0.5, 2.0), "norm.nfe": 10, "norm.solver": "euler"})
    return Context(config, data, 0, process, process.oracle(data.scaling.encode(data.train)))


@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_a_push_by_one_is_the_plain_path_and_the_count_can_be_chosen(name):
    seen = context(name)
    study = norm_study(seen.process, seen.backbone, seen, count=30)
    grid = torch.from_numpy(study.arrays["times"])
    start, _ = draw_prior(seen.process, seen.dataset.shape, 0, range(30), torch.float32)
    plain = genflow.get_solver("euler").solve(seen.process.field(seen.backbone), start, grid=grid).x
    assert torch.equal(study.pushed[1.0], seen.dataset.scaling.decode(plain))
    assert torch.equal(study.pushed_norms[1.0], study.norms["path"][study.middle :])
    assert study.norms["train"].shape == study.norms["path"].shape == (len(grid), 30)
    for factor in (0.5, 2.0):
        ratio = study.pushed_norms[factor][0] / study.pushed_norms[1.0][0]
        assert torch.allclose(ratio, torch.full_like(ratio, factor), rtol=1e-5)


@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_the_rescaled_norm_is_the_native_one_over_a(name):
    config = StudyConfig(process=(name,), oracle=True, samples=60, solver=("euler",), nfe=(8,), sample_batch=60)
    experiment = Experiment("norm_z", config)
    norms = measure(experiment, experiment.exact()[0])
    a, b = experiment.exact()[0].process.schedule(experiment.exact()[0].process.grid(4))
    assert norms.moves == (name == "vp_ode")
    native, rescaled = (norms.in_coordinates("path", r) for r in (False, True))
    assert torch.allclose(rescaled * norms.a[:, None], native.double())
    assert bool((norms.sigma.diff() < 0).all())
    assert float(norms.sigma[0]) == pytest.approx(float(b[0] / a[0]))
    assert torch.equal(norms.fates[1.0], torch.ones_like(norms.fates[1.0]))
    assert len(norms.fates[0.5]) == len(norms.sigma_after)
