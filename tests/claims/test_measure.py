"""Distances in blocks against the bench's metric, pairwise ratios by hand, and points that are kept."""

import math
import statistics

import pytest
import torch

import genflow
from genflow.claims.studies.measure import Blocks, Kept, Ruler
from genflow.config import BenchConfig
from genflow.evaluate.base import Context
from genflow.evaluate.metrics import FrechetMetric


def test_blocks_are_those_of_the_bench():
    data = genflow.get_dataset("digits")
    config = BenchConfig(samples=1000)
    rows = torch.randint(len(data.train), (1100,), generator=torch.Generator().manual_seed(0))
    ruler = Ruler(config, data)
    blocks = Blocks(ruler.blocks(data.train[rows]))
    (row,) = FrechetMetric().measure(Context(config, data, 0, samples=data.train[rows])).rows
    assert len(blocks.values) == 2
    assert (ruler.name, ruler.size) == (row.metric, row.n)
    assert blocks.mean.value == pytest.approx(row.value, rel=1e-9)
    assert blocks.mean.error == pytest.approx(row.stderr, rel=1e-6)
    (floor,) = FrechetMetric().floor(Context(config, data, 0)).rows
    assert ruler.floor == pytest.approx(floor.value, rel=1e-9)


def test_ratios_and_differences_are_taken_block_by_block():
    a, b = Blocks((2.0, 6.0, 10.0)), Blocks((1.0, 3.0, 5.0))
    assert a.over(b).value == pytest.approx(math.log(2))
    assert a.over(b).error == pytest.approx(0, abs=1e-12)  # the spread that both share is gone
    assert a.less(b).value == 3.0
    assert a.less(b).error == pytest.approx(statistics.stdev([1, 3, 5]) / math.sqrt(3))


def test_a_single_block_has_no_error():
    assert math.isnan(Blocks((1.0,)).mean.error)


def test_a_point_is_measured_once_and_known_by_all_it_depends_on(tmp_path):
    made = []

    def make():
        made.append(1)
        return Blocks((1.0, 2.0), 5.0, 0.1)

    kept = Kept(tmp_path)
    first = kept.get({"size": 0.5}, make)
    assert kept.get({"size": 0.5}, make) == first == Kept(tmp_path).get({"size": 0.5}, make)
    assert len(made) == 1
    kept.get({"size": 0.6}, make)
    Kept(tmp_path, (Blocks,)).get({"size": 0.5}, make)  # other code
    assert len(made) == 3


def test_a_point_that_was_cut_off_is_measured_again(tmp_path):
    kept = Kept(tmp_path)
    point = Blocks((1.0,), 5.0, 0.1)
    kept.get({}, lambda: point)
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:20])
    assert kept.get({}, lambda: Blocks((2.0,), 5.0, 0.1)).values == (2.0,)
