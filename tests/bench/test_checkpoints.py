"""Finished checkpoints instead of training: what they bring, what goes together, and the numbers."""

import json

import inline_workers as inline
import pytest
import torch

import genflow
from genflow.bench import checkpoints
from genflow.bench.checkpoints import labels, open_finished, settle
from genflow.bench.choose import prepare
from genflow.bench.data import UnavailableData
from genflow.bench.rows import collect
from genflow.bench.tables import tables
from genflow.bench.worker import Worker
from genflow.checkpoint import MANIFEST, describe, save
from genflow.config import ConfigError

BOARD = {"name": "checkerboard", "options": {"size": 60}}


def write(path, name="vp_ode", dataset=BOARD, seed=0, **options):
    """A checkpoint of a network that was not trained, as `genflow train` and `genflow import` write them."""
    process = genflow.get_process(name, **options)
    if dataset == BOARD:
        process = process.for_data(genflow.get_dataset("checkerboard", size=60).fitting_points())
    backbone = genflow.get_backbone("mlp", shape=(2,), extra_channels=process.extra_channels, width=8)
    backbone.initialise(seed)
    about = describe(name, process, "mlp", backbone) | ({"dataset": dataset} if dataset else {})
    save(path, about, backbone.state_dict())
    return str(path)


@pytest.fixture
def bench(tiny):
    """A bench of checkpoints, with what they bring."""

    def make(*paths, **given):
        given = {"solver": "heun,euler_maruyama", "nfe": "3", "samples": 20, **given}
        plain = {"process": "pfgm,vp_ode", "backbone": "ncsnv2", "dataset": "digits", "dataset_options": {}}
        config = tiny(**{**plain, "backbone_options": {}, **given, "checkpoint": list(paths)})
        from dataclasses import replace

        from genflow.config import TrainConfig

        return settle(replace(config, train=TrainConfig()), dict.fromkeys(given, "command line"))

    return make


def done(config, **options):
    plan = prepare(config)
    plan.store.prepare()
    inline.run(config, plan, **options)
    return plan


# ---- what they say ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_checkpoint_is_known_by_its_content_wherever_it_lies(tmp_path):
    one = open_finished(write(tmp_path / "a"))
    assert (one.process, one.family, one.backbone, dict(one.dataset)) == ("vp_ode", "vp", "mlp", BOARD)
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_finished(str(tmp_path / "b")).content == one.content
    assert open_finished(write(tmp_path / "c", seed=1)).content != one.content


def test_a_run_stands_for_its_newest_checkpoint(tmp_path):
    for step in (1, 2):
        write(tmp_path / "run" / f"step-{step:08d}", seed=step)
    (tmp_path / "run" / "latest").write_text("step-00000002\n")
    newest = open_finished(str(tmp_path / "run" / "step-00000002"))
    assert open_finished(str(tmp_path / "run")).content == newest.content


@pytest.mark.parametrize("damage", ["missing", "config.json", MANIFEST, "no model", "unknown"])
def test_what_is_no_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "model"
    if damage == "missing":
        path = tmp_path / "nowhere"
    elif damage == "unknown":
        save(path, {"process": {"name": "pfmg", "options": {}}, "backbone": {"name": "mlp"}}, {})
    else:
        write(path)
        if damage == "no model":
            manifest = json.loads((path / MANIFEST).read_text())
            del manifest["files"]["model.safetensors"]
            (path / MANIFEST).write_text(json.dumps(manifest))
        else:
            (path / damage).write_bytes((path / damage).read_bytes()[:-20])
    said = {"no model": "it is not a model", "unknown": "did you mean 'pfgm'", "missing": "does not exist"}
    with pytest.raises(ConfigError, match=f"checkpoint: .*{path.name}.*{said.get(damage, damage)}"):
        open_finished(str(path))


# ---- what goes together ----------------------------------------------------------------------------------


