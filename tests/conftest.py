"""One thread for torch in the whole suite: its networks are tiny, and several processes share two cores."""

import os
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked `quick_one_in(n)` the variants 0, n, 2n, ... are quick, the others slow.

    n is a prime, so that the quick variants of a product of parameters meet many values of each.
    """
    met = Counter()
    for item in items:
        mark = item.get_closest_marker("quick_one_in")
        if mark is None or item.get_closest_marker("slow"):
            continue
        place = item.nodeid.partition("[")[0]
        if met[place] % mark.args[0]:
            item.add_marker("slow")
        met[place] += 1
