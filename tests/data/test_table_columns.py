"""Columns that a density cannot be of: each is named by its number in the file, and numpy says nothing beside."""

import warnings

import numpy as np
import pytest

import genflow
from genflow.data.downloads import DataError

ROWS = 300
WIDTHS = {"power": 8, "gas": 19, "gas text": 19, "hepmass": 5, "miniboone": 6, "bsds300": 63}
USED = {"power": 7, "gas": 9, "gas text": 9, "hepmass": 2, "miniboone": 4, "bsds300": 11}
"""A column of each file that is used."""
NAMES = {"power": "power/data.npy", "gas": "gas/ethylene_CO.npy", "miniboone": "miniboone/data.npy"}


def table(name, rows=ROWS):
    return np.random.RandomState(3).randn(rows, WIDTHS[name]).astype(object)


def write(root, name, cells):
    """The published file of a data set with these cells (which may be text); its registered name."""
    for folder in ("power", "gas", "miniboone", "hepmass", "BSDS300"):
        (root / folder).mkdir(exist_ok=True)
    if name in NAMES:
        np.save(root / NAMES[name], cells.astype(np.float64))
    elif name == "gas text":
        text = "\n".join(["heading", *(" ".join(map(str, row)) for row in cells), ""])
        (root / "gas/ethylene_CO.txt").write_text(text)
    elif name == "hepmass":
        head = ",".join(["# label", *(f"f{k}" for k in range(1, 5))])
        for part, more in (("train", ""), ("test", ",0")):
            own = cells if part == "train" else table(name)
            rows = [",".join(["1", *("" if cell is None else str(cell) for cell in row[1:])]) + more for row in own]
            (root / f"hepmass/1000_{part}.csv").write_text("\n".join([head + (",x" if more else ""), *rows, ""]))
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(root / "BSDS300/BSDS300.hdf5", "w") as out:
            for part in ("train", "validation", "test"):
                out[part] = (cells if part == "train" else table(name)).astype(np.float64)
    return name.split()[0]


def read(root, name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return genflow.get_dataset(name, root=str(root), **options).train


@pytest.mark.parametrize("name", WIDTHS)
def test_whole_tables_are_read(tmp_path, name):
    assert len(read(tmp_path, write(tmp_path, name, table(name)))) > 30


@pytest.mark.parametrize("name", [name for name in WIDTHS if name != "bsds300"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e5])
def test_a_constant_column_is_named(tmp_path, name, value):
    """Also one whose mean is not exactly its value in floating point."""
    cells = table(name)
    cells[:, USED[name]] = value
    with pytest.raises(DataError, match=rf"column {USED[name]} \(always {value:g}\) is constant, so it cannot"):
        read(tmp_path, write(tmp_path, name, cells))


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_their_column_and_row(tmp_path, name, value):
    cells = table(name)
    cells[17, USED[name]] = value
    with pytest.raises(DataError, match=rf"column {USED[name]} holds -?(nan|inf) in row 17"):
        read(tmp_path, write(tmp_path, name, cells))


@pytest.mark.parametrize("name", ["gas text", "hepmass"])
def test_text_names_its_column(tmp_path, name):
    cells = table(name)
    cells[17, USED[name]] = "dear"
    with pytest.raises(DataError, match=rf"column {USED[name]} \(\w+\) holds 'dear'"):
        read(tmp_path, write(tmp_path, name, cells))


def test_a_missing_cell_names_its_column(tmp_path):
    cells = table("hepmass")
    cells[17, 2] = None
    with pytest.raises(DataError, match="column 2 holds nan in row 17"):
        read(tmp_path, write(tmp_path, "hepmass", cells))


@pytest.mark.parametrize("name", [name for name in WIDTHS if name != "bsds300"])
@pytest.mark.parametrize("unit", [1e300, 1e-300])
def test_values_beyond_their_type_name_their_column(tmp_path, name, unit):
    cells = table(name)
    cells[:, USED[name]] *= unit
    with pytest.raises(DataError, match=rf"column {USED[name]} has no standard deviation in float64: its values go"):
        read(tmp_path, write(tmp_path, name, cells))


def test_values_beyond_float32_are_named_where_nothing_is_standardised(tmp_path):
    cells = table("bsds300")
    cells[5, 11] = 1e300
    with pytest.raises(DataError, match=r"after the preprocessing the train part has .* column 11 holds inf in row 5"):
        read(tmp_path, write(tmp_path, "bsds300", cells))


@pytest.mark.parametrize(("name", "rows"), [(n, k) for n in WIDTHS for k in (0, 1, 2, 5) if n != "bsds300" or not k])
def test_tables_of_few_rows_are_refused(tmp_path, name, rows):
    with pytest.raises(DataError, match=r"too few rows|holds float64 of shape|holds no|cannot be read as numbers"):
        read(tmp_path, write(tmp_path, name, table(name, rows)))


@pytest.mark.parametrize("array", [np.zeros((5, 0)), np.zeros(()), np.zeros((2, 2, 2)), np.zeros((4, 3), complex)])
def test_arrays_that_are_no_tables_say_what_they_are(tmp_path, array):
    write(tmp_path, "miniboone", table("miniboone"))
    np.save(tmp_path / "miniboone/data.npy", array)
    with pytest.raises(
        DataError, match=rf"holds {array.dtype} of shape {array.shape}".replace("(", r"\(").replace(")", r"\)")
    ):
        read(tmp_path, "miniboone")
