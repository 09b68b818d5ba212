"""The files beside the cells: all of them, again, after damage, and what they remember of the run."""

import csv
import json
import shutil

import pytest

from genflow.bench.cells import plan
from genflow.bench.store import Store
from genflow.checkpoint import write_folder
from genflow.commands.report import report_command
from genflow.config import ConfigError
from genflow.report.record import OUTPUTS, STAMP, read_bench, read_record
from genflow.report.write import write_outputs

SMALL = {"process": ["pfgm", "vp_ode"], "solver": ["heun", "rk45"], "nfe": [5, 10], "samples": 70}
ORIGIN = {"nfe": "command line", "process": "a.yaml:1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, made_up_bench):
    folder = tmp_path_factory.mktemp("bench")
    config = made_up_bench(folder, **SMALL)
    cells = plan(config)
    write_outputs(config, Store(folder), cells, "genflow bench --nfe 5,10", origin=ORIGIN, notes=["a cell was damaged"])
    return config, folder, cells


@pytest.fixture
def bench(whole, tmp_path, monkeypatch):
    """A copy of it; pictures are not drawn again, which takes the most time and is proved elsewhere."""
    config, folder, cells = whole
    shutil.copytree(folder, tmp_path / "bench")
    monkeypatch.setattr("genflow.report.figures.draw", lambda *_: [])
    return config, tmp_path / "bench", cells


@pytest.mark.slow
def test_everything_is_there(whole):
    _, folder, _ = whole
    assert all((folder / name).stat().st_size for name in OUTPUTS)
    names = {p.name for p in (folder / "plots").iterdir()}
    assert names >= {"fd_nfe.png", "norm_z.png", "norm_push.png", "loss.png", "bits-dim.png"}
    assert names >= {"path_pfgm.gif", "path_pfgm.png", "samples_vp_ode_rk45.png"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/gif;base64,") == 2
    for words in (
        "a cell was damaged",
        "command line",
        "a.yaml:1",
        "genflow bench --nfe 5,10",
        "@inproceedings{xu2022pfgm",
    ):
        assert words in page
    with (folder / "results.csv").open() as file:
        assert {row["process"] for row in csv.DictReader(file)} == {"data", "pfgm", "vp_ode"}


def test_up_to_date_outputs_are_left_alone(bench):
    config, folder, cells = bench
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not write_outputs(config, Store(folder), cells, "genflow bench again").written
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize("name", [*OUTPUTS, STAMP])
def test_a_lost_output_is_written_again(bench, name):
    config, folder, cells = bench
    (folder / name).unlink()
    assert write_outputs(config, Store(folder), cells, "genflow bench").written
    assert (folder / name).is_file()


def test_a_report_written_again_keeps_what_it_knows_of_the_run(bench):
    _, folder, _ = bench
    (folder / "tables.md").write_text("")
    assert report_command.main([str(folder)], standalone_mode=False) == 0
    record, _ = read_record(folder)
    assert record.commands == ("genflow bench --nfe 5,10",)
    assert record.origin == ORIGIN
    assert record.notes == ("a cell was damaged",)
    assert "Made by `genflow bench --nfe 5,10`" in (folder / "tables.md").read_text(encoding="utf-8")


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digest": 3', '{"commands": 1, "origin": 2}'])
def test_a_damaged_record_is_no_record(bench, content):
    _, folder, _ = bench
    (folder / STAMP).write_text(content)
    assert read_record(folder)[0].commands == ()
    assert report_command.main([str(folder)], standalone_mode=False) == 0
    assert "the folder does not record where the bench ran" in (folder / "report.html").read_text(encoding="utf-8")


def test_commands_are_kept_in_their_order_each_once(bench):
    config, folder, cells = bench
    for command in ("genflow bench b", "genflow bench --nfe 5,10", "genflow bench b"):
        (folder / "tables.tex").unlink()
        write_outputs(config, Store(folder), cells, command)
    assert json.loads((folder / STAMP).read_text())["commands"] == ["genflow bench --nfe 5,10", "genflow bench b"]


def test_cells_that_are_missing_are_told(bench):
    config, folder, cells = bench
    done = [cell for cell in cells if cell.labels["process"] != "vp_ode" or cell.kind != "metric"]
    write_outputs(config, Store(folder), done, "genflow bench")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{len(cells) - len(done)} planned cells are not finished" in page


def test_a_folder_without_a_bench_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no bench"):
        report_command.main([str(tmp_path)], standalone_mode=False)


def test_the_folder_of_a_training_run_is_told_from_a_bench(tmp_path):
    (tmp_path / "config.yaml").write_text("process: vp_ode\n")
    (tmp_path / "latest").write_text("step-00000001\n")
    with pytest.raises(ConfigError, match=r"holds a training run, not a bench; .* `genflow bench --checkpoint "):
        read_bench(tmp_path)


def test_options_of_a_comparison_need_a_second_folder(bench):
    with pytest.raises(ConfigError, match="give a second folder"):
        report_command.main([str(bench[1]), "--out", "there"], standalone_mode=False)


def change(store, cell, **values):
    """Another result of a metric cell under the same key."""
    files = store.files(cell.key)
    rows = [{**row, **values} for row in json.loads(files["rows.json"])]
    write_folder(store.folder(cell.key), {**files, "rows.json": json.dumps(rows).encode()})


def of_metric(cells, metric):
    return next(cell for cell in cells if cell.spec.get("metric") == metric and cell.parents)


def test_a_cell_that_changed_under_its_key_is_written(bench):
    config, folder, cells = bench
    change(Store(folder), of_metric(cells, "fd"), value=987.654, stderr=0.012)
    assert write_outputs(config, Store(folder), cells, "genflow bench").written
    assert all("987.654" in (folder / name).read_text(encoding="utf-8") for name in ("tables.md", "tables.tex"))
    assert not write_outputs(config, Store(folder), cells, "genflow bench").written


def test_a_note_is_written_also_where_no_number_changed(bench):
    config, folder, cells = bench
    assert write_outputs(config, Store(folder), cells, "genflow bench", notes=["it was damaged again"]).written
    assert "it was damaged again" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_refusal_to_mix_protocols_leaves_the_numbers_and_the_way_out_works(bench):
    config, folder, cells = bench
    for name in OUTPUTS:
        (folder / name).unlink()
    change(Store(folder), of_metric(cells, "fd"), protocol="another way", n=123)
    with pytest.raises(ValueError, match="--allow-mixed"):
        write_outputs(config, Store(folder), cells, "genflow bench")
    with (folder / "results.csv").open() as file:
        assert "another way" in {row["protocol"] for row in csv.DictReader(file)}
    with pytest.raises(ValueError, match="--allow-mixed"):
        report_command.main([str(folder)], standalone_mode=False)
    assert report_command.main([str(folder), "--allow-mixed"], standalone_mode=False) == 0
    assert "another way; n = 123" in (folder / "tables.md").read_text(encoding="utf-8")
    assert read_record(folder)[0].origin == ORIGIN


def test_different_counts_of_samples_left_short_are_no_two_ways(bench):
    config, folder, cells = bench
    for cell, count in zip([c for c in cells if c.spec.get("metric") == "fd" and c.parents], (0, 3, 8)):
        change(Store(folder), cell, stopped=count or None)
    assert write_outputs(config, Store(folder), cells, "genflow bench").written
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "3 samples of" in page
    assert "8 samples of" in page


@pytest.mark.slow
def test_points_instead_of_images(tmp_path, made_up_bench):
    config = made_up_bench(
        tmp_path, images=False, dataset="two_moons", backbone="mlp", process=["pfgm"], solver=["torchdiffeq/dopri5"],
        metric=["fd", "norm_z"], samples=60,
    )  # fmt: skip
    write_outputs(config, Store(tmp_path), plan(config), "genflow bench")
    assert (tmp_path / "plots" / "samples_pfgm_torchdiffeq-dopri5.png").is_file()
    assert (tmp_path / "plots" / "path_pfgm.gif").is_file()
