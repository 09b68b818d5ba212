"""What a training does once, or not at all: fitting the process, pools of points, reading the files of a checkpoint."""

import sys

import pytest
import torch

import genflow
from genflow import cli
from genflow.config import TrainConfig
from genflow.data.base import Dataset
from genflow.process.base import Process
from genflow.registry import registries
from genflow.training import Batches, Trainer, train


def test_the_command_fits_the_process_once(tmp_path, monkeypatch):
    shown = []
    points = Dataset.fitting_points

    def watched(self):
        shown.append(self.name)
        return points(self)

    monkeypatch.setattr(Dataset, "fitting_points", watched)
    words = "train --backbone mlp --backbone-options mlp.width=8 --train-steps 1 --process pfgm --out"
    monkeypatch.setattr(sys, "argv", ["genflow", *words.split(), str(tmp_path / "model")])
    assert cli.run() == 0
    assert shown == ["digits"]


def test_a_process_that_is_fitted_trains_as_one_that_is_fitted_here():
    data = genflow.get_dataset("eight_gaussians", size=60)
    found = []
    for fit in (True, False):
        process = genflow.get_process("pfgm")
        process = process if fit else process.for_data(data.fitting_points())
        backbone = genflow.get_backbone("mlp", shape=(2,), extra_channels=1, width=8, depth=1)
        found.append(train(process, backbone, data, steps=3, batch_size=8, fit=fit))
    first, second = found
    assert first.process.config() == second.process.config()
    states = [one.backbone.state_dict() for one in found]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def trainer(name, **options):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name, **options).for_data(data.fitting_points())
    extra = process.extra_channels
    backbone = genflow.get_backbone("mlp", shape=data.shape, extra_channels=extra, classes=10, width=8, depth=1)
    return Trainer(process, backbone, data, TrainConfig(batch_size=16))


VARIANTS = [
    (name, options)
    for name in registries()["processes"].entries()
    for options in ({}, {"objective": "stable", "large_batch": 8}, {"large_batch": 0})
]


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_pool_is_gathered_only_where_the_process_uses_it_and_pairs_are_the_same(name, options, monkeypatch):
    """Against pairs of which every step has the pool, bit for bit; the pool is called exactly where it changes them."""
    try:
        made = trainer(name, **options)
    except ValueError:
        pytest.skip("the process does not take these options")
    calls, pool = [], Batches.pool

    def watched(self, step, count):
        calls.append(count)
        return pool(self, step, count)

    monkeypatch.setattr(Batches, "pool", watched)
    pairs, labels = made.pairs()
    assert bool(calls) == made.process.averages
    batches, asked = made.batches, made.process.reference_batch
    points, of = pool(batches, 0, asked * 10)
    refs = {} if batches.references(0, asked) is None else {"refs": batches.references(0, asked)}
    from genflow.training import stream

    want = made.process.training_pairs(
        batches.batch(0), generator=stream(0, "noise", 0), labels=labels, pool=(points, of), **refs
    )
    for got, all_pool in zip(pairs, want, strict=True):
        assert torch.equal(got, all_pool)


def test_a_plugin_that_has_its_own_rule_for_classes_is_given_the_pool():
    class Own(type(genflow.get_process("vp_ode"))):
        pass

    assert not Own().averages
    assert Process.averages.fget(type("Plugin", (), {"own_class": lambda *_: None})())


def test_no_references_are_drawn_where_none_are_asked_for(monkeypatch):
    made = trainer("vp_ode")
    permutations = []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: permutations.append(a) or draw(*a, **k))
    made.advance()
    assert len(permutations) == 1  # the epoch's order
