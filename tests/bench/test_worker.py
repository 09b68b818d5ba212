"""What a worker refuses: states of other runs, plugins of another shape; and results that never mix."""

import inline_workers as inline
import pytest

from genflow.bench.choose import prepare
from genflow.bench.local import check
from genflow.bench.rows import collect
from genflow.bench.worker import Stopped, Worker
from genflow.checkpoint import CheckpointError
from genflow.config import BenchConfig, ConfigError
from genflow.memory import MemoryExhaustedError
from genflow.registry import registries


def quiet(share, note):
    pass


def numbers(plan):
    return [(r["process"], r["solver"], r["nfe"], r["value"]) for r in collect(plan.store, plan.cells)]


def test_a_training_state_of_another_seed_is_an_error_not_a_warning(tiny):
    """No random state is kept that could fail to be restored: draws follow from seed and step, which are checked."""
    plan = prepare(tiny(seed="0,1"))
    plan.store.prepare()
    first, second = (c for c in plan.cells if c.kind == "train")
    with pytest.raises(Stopped):
        Worker(tiny(), lambda: True).run(first.to_json(), quiet)
    assert plan.store.state_folder(first.key).exists()
    plan.store.state_folder(first.key).rename(plan.store.state_folder(second.key))
    with pytest.raises(CheckpointError, match="seed"):
        Worker(tiny(), lambda: False).run(second.to_json(), quiet)


@pytest.mark.slow
def test_results_of_other_settings_stay_and_are_not_mixed_in(tiny):
    plan = prepare(tiny())
    plan.store.prepare()
    inline.run(tiny(), plan)
    before = numbers(plan)
    other = prepare(tiny(**{"train.lr": 1e-4}))
    assert {c.kind for c in other.todo} == {"train", "sample", "metric"}
    inline.run(tiny(**{"train.lr": 1e-4}), other)
    again = prepare(tiny())
    assert again.todo == []
    assert numbers(again) == before
    assert numbers(other) != before


class Wants:
    """A process plugin that cannot be built as processes are."""

    mode = "ode"

    def __init__(self, needed):
        self.needed = needed


class Breaks:
    """A process plugin that breaks in a way of its own."""

    def __init__(self):
        raise ZeroDivisionError("its own fault")


@pytest.mark.parametrize(("plugin", "said"), [(Wants, "missing 1 required"), (Breaks, "its own fault")])
def test_a_plugin_of_another_shape_is_refused_before_anything_runs(tiny, plugin, said):
    registries()["processes"].add("odd", plugin, family="odd", tags={"mode": "ode"})
    try:
        with pytest.raises((TypeError, ZeroDivisionError), match=said):
            Worker(tiny(process="odd"), lambda: False).check()
        Worker(tiny(), lambda: False).check()  # the others work beside it
    finally:
        registries()["processes"].remove("odd")


@pytest.mark.slow
def test_the_check_in_a_process_of_its_own_says_what_is_refused(tiny):
    reason, costs = check(tiny(solver_options="heun.grid=sideways"), 1, calls=1.0)
    assert "sideways" in reason
    assert costs is None


@pytest.mark.slow
def test_a_model_is_loaded_once_for_all_its_cells(tiny, monkeypatch):
    import genflow

    plan = prepare(tiny())
    plan.store.prepare()
    loads = []
    load = genflow.load
    monkeypatch.setattr("genflow.load", lambda path: loads.append(path) or load(path), raising=False)
    inline.run(tiny(), plan)
    assert len(loads) == 1


def test_options_of_a_metric_are_refused_in_the_check(tiny):
    with pytest.raises(ValueError, match="points = 3"):
        Worker(tiny(metric="two_sample", metric_options="two_sample.points=3"), lambda: False).check()


def test_a_bench_without_metrics_is_refused_where_it_is_configured():
    with pytest.raises(ConfigError, match="metric is empty; give at least one value"):
        BenchConfig(metric=())


def test_how_many_samples_were_left_short_is_no_part_of_the_protocol(tiny):
    measured = {"metric": "FD", "value": 1.0, "stderr": None, "n": 9, "nfe": None, "solver": "", "protocol": "by hand"}
    labels = {"process": "vp_ode", "solver": "rk45", "nfe": None, "seed": 0}
    worker = Worker(tiny(), lambda: False)
    rows = [worker._row(measured, labels, {"nfe": 5.0, "labels": "no class", "stopped": n}, 0.0) for n in (0, 3)]
    assert [row["stopped"] for row in rows] == [None, 3]
    assert {row["protocol"] for row in rows} == {"by hand; no class"}


# ---- samples that depend on their batch ------------------------------------------------------------------


class Crowded:
    """Runs out of memory with more than so many samples at a time."""

    def __init__(self, backbone, most):
        self.backbone, self.most, self.shape = backbone, most, backbone.shape

    def __call__(self, x, condition, **more):
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory")
        return self.backbone(x, condition, **more)

    def __getattr__(self, name):
        return getattr(self.backbone, name)


def crowded(monkeypatch, config):
    """What the sample cell of a bench comes to where only five samples fit in memory."""
    plan = prepare(config)
    plan.store.prepare()
    worker = Worker(config, lambda: False)
    worker.run(plan.cells[1].to_json(), quiet)
    real = Worker._model
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_model", lambda self, cell: (real(self, cell)[0], Crowded(real(self, cell)[1], 5)))
        worker.run(plan.cells[2].to_json(), quiet)
    return plan.store.look(plan.cells[2])[0]


def test_a_batch_that_does_not_fit_is_halved_only_where_samples_do_not_depend_on_it(tiny, monkeypatch):
    assert crowded(monkeypatch, tiny(solver="rk45", samples=16)) == "cached"
    with pytest.raises(MemoryExhaustedError, match=r"8 samples at a time do not fit .* give a smaller --sample-batch"):
        crowded(monkeypatch, tiny(solver="rk45", samples=16, solver_options="rk45.control=batch"))
