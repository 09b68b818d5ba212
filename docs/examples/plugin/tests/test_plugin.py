"""The contracts of genflow, and one known answer for each class."""

import pytest
import torch
from genflow_example.metric import MeanError
from genflow_example.process import ExponentialVE
from genflow_example.solver import Ralston

import genflow
from genflow.config import BenchConfig
from genflow.evaluate.base import Context
from genflow.testing import check_process, check_solver


def test_process():
    check_process(ExponentialVE())


def test_solver():
    check_solver(Ralston(), order=2)


def test_metric():
    data = genflow.get_dataset("gaussian_mixture", size=100)
    context = Context(BenchConfig(), data, seed=0, samples=data.train + 3.0)
    (row,) = MeanError().measure(context).rows
    assert row.value == pytest.approx(3.0, abs=1e-5)
    assert row.n == len(data.train)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("processes", "genflow_example_ve"),
        ("solvers", "genflow_example_ralston"),
        ("metrics", "genflow_example_mean"),
    ],
)
def test_genflow_finds_the_names_once_the_package_is_installed(kind, name):
    registry = genflow.registry.registries()[kind]
    entry = registry.entry(name)
    assert entry.origin == "genflow-example"
    assert registry.get(name) is not None


def test_sampling_by_name():
    process = genflow.get_process("genflow_example_ve")
    points = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    found = genflow.sample(process, process.oracle(points), "genflow_example_ralston", 5, nfe=60)
    assert found.nfe == 60
    assert float(torch.cdist(found.x, points).min(1).values.max()) < 0.1
