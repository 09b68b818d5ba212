"""Samples that others drew as rows of a bench and of evaluate, and reference statistics."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import genflow
from genflow import cli
from genflow.bench.cells import plan
from genflow.bench.rows import collect
from genflow.bench.tables import tables
from genflow.bench.worker import Worker
from genflow.config import BenchConfig, ConfigError, build
from genflow.evaluate.frechet import Statistics, frechet_limit
from genflow.evaluate.protocol import check_protocols
from genflow.evaluate.spaces import space_for
from genflow.report.measures import leaders
from genflow.report.page import cards, marked

GIVEN = {
    "process": "vp_ode", "backbone": "mlp", "backbone_options": ["mlp.width=4"], "dataset": "gaussian_mixture",
    "dataset_options": ["gaussian_mixture.size=60"], "solver": "euler", "nfe": "3,4", "samples": 20,
    "train.steps": 2, "train.batch_size": 8, "metric": "two_sample,bpd", "bpd.examples": 2,
}  # fmt: skip


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Real data as samples, which beat any model, and noise."""
    monkeypatch.chdir(tmp_path)
    data = genflow.get_dataset("gaussian_mixture", size=60)
    np.save("real.npy", data.train.numpy())
    np.savez("noise.npz", x=100 * np.random.RandomState(0).randn(30, 2).astype(np.float32))
    return tmp_path


def done(places, **more):
    config = build(BenchConfig, {**GIVEN, "out": str(places / "runs"), **more})
    worker = Worker(config, lambda: False)
    worker.check()
    cells = plan(config)
    for cell in cells:
        worker.run(cell.to_json(), lambda share, note: None)
    return cells, collect(worker.store, cells)


@pytest.mark.slow
def test_rows_of_a_bench_stand_beside_the_models_and_are_not_ranked(places):
    _, rows = done(places, samples_from="mine=real.npy:nfe=4,noise=noise.npz")
    own = [row for row in rows if row["terms"] == "external"]
    assert {row["process"] for row in own} == {"mine", "noise"}
    assert {row["nfe"] for row in own if row["process"] == "mine"} == {4}
    assert {row["nfe"] for row in own if row["process"] == "noise"} == {None}
    assert not [row for row in own if row["metric"] == "bits/dim"]
    for row in own:
        assert "samples not drawn by genflow: an array in data units" in row["protocol"]
        assert ("its NFE as stated" in row["protocol"]) == (row["process"] == "mine")
        assert "a fixed random 20 of" in row["protocol"]
        assert row["n"] == 20
        assert (row["backbone"], row["solver"]) == ("", "")
    check_protocols(rows)
    for table in (t for t in tables(rows) if "against NFE" in t.title):
        lines = {line[0]: line for line in table.rows}
        assert lines["mine"][1] == lines["noise"][1] == "external"
        assert lines["mine"][table.header.index("NFE 4")]
        assert lines["noise"][-1]
        ranked = {table.rows[i][0] for i, _ in marked(table)}
        assert ranked <= {"vp_ode"}
    assert {card["what"] for card in cards(rows)} <= {"vp_ode", "real test split"}
    assert {one.first.process for one in leaders(rows)} == {"vp_ode"}


def test_other_samples_are_other_cells_and_none_change_nothing(places):
    def keys(**more):
        return {cell.key for cell in plan(build(BenchConfig, {**GIVEN, "out": "runs", **more}))}

    plain, one = keys(), keys(samples_from="mine=real.npy")
    assert plain < one
    np.save("real.npy", np.zeros((60, 2), np.float32))
    assert keys(samples_from="mine=real.npy") & one == plain
    assert keys(samples_from="mine=real.npy:nfe=7") & one == plain


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("real.npy", "'real.npy' is not of the form NAME=PLACE"),
        ("mine=", "is not of the form NAME=PLACE"),
        ("mine=nowhere", "nowhere does not exist"),
        ("mine=real.npy:nfe=many", "nfe = 'many' of 'mine' is not a whole number above 0"),
        ("mine=real.npy:nfe=0", "nfe = '0'"),
        ("vp_ode=real.npy", "the name 'vp_ode' is taken"),
        ("data=real.npy", "the name 'data' is taken"),
        ("mine=real.npy,mine=noise.npz", "the name 'mine' is taken"),
    ],
)
def test_words_that_name_no_samples_are_refused(places, word, said):
    with pytest.raises(ConfigError, match=said):
        plan(build(BenchConfig, {**GIVEN, "samples_from": word}))


def test_too_few_samples_are_refused_before_training(places):
    config = build(BenchConfig, {**GIVEN, "samples_from": "noise=noise.npz", "samples": 40})
    with pytest.raises(ValueError, match=r"noise.npz holds 30 samples, and 40 are measured; give --samples 30"):
        Worker(config, lambda: False).check()


def read(name):
    return list(csv.DictReader(Path(name).read_text(encoding="utf-8").splitlines()))


def command(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["genflow", *words.split()])
    capsys.readouterr()
    code = cli.run()
    found = capsys.readouterr()
    return code, found.out + found.err


MEASURE = "evaluate --dataset gaussian_mixture --dataset-options gaussian_mixture.size=60 --metric two_sample,bpd "


