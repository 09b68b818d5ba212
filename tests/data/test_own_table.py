"""The data set `table`: every container holds the same numbers, and what is not a table of numbers is named."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import genflow
from genflow.data.downloads import DataError

ROWS = np.random.RandomState(5).randn(40, 3) * [1.0, 20.0, 0.01] + [5.0, -3.0, 0.0]
NAMES = ["age", "weight", "dose"]


def csv_text(rows=ROWS, separator=",", header=True, names=NAMES):
    lines = [separator.join(map(str, row)) for row in rows]
    return "\n".join([*([separator.join(names)] if header else []), *lines, ""])


def write(root, kind):
    """The rows in a file of that kind, and the options that reading it needs."""
    path = root / f"rows.{kind.split()[0]}"
    if kind == "npy":
        np.save(path, ROWS)
    elif kind == "npz":
        np.savez(path, x=ROWS)
    elif kind == "npz two":
        path = root / "rows.npz"
        np.savez(path, other=np.zeros(3), mine=ROWS)
        return path, {"array": "mine"}
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame(ROWS, columns=NAMES).to_parquet(path)
    else:
        separator = {"csv": ",", "csv tab": "\t", "csv semicolon": ";", "csv space": "  ", "csv bare": ","}[kind]
        path.write_text(csv_text(separator=separator, header=kind != "csv bare"), encoding="utf-8-sig")
    return path, {}


KINDS = ("npy", "npz", "npz two", "parquet", "csv", "csv tab", "csv semicolon", "csv space", "csv bare")


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_holds_the_same_rows(tmp_path, kind):
    path, options = write(tmp_path, kind)
    data = genflow.get_dataset("table", path=str(path), **options)
    assert (data.count("train"), data.count("test"), data.shape) == (36, 4, (3,))
    found = np.concatenate([data.train.numpy(), data.test.numpy()])
    back = data.original(found)
    assert np.allclose(np.sort(back, 0), np.sort(ROWS, 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.train.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(data.train.std(0, correction=0), torch.ones(3), rtol=1e-5, atol=1e-5)
    assert np.allclose(data.preprocessed(back), found, atol=1e-5)


def test_columns_split_and_standardising_are_options(tmp_path):
    path, _ = write(tmp_path, "csv")
    data = genflow.get_dataset("table", path=str(path), columns=["dose", "0"], test_share=0.5, standardise=False)
    assert data.column_names == ["dose", "age"]
    assert (data.count("train"), data.count("test")) == (20, 20)
    found = np.concatenate([data.train.numpy(), data.test.numpy()])
    assert np.allclose(np.sort(found, 0), np.sort(ROWS[:, [2, 0]], 0), rtol=1e-6)
    other = tmp_path / "held.csv"
    other.write_text(csv_text(ROWS[:7]))
    held = genflow.get_dataset("table", path=str(path), test_path=str(other))
    assert (held.count("train"), held.count("test")) == (40, 7)
    assert np.allclose(np.sort(held.original(held.test.numpy()), 0), np.sort(ROWS[:7], 0), rtol=1e-4, atol=1e-5)
    assert held.declared()["preprocessing"] == "standardised by the training rows"
    assert "held.csv" in held.declared()["split"]
    assert data.declared()["preprocessing"] == "none"


def broken(root, what):
    """A file that is no table of numbers."""
    path = root / "rows.csv"
    cells = [[str(v) for v in row] for row in ROWS]
    if what == "text":
        for k, row in enumerate(cells):
            row[1] = "red" if k % 2 else "blue"
    elif what == "one word":
        cells[3][1] = "many"
    elif what == "true":
        for k, row in enumerate(cells):
            row[1] = str(bool(k % 2))
    elif what in ("missing", "na", "inf"):
        cells[4][2] = {"missing": "", "na": "N/A", "inf": "inf"}[what]
    elif what == "constant":
        for row in cells:
            row[0] = "0.1"
    elif what == "ragged":
        cells[5].append("9")
    path.write_text(csv_text(cells))
    if what == "empty":
        path.write_text("\n")
    elif what == "header alone":
        path.write_text("age,weight\n")
    elif what == "one row":
        path.write_text(csv_text(ROWS[:1]))
    elif what == "zeros":
        path.write_bytes(b"\0" * 100)
    elif what == "gzip":
        path.write_bytes(b"\x1f\x8b" + b"x" * 50)
    elif what in ("vector", "cube", "object", "cut off"):
        path = root / "rows.npy"
        made = {"vector": np.zeros(9), "cube": np.zeros((2, 3, 4)), "object": np.array([["a"]]), "cut off": ROWS}
        np.save(path, made[what])
        if what == "cut off":
            path.write_bytes(path.read_bytes()[:300])
    elif what == "two arrays":
        path = root / "rows.npz"
        np.savez(path, a=ROWS, b=ROWS)
    return path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("text", r"column 1 \(weight\) is not a column of numbers: it holds 'blue' in row 0, 2 different"),
        ("one word", r"column 1 \(weight\) is not a column of numbers: it holds 'many' in row 3"),
        ("true", r"column 1 \(weight\) is not a column of numbers: it holds .* 2 different"),
        ("missing", r"column 2 \(dose\) has no value in row 4, counted from 0; .*missing=drop"),
        ("na", r"column 2 \(dose\) has no value in row 4"),
        ("inf", r"column 2 \(dose\) holds inf in row 4"),
        ("constant", r"column age \(always 0.1\) is constant"),
        ("ragged", "cannot be read as a CSV file: .*line 7"),
        ("empty", "is empty"),
        ("header alone", "has no rows"),
        ("one row", "need at least 2"),
        ("zeros", "is not a text file"),
        ("gzip", "is a gzip file"),
        ("vector", r"of shape \(9,\), not a table of numbers"),
        ("cube", r"of shape \(2, 3, 4\), not a table"),
        ("object", "not a table of numbers"),
        ("cut off", "cannot be read as an array"),
        ("two arrays", "holds the arrays a, b; give array=NAME"),
    ],
)
def test_what_is_no_table_of_numbers_is_named(tmp_path, what, said):
    with pytest.raises(DataError, match=said):
        genflow.get_dataset("table", path=str(broken(tmp_path, what)))


def test_rows_with_missing_values_may_be_dropped(tmp_path):
    data = genflow.get_dataset("table", path=str(broken(tmp_path, "missing")), missing="drop")
    assert data.count("train") + data.count("test") == len(ROWS) - 1
    assert genflow.get_dataset("table", path=str(broken(tmp_path, "text")), columns=["age", "dose"]).shape == (2,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": ""}, "path = '' is not allowed; give a CSV"),
        ({"test_share": 1}, "test_share = 1.0 is not allowed"),
        ({"separator": "pipe"}, "separator = 'pipe' is not allowed"),
        ({"header": "maybe"}, "header = 'maybe' is not allowed"),
        ({"missing": "mean"}, "missing = 'mean' is not allowed"),
        ({"columns": ["height"]}, "has no column height; it has age, weight, dose"),
        ({"columns": ["3"]}, "has no column 3"),
        ({"columns": ["age", "0"]}, "named twice"),
        ({"path": "nowhere.csv"}, "nowhere.csv.* does not exist"),
        ({"path": "."}, "is not a regular file"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, said):
    path, _ = write(tmp_path, "csv")
    with pytest.raises((DataError, ValueError), match=said):
        genflow.get_dataset("table", **{"path": str(path), **options})


def test_held_out_rows_must_have_the_same_columns(tmp_path):
    path, _ = write(tmp_path, "csv")
    other = tmp_path / "held.csv"
    other.write_text(csv_text(names=["weight", "age", "dose"]))
    with pytest.raises(DataError, match=r"has the columns weight, age, dose; .* has age, weight, dose"):
        genflow.get_dataset("table", path=str(path), test_path=str(other))


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="needs pyarrow: pip install pyarrow"):
        genflow.get_dataset("table", path=str(path))


def test_a_parquet_file_that_is_damaged_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        genflow.get_dataset("table", path=str(path))
