"""Axes of a bench: which cells they come to, how rows are named, and what is refused before training."""

import csv

import pytest
from inline_workers import run

from genflow.bench.axes import named_rows, words_of_rows
from genflow.bench.cells import plan
from genflow.bench.choose import prepare
from genflow.bench.rows import collect, to_csv
from genflow.bench.tables import terms_table
from genflow.bench.terms import settle
from genflow.bench.worker import Worker
from genflow.config import BenchConfig, ConfigError, build
from genflow.process.terms import AXES
from genflow.report.measures import groups, leaders
from genflow.report.write import write_outputs

PAIR = {"process": "vp_ode,ve_ode", "solver": "euler,heun", "nfe": "2,3", "metric": "fd"}
VALUES = {
    "head": ("edm_rms", "noise"),
    "target": ("own", "stable"),
    "times": ("log_normal", "log_uniform"),
    "weight": ("unit", "edm"),
    "grid": ("edm", "snr"),
    "end": ("none", "mean"),
}


def bench(**given):
    return build(BenchConfig, {**PAIR, **{k: ",".join(v) if isinstance(v, tuple) else v for k, v in given.items()}})


def kinds(cells):
    return {kind: sum(cell.kind == kind for cell in cells) for kind in ("train", "sample", "metric")}


@pytest.mark.parametrize("axis", VALUES)
def test_each_axis_multiplies_what_depends_on_it_alone(axis):
    base, found = kinds(plan(bench())), plan(bench(**{axis: VALUES[axis]}))
    trained = axis not in ("grid", "end")
    assert kinds(found) == {
        "train": base["train"] * (2 if trained else 1),
        "sample": base["sample"] * 2,
        "metric": (base["metric"] - 1) * 2 + 1,
    }
    for cell in found:
        if cell.kind == "sample":
            assert cell.labels[axis] in VALUES[axis]
            options = cell.spec["options"]
            assert trained or options[axis] == cell.labels[axis]
        if cell.kind == "train" and trained:
            assert cell.spec["process"]["options"][AXES[axis]] == cell.labels[axis]
    assert {c.key for c in plan(bench())} <= {c.key for c in found}, "what the terms have is one of the values"


def test_all_axes_together_are_the_product_and_each_combination_is_done_once():
    found = plan(bench(**VALUES))
    counts = kinds(found)
    assert counts["train"] == 2 * 2**4
    assert counts["sample"] == counts["train"] * 2 * 2 * 2**2
    assert len({cell.key for cell in found}) == len(found)
    assert len({cell.name for cell in found}) == len(found)


def test_a_solver_without_an_axis_is_sampled_once_and_labelled_so():
    found = [c for c in plan(bench(solver="heun,rk45", grid=("edm", "snr"))) if c.kind == "sample"]
    rk45 = [c for c in found if c.labels["solver"] == "rk45"]
    assert len(rk45) == 2
    assert {c.labels["grid"] for c in rk45} == {""}


def test_modes_of_a_family_share_their_trainings():
    config = bench(process="vp_ode,vp_sde", solver="heun,euler_maruyama", head=("edm_rms", "noise"))
    assert kinds(plan(config))["train"] == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"head": "noise", "process_options": {"vp_ode": {"head": "data"}}}, "beside --head; give one of the two"),
        ({"head": "noise", "process_options": {"vp": {"head": "data"}}}, "beside --head; give one of the two"),
        ({"grid": "edm", "solver_options": {"heun": {"grid": "snr"}}}, "beside --grid; give one of the two"),
        ({"grid": "edm", "solver": "rk45"}, "none of the solvers rk45 has the option 'grid'"),
        ({"process": "alone", "head": "noise", "solver": "heun"}, "'alone' has no option 'head'"),
    ],
)
def test_what_cannot_be_varied_is_named_in_the_plan(given, words, alone):
    with pytest.raises(ConfigError, match=words):
        plan(bench(**given))


@pytest.fixture
def alone():
    from test_terms import Alone

    from genflow.registry import registries

    registries()["processes"].add("alone", Alone, tags={"mode": "ode"})
    yield
    registries()["processes"].remove("alone")


@pytest.mark.parametrize(
    ("axis", "value", "words"),
    [
        ("head", "field", "head = 'field' is not allowed"),
        ("head", "nois", "head = 'nois' is not allowed"),
        ("times", "normal", "times = 'normal' is not allowed"),
        ("grid", "edn", "edn"),
        ("end", "never", "never"),
    ],
)
def test_a_value_that_a_process_or_solver_does_not_have_is_named_before_training(tiny, axis, value, words):
    good = VALUES[axis][0]
    with pytest.raises(ValueError, match=words):
        Worker(tiny(**{axis: f"{good},{value}"}), lambda: False).check()


