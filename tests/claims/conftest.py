"""A recipe on 2-D points that takes a second, run by a worker in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import inline_workers

from genflow.claims import parts
from genflow.claims.claim import Claim
from genflow.claims.judge import less, quality
from genflow.claims.recipe import Comparison, Published, Recipe
from genflow.claims.results import row

TOY = """
process: [vp_ode, si_linear]
backbone: mlp
backbone_options: {mlp: {width: 8}}
dataset: checkerboard
dataset_options: {checkerboard: {size: 60}}
solver: [euler]
nfe: [2, 4]
seed: [0, 1]
metric: [fd]
samples: 120
train: {steps: 4, batch_size: 8, warmup: 0}
"""
FD = "FD[identity]"


def counting_study(calls):
    """A study that notes that it was called, and draws a picture."""

    def study(work):
        calls.append([name for name, _, _ in work.models()])
        work.picture("drawn.png", "A drawing of calls").write_bytes(b"picture")
        return [row("own", float(len(calls)), protocol="a count", n=1, process="vp_ode")]

    return study


@pytest.fixture
def calls():
    """What the toy recipe's study was called with."""
    return []


@pytest.fixture
def toy(tmp_path, monkeypatch, calls):
    """The recipe, with its configuration in a folder of its own."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "toy_small.yaml").write_text(TOY)
    monkeypatch.setattr(parts, "CONFIGS", folder)
    find = {"process": "vp_ode", "metric": FD, "budget": 2}
    return Recipe(
        name="toy",
        title="A toy",
        paper="Nobody 2000, arXiv:0000.00000",
        claim="One is better.",
        comparisons=(
            Comparison("VP", Published(1.5, "FID", "CIFAR-10, p", "a README"), {"small": find}),
            Comparison("elsewhere", Published(2.5, "FID", "CIFAR-10, q", "a README"), {"full": find}),
            Comparison("own", None, {"small": {"metric": "own"}}),
        ),
        claims=(
            Claim("VP is better.", less(quality("vp_ode", budget=2), quality("si_linear", budget=2), ("VP", "SI"))),
        ),
        study=counting_study(calls),
    )


@pytest.fixture
def settings(tmp_path):
    """How the toy is run; arguments change it."""

    def make(**given):
        folders = {"out": tmp_path / "out", "shared": tmp_path / "shared", "published": tmp_path / "published"}
        return parts.Settings(**{**folders, **given})

    return make


@pytest.fixture(name="inline")
def inline_fixture():
    return inline_workers.start
