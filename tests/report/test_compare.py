"""Two runs side by side: differences by hand, and what is not compared."""

import csv
import html
import math

import pytest

from genflow.bench.rows import to_csv
from genflow.commands.report import report_command
from genflow.config import BenchConfig, ConfigError
from genflow.report.compare import Bench, differences, lonely_table, names_of, open_bench, setting_table
from genflow.report.record import Record


def run(tmp_path, name, rows, **settings):
    environment = {"torch": settings.pop("torch", "2.4")}
    return Bench(tmp_path / name, BenchConfig(**settings), rows, Record(environment=environment))


def only(*runs, **more):
    (one,) = differences(*runs, **more)
    return one


def test_a_difference_over_seeds(tmp_path, row):
    a = run(tmp_path, "a", [row(value=v, seed=s) for s, v in enumerate([10.0, 12.0])])
    b = run(tmp_path, "b", [row(value=v, seed=s) for s, v in enumerate([20.0, 20.0, 26.0])])
    one = only(a, b)
    assert (one.a.value, one.b.value) == (11.0, 22.0)
    assert one.a.number.error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert one.b.number.error == pytest.approx(math.sqrt(12) / math.sqrt(3))
    assert one.verdict == "undecided"  # two against three is one degree of freedom


def test_the_same_seeds_are_compared_in_pairs(tmp_path, row):
    a = run(tmp_path, "a", [row(value=v, seed=s) for s, v in enumerate([10.0, 20.0, 30.0])])
    b = run(tmp_path, "b", [row(value=v, seed=s) for s, v in enumerate([11.0, 21.1, 30.9])])
    one = only(a, b)
    assert one.gap.value == pytest.approx(1.0)
    assert one.gap.error == pytest.approx(0.1 / math.sqrt(3))
    assert one.verdict == "holds"
    assert only(b, a).verdict == "holds"


def test_close_numbers_and_numbers_without_an_error(tmp_path, row):
    far = only(run(tmp_path, "a", [row(value=1.0, stderr=0.1)]), run(tmp_path, "b", [row(value=2.0, stderr=0.1)]))
    assert far.verdict == "one seed: not judged"
    assert only(run(tmp_path, "a", [row()]), run(tmp_path, "b", [row()])).verdict == "one seed: not judged"
    near = [[row(value=v + k, seed=s) for s, v in enumerate([1.0, 2.0, 3.0 + k])] for k in (0, 1)]
    assert only(run(tmp_path, "a", near[0]), run(tmp_path, "b", near[1])).verdict == "undecided"


@pytest.mark.parametrize(("change", "why"), [({"protocol": "q"}, "protocols differ"), ({"n": 99}, "n differs")])
def test_other_protocols_are_not_compared_unless_asked(tmp_path, row, change, why):
    a = run(tmp_path, "a", [row(value=v, seed=s) for s, v in enumerate([1.0, 1.1, 1.2])])
    b = run(tmp_path, "b", [row(value=v, seed=s, **change) for s, v in enumerate([9.0, 9.2, 9.1])])
    assert only(a, b).verdict == why
    assert only(a, b, allow_mixed=True).verdict == "holds"


def test_settings_and_environments_that_differ(tmp_path):
    a = run(tmp_path, "a", [], nfe=(5,), out="x")
    b = run(tmp_path, "b", [], nfe=(5, 10), out="y", torch="2.5")
    assert setting_table(a, b).rows == [["nfe", "5", "5, 10"], ["torch", "2.4", "2.5"]]


def test_what_one_run_alone_has(tmp_path, row):
    a, b = run(tmp_path, "a", [row(), row("vp_ode")]), run(tmp_path, "b", [row(), row(budget=20)])
    assert lonely_table(a, b).rows == [
        ["vp_ode", "heun", "10", "FD[digits]", "a"],
        ["pfgm", "heun", "20", "FD[digits]", "b"],
    ]
    assert lonely_table(a, a) is None


def test_folders_of_one_name_are_told_apart(tmp_path):
    a, b = (Bench(tmp_path / side / "bench", BenchConfig(), [], Record()) for side in "xy")
    assert names_of(a, b) == ["x/bench", "y/bench"]
    assert names_of(a, a) == ["A", "B"]


def written(folder, rows):
    """A folder as a bench leaves it, as far as a comparison reads it."""
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text(to_csv(rows))
    (folder / "config.yaml").write_text("process: [pfgm]\n")
    return folder


def test_the_command_from_files_alone(tmp_path, row, capsys):
    evil = tmp_path / "<b>x"
    real, free = row("data", 1.0, solver="", nfe=None), {"solver": "rk45", "budget": None}
    more = [0.0, 0.1, -0.1]
    rows = [row(value=5.0 + v, seed=s) for s, v in enumerate(more)] + [row(value=3.0, budget=20, nfe=20)]
    a = written(
        tmp_path / "a", [*rows, *(row(value=2.0 + v, nfe=61.0, seed=s, **free) for s, v in enumerate(more)), real]
    )
    other = [row(value=9.0 + 2 * v, seed=s) for s, v in enumerate(more)]
    b = written(evil, [*other, *(row(value=2.5 + v / 2, nfe=63.5, seed=s, **free) for s, v in enumerate(more)), real])
    out = tmp_path / "out"
    assert report_command.main([str(a), str(b), "--out", str(out)], standalone_mode=False) == 0
    assert "2 settings in common. That they differ: holds (2)" in capsys.readouterr().out
    with (out / "differences.csv").open() as file:
        found = {(r["process"], r["solver"], r["budget"]): r for r in csv.DictReader(file)}
    assert float(found["pfgm", "heun", "10"]["difference"]) == pytest.approx(4.0)
    assert float(found["pfgm", "heun", "10"]["in_stderr"]) == pytest.approx(4 / (0.1 / math.sqrt(3)))
    assert found["pfgm", "rk45", ""]["verdict"] == "holds"  # at their own NFE each, still one setting
    assert found["data", "", ""]["verdict"] == "the same"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert html.escape("<b>x") in page
    assert "data:image/png;base64," in page
    assert r"\toprule" in (out / "tables.tex").read_text()
    assert "Only in one bench" in (out / "tables.md").read_text()


def test_runs_with_nothing_in_common_and_broken_files_are_refused(tmp_path, row):
    a, b = written(tmp_path / "a", [row()]), written(tmp_path / "b", [row("vp_ode")])
    with pytest.raises(ConfigError, match="no setting in common"):
        report_command.main([str(a), str(b), "--out", str(tmp_path / "out")], standalone_mode=False)
    (b / "results.csv").write_text("process,value\npfgm,x\n")
    with pytest.raises(ConfigError, match=r"is not a bench's results\.csv"):
        open_bench(b)
    (b / "results.csv").unlink()
    with pytest.raises(ConfigError, match=r"has no results\.csv"):
        open_bench(b)