def test_processes_network_and_data_are_the_checkpoints_own(tmp_path, bench):
    config, origin = bench(write(tmp_path / "vp"), write(tmp_path / "pfgm", "pfgm"))
    assert config.process == ("vp_ode", "vp_sde", "pfgm")
    assert (config.backbone, config.dataset, config.dataset_options) == (
        "mlp",
        "checkerboard",
        {"checkerboard": {"size": 60}},
    )
    assert origin["process"] == origin["dataset"] == "the checkpoint"
    assert origin["nfe"] == "command line"


def test_modes_are_those_that_the_solvers_serve_or_those_that_are_given(tmp_path, bench):
    path = write(tmp_path / "vp", "vp_sde")
    assert bench(path)[0].process == ("vp_ode", "vp_sde")
    assert bench(path, solver="heun")[0].process == ("vp_ode",)
    assert bench(path, process="vp_sde")[0].process == ("vp_sde",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": "ncsnv2"}, "the network of .*a is mlp; leave it out"),
        ({"process_options": "vp_ode.head=noise"}, "process_options was given, but nothing is trained here"),
        ({"backbone_options": "mlp.width=9"}, "backbone_options was given"),
    ],
)
def test_settings_of_training_are_refused(tmp_path, bench, given, said):
    with pytest.raises(ConfigError, match=said):
        bench(write(tmp_path / "a"), **given)


def test_training_numbers_are_refused(tmp_path, tiny):
    with pytest.raises(ConfigError, match="train was given, but nothing is trained here"):
        settle(tiny(checkpoint=write(tmp_path / "a"), backbone_options={}), {})


def test_checkpoints_that_do_not_go_together(tmp_path, bench):
    one, other = write(tmp_path / "a"), write(tmp_path / "b", dataset={"name": "heart", "options": {}}, seed=1)
    with pytest.raises(
        ConfigError, match=r"was trained on .*checkerboard.*heart.*measure them separately, or give --dataset"
    ):
        bench(one, other)
    with pytest.raises(ConfigError, match="c does not record its data set; give --dataset"):
        bench(write(tmp_path / "c", dataset=None))
    assert bench(one, other, dataset="heart")[0].dataset == "heart"
    copy = write(tmp_path / "copy")
    with pytest.raises(ConfigError, match="holds the same as one before it"):
        prepare(bench(one, copy)[0])
    with pytest.raises(ConfigError, match="'pfgm' has no checkpoint here: vp_ode"):
        prepare(bench(one, process="pfgm,vp_ode")[0])
    with pytest.raises(ConfigError, match="was trained for 'vp_ode', which is none of pfgm"):
        prepare(bench(one, process="pfgm", solver="heun")[0])


def test_labels_are_processes_or_folders_where_a_process_comes_twice(tmp_path):
    paths = [
        write(tmp_path / "run" / "a"),
        write(tmp_path / "run" / "b", seed=1),
        write(tmp_path / "run" / "p", "pfgm"),
    ]
    found = [open_finished(path) for path in paths]
    pairs = [(found[0], ["vp_ode"]), (found[1], ["vp_ode", "vp_sde"]), (found[2], ["pfgm"])]
    named = labels(pairs)
    assert list(named.values()) == ["a", "b vp_ode", "vp_sde", "pfgm"]
    assert checkpoints._folder_names(["x/a/model", "x/b/model"]) == {"x/a/model": "a-model", "x/b/model": "b-model"}


# ---- the numbers -----------------------------------------------------------------------------------------


def test_samples_and_distances_are_those_of_the_checkpoint(tmp_path, bench):
    path = write(tmp_path / "vp", "vp_sde")  # trained under the name of its SDE, measured as both
    config, _ = bench(path)
    plan = done(config)
    assert not [c for c in plan.cells if c.kind == "train"]
    rows = {row["process"]: row for row in collect(plan.store, plan.cells) if row["metric"] == "FD[identity]"}
    data = genflow.get_dataset("checkerboard", size=60)
    _, backbone = genflow.load(path)
    for name, solver in (("vp_ode", "heun"), ("vp_sde", "euler_maruyama")):
        process = genflow.get_process(name)
        x = genflow.sample(process, backbone, solver, 20, nfe=3, seed=0, batch_size=8).x
        from genflow.evaluate.frechet import frechet_distance

        assert rows[name]["value"] == pytest.approx(frechet_distance(data.train, data.scaling.decode(x)), rel=1e-9)
        assert (rows[name]["backbone"], rows[name]["dataset"]) == ("mlp", "checkerboard")
    assert prepare(config).todo == []


