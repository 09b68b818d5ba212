"""A small file in the published layout: PFGM's DDPM++ at 8 features, as `torch.save` writes it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import genflow

TINY = {
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "fir": False,
    "progressive_input": "none",
    "embedding_type": "positional",
    "normalise": False,
}


def contents() -> dict:
    """What a published file holds: weights, their average (twice as large), a step, and an optimiser."""
    net = genflow.get_backbone("ncsnpp", shape=(3, 32, 32), extra_channels=1, **TINY)
    net.initialise(3)
    weights = {name: value.detach() for name, value in net.state_dict().items()}
    sigmas = torch.logspace(np.log10(50), -2, 1000, dtype=torch.float64)
    model = {"module.sigmas": sigmas, **{f"module.{name}": value for name, value in weights.items()}}
    rows = list(range(len(weights)))
    adam = {row: {"step": 5, "exp_avg": torch.zeros(2)} for row in rows}
    return {
        "optimizer": {"state": adam, "param_groups": [{"lr": np.float64(2e-4), "params": rows}]},
        "model": model,
        "ema": {"decay": 0.9999, "num_updates": 5, "shadow_params": [2 * value for value in weights.values()]},
        "step": 5,
    }


@pytest.fixture(scope="session")
def stored() -> dict:
    """The contents; not to be changed."""
    return contents()


@pytest.fixture
def file(tmp_path, stored) -> Path:
    """The file, checkpoint_1.pth."""
    path = tmp_path / "checkpoint_1.pth"
    torch.save(stored, path)
    return path


Edit = Callable[[str, bytes], bytes]


def repack(path: Path, edit: Edit, compression: int = zipfile.ZIP_STORED) -> None:
    """Writes a zip file again, each record as `edit(name, content)` has it, with right checksums."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, edit(name, content))


@pytest.fixture(name="repack")
def repack_fixture() -> Callable[..., None]:
    return repack
