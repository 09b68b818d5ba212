"""Tables and results.csv from rows made up here."""

import csv
import io
import math
import statistics

import pytest

from genflow.bench.cells import Cell
from genflow.bench.rows import COLUMNS, collect, to_csv
from genflow.bench.tables import Table, tables, to_markdown


def row(process="pfgm", solver="heun", budget=10, metric="FD[digits]", value=1.0, seed=0, **more):
    base = {
        "backbone": "mlp",
        "dataset": "digits",
        "nfe": budget,
        "stderr": None,
        "n": 500,
        "protocol": "by hand",
        "seconds": 2.5,
    }
    own = {"process": process, "solver": solver, "budget": budget, "metric": metric, "value": value, "seed": seed}
    return {**base, **own, **more}


REAL_SPLIT = row("data", "", None, value=0.123456, n=400, protocol="real against real")


def only(rows) -> Table:
    (table,) = tables(rows)
    return table


def test_quality_by_process_solver_and_budget():
    table = only([row(value=3.0), row(budget=5, value=4.256), row("vp_ode", value=2.0)])
    assert table.header == ["process", "solver", "NFE 5", "NFE 10"]
    assert table.rows == [["pfgm", "heun", "4.26", "3"], ["vp_ode", "heun", "", "2"]]
    assert table.title == "FD[digits] against NFE"
    assert "n = 500" in table.caption
    assert table.caption.endswith("seed 0; one training seed, without a standard error.")


def test_budgets_are_sorted_as_numbers():
    assert only([row(budget=b) for b in (100, 5, 20)]).header[2:] == ["NFE 5", "NFE 20", "NFE 100"]


def test_over_training_seeds_the_error_is_of_their_mean():
    values = [1.0, 2.5, 4.5]
    error = statistics.stdev(values) / math.sqrt(3)
    table = only([row(value=v, seed=s, stderr=9.0) for s, v in enumerate(values)])
    assert table.rows == [["pfgm", "heun", f"{statistics.mean(values):.1f} ± {error:.1f}"]]
    assert "seeds 0, 1, 2; ± is one standard error, of the mean over 3 training seeds." in table.caption


def test_one_training_seed_is_told_by_the_caption():
    alone = only([row(value=12.5, stderr=0.779)])
    assert alone.rows == [["pfgm", "heun", "12.50 ± 0.78"]]
    assert "seed 0; ± is one standard error, over samples or blocks of one training seed." in alone.caption
    draws = only([row(value=v, seed=s, training="a checkpoint") for s, v in enumerate((1.0, 3.0))])
    assert draws.rows == [["pfgm", "heun", "2.0 ± 1.0"]]
    assert "of the mean over 2 seeds of the draws of one training seed." in draws.caption


@pytest.mark.parametrize("metric", ["KID", "IS", "CS[digits]", "sliced_W2"])
def test_a_deviation_over_subsets_is_no_standard_error(metric):
    """Their `stderr` stays in results.csv; ± in a table never means anything else."""
    table = only([row(metric=metric, value=3.0, stderr=0.5)])
    assert table.rows == [["pfgm", "heun", "3"]]
    assert "±" not in table.caption
    assert only([row(metric=metric, value=v, seed=s, stderr=0.5) for s, v in enumerate((1.0, 3.0))]).rows[0][2] == (
        "2.0 ± 1.0"
    )


class Kept:
    """A store that holds a row."""

    def rows(self, key):
        return [row()]


@pytest.mark.parametrize(("folder", "training"), [("", 0), ("a/checkpoint", "a/checkpoint")])
def test_rows_say_which_training_they_are_from(folder, training):
    """Seeds of a checkpoint are draws; so is a measurement of samples that were drawn from one."""
    drawn = Cell("sample", {}, {"process": "pfgm", "seed": 0}, folder=folder)
    cells = [drawn, Cell("metric", {"metric": "fd", "of": "samples"}, {"seed": 0, "solver": "heun"}, (drawn.key,))]
    (found,) = collect(Kept(), cells)
    assert (found["training"], found["entry"], found["of"]) == (training, "fd", "samples")


def test_floor_row_stands_first_and_alone_makes_no_table():
    table = only([row(), row(budget=20), REAL_SPLIT])
    assert table.rows[0][0] == "real test split"
    assert table.rows[0][2:] == ["0.123", "0.123"]
    assert {len(line) for line in table.rows} == {len(table.header)}
    assert "Real against real: real against real, n = 400" in table.caption
    assert tables([REAL_SPLIT]) == []


