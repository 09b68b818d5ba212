"""Benches whose numbers are made up, from the script that times the report."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "report_speed.py"


@pytest.fixture(scope="session")
def made_up_bench():
    """Fills a folder with finished cells and returns the configuration; see `benchmarks/report_speed.py`."""
    spec = importlib.util.spec_from_file_location("report_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.made_up_bench


@pytest.fixture
def row():
    """A row of results.csv, with what the report adds to it."""

    def make(process="pfgm", value=1.0, metric="FD[digits]", solver="heun", budget=10, seed=0, **more):
        base = {"backbone": "ncsnv2", "dataset": "digits", "stderr": None, "n": 50, "protocol": "p", "seconds": 1.0}
        own = {"process": process, "value": value, "metric": metric, "solver": solver, "budget": budget, "seed": seed}
        return {**base, **own, "nfe": budget, "entry": "fd", "of": "samples", **more}

    return make
