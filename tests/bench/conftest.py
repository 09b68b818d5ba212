"""A bench on 2-D points that takes a fraction of a second."""

import pytest
from inline_workers import TINY

from genflow.config import BenchConfig, build


@pytest.fixture
def tiny(tmp_path):
    """Makes a configuration of it, with other values where they are given."""

    def make(**given):
        return build(BenchConfig, {**TINY, "out": str(tmp_path / "bench"), **given})

    return make
