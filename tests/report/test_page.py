"""The page: values are escaped, it needs no network, and pictures are what they should be."""

import numpy as np
import pytest

from genflow.bench.store import Store
from genflow.bench.tables import Table
from genflow.config import BenchConfig
from genflow.report.page import cards, page
from genflow.report.pictures import grid_image, push_plot, quality_plot, save_samples


def row(process, value, solver="heun", nfe=10, budget=10, seed=0, metric="FD[digits]"):
    return {
        "process": process, "backbone": "" if process == "data" else "ncsnv2", "solver": solver, "nfe": nfe,
        "budget": budget, "metric": metric, "value": value, "stderr": None, "n": 50, "seed": seed, "protocol": "p",
    }  # fmt: skip


def test_values_from_the_run_are_escaped(tmp_path):
    table = Table("<script>alert(1)</script>", ["process"], [["<b>x</b>"]], "a < b")
    html = page(BenchConfig(), [table], [row("pfgm", 2.0)], {}, [], Store(tmp_path), "genflow '<img src=x>'")
    assert "<script>alert" not in html
    assert "<b>x</b>" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_cards_show_the_best_cell_against_the_floor():
    found = cards([row("data", 2.0, budget=None), row("pfgm", 9.0), row("pfgm", 5.0, nfe=20), row("vp_ode", 6.0)])
    assert [c["value"] for c in found] == ["5.00", "6.00", "2.00"]
    assert "NFE 20" in found[0]["how"]
    assert "2.50 x the floor" in found[0]["how"]


def test_grid_places_every_image():
    raw = np.zeros((7, 1, 8, 8))
    raw[6] = 16
    picture = grid_image(raw, 17, columns=5, scale=1)
    assert picture.shape == (17, 44, 3)
    assert (picture[9:17, 9:17] == 0).all()  # the seventh image: second row, second column, ink is dark
    assert (picture[:8, :8] == 255).all()


@pytest.mark.parametrize(
    "raw", [np.zeros((3, 3, 8, 8)), np.zeros((3, 1, 28, 28)), np.random.RandomState(0).randn(50, 2)]
)
def test_samples_of_every_kind_become_a_picture(raw, tmp_path):
    save_samples(tmp_path / "x.png", raw, 256 if raw.ndim == 4 else None)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_plots_of_seeds_and_of_nothing(tmp_path):
    rows = [
        row(p, v + s, nfe=n, budget=n, seed=s) for p, v in (("a", 3.0), ("b", 9.0)) for n in (5, 50) for s in (0, 1)
    ]
    assert quality_plot([*rows, row("a", 2.0, "rk45", 61.5, None), row("data", 1.0, budget=None)], tmp_path / "q.png")
    assert not quality_plot([], tmp_path / "none.png")
    assert not push_plot(rows, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
