"""Distances in blocks against the bench's metric, pairwise ratios by hand, and points that are stored."""

import math
import statistics

import pytest
import torch

import genflow
from genflow.claims.studies.measure import BlockDistance, Blocks, PointStore
from genflow.config import BenchConfig
from genflow.estimates import ratio
from genflow.evaluate.base import Context
from genflow.evaluate.metrics import FrechetMetric


def test_blocks_are_those_of_the_bench():
    data = genflow.get_dataset("digits")
    config = BenchConfig(samples=1000)
    rows = torch.randint(len(data.train), (1100,), generator=torch.Generator().manual_seed(0))
    distance = BlockDistance(config, data)
    blocks = Blocks(distance.blocks(data.train[rows]))
    row = FrechetMetric().measure(Context(config, data, 0, samples=data.train[rows])).rows[0]
    assert len(blocks.values) == 2
    assert (distance.name, distance.size) == (row.metric, row.n)
    assert blocks.mean.value == pytest.approx(row.value, rel=1e-9)
    assert blocks.mean.error == pytest.approx(row.stderr, rel=1e-6)
    floor = FrechetMetric().real(Context(config, data, 0)).rows[0]
    assert distance.floor == pytest.approx(floor.value, rel=1e-9)


def test_ratios_and_differences_are_taken_block_by_block():
    a, b = Blocks((2.0, 6.0, 10.0)).mean, Blocks((1.0, 3.0, 5.0)).mean
    assert ratio(a, b).value == pytest.approx(2)
    assert ratio(a, b).error == pytest.approx(0, abs=1e-12)  # the spread that both share is gone
    assert (a - b).value == 3.0
    assert (a - b).error == pytest.approx(statistics.stdev([1, 3, 5]) / math.sqrt(3))


def test_a_single_block_has_no_error():
    assert math.isnan(Blocks((1.0,)).mean.error)


def test_a_point_is_measured_once_and_identified_by_all_it_depends_on(tmp_path):
    made = []

    def make():
        made.append(1)
        return Blocks((1.0, 2.0), 5.0, 0.1)

    store = PointStore(tmp_path)
    first = store.get({"size": 0.5}, make)
    assert store.get({"size": 0.5}, make) == first == PointStore(tmp_path).get({"size": 0.5}, make)
    assert len(made) == 1
    store.get({"size": 0.6}, make)
    PointStore(tmp_path, (Blocks,)).get({"size": 0.5}, make)  # other code
    assert len(made) == 3


def test_a_point_that_was_cut_off_is_measured_again(tmp_path):
    store = PointStore(tmp_path)
    point = Blocks((1.0,), 5.0, 0.1)
    store.get({}, lambda: point)
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:20])
    assert store.get({}, lambda: Blocks((2.0,), 5.0, 0.1)).values == (2.0,)