def test_adaptive_solvers_have_their_own_column():
    free = [
        row(solver="rk45", budget=None, nfe=nfe, value=v, seed=s) for s, (nfe, v) in enumerate([(60, 1.0), (63, 2.0)])
    ]
    table = only([row(), *free, REAL_SPLIT])
    assert table.header == ["process", "solver", "NFE 10", "own NFE"]
    assert table.rows[1:] == [["pfgm", "heun", "1", ""], ["pfgm", "rk45", "", "1.50 ± 0.50 (NFE 61.5)"]]
    alone = only([*free, REAL_SPLIT])
    assert {len(line) for line in alone.rows} == {len(alone.header)} == {3}


NORM = [
    row(p, "", None, f"norm_{kind}[train]", v, nfe=None)
    for p, kind, v in [("pfgm", "spread", 1.23456), ("pfgm", "tied", 0.5)]
]


def test_norm_table():
    table = only(NORM)
    assert table.header == ["process", "norm_spread[train]", "norm_tied[train]"]
    assert table.rows == [["pfgm", "1.23", "0.5"]]


def test_push_table_is_sorted_by_factor_and_stays_out_of_the_others():
    rows = [
        row(metric=f"FD[digits]@norm*{f}", value=v, budget=None, nfe=20)
        for f, v in [("1.25", 2.0), ("0.5", 3.0), ("10", 9.0)]
    ]
    table = only(rows)
    assert table.header == ["process", "|x| × 0.5", "|x| × 1.25", "|x| × 10"]
    assert table.rows == [["pfgm", "3", "2", "9"]]
    assert "NFE 20" in table.caption


@pytest.mark.parametrize("metric", ["bits/dim", "nll[nats]"])
def test_likelihood_table(metric):
    table = only(
        [row(solver="rk45(0.001)", budget=None, metric=metric, value=2.34567, stderr=0.0123, nfe=71.25, n=100)]
    )
    assert table.title == metric
    assert table.rows == [["pfgm", "2.346 ± 0.012", "rk45(0.001)", "71.2", "100", "0"]]
    assert "± is one standard error, over samples or blocks of one training seed." in table.caption


def test_each_metric_of_samples_has_its_own_table_and_floor():
    rows = [
        row("data", "", None, metric="KID", value=1e-5, protocol="real"),
        row(metric="KID", value=0.0123456, stderr=3e-4),
        row(metric="IS", value=3.14159),
        row(metric="precision", value=0.5, solver="rk45", budget=None, nfe=61.0, entry="inception"),
        row(metric="FD[mnist]", value=7.0),
        REAL_SPLIT,
        row(),
    ]
    found = {table.title: table for table in tables(rows)}
    assert list(found) == [
        "FD[mnist] against NFE",
        "FD[digits] against NFE",
        "KID against NFE",
        "IS against NFE",
        "precision against NFE",
    ]
    assert found["KID against NFE"].rows == [["real test split", "–", "1e-05"], ["pfgm", "heun", "0.0123"]]
    assert found["IS against NFE"].rows == [["pfgm", "heun", "3.14"]]
    assert found["precision against NFE"].rows == [["pfgm", "rk45", "0.5 (NFE 61)"]]
    assert found["FD[mnist] against NFE"].rows == [["pfgm", "heun", "7"]]
    assert found["FD[digits] against NFE"].rows == [["real test split", "–", "0.123"], ["pfgm", "heun", "1"]]


def test_other_metrics_have_a_line_each_with_digits_by_their_error():
    rows = [
        row(metric="odd", value=0.1234567, budget=None, nfe=61.25),
        row(metric="odd", value=0.1234567, stderr=0.0123, budget=None),
    ]
    table = only(rows)
    assert table.title == "Other measurements"
    assert [line[3:5] for line in table.rows] == [["odd", "0.123"], ["odd", "0.123 ± 0.012"]]
    assert table.caption.startswith("`odd`: by hand. ± is one standard error")


@pytest.mark.parametrize(
    "rows",
    [
        [row(value=None)],
        [row(value=None, seed=0), row(value=2.0, seed=1)],
        [row(solver="rk45", budget=None, value=None, nfe=None)],
        [row(), {**REAL_SPLIT, "value": None}],
        [NORM[0], {**NORM[1], "value": None}],
        [row(metric="FD[digits]@norm*0.5", value=None, budget=None, nfe=20)],
        [row(metric="bits/dim", budget=None, value=None, stderr=None, nfe=None)],
        [row(metric="energy", value=None)],
        [row(metric="kl", value=None, entry="kl", budget=None)],
    ],
    ids=["fd", "fd_of_a_seed", "adaptive", "floor", "norm", "push", "bpd", "samples", "other"],
)
def test_a_number_that_is_not_known_does_not_take_the_report_down(rows):
    """NaN is stored as null; its place in the table shows that it is not known."""
    text = only(rows).markdown()
    assert "nan" not in text
    assert "None" not in text