def test_evaluate_measures_samples_of_a_place(places, monkeypatch, capsys):
    code, said = command(monkeypatch, capsys, MEASURE + "--samples real.npy --out x.csv")
    assert code == 0, said
    assert "bpd: not measured, since there is no model" in said
    rows = read("x.csv")
    own = [row for row in rows if row["process"] == "real"]
    assert {row["terms"] for row in own} == {"external"}
    assert {row["n"] for row in own} == {"60"}
    assert all("samples not drawn by genflow" in row["protocol"] and not row["nfe"] for row in own)
    assert {row["metric"] for row in rows if row["process"] == "data"} == {row["metric"] for row in own}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (MEASURE + "--samples nowhere", "samples = 'nowhere' is neither a number nor a place that exists"),
        (MEASURE + "--samples 50", "dataset goes with --samples PLACE"),
        ("evaluate --samples real.npy", "give --dataset NAME"),
        ("evaluate --samples 1", "samples = 1 is not allowed"),
        (MEASURE.replace("two_sample,", "") + "--samples real.npy", "nothing to measure: bpd need a model"),
        (MEASURE + "--samples real.npy --guidance 2", "guidance is for samples that genflow draws"),
        ("evaluate --samples real.npy --dataset digits --metric fd", "give levels as uint8|shape"),
    ],
)
def test_evaluate_refuses_in_a_sentence(places, monkeypatch, capsys, words, said):
    code, found = command(monkeypatch, capsys, words)
    assert code == 2
    assert any(part in found for part in said.split("|")), found


# ---- reference statistics --------------------------------------------------------------------------------


def test_statistics_are_those_of_the_split_and_give_the_same_distance(places, monkeypatch, capsys):
    np.savez("x.npz", x=np.random.RandomState(3).uniform(-1, 1, (40, 1, 8, 8)).astype(np.float32))
    code, said = command(monkeypatch, capsys, "statistics --dataset digits --features identity --out s.npz")
    assert code == 0, said
    train = genflow.get_dataset("digits").train.flatten(1).double().numpy()
    with np.load("s.npz") as file:
        assert np.allclose(file["mu"], train.mean(0))
        assert np.allclose(file["sigma"], np.cov(train.T), atol=1e-8)
        assert int(file["n"]) == len(train)
    measure = "evaluate --samples x.npz --dataset digits --metric fd --metric-options fd.features=identity --out "
    assert command(monkeypatch, capsys, measure + "plain.csv")[0] == 0
    assert command(monkeypatch, capsys, measure + "given.csv --reference s.npz")[0] == 0
    plain, given = ({(r["process"], r["metric"]): r for r in read(n)} for n in ("plain.csv", "given.csv"))
    for process in ("x", "data"):
        one, two = (found[process, "FD[identity]"] for found in (plain, given))
        assert float(one["value"]) == pytest.approx(float(two["value"]), rel=1e-6)
        assert "the training split (n = 1297)" in one["protocol"]
        assert "s.npz (n = 1297, sha256 " in two["protocol"]
        assert plain[process, "FD_test[identity]"]["value"] == given[process, "FD_test[identity]"]["value"]


def test_what_needs_training_examples_is_not_measured_against_a_file(places, monkeypatch, capsys):
    digits = genflow.get_dataset("digits")
    np.savez("x.npz", x=digits.scaling.encode(digits.train[:300]).numpy())
    assert command(monkeypatch, capsys, "statistics --dataset digits --out s.npz")[0] == 0
    measure = "evaluate --samples x.npz --dataset digits --metric fd,prdc --metric-options prdc.features=digits "
    code, said = command(monkeypatch, capsys, measure + "--reference s.npz --out given.csv")
    assert code == 0, said
    found = {(r["process"], r["metric"].partition("[")[0]): r for r in read("given.csv")}
    missing = {metric for (process, metric), row in found.items() if process == "x" and not row["value"]}
    assert missing == {"KD", "nearer_train", "balance_p", "precision", "recall", "density", "coverage"}
    assert all("--reference gives a file of statistics" in found["x", metric]["protocol"] for metric in missing)
    assert all(row["value"] for (process, _), row in found.items() if process == "data")
    assert "needs single examples of the training split" in said
    moments, features = moments_and_features(digits)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))  # that in which files are read
    limit = frechet_limit(features(digits.train[:300][order]), moments)
    assert float(found["x", "FD∞"]["value"]) == pytest.approx(limit.value, rel=1e-6)
    assert "s.npz" in found["x", "FD∞"]["protocol"]
    assert "the test split" in found["x", "FD∞_test"]["protocol"]


def moments_and_features(dataset):
    space = space_for("own", dataset)
    rows = space.features(dataset.train[space.first_row(dataset) :]).double()
    return Statistics(rows.mean(0), rows.T.cov(), len(rows)), space.features


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--reference nowhere.npz", "reference: nowhere.npz is not a file; write one with `genflow statistics`"),
        ("--reference real.npy", "cannot be read: it is a single array"),
        ("--reference noise.npz", "expected mu and sigma, or pool_3"),
        ("--reference other.npz", "are of other features than"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(places, monkeypatch, capsys, words, said):
    np.savez("x.npz", x=np.zeros((40, 1, 8, 8), np.float32))
    np.savez("other.npz", mu=np.zeros(64), sigma=np.eye(64), n=5, features=np.array("of another network"))
    code, found = command(monkeypatch, capsys, f"evaluate --samples x.npz --dataset digits --metric fd {words}")
    assert code == 2
    assert said in found


def test_a_bench_s_reference_is_part_of_its_measurements_keys(places):
    np.savez("s.npz", mu=np.zeros(2), sigma=np.eye(2), n=5)

    def measured(**more):
        cells = plan(build(BenchConfig, {**GIVEN, "out": "runs", **more}))
        compared = {c.key for c in cells if c.kind == "metric" and c.spec["metric"] != "bpd"}  # likelihoods read none
        return compared, {c.key for c in cells} - compared

    plain, given = measured(), measured(reference="s.npz")
    assert plain[0].isdisjoint(given[0])
    assert plain[1] == given[1]
