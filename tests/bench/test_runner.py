"""The runner with workers in this process: order, failures, workers that go and come, time limits and signals."""

import os
import signal

import inline_workers as inline
import pytest

from genflow.bench.choose import prepare
from genflow.bench.pool import job_count
from genflow.bench.runner import DEATHS, CellError, Interrupted, Runner
from genflow.config import ConfigError


@pytest.fixture
def plan(tiny):
    def make(**given):
        found = prepare(tiny(**given))
        found.store.prepare()
        return found

    return make


def done(task):
    return "done", ""


def failing(kind, error="it broke"):
    return lambda task: ("failed", error) if task.cell.kind == kind else ("done", "")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_task_is_done_once_and_parents_come_first(tiny, plan, workers):
    found = plan()
    runner, log = inline.run(tiny(), found, done, workers)
    seen: set[str] = set()
    parts = {}
    for task in inline.tasks(log):
        cell = task.cell
        inner = {c.key for c in found.cells} - {c.key for c in found.todo}
        assert set(cell.parents) <= seen | inner
        assert cell.key not in seen, "a shard after its cell was put together, or a cell twice"
        if task.part is None:
            seen.add(cell.key)
        else:
            parts.setdefault(cell.key, []).append(task.part)
    assert seen == {c.key for c in found.todo}
    assert all(sorted(p) == [(0, 16), (16, 32), (32, 48), (48, 50)] for p in parts.values())
    assert len(parts) == 4
    assert not runner.failures
    assert log.count("close") == workers


def test_shares_add_up_to_one(tiny, plan):
    found, reports = plan(), []
    inline.run(tiny(), found, done, report=reports.append)
    shares = [r.share for r in reports]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=1e-9)
    assert (reports[-1].done, reports[-1].total) == (len(found.todo), len(found.todo))


# ---- failures --------------------------------------------------------------------------------------------


def test_the_bench_stops_at_the_first_failure(tiny, plan):
    found = plan()
    with pytest.raises(CellError, match=r"^sample vp_ode euler 3 seed 0, samples 0 to 15: it broke$") as caught:
        inline.run(tiny(), found, failing("sample"))
    assert str(caught.value).count("it broke") == 1


def test_keep_going_does_what_does_not_build_on_a_failure(tiny, plan):
    found, log = plan(process="vp_ode,pfgm"), []
    broken = next(c.key for c in found.todo if c.kind == "train")

    def answer(task):
        log.append(task)
        return ("failed", "lost") if task.cell.key == broken else done(task)

    with pytest.raises(CellError, match="train vp seed 0: lost"):
        inline.run(tiny(process="vp_ode,pfgm"), found, answer, keep_going=True)
    finished = {task.cell.key for task in log if task.part is None}
    assert finished == {c.key for c in found.todo if c.labels["process"] != "vp_ode"}


def test_a_shard_that_fails_takes_its_cell_and_no_other(tiny, plan):
    found, log = plan(), []

    def answer(task):
        log.append(task)
        bad = task.part and task.part[0] == 16 and task.cell.labels["nfe"] == 2
        return ("failed", "odd") if bad else done(task)

    with pytest.raises(CellError) as caught:
        inline.run(tiny(), found, answer, keep_going=True)
    assert str(caught.value).count("samples 16 to 31: odd") == 2
    whole = {task.cell.key for task in log if task.part is None}
    assert {c.name for c in found.todo if c.key not in whole} == {
        f"{kind} vp_ode {solver} 2 seed 0" for kind in ("sample", "fd") for solver in ("euler", "heun")
    }


# ---- lost workers ----------------------------------------------------------------------------------------

LOST = RuntimeError("killed")


def test_a_task_whose_worker_is_lost_is_done_by_another(tiny, plan, caplog):
    found, died = plan(), []

    def answer(task):
        if task.part == (16, 32) and not died:
            died.append(task)
            return LOST
        return done(task)

    runner, log = inline.run(tiny(), found, answer, workers=2)
    assert not runner.failures
    assert [task.name for task in inline.tasks(log)].count(died[0].name) == 2
    assert {task.cell.key for task in inline.tasks(log) if task.part is None} == {c.key for c in found.todo}
    assert f"{died[0].name} is done again by another worker: it fell silent" in caplog.text


