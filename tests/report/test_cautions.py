"""What a reader is warned of, and when not."""

from types import SimpleNamespace

from genflow.config import BenchConfig
from genflow.report.cautions import cautions, comparable

FIVE = BenchConfig(seed=(0, 1, 2, 3, 4), process=("pfgm",), solver=("heun",))


def five(row, **more):
    return [row(seed=s, **more) for s in FIVE.seed]


def test_nothing_to_say_where_nothing_is_wrong(row):
    assert cautions(FIVE, five(row, n=5000, protocol="features (d = 64)"), [], []) == []


def test_small_samples_are_biased(row):
    (found,) = cautions(FIVE, five(row, n=500, protocol="features 'digits' (d = 64)"), [], [])
    assert "FD[digits] at n = 500 in d = 64 dimensions is biased upwards" in found


def test_a_floor_at_another_size(row):
    rows = [*five(row, n=50), row("data", 1.0, solver="", budget=None, n=400, of="model")]
    (found,) = cautions(FIVE, rows, [], [])
    assert "samples are measured at n = 50, real data at n = 400" in found


def test_few_and_uneven_seeds(row):
    one = BenchConfig(seed=(0,), process=("pfgm",), solver=("heun",))
    assert "One seed" in cautions(one, [row()], [], [])[0]
    two = BenchConfig(seed=(0, 1), process=("pfgm",), solver=("heun",))
    assert "2 seeds" in cautions(two, [row(seed=0), row(seed=1)], [], [])[0]
    uneven = [*five(row), row("vp_ode")]
    assert any("same seeds" in line for line in cautions(FIVE, uneven, [], []))


def test_two_protocols_of_one_metric(row):
    rows = [*five(row), *five(row, budget=20, protocol="q")]
    assert "FD[digits] was measured by 2 protocols" in cautions(FIVE, rows, [], [])[0]
    assert comparable("mean over 2 blocks of n") == comparable("mean over 1 block of n") != comparable("mean of n")


def test_missing_cells_lost_numbers_and_notes(row):
    lost = [*five(row), *five(row, budget=20, value=None)]
    found = cautions(FIVE, lost, [SimpleNamespace(name="sample pfgm heun 35 seed 0")], ["a cell is computed again"])
    assert "1 planned cells are not finished" in found[0]
    assert "sample pfgm heun 35 seed 0" in found[0]
    assert "5 measurements gave no finite number" in found[1]
    assert found[-1] == "a cell is computed again"


def test_what_could_not_be_measured_is_told_by_its_table_alone(row):
    rows = [*five(row), *five(row, metric="FID", value=None, protocol="not measured: no weights")]
    assert cautions(FIVE, rows, [], []) == []


def test_pairs_that_can_not_run_are_named_with_the_reason(row):
    config = BenchConfig(seed=FIVE.seed, process=("si_encdec",), solver=("heun", "unipc"))
    (found,) = cautions(config, five(row), [], [])
    assert found.startswith("Not run: si_encdec by unipc, which needs 'affine'")


def test_samples_that_a_solver_left_short_are_told_once_for_a_setting(row):
    rows = [*five(row, n=5000), *five(row, n=5000, metric="FD[tiny]")]
    assert cautions(FIVE, rows, [], []) == []
    for one in (rows[0], rows[5]):
        one["stopped"] = 7
    (found,) = cautions(FIVE, rows, [], [])
    assert found.startswith("heun left 7 samples of pfgm (seed 0) short of the data's end")