def test_what_is_not_measured_here_is_said_once_and_stays_out_of_the_other_tables():
    gone = [row(p, metric=m, value=None, budget=b, protocol=f"not measured: no {m} file") for p in ("pfgm", "ve_ode")
            for m in ("FID", "bits/dim") for b in (5, 10)]  # fmt: skip
    quality, missing = tables([row(), *gone])
    assert quality.title == "FD[digits] against NFE"
    assert missing.title == "Not measured here"
    assert missing.rows == [["pfgm, ve_ode", "FID", "no FID file"], ["pfgm, ve_ode", "bits/dim", "no bits/dim file"]]


def test_all_tables_in_their_order():
    rows = [row(metric="energy"), *NORM, row(metric="bits/dim", budget=None, stderr=0.1, nfe=60.0), row(), REAL_SPLIT]
    assert [t.title for t in tables(rows)] == [
        "FD[digits] against NFE",
        "energy against NFE",
        "Norm against noise level",
        "bits/dim",
    ]
    assert tables([]) == []


def cells_of(line: str) -> list[str]:
    """Cells of a markdown line as a renderer splits them: at pipes that no backslash precedes."""
    return [c.strip().replace("\0", "|") for c in line.replace("\\|", "\0").strip("|").split("|")]


def test_markdown_escapes_pipes_in_header_and_cells():
    header, lines = ["|x|", "b"], [["a|b", "||"], ["", "plain"]]
    text = Table("Title", header, lines, "A caption.").markdown()
    found = [line for line in text.splitlines() if line.startswith("|")]
    assert [cells_of(line) for line in found] == [header, ["---", "---"], *lines]
    assert text.startswith("## Title\n\n|")
    assert text.endswith("\n\nA caption.\n")


def test_tables_md_names_the_command():
    text = to_markdown(tables([row()]), "genflow bench --nfe 10")
    assert text.startswith("# genflow bench\n\nMade by `genflow bench --nfe 10`.\n\n## FD[digits]")


def test_csv_keeps_every_digit_and_the_declared_columns():
    rows = [row(value=0.1 + 0.2, protocol='with, comma and "quotes"'), row(value=None, stderr=1e-300, nfe=61.5)]
    text = to_csv(rows)
    assert text.splitlines()[0] == ",".join(COLUMNS)
    back = list(csv.DictReader(io.StringIO(text)))
    assert [float(back[0]["value"]), float(back[1]["stderr"])] == [0.1 + 0.2, 1e-300]
    assert back[0]["protocol"] == 'with, comma and "quotes"'
    assert back[1]["value"] == ""
    assert "budget" not in back[0]
    assert to_csv([]).splitlines() == [",".join(COLUMNS)]


def test_a_floor_is_called_what_it_is_of():
    """The two-sample numbers compare with the test split; their floor is the training split."""
    real = row("data", "", None, metric="energy", value=0.1, entry="two_sample")
    table = only([real, row(metric="energy", value=0.3, entry="two_sample")])
    assert [line[0] for line in table.rows] == ["real training split", "pfgm"]


def test_push_table_stands_below_the_floor_and_says_how_it_was_measured():
    told = "|x| times {} at t = 0.5, where noise to signal is 1; then the same heun path on; FD: by some distance"
    pushed = [
        row(p, metric=f"FD[digits]@norm*{f}", value=3.0, budget=None, nfe=20, protocol=told.format(f))
        for p in ("pfgm", "vp_ode")
        for f in ("0.5", "2")
    ]
    table = only([REAL_SPLIT, *pushed])
    assert table.rows[0] == ["real test split", "0.123", "0.123"]
    assert table.caption.count("by some distance") == 1
    assert "pfgm: |x| times the factor at t = 0.5, where noise to signal is 1; then the same heun" in table.caption
    assert "n = 500. Real against real: real against real, n = 400. NFE 20" in table.caption


@pytest.mark.parametrize("metric", ["FD[digits]", "bits/dim"])
def test_a_caption_lists_every_way_of_measuring_with_its_n(metric):
    rows = [
        row("a", metric=metric, protocol="one way"),
        row("b", metric=metric, protocol="other way", n=50),
        row("c", metric=metric, protocol="one way"),
    ]
    caption = only(rows).caption
    assert "Measured in 2 ways. a heun, c heun: one way; n = 500. b heun: other way; n = 50" in caption
    assert "ways" not in only([rows[0], rows[2]]).caption


def test_samples_that_were_left_short_are_told_in_caption_and_csv():
    rows = [row(solver="rk45", budget=None, stopped=3), row("vp_ode", solver="rk45", budget=None, stopped=None)]
    sentence = "The solver left samples short of the data's end, where the field is stiff: 3 of pfgm rk45 (seed 0)."
    assert sentence in only(rows).caption
    assert [line["stopped"] for line in csv.DictReader(io.StringIO(to_csv(rows)))] == ["3", ""]
    assert "short of the data's end" not in only(rows[1:]).caption