def test_another_checkpoint_in_the_same_place_is_measured_anew(tmp_path, bench):
    path = write(tmp_path / "vp")
    plan = done(bench(path)[0])
    old = {c.key for c in plan.cells}
    write(tmp_path / "vp", seed=1)
    config, _ = bench(path)
    fresh = prepare(config)
    assert {c.name for c in fresh.todo} == {c.name for c in plan.cells if c.labels["process"] != "data"}
    done(config)
    assert old <= {p.name for p in plan.store.cells.iterdir()}, "what was there is kept"


def test_a_checkpoint_that_changes_under_way_is_refused(tmp_path, bench):
    path = write(tmp_path / "vp")
    plan = prepare(bench(path)[0])
    plan.store.prepare()
    write(tmp_path / "vp", seed=1)
    from genflow.bench.runner import CellError

    with pytest.raises(CellError, match="vp has changed since the bench began; start the bench again"):
        inline.run(bench(path)[0], plan)


def test_two_of_one_process_stand_apart_in_the_tables(tmp_path, bench):
    config, _ = bench(write(tmp_path / "first"), write(tmp_path / "second", seed=3), solver="heun")
    plan = done(config)
    table = next(t for t in tables(collect(plan.store, plan.cells)) if t.title == "FD[identity] against NFE")
    assert [line[0] for line in table.rows] == ["real test split", "first", "second"]
    assert table.rows[1][2] != table.rows[2][2]


# ---- data that are not here ------------------------------------------------------------------------------


class Elsewhere:
    """Data whose files are not on this machine."""

    def __new__(cls, size=60):
        from genflow.data.downloads import DataError

        raise DataError("the files of 'elsewhere' are not in /data; download them")


@pytest.fixture
def elsewhere():
    from genflow.registry import registries

    registries()["datasets"].add("elsewhere", Elsewhere)
    yield "elsewhere"
    registries()["datasets"].remove("elsewhere")


def test_without_the_data_samples_are_drawn_and_metrics_that_need_them_say_so(tmp_path, bench, elsewhere):
    path = write(tmp_path / "vp", dataset={"name": elsewhere, "options": {}})
    config, _ = bench(path, metric="fd,bpd", solver="heun")
    assert isinstance(Worker(config, lambda: False).dataset, UnavailableData)
    plan = done(config)
    assert {plan.store.look(c)[0] for c in plan.cells if c.kind == "sample"} == {"cached"}
    metrics = [c for c in plan.cells if c.kind == "metric" and c.name != "bpd data seed 0"]  # which has no floor
    assert {plan.store.look(c)[0] for c in metrics} == {"unavailable"}
    rows = collect(plan.store, plan.cells)
    assert {(r["metric"], r["value"]) for r in rows} == {("fd", None), ("bpd", None)}
    (table,) = tables(rows)
    assert (table.title, [line[:2] for line in table.rows]) == (
        "Not measured here",
        [["vp_ode", "bpd"], ["vp_ode", "fd"]],
    )
    assert "are not in /data; download them" in table.rows[0][2]
    again = prepare(config)
    assert again.todo == metrics, "tried again: the data may have come"


def test_data_that_come_later_are_measured(tmp_path, bench, elsewhere, monkeypatch):
    path = write(tmp_path / "vp", dataset={"name": elsewhere, "options": {}})
    config, _ = bench(path, solver="heun")
    done(config)
    monkeypatch.setattr(Elsewhere, "__new__", lambda cls, size=60: genflow.get_dataset("checkerboard", size=size))
    plan = done(config)
    assert prepare(config).todo == []
    assert all(torch.isfinite(torch.tensor(row["value"])) for row in collect(plan.store, plan.cells))
