"""Plots and moving pictures: what is drawn is what was measured."""

import io

import numpy as np
import pytest
from PIL import Image

from genflow.report import curves
from genflow.report.motion import HOLD, SIDE, moving
from genflow.report.palette import COLOURS, MUTED, palette
from genflow.report.pictures import as_rgb, grid_image, save_samples
from genflow.report.style import new_axes, spans

BLUE, RED = COLOURS[:2]


def drawn(rows, **more):
    _, axes = new_axes()
    curves.draw_curve(axes, rows, BLUE, "-", "o", **more)
    return axes


def test_lines_are_means_and_bands_one_standard_error(row):
    at = {5: [8.0, 10.0, 15.0], 20: [2.0, 2.0, 5.0]}
    rows = [row(value=v, budget=b, nfe=b, seed=s) for b, values in at.items() for s, v in enumerate(values)]
    axes = drawn(rows[::-1])
    x, y = axes.lines[0].get_data()
    assert list(x) == [5, 20]
    assert y == pytest.approx([11.0, 3.0])
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices
    for place, values in at.items():
        found = edges[edges[:, 0] == place, 1]
        mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(3)
        assert [found.min(), found.max()] == pytest.approx([mean - error, mean + error])


def test_one_seed_has_bars_of_its_standard_error(row):
    axes = drawn([row(value=4.0, budget=5, nfe=5, stderr=0.5), row(value=2.0, budget=9, nfe=9, stderr=0.25)])
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[3.5, 4.5], [1.75, 2.25]]


def test_an_adaptive_solver_is_a_point_at_its_mean_nfe(row):
    axes = drawn([row(value=v, budget=None, nfe=n, seed=s) for s, (v, n) in enumerate([(3.0, 60.0), (5.0, 64.0)])])
    assert [list(part) for part in axes.lines[0].get_data()] == [[62.0], [4.0]]


PLOTTED = {
    "one NFE": lambda row: [row(), row("vp_ode", 2.0)],
    "many seeds": lambda row: [row(value=1 + s, budget=b, nfe=b, seed=s) for s in range(20) for b in (5, 50)],
    "below zero": lambda row: [row(value=v, metric="KID", budget=b, nfe=b) for b, v in ((5, 0.1), (10, -0.001))],
    "some unknown": lambda row: [row(), row(value=None, budget=20), row(value=float("nan"), budget=30)],
    "adaptive alone": lambda row: [row(solver="rk45", budget=None, nfe=61.5)],
    "a plugin": lambda row: [row("my <process>", 3.0, metric="my metric", entry="mine", solver="mine/x")],
    "many curves": lambda row: [
        row(f"p{i}", 1.0 + i, solver=s, budget=b, nfe=b) for i in range(12) for s in "ab" for b in (5, 9)
    ],
}  # fmt: skip


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("make", PLOTTED.values(), ids=PLOTTED)
def test_plots_of_all_kinds_of_benches(make, row, tmp_path):
    rows = make(row)
    metric = rows[0]["metric"]
    assert curves.nfe_plot(rows, metric, tmp_path / "x.png", palette(r["process"] for r in rows))
    with Image.open(tmp_path / "x.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 1


def test_nothing_to_plot_makes_no_file(row, tmp_path):
    path = tmp_path / "none.png"
    assert not curves.nfe_plot([row("data")], "FD[digits]", path, {})
    assert not curves.push_plot([row()], path, {})
    assert not curves.norm_plot({}, path, {})
    assert not curves.loss_plot({"a": []}, path, {})
    assert not curves.error_plot([row()], "bits/dim", path, {})
    assert not path.exists()


def test_logarithmic_axes_only_where_they_are_right():
    assert spans([1, 10], 4)
    assert not spans([1, 3], 4)
    assert not spans([-1, 10], 4)
    assert not spans([0, 10], 4)
    assert not spans([], 4)


def test_a_process_and_its_model_have_one_colour():
    found = palette(["vp_sde", "pfgm", "unheard of"])
    assert found["vp"] == found["vp_sde"] == BLUE
    assert found["pfgm"] == RED
    assert len({found[n] for n in ("vp_sde", "pfgm", "unheard of")}) == 3
    nine = palette(f"p{i}" for i in range(9))
    assert set(nine.values()) == set(MUTED)
    assert len(palette(f"p{i}" for i in range(40))) == 40


# ---- pictures ----------------------------------------------------------------------------------------------


def test_grid_places_every_image():
    raw = np.zeros((7, 1, 8, 8))
    raw[6] = 16
    picture = grid_image(raw, 17, columns=5, scale=1)
    assert picture.shape == (17, 44, 3)
    assert (picture[9:17, 9:17] == 0).all()  # the seventh image: second row, second column, ink is dark
    assert (picture[:8, :8] == 255).all()


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (3, 1, 28, 28), (50, 2), (50, 1), (50, 6), (50, 43)])
def test_samples_of_every_kind_become_a_picture(shape, tmp_path):
    save_samples(tmp_path / "x.png", np.random.default_rng(0).normal(size=shape), 256)
    with Image.open(tmp_path / "x.png") as picture:
        assert min(picture.size) > 20


