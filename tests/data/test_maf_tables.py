"""Published tables on small files, against preprocessing written out value by value; scikit-learn's small tables."""

import math
import statistics
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from stored import stored as as_stored
from stored import stored_labels

import genflow
from genflow.data.downloads import DataError
from genflow.data.table_files import tenths

ROWS = 437


def values(seed, columns, rows=ROWS):
    return np.random.RandomState(seed).randn(rows, columns) * np.arange(1, columns + 1) + 3


def stored(root, name, array):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(root / name, array)
    return str(root)


def cut(rows, of=0.1):
    """(train, validation, test) of a list of rows: test first, validation from the rest."""
    test = int(of * len(rows))
    validation = int(of * (len(rows) - test))
    edges = len(rows) - test - validation, len(rows) - test
    return rows[: edges[0]], rows[edges[0] : edges[1]], rows[edges[1] :]


def scaled(parts, known, deviation):
    """Each column minus its mean over its deviation in the rows `known`, by Python's statistics."""
    mean = [statistics.fmean(column) for column in zip(*known)]
    spread = [deviation(column) for column in zip(*known)]
    return [[[(v - m) / s for v, m, s in zip(row, mean, spread)] for row in part] for part in parts]


def agrees(name, root, parts, **options):
    """All three parts: train, and either held-out part as `test`."""
    for held_out, part in (("validation", parts[1]), ("test", parts[2])):
        data = genflow.get_dataset(name, root=root, held_out=held_out, **options)
        assert data.shape == (len(parts[0][0]),)
        assert ("validation part" in data.declared()["split"]) == (held_out == "validation")
        for found, wanted in ((as_stored(data, "train"), parts[0]), (as_stored(data, "test"), part)):
            torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), rtol=1e-5, atol=1e-5)
    assert data.scaling.log_det(data.shape[0]) == 0
    assert data.labels("train") is None
    return data


# ---- the five --------------------------------------------------------------------------------------------


def test_power_by_hand(tmp_path):
    raw = values(0, 8)
    random = np.random.RandomState(42)
    order = list(range(ROWS))
    random.shuffle(order)
    voltage = [0.01 * random.rand() for _ in order]
    active = [0.001 * random.rand() for _ in order]
    meters = [[random.rand() for _ in range(3)] for _ in order]
    rows = []
    for place, row in enumerate(order):
        power, _, volts, _, one, two, three, time = raw[row]
        noisy = [meter + noise for meter, noise in zip((one, two, three), meters[place])]
        rows.append([power + active[place], volts + voltage[place], *noisy, time])
    parts = cut(rows)
    agrees("power", stored(tmp_path, "power/data.npy", raw), scaled(parts, parts[0] + parts[1], statistics.pstdev))


def gas_table():
    """Time, two concentrations, sixteen sensors of which some follow others; column 7 follows only a later one."""
    free = values(1, 6)
    random = np.random.RandomState(2)
    follow = [0, 0, 1, 2, 3, 3, 3, 4, 5, 5, 0, 1, 4, 2, 5, 3]
    sensors = np.stack([free[:, k] * (1 + i) + 0.02 * (i % 3) * random.randn(ROWS) for i, k in enumerate(follow)], 1)
    sensors[:, 6] = -sensors[:, 6]
    return np.hstack([values(3, 3), sensors])


def gas_by_hand(table):
    columns = [list(column) for column in table.T[3:]]
    while True:
        repeated = [
            i
            for i, one in enumerate(columns)
            if any(pearsonr(one, two)[0] > 0.98 for j, two in enumerate(columns) if j != i)
        ]
        if not repeated:
            break
        del columns[repeated[0]]
    rows = [list(row) for row in zip(*columns)]
    return scaled(cut(rows), rows, statistics.stdev)


def test_gas_by_hand(tmp_path):
    parts = gas_by_hand(gas_table())
    assert len(parts[0][0]) == 7  # six that are free, and one of opposite sign
    agrees("gas", stored(tmp_path, "gas/ethylene_CO.npy", gas_table()), parts)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_gas_from_the_text_draws_a_share_of_the_rows(tmp_path, share):
    lines = [" ".join(f"{v:.17g}" for v in row) for row in gas_table()]
    heading = "Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings (16 channels)"
    (tmp_path / "gas").mkdir()
    (tmp_path / "gas" / "ethylene_CO.txt").write_text("\n".join([heading, *lines, ""]))
    kept = np.random.RandomState(0).permutation(ROWS)[: round(share * ROWS)]
    data = agrees("gas", str(tmp_path), gas_by_hand(gas_table()[kept]), share=share)
    assert sum(map(len, (data.train, data.test))) < len(kept)


