"""The metrics inside a bench: it goes on without weights, says so, and measures anew when they arrive."""

import pytest
from inception_stub import write_stub

import genflow
from genflow.bench.cells import plan
from genflow.bench.single import SingleWorker
from genflow.bench.store import missing
from genflow.bench.tables import tables
from genflow.bench.worker import Worker
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
    rows = SingleWorker(config(), process, backbone, Digits()).rows(lambda share, note: None)
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
    given = config(inception=str(tmp_path / "graph.pt"))
    refused = keys(plan(given))
    weights.add(tmp_path / "graph.pt", "inception")
    after = keys(plan(config()))
    assert before["fd"] == refused["fd"] == after["fd"]
    assert after["fid"] == keys(plan(given))["fid"]
    assert after["fid"] not in (before["fid"], refused["fid"])
    other = keys(plan(config(metric_options={"fid": {"mode": "legacy_tensorflow"}})))
    assert other["fid"] != after["fid"]
    assert other["fd"] == after["fd"]


def test_options_of_a_metric_that_is_not_measured_are_refused():
    with pytest.raises(ValueError, match="metric_options"):
        plan(config(metric_options={"kid": {"subsets": 3}}))


@pytest.mark.parametrize("metric", ["fid", "fd"])
def test_what_a_weight_file_keeps_from_being_measured_is_tried_again(tmp_path, metric):
    """The message says what to do, and doing it must help."""
    write_stub(tmp_path / "graph.pt")
    where = {"inception": str(tmp_path / "graph.pt")}
    if metric == "fd":
        where = {"metric_options": {"fd": {"features": str(tmp_path / "graph.pt")}}}
    setting = config(metric=metric, out=str(tmp_path / "run"), **where)
    worker = Worker(setting, lambda: False)
    floor = next(cell for cell in plan(setting) if cell.kind == "metric" and not cell.parents)
    worker.store.prepare()
    worker.run(floor.to_json(), lambda *_: None)
    state, why = worker.store.look(floor)
    assert state == "unavailable"
    assert "genflow weights add" in why
    assert missing(worker.store, [floor])[0] == ([] if metric == "fid" else [floor])
    weights.add(tmp_path / "graph.pt")
    trusted = next(cell for cell in plan(setting) if cell.kind == "metric" and not cell.parents)
    assert missing(worker.store, [trusted])[0] == [trusted]


def test_without_weights_a_second_run_has_nothing_to_do_until_the_reason_is_another(tmp_path, monkeypatch):
    """So it does not load torch either; and a reason that no longer holds is not shown."""
    setting = config(metric="fid", out=str(tmp_path / "run"))
    floors = [cell for cell in plan(setting) if cell.kind == "metric" and not cell.parents]
    worker = Worker(setting, lambda: False)
    worker.store.prepare()
    worker.run(floors[0].to_json(), lambda *_: None)
    assert worker.store.look(floors[0])[0] == "unavailable"
    assert missing(worker.store, floors)[0] == []
    monkeypatch.setenv("GENFLOW_WEIGHTS_DIR", str(tmp_path / "elsewhere"))
    again = [cell for cell in plan(setting) if cell.kind == "metric" and not cell.parents]
    assert missing(worker.store, again)[0] == again


def test_what_can_never_be_measured_is_not_tried_again(tmp_path):
    setting = config(metric="fid", dataset="two_moons", out=str(tmp_path / "run"))
    worker = Worker(setting, lambda: False)
    floor = next(cell for cell in plan(setting) if cell.kind == "metric" and not cell.parents)
    worker.store.prepare()
    worker.run(floor.to_json(), lambda *_: None)
    assert worker.store.look(floor)[0] == "cached"