def frames(path):
    with Image.open(path) as gif:
        result = []
        for i in range(gif.n_frames):
            gif.seek(i)
            result.append((np.asarray(gif.convert("RGB")).astype(int), gif.info["duration"]))
        return result


def test_a_path_of_images_ends_on_its_last_state(tmp_path):
    random = np.random.default_rng(1)
    end = np.sign(random.normal(size=(16, 1, 8, 8)))
    states = np.stack([random.normal(size=end.shape) * 900, random.normal(size=end.shape), end])
    path = moving(states, np.array([9.0, 1.0, 0.1]), tmp_path / "p.gif", BLUE)
    found = frames(path)
    assert len(found) == 3
    assert found[-1][1] == HOLD > found[0][1]
    scale = (found[-1][0].shape[1] + 4) // 4 - 4
    scale //= 8
    tile = found[-1][0][: 8 * scale : scale, : 8 * scale : scale, 0][:8, :8] / 255
    assert np.abs(tile - as_rgb((end[0] + 1) * 127.5, 256)[0]).max() < 0.05
    first = found[0][0][: 8 * scale, : 8 * scale]
    assert 20 < first.mean() < 235  # a state 900 times too wide is shown at unit size, neither black nor white
    with Image.open(path.with_suffix(".png")) as strip:
        assert strip.size[0] > 3 * found[0][0].shape[1]


def test_points_end_where_the_path_ends(tmp_path):
    """A cloud around (1, 1) with an anchor at the origin's mirror: its centre in the frame is found again."""
    end = np.array([[0.0, 0.0], [2.0, 2.0]] * 20) + 0.001 * np.random.default_rng(0).normal(size=(40, 2))
    states = np.stack([1000 * end, 10 * end, end])
    path = moving(states, np.array([3.0, 2.0, 1.0]), tmp_path / "p.gif", RED)
    last = frames(path)[-1][0][:SIDE]
    ink = np.argwhere((last[..., 0] > 150) & (last[..., 2] < 90))
    low, high = ink.min(0), ink.max(0)
    assert abs((low + high) / 2 - SIDE / 2).max() < 3  # symmetric about the middle of the view
    upper = ink[ink[:, 0] < SIDE / 2]
    assert (upper[:, 1] > SIDE / 2).all()  # larger y is higher, larger x further right


def test_vectors_of_more_entries_have_no_moving_picture(tmp_path):
    assert moving(np.zeros((3, 4, 6)), np.arange(3.0), tmp_path / "p.gif", BLUE) is None
    assert not (tmp_path / "p.gif").exists()


def test_pictures_are_files_that_others_read(tmp_path):
    path = moving(np.random.default_rng(0).normal(size=(4, 5, 3, 6, 6)), np.arange(4.0), tmp_path / "p.gif", BLUE)
    content = path.read_bytes()
    assert content[:6] == b"GIF89a"
    assert Image.open(io.BytesIO(content)).info["loop"] == 0
