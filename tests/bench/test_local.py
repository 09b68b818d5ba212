"""Workers that are processes of this machine: killed, told to stop, left alone by their bench."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import BrokenExecutor

import in_workers
import inline_workers as inline
import pytest

from genflow.bench.choose import prepare
from genflow.bench.local import LOG, LocalPool, LocalSlot
from genflow.bench.rows import collect, to_csv
from genflow.bench.runner import DEATHS, CellError, Runner

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def slot(tiny, tmp_path):
    made = LocalSlot(tiny(), 3, 0, tmp_path / LOG)
    yield made
    made.close()


def gone(pid, seconds=20.0):
    """Whether a process ends in time; one that nobody has waited for yet has ended, too."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


# ---- one process -----------------------------------------------------------------------------------------


def test_a_process_begins_with_its_threads_and_deaf_to_the_terminal(slot):
    before = dict(os.environ)
    found = slot.call(in_workers.facts).result()
    assert found == {
        "pid": found["pid"],
        "threads": "3",
        "session": found["pid"],
        "interrupt": True,
        "blocked": set(),
        "torch": False,
    }
    assert dict(os.environ) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert sys.modules["__main__"].__name__ == "__main__"
    assert hasattr(sys.modules["__main__"], "__builtins__")


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_whether_it_works_or_not(slot):
    first = slot.call(os.getpid).result()
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    while not slot._executor._broken:
        time.sleep(0.01)
    second = slot.call(os.getpid).result()
    assert second != first
    at_work = slot.call(time.sleep, 60)
    os.kill(second, signal.SIGKILL)
    with pytest.raises(BrokenExecutor):
        at_work.result(timeout=20)
    assert slot.call(os.getpid).result() not in (first, second)


def test_what_a_process_wrote_is_told_with_its_death(slot):
    error = slot.call(in_workers.say, "the last", "thing").exception(timeout=20)
    assert slot.last_words(error) == "the worker process died (killed, or out of memory?): the last thing"


class Waiting(LocalSlot):
    """Has a process for every task that waits to be stopped."""

    def submit(self, task):
        future = self.call(in_workers.tell_and_wait, task)
        future.add_done_callback(self._look)
        return future


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("how", ["asked", "SIGTERM"])
def test_a_task_is_stopped_by_the_bench_or_by_a_signal_to_its_process(tiny, tmp_path, how):
    slot = Waiting(tiny(), 1, 0, tmp_path / LOG)
    try:
        pid = slot.call(os.getpid).result()
        future = slot.submit(None)
        while slot.progress() != (0.25, "loss 1.5"):
            time.sleep(0.01)
        slot.stop() if how == "asked" else os.kill(pid, signal.SIGTERM)
        assert future.result(timeout=20) == ("stopped", "")
        assert slot.call(os.getpid).result() != pid, "a process that was told to stop does no more"
    finally:
        slot.close()


def test_a_slot_that_is_closed_ends_its_process_whatever_it_does(tiny, tmp_path):
    slot = LocalSlot(tiny(), 1, 0, tmp_path / LOG)
    pid = slot.call(os.getpid).result()
    slot.call(time.sleep, 600)
    slot.close()
    assert gone(pid, 0.1)


# ---- a bench ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The numbers of a bench that one worker did undisturbed."""
    from genflow.config import BenchConfig, build

    config = build(BenchConfig, {**inline.TINY, "out": str(tmp_path_factory.mktemp("wanted") / "bench")})
    plan = prepare(config)
    plan.store.prepare()
    inline.run(config, plan)
    return numbers(plan)


def numbers(plan):
    lines = to_csv([{**row, "seconds": 0, "network_seconds": 0} for row in collect(plan.store, plan.cells)])
    assert len({line.partition("FD[")[0] for line in lines.splitlines() if "FD[" in line})
    return lines


@pytest.mark.slow
def test_workers_killed_at_work_cost_no_cell_and_no_bit(tiny, wanted):
    plan = prepare(tiny(jobs=2))
    plan.store.prepare()
    killed = set()

    def kill(report):
        """Three times, whoever is there, once under training and twice while shards are drawn."""
        words = " ".join(report.running)
        if len(killed) < 3 and ("train" in words if not killed else "samples" in words):
            for process in multiprocessing.active_children()[:1]:
                os.kill(process.pid, signal.SIGKILL)
                killed.add(process.pid)

    runner = Runner(tiny(jobs=2), plan.store, lambda c, s, jobs: LocalPool(c, s.root, 2), report=kill)
    runner.run(plan.cells, plan.todo)
    assert len(killed) == 3
    assert not runner.failures
    assert numbers(plan) == wanted
    assert multiprocessing.active_children() == []


class Deadly(LocalSlot):
    """A slot in which one cell kills its process; the others are done at once."""

    def submit(self, task):
        if task.cell.kind == "sample" and task.cell.labels["solver"] == "heun":
            return self.call(os.abort)
        return self.call(in_workers.answer)


@pytest.mark.slow
def test_a_cell_that_kills_every_process_fails_by_name_and_no_other_does(tiny):
    plan = prepare(tiny(nfe="2"))
    plan.store.prepare()
    pool = inline.Several([Deadly(tiny(), 1, place, plan.store.root / LOG) for place in (0, 1)])
    runner = Runner(tiny(nfe="2"), plan.store, lambda *_: pool, keep_going=True)
    with pytest.raises(CellError, match=f"{DEATHS} workers were lost at it; the worker process died"):
        runner.run(plan.cells, plan.todo)
    (name,) = runner.failures
    assert name.startswith("sample vp_ode heun 2 seed 0, samples")
    assert "Fatal Python error: Aborted" in (plan.store.root / LOG).read_text()


# ---- the bench's own end ---------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
from pathlib import Path
from genflow.bench.local import LocalSlot
from genflow.config import BenchConfig

slot = LocalSlot(BenchConfig(), 1, 0, Path("worker.log"))
print(slot.call(os.getpid).result(), flush=True)
slot.call(time.sleep, 600)
time.sleep(600)
"""


def test_a_process_ends_with_a_bench_that_is_killed(tmp_path):
    """Started by a script without a guard of its name, which is not run again in the worker."""
    (tmp_path / "script.py").write_text(SCRIPT)
    bench = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True)
    pid = int(bench.stdout.readline())
    bench.kill()
    bench.wait()
    assert gone(pid)


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_reaches_the_bench_alone(tmp_path):
    """A signal to the whole group, again and again while workers start and work: they are silent and live on."""
    script = textwrap.dedent(
        """
        import os, signal, time
        from pathlib import Path
        from genflow.bench.local import LocalSlot
        from genflow.config import BenchConfig

        signal.signal(signal.SIGINT, lambda *_: None)
        print("ready", flush=True)
        for place in range(3):
            slot = LocalSlot(BenchConfig(), 1, place, Path("worker.log"))
            print(slot.call(abs, -1).result(), slot.call(abs, -2).result(), flush=True)
            slot.close()
        """
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert bench.stdout.readline() == "ready\n"
    over = threading.Event()

    def press():
        while not over.wait(0.02) and bench.poll() is None:
            os.killpg(bench.pid, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    lines = [bench.stdout.readline() for _ in range(3)]
    over.set()
    pressing.join()
    _, errors = bench.communicate(timeout=20)
    assert lines == ["1 2\n"] * 3
    assert errors == ""
    assert (tmp_path / "worker.log").read_text() == ""
