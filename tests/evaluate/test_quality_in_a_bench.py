"""The metrics inside a bench: it goes on without weights, says so, and measures anew when they arrive."""

import pytest
from inception_stub import write_stub

import genflow
from genflow.bench.cells import plan
from genflow.bench.single import SingleWorker
from genflow.bench.tables import tables
from genflow.config import BenchConfig, build
from genflow.data.digits import Digits
from genflow.evaluate import weight_files as weights


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)


def config(**changes):
    base = {"process": "vp_ode", "backbone": "mlp", "solver": "euler", "nfe": "2", "samples": 30, "metric": "fd,fid"}
    return build(BenchConfig, base | {k.replace("__", "."): v for k, v in changes.items()})


def keys(cells):
    return {cell.spec["metric"]: cell.key for cell in cells if cell.kind == "metric" and cell.parents}


def test_without_weights_the_rest_is_measured_and_fid_has_its_reason_in_a_table():
    process = genflow.get_process("vp_ode").for_data(Digits().fitting_points())
    backbone = genflow.get_backbone("mlp", shape=(1, 8, 8), extra_channels=0)
    rows = SingleWorker(config(), process, backbone).rows(lambda share, note: None)
    found = {(row["process"], row["metric"]): row for row in rows}
    assert found["vp_ode", "FD[digits]"]["value"] > 0
    assert "low-rank form" in found["vp_ode", "FD[digits]"]["protocol"]  # 30 samples, 64 features
    for process_name in ("data", "vp_ode"):
        assert found[process_name, "FID"]["value"] is None
    text = "\n".join(table.markdown() for table in tables(rows))
    (line,) = [line for line in text.splitlines() if "| FID |" in line]
    assert weights.KNOWN["inception"].sha256 in line
    assert "vp_ode" in line


def test_a_cell_is_measured_anew_when_the_weights_arrive_or_an_option_changes(tmp_path):
    before = keys(plan(config()))
    write_stub(tmp_path / "graph.pt")
    given = keys(plan(config(inception=str(tmp_path / "graph.pt"))))
    weights.add(tmp_path / "graph.pt", "inception")
    after = keys(plan(config()))
    assert before["fd"] == given["fd"] == after["fd"]
    assert before["fid"] != after["fid"] == given["fid"]
    other = keys(plan(config(metric_options={"fid": {"mode": "legacy_tensorflow"}})))
    assert other["fid"] != after["fid"]
    assert other["fd"] == after["fd"]


def test_options_of_a_metric_that_is_not_measured_are_refused():
    with pytest.raises(ValueError, match="metric_options"):
        plan(config(metric_options={"kid": {"subsets": 3}}))
