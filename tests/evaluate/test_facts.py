"""Options of metrics under their older and newer names, what a measurement costs, and the plugin of the manual."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from genflow.bench.cells import plan
from genflow.config import BenchConfig, ConfigError, build
from genflow.evaluate.base import Context
from genflow.evaluate.facts import cost, kind_of, needs, number_of, settings
from genflow.registry import registries

MANUAL = Path(__file__).parents[2] / "docs" / "metrics.md"
SMALL = {"process": "vp_ode", "solver": "heun", "nfe": "5"}


def keys(metric, **given):
    """Keys of the cells that measure a metric of models."""
    config = build(BenchConfig, {**SMALL, "metric": metric, **given})
    return [cell.key for cell in plan(config) if cell.kind == "metric" and cell.labels["process"] != "data"]


@pytest.mark.parametrize(
    ("metric", "older", "newer"),
    [
        ("norm_z", {"norm.level": "2"}, "norm_z.level=2"),
        ("norm_z", {"norm.factors": "0.5,2"}, "norm_z.factors=[0.5, 2]"),
        ("norm_z", {"norm.solver": "euler", "norm.nfe": "8"}, ["norm_z.solver=euler", "norm_z.nfe=8"]),
        ("bpd", {"bpd.rtol": "1e-4"}, "bpd.rtol=1e-4"),
        ("bpd", {"bpd.examples": "40"}, "bpd.examples=40"),
        ("kl", {"bpd.examples": "40"}, "kl.examples=40"),
    ],
)
def test_both_names_of_an_option_are_one_measurement(metric, older, newer):
    given = keys(metric, metric_options=newer)
    assert keys(metric, **older) == given != keys(metric)


def test_a_metric_depends_on_its_own_options_alone():
    assert keys("bpd") == keys("bpd", **{"norm.level": "2", "samples": "77"})
    assert keys("norm_z") == keys("norm_z", **{"bpd.rtol": "0.1"})
    assert keys("kl") == keys("kl", **{"norm.level": "2"})
    assert keys("norm_z") != keys("norm_z", samples="77")


def test_an_option_wins_over_the_section_and_is_checked_like_it():
    config = build(BenchConfig, {"norm.level": 3.0, "metric_options": {"norm_z": {"level": 2}}})
    assert settings(config, "norm_z").level == 2.0
    metric = registries()["metrics"].get("bpd", rtol=1e-5)
    assert metric.settings(Context(config, None, 0)).rtol == 1e-5
    for name, option in (("norm_z", {"level": -1.0}), ("bpd", {"rtol": 2.0}), ("kl", {"examples": 1})):
        with pytest.raises(ConfigError, match="not allowed"):
            registries()["metrics"].get(name, **option)
        with pytest.raises(ConfigError, match="not allowed"):
            keys(name, metric_options={name: option})


def test_the_cost_is_the_metrics_own():
    metrics = registries()["metrics"]
    config = build(BenchConfig, {"samples": 100, "norm.nfe": 10, "norm.factors": "2,3", "bpd.examples": 7})
    assert cost(config, metrics.entry("norm_z")) == 0.5 * 100 * 10 * 3
    assert cost(config, metrics.entry("bpd")) == cost(config, metrics.entry("kl")) == 3 * 7 * 80


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("FD[digits]", "FD"),
        ("FD[digits]@norm*1.25", "FD@norm"),
        ("C2ST[knn]", "C2ST"),
        ("bits/dim", "bits/dim"),
        ("MMD²", "MMD²"),
    ],
)
def test_the_kind_of_a_number(metric, kind):
    assert kind_of(metric) == kind


@pytest.mark.parametrize("name", registries()["metrics"].entries())
def test_entry_and_class_agree(name):
    metrics = registries()["metrics"]
    assert needs(metrics.entry(name)) == metrics.load(name).needs


def test_the_plugin_of_the_manual_is_shown_as_it_says():
    code = re.search(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.S).group(1)
    names = {}
    exec(compile(code, str(MANUAL), "exec"), names)
    metrics = registries()["metrics"]
    metrics.add("sharp", names["Sharpness"])
    try:
        fact = number_of("sharp", "sharp")
        assert (fact.label, fact.unit, fact.better, fact.table) == ("sharpness", "dB", "higher", "nfe")
        samples = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        (row,) = metrics.get("sharp").measure(Context(BenchConfig(), None, 0, samples=samples)).rows
        assert row.stderr > 0
    finally:
        metrics.remove("sharp")