def test_the_published_counts_follow_from_the_published_sizes():
    """n rows of the files to the counts that papers print; GAS: a quarter of the text's 4,208,261 rows."""
    for rows, counts in (
        (2_049_280, (1_659_917, 184_435, 204_928)),
        (round(0.25 * 4_208_261), (852_174, 94_685, 105_206)),
        (36_488, (29_556, 3_284, 3_648)),
    ):
        assert tuple(map(len, tenths(np.empty((rows, 0))))) == counts == tuple(map(len, cut(range(rows))))


def hepmass_tables():
    """Class, then five columns: 1 has its smallest value six times, 2 its largest; the test file has one more."""
    train, test = values(4, 5), values(5, 6, 80)
    train[:6, 1] = train[:, 1].min() - 1
    train[:40, 2] = train[:, 2].max() + 1
    train[:5, 3] = train[:, 3].min() - 1
    classes = np.random.RandomState(6).randint(0, 2, ROWS).astype(float)
    classes[:40] = 1
    return np.column_stack([classes, train]), np.column_stack([np.arange(80) % 2, test])


def write_csv(path, table):
    names = ["# label", *(f"f{k}" for k in range(table.shape[1] - 1))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",".join(names), *(",".join(f"{v:.17g}" for v in row) for row in table), ""]))


def hepmass_by_hand():
    train, test = ([list(row[1:]) for row in table if row[0] == 1] for table in hepmass_tables())
    test = [row[:-1] for row in test]
    first, second = scaled([train, test], train, statistics.stdev)
    counts = [sorted(Counter(column).items())[0][1] for column in zip(*first)]
    kept = [k for k, count in enumerate(counts) if count <= 5]
    assert kept == [0, 2, 3, 4]
    first, second = ([[row[k] for k in kept] for row in part] for part in (first, second))
    edge = len(first) - int(len(first) * 0.1)
    return first[:edge], first[edge:], second


def test_hepmass_by_hand_with_the_smallest_values_quirk(tmp_path):
    for name, table in zip(("1000_train", "1000_test"), hepmass_tables()):
        write_csv(tmp_path / "hepmass" / f"{name}.csv", table)
    agrees("hepmass", str(tmp_path), hepmass_by_hand())


def test_miniboone_by_hand(tmp_path):
    raw = values(7, 43)
    parts = cut([list(row) for row in raw])
    root = stored(tmp_path, "miniboone/data.npy", raw)
    agrees("miniboone", root, scaled(parts, parts[0] + parts[1], statistics.pstdev))


