"""Where the parity data lies: $GENFLOW_PARITY_DIR, else ../shared/parity beside the checkout.

It is not part of the repository; where it is absent, the tests that read it are skipped and say so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

BESIDE = Path(__file__).parents[3] / "shared" / "parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the parity data."""
    folder = Path(os.environ.get("GENFLOW_PARITY_DIR") or BESIDE)
    if not folder.is_dir():
        pytest.skip(f"no parity data in {folder}; set GENFLOW_PARITY_DIR to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def load(parity: Path) -> Callable[[str], dict[str, Any]]:
    """A file of the parity data by its name: numbers as tensors, everything else as stored."""

    def read(name: str) -> dict[str, Any]:
        path = parity / name
        if not path.exists():
            pytest.skip(f"{path} is missing; this copy of the parity data is incomplete")
        if path.suffix == ".pt":
            return torch.load(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {
                k: v if (v := arrays[k]).dtype.kind in "US" else torch.from_numpy(np.array(v)) for k in arrays.files
            }

    return read


@pytest.fixture(scope="session")
def error() -> Callable[[Tensor, Tensor], float]:
    """max |found − want| / max |want|, the measure of the data's suggested tolerances."""

    def relative(found: Tensor, want: Tensor) -> float:
        assert found.shape == want.shape, f"{tuple(found.shape)} against {tuple(want.shape)}"
        return float((found.double() - want.double()).abs().max() / want.double().abs().max())

    return relative