def test_axes_of_training_are_refused_for_checkpoints(tmp_path):
    from genflow.bench.axes import check_axes

    config = BenchConfig(checkpoint=(str(tmp_path),), head=("noise",))
    with pytest.raises(ConfigError, match="nothing is trained here"):
        check_axes(config, [])


def test_terms_list_the_values_of_an_axis():
    table = terms_table(bench(head=("edm_rms", "noise"), grid=("edm", "snr")))
    line = dict(zip(table.header, table.rows[0], strict=True))
    assert (line["head"], line["grid"], line["target"]) == ("edm_rms or noise", "edm or snr", "stable, 512 references")


def test_settled_axes_are_settled_again_to_the_same():
    config = settle(bench(**VALUES))[0]
    assert settle(config)[0] == config


# ---- rows ------------------------------------------------------------------------------------------------------------


def row(process, head, grid="edm", value=3.0, seed=0, **more):
    fixed = {"backbone": "mlp", "dataset": "digits", "solver": "heun", "nfe": 10.0, "budget": 10, "terms": "controlled"}
    fixed |= {"stderr": 0.5, "n": 500, "protocol": "p", "seconds": 1.0, "stopped": None, "metric": "FD[digits]"}
    fixed |= {"entry": "fd", "of": "samples", "training": seed, "target": "stable", "end": "none"}
    return {**fixed, "process": process, "head": head, "grid": grid, "value": value, "seed": seed, **more}


def test_rows_are_named_by_the_axes_that_a_process_has_several_values_of():
    found = named_rows([row("pfgm", "noise"), row("pfgm", "data", "snr"), row("vp_ode", "noise")])
    assert [(r["process"], r["solver"]) for r in found] == [
        ("pfgm head=noise", "heun grid=edm"),
        ("pfgm head=data", "heun grid=snr"),
        ("vp_ode head=noise", "heun grid=edm"),
    ]
    published = [row("pfgm", "field"), row("vp_ode", "noise")]
    assert named_rows(published) == published
    assert words_of_rows(published) == "Besides the process, rows differ in head (field, noise)."


def test_processes_are_ranked_within_a_setting_of_the_training_not_across():
    rows = [row(p, h, value=v, seed=s) for p, h, v in (("pfgm", "noise", 9.0), ("vp_ode", "noise", 5.0),
            ("pfgm", "data", 1.0), ("vp_ode", "data", 2.0)) for s in range(3)]  # fmt: skip
    shown = named_rows(rows)
    assert list(groups(shown)) == ["head=noise", "head=data"]
    found = {one.group: (one.first.process, one.second.process) for one in leaders(shown)}
    assert found == {
        "head=noise": ("vp_ode head=noise", "pfgm head=noise"),
        "head=data": ("pfgm head=data", "vp_ode head=data"),
    }
    assert {one.first.process for one in leaders(shown, mixed=True)} == {"pfgm head=data"}


def test_rows_of_different_terms_are_not_ranked_together_unless_told_to():
    rows = [row("pfgm", "noise", value=9.0), row("vp_ode", "noise", value=1.0, terms="published")]
    assert all(one.second is None for one in leaders(rows))
    assert leaders(rows, mixed=True)[0].second.process == "pfgm"


def test_a_bench_over_axes_runs_and_its_files_have_them(tiny):
    config = tiny(head="edm_rms,noise", grid="edm,snr", solver="euler", nfe="2", samples=20)
    work = prepare(config)
    work.store.prepare()
    run(config, work)
    assert prepare(config).todo == []
    rows = collect(work.store, work.cells)
    written = list(csv.DictReader(to_csv(rows).splitlines()))
    own = [line for line in written if (line["process"], line["metric"]) == ("vp_ode", "FD[identity]")]
    assert sorted((line["head"], line["grid"]) for line in own) == [
        (head, grid) for head in ("edm_rms", "noise") for grid in ("edm", "snr")
    ]
    assert len({line["value"] for line in own}) == 4
    text = write_outputs(config, work.store, work.cells, "genflow bench").text
    assert "| vp_ode head=noise | euler grid=snr |" in text
    assert "## Effects on FD[identity]" in text
    assert "one seed: not judged" in text
    page = (work.store.root / "report.html").read_text()
    assert "Effects on FD[identity]" in page
    assert (work.store.root / "plots" / "effects_FD-identity.png").stat().st_size > 5000