def write_bsds(path):
    h5py = pytest.importorskip("h5py")
    parts = {name: values(8 + k, 63, 20 - k) for k, name in enumerate(("train", "validation", "test"))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as out:
        for name, part in parts.items():
            out[name] = part
    return [part.tolist() for part in parts.values()]


def test_bsds300_is_as_stored(tmp_path):
    agrees("bsds300", str(tmp_path), write_bsds(tmp_path / "BSDS300" / "BSDS300.hdf5"))


def test_the_published_archive_is_read_in_place(tmp_path):
    """data.tar.gz as it is published, with its pickled table that is left alone."""
    stored(tmp_path / "data", "miniboone/data.npy", values(7, 43))
    bsds = write_bsds(tmp_path / "data" / "BSDS300" / "BSDS300.hdf5")
    for name, table in zip(("1000_train", "1000_test"), hepmass_tables()):
        write_csv(tmp_path / "data" / "hepmass" / f"{name}.csv", table)
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "data.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "data", "data")
    root = str(tmp_path / "packed")
    agrees("bsds300", root, bsds)
    agrees("hepmass", root, hepmass_by_hand())
    plain = genflow.get_dataset("miniboone", root=str(tmp_path))  # below a folder `data`
    assert torch.equal(genflow.get_dataset("miniboone", root=root).train, plain.train)
    with pytest.raises(DataError, match=r"data\.tar\.gz lacks data/power/data\.npy"):
        genflow.get_dataset("power", root=root).train  # noqa: B018
    assert [p.name for p in (tmp_path / "packed").iterdir()] == ["data.tar.gz"]


# ---- bad files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("power", "power/data.npy", np.zeros((50, 9)), "has 9 columns, POWER's file has 8"),
        ("power", "power/data.npy", np.zeros(50), r"holds float64 of shape \(50,\), not a table"),
        ("power", "power/data.npy", np.array([[{}]]), "cannot be read as an array"),
        ("miniboone", "miniboone/data.npy", values(0, 3, 5), "too few rows, the validation part is empty"),
        ("miniboone", "miniboone/data.npy", np.ones((50, 3)), r"column 0 \(always 1\), 1 \(always 1\), .* is constant"),
        ("gas", "gas/ethylene_CO.npy", np.zeros((50, 16)), "has 16 columns; wanted are time"),
        ("gas", "gas/ethylene_CO.txt", b"heading\n1 2 x\n", "cannot be read as numbers"),
        ("hepmass", "hepmass/1000_train.csv", b"", r"1000_train\.csv cannot be read as numbers"),
        ("bsds300", "BSDS300/BSDS300.hdf5", b"text", "is damaged, or not BSDS300's file"),
        ("miniboone", "data.tar.gz", b"text", r"data\.tar\.gz is damaged"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path, name, file, content, message):
    write_csv(tmp_path / "hepmass" / "1000_test.csv", hepmass_tables()[1])
    if isinstance(content, bytes):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    else:
        stored(tmp_path, file, content)
    with pytest.raises(DataError, match=message) as error:
        genflow.get_dataset(name, root=str(tmp_path)).train  # noqa: B018
    assert str(tmp_path) in str(error.value)


def test_a_pickled_gas_table_is_not_taken(tmp_path):
    (tmp_path / "gas").mkdir()
    (tmp_path / "gas" / "ethylene_CO.pickle").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match=r"needs gas/ethylene_CO\.npy or gas/ethylene_CO\.txt"):
        genflow.get_dataset("gas", root=str(tmp_path))


def test_the_extra_is_named(tmp_path, monkeypatch):
    write_bsds(tmp_path / "BSDS300.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"pip install 'genflow\[tabular\]'"):
        genflow.get_dataset("bsds300", root=str(tmp_path)).train  # noqa: B018


@pytest.mark.parametrize(("options", "message"), [({"held_out": "train"}, "held_out"), ({"share": 0}, "share = 0")])
def test_bad_options_are_refused_by_name(tmp_path, options, message):
    root = stored(tmp_path, "gas/ethylene_CO.npy", gas_table())
    with pytest.raises(ValueError, match=f"gas: {message}"):
        genflow.get_dataset("gas", root=root, **options)


# ---- scikit-learn's --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
def test_small_tables_are_scikit_learns_standardised_by_their_training_rows(name):
    from sklearn import datasets, preprocessing

    bunch = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    data = genflow.get_dataset(name)
    assert data.name == name
    assert data.count("train") + data.count("test") == len(bunch.data)
    assert data.train.mean(0).abs().max() < 1e-5
    assert (data.train.std(0, correction=0) - 1).abs().max() < 1e-5
    rows = data._part("train").rows
    theirs = preprocessing.StandardScaler().fit(bunch.data[rows]).transform(bunch.data)
    held_out = sorted(set(range(len(bunch.data))) - set(rows.tolist()))
    torch.testing.assert_close(as_stored(data, "train"), torch.from_numpy(theirs[rows]).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        as_stored(data, "test"), torch.from_numpy(theirs[held_out]).float(), rtol=1e-4, atol=1e-5
    )
    if data.classes:
        assert stored_labels(data, "test").tolist() == bunch.target[held_out].tolist()
        shares = [data.labels(split).bincount() / data.count(split) for split in ("train", "test")]
        assert float((shares[0] - shares[1]).abs().max()) < 0.02


def test_nats_of_standardised_data_are_those_of_the_data_units():
    """The best Gaussian on standardised rows has −½ (1 + log 2π) nats a column, whatever the raw units."""
    x = genflow.get_dataset("diabetes").fitting_points().double()
    mean = torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).mean()
    assert float(mean) == pytest.approx(-0.5 * (1 + math.log(2 * math.pi)), abs=1e-5)