def test_a_cell_that_takes_every_worker_with_it_fails_by_name(tiny, plan):
    found, log = plan(), []

    def answer(task):
        log.append(task.name)
        return LOST if task.cell.kind == "sample" and task.cell.labels["nfe"] == 3 and task.part[0] == 0 else done(task)

    with pytest.raises(CellError) as caught:
        inline.run(tiny(), found, answer, keep_going=True)
    lines = str(caught.value).splitlines()
    assert sorted(lines) == [
        f"sample vp_ode {solver} 3 seed 0, samples 0 to 15: {DEATHS} workers were lost at it; it fell silent"
        for solver in ("euler", "heun")
    ]
    assert log.count("sample vp_ode heun 3 seed 0, samples 0 to 15") == DEATHS
    assert "fd vp_ode heun 2 seed 0" in log


def test_a_slot_that_goes_takes_no_task_with_it(tiny, plan):
    """A worker that leaves a cluster never answers; another may come in its place."""
    found, log = plan(), []
    leaving, staying = inline.Inline(lambda task: None, log), inline.Inline(done, log)

    class Changing(inline.Several):
        def slots(self):
            return [leaving] if not inline.tasks(log) else [staying]

    runner = Runner(tiny(), found.store, lambda *_: Changing([leaving, staying]))
    runner.run(found.cells, found.todo)
    given = [task.name for task in inline.tasks(log)]
    assert given.count(given[0]) == 2
    assert {task.cell.key for task in inline.tasks(log) if task.part is None} == {c.key for c in found.todo}


def test_a_bench_waits_while_there_are_no_workers(tiny, plan):
    found, looks = plan(), []
    worker = inline.Inline(done)

    class Late(inline.Several):
        def slots(self):
            looks.append(1)
            return [worker] if len(looks) > 2 else []

    Runner(tiny(), found.store, lambda *_: Late([worker])).run(found.cells, found.todo)
    assert {task.cell.key for task in inline.tasks(worker.log) if task.part is None} == {c.key for c in found.todo}


def test_a_refusal_runs_nothing(tiny, plan):
    found = plan()
    worker = inline.Inline(lambda task: ("refused", "gamma = -1 is not allowed"))
    with pytest.raises(ConfigError, match="gamma = -1"):
        Runner(tiny(), found.store, lambda *_: worker).run(found.cells, found.todo)
    assert len(inline.tasks(worker.log)) == 1


# ---- stopping --------------------------------------------------------------------------------------------


def stopping(task):
    """A worker that works on until it is told to stop."""


def signalled(number):
    """The same, under which a signal comes."""
    return lambda task: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, 0])
def test_a_signal_or_the_time_limit_stops_every_worker_and_waits_for_it(tiny, plan, number):
    found, worker = plan(), inline.Inline(signalled(number) if number else stopping)
    seconds = float("inf") if number else 0.3
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        Runner(tiny(), found.store, lambda *_: worker, seconds=seconds).run(found.cells, found.todo)
    assert caught.value.number == number
    assert worker.log[-2:] == ["stop", "close"]
    assert len(inline.tasks(worker.log)) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_failure_stops_the_others_as_a_signal_would(tiny, plan):
    found = plan(process="vp_ode,pfgm")
    log: list = []
    pool = inline.Several([inline.Inline(failing("train"), log), inline.Inline(stopping, log)])
    with pytest.raises(CellError, match="it broke"):
        Runner(tiny(), found.store, lambda *_: pool).run(found.cells, found.todo)
    assert log.count("stop") == 2


def test_a_worker_lost_while_the_bench_stops_is_no_failure(tiny, plan):
    found = plan()

    class Dying(inline.Inline):
        def stop(self):
            self.held.set_exception(LOST)

    with pytest.raises(Interrupted):
        Runner(tiny(), found.store, lambda *_: Dying(stopping), seconds=0.1).run(found.cells, found.todo)


# ---- how many --------------------------------------------------------------------------------------------


def test_workers_are_as_asked_but_no_more_than_tasks(tiny, plan):
    todo = plan().todo
    assert job_count(tiny(jobs=3), todo) == 3
    assert job_count(tiny(jobs=1000), todo) == 1 + 1 + 4 * 4 + 4
    assert job_count(tiny(jobs=1000), todo[:1]) == 1
    assert job_count(tiny(), todo) == 1, "one trained model"
    assert job_count(tiny(process="vp_ode,pfgm", scheduler="tcp://x:1"), plan(process="vp_ode,pfgm").todo) == 2
