"""The runner with workers in this process: order, failures, workers that go and come, time limits and signals."""

import os
import signal

import inline_workers as inline
import pytest

from genflow.bench.choose import prepare
from genflow.bench.runner import CellError, Interrupted, Runner, job_count
from genflow.config import ConfigError


@pytest.fixture
def plan(tiny):
    def make(**given):
        found = prepare(tiny(**given))
        found.store.prepare()
        return found

    return make


def done(message):
    return [{"done": message["cell"]["key"]}]


def errands(log):
    return [m for m in log if isinstance(m, dict)]


def names(log):
    keys = ("solver", "nfe")
    return [
        " ".join(
            [m["cell"]["spec"].get("metric", m["cell"]["kind"]), *(str(m["cell"]["labels"].get(k, "")) for k in keys)]
        )
        for m in errands(log)
    ]


def failing(kind, error="it broke"):
    def answer(message):
        return (
            [{"failed": message["cell"]["key"], "error": error}] if message["cell"]["kind"] == kind else done(message)
        )

    return answer


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_errand_is_done_once_and_parents_come_first(tiny, plan, workers):
    found = plan()
    runner, log = inline.run(tiny(), found, done, workers)
    seen: set[str] = set()
    parts = {}
    for message in errands(log):
        cell = message["cell"]
        inner = {c.key for c in found.cells} - {c.key for c in found.todo}
        assert set(cell["parents"]) <= seen | inner
        if message["part"] is None:
            assert cell["key"] not in seen
            seen.add(cell["key"])
        else:
            assert cell["key"] not in seen, "a shard after its cell was put together"
            parts.setdefault(cell["key"], []).append(tuple(message["part"]))
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

    def answer(message):
        log.append(message)
        key = message["cell"]["key"]
        return [{"failed": key, "error": "lost"}] if key == broken else done(message)

    with pytest.raises(CellError, match="train vp seed 0: lost"):
        inline.run(tiny(process="vp_ode,pfgm"), found, answer, keep_going=True)
    finished = {m["cell"]["key"] for m in log if m["part"] is None}
    assert finished == {c.key for c in found.todo if c.labels["process"] != "vp_ode"}


def test_a_shard_that_fails_takes_its_cell_and_no_other(tiny, plan):
    found, log = plan(), []

    def answer(message):
        log.append(message)
        bad = message["part"] and message["part"][0] == 16 and message["cell"]["labels"]["nfe"] == 2
        return [{"failed": message["cell"]["key"], "error": "odd"}] if bad else done(message)

    runner_error = None
    try:
        inline.run(tiny(), found, answer, keep_going=True)
    except CellError as error:
        runner_error = str(error)
    assert runner_error.count("samples 16 to 31: odd") == 2
    whole = {m["cell"]["key"] for m in log if m["part"] is None}
    assert {c.name for c in found.todo if c.key not in whole} == {
        f"{kind} vp_ode {solver} 2 seed 0" for kind in ("sample", "fd") for solver in ("euler", "heun")
    }


def test_a_worker_that_is_gone_is_told_with_its_last_words(tiny, plan):
    with pytest.raises(CellError, match="train vp seed 0: it fell silent"):
        inline.run(tiny(), plan(), lambda m: [None] if m["cell"]["kind"] == "train" else done(m))


def test_the_others_go_on_where_one_worker_is_gone(tiny, plan):
    died = []

    def answer(message):
        if message["cell"]["kind"] == "metric" and message["cell"]["parents"] and not died:
            died.append(message)
            return [None]
        return done(message)

    with pytest.raises(CellError, match=r"^fd vp_ode .* it fell silent$") as caught:
        inline.run(tiny(), plan(), answer, workers=2, keep_going=True)
    assert str(caught.value).count("silent") == 1


def test_a_worker_that_comes_again_gets_its_errand_again(tiny, plan):
    """A job that was pre-empted and queued again says hello once more."""
    found, log, gone = plan(), [], []

    def answer(message):
        log.append(message)
        if message["part"] == (16, 32) and not gone:
            gone.append(message)
            return [{"hello": 2}]
        return done(message)

    inline.run(tiny(), found, answer)
    twice = [m for m in log if m["part"] == (16, 32) and m["cell"]["key"] == gone[0]["cell"]["key"]]
    assert len(twice) == 2
    assert {m["cell"]["key"] for m in log if m["part"] is None} == {c.key for c in found.todo}


def test_a_refusal_runs_nothing(tiny, plan):
    found = plan()

    class Refusing(inline.Inline):
        def send(self, message):
            self.log.append(message)
            if "config" in message:
                self.put({"refused": "gamma = -1 is not allowed"})

    worker = Refusing(done)
    with pytest.raises(ConfigError, match="gamma = -1"):
        Runner(tiny(), found.store, lambda jobs: [worker]).run(found.cells, found.todo)
    assert [m for m in worker.log if isinstance(m, dict) and "cell" in m] == []


# ---- stopping --------------------------------------------------------------------------------------------


def stopping(message):
    """A worker that works on until it is told to stop."""
    return [{"share": 0.5, "note": ""}]


def signalled(number):
    """The same, under which a signal comes."""

    def answer(message):
        os.kill(os.getpid(), number)
        return stopping(message)

    return answer


class Obedient(inline.Inline):
    """Stops when it is asked to, and says so."""

    def stop(self):
        super().stop()
        for message in errands(self.log)[-1:]:
            self.put({"stopped": message["cell"]["key"]})
        self.put(None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, 0])
def test_a_signal_or_the_time_limit_stops_every_worker_and_waits_for_it(tiny, plan, number):
    found, worker = plan(), Obedient(signalled(number) if number else stopping)
    seconds = float("inf") if number else 0.3
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        Runner(tiny(), found.store, lambda jobs: [worker], seconds=seconds).run(found.cells, found.todo)
    assert caught.value.number == number
    assert worker.log[-2:] == ["stop", "close"]
    assert len(errands(worker.log)) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_failure_stops_the_others_as_a_signal_would(tiny, plan):
    found = plan(process="vp_ode,pfgm")
    log: list = []
    workers = [Obedient(failing("train"), log), Obedient(stopping, log)]
    with pytest.raises(CellError, match="it broke"):
        Runner(tiny(), found.store, lambda jobs: workers).run(found.cells, found.todo)
    assert log.count("stop") == 2


# ---- how many --------------------------------------------------------------------------------------------


def test_workers_are_as_asked_but_no_more_than_errands(tiny, plan):
    todo = plan().todo
    assert job_count(tiny(jobs=3), todo) == 3
    assert job_count(tiny(jobs=1000), todo) == 1 + 1 + 4 * 4 + 4
    assert job_count(tiny(jobs=1000), todo[:1]) == 1
    assert job_count(tiny(), todo) == 1, "one trained model"
