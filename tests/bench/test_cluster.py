"""A bench on a Dask cluster of real processes on 127.0.0.1: workers that die, join and are told to stop."""

import os
import signal
import socket
import subprocess
import sys
import time

import in_workers
import inline_workers as inline
import numpy as np
import pytest

from genflow.bench import cluster
from genflow.bench.choose import prepare
from genflow.bench.cluster import ClusterGoneError, open_cluster
from genflow.bench.rows import collect, to_csv
from genflow.bench.runner import CellError, Interrupted, Runner
from genflow.config import BenchConfig, ConfigError, build

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'genflow[cluster]'")

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
SMALL = {"solver": "heun", "nfe": "3"}
"""What is compared: a model and its samples in four shards."""

LONG = {"train.steps": 10**6, "train.save_seconds": 1e6, "solver": "euler", "nfe": "2"}
"""A bench that ends when it is told to."""


class Dask:
    """A scheduler on a free port and workers of it, all of them processes."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.run("scheduler", "--port", self.address.rpartition(":")[2], "--no-dashboard", "--no-show")

    def run(self, *words):
        """A process of Dask, its output in a file."""
        with (self.folder / f"{len(self.started)}.log").open("w") as log:
            command = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1"]
            self.started.append(subprocess.Popen(command, cwd=self.folder, env=ENV, stdout=log, stderr=log))
        return self.started[-1]

    def worker(self, *words):
        given = words or ("--nthreads", "1", "--no-nanny")
        return self.run("worker", self.address, "--no-dashboard", *given)

    def close(self):
        for process in reversed(self.started):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    made = Dask(tmp_path_factory.mktemp("dask"))
    made.first = made.worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The numbers and the samples of the bench, done by one worker in this process."""
    config = build(BenchConfig, {**inline.TINY, **SMALL, "out": str(tmp_path_factory.mktemp("wanted") / "bench")})
    plan = prepare(config)
    plan.store.prepare()
    inline.run(config, plan)
    return found(plan)


def found(plan):
    rows = to_csv([{**row, "seconds": 0, "network_seconds": 0} for row in collect(plan.store, plan.cells)])
    samples = [np.load(plan.store.folder(c.key) / "samples.npz")["raw"] for c in plan.cells if c.kind == "sample"]
    return rows, np.concatenate(samples).tobytes()


@pytest.fixture
def bench(tiny, dask):
    """Runs a bench on the cluster: its plan, and the addresses of the workers that it used."""

    def run(report=lambda report: None, seconds=100.0, **given):
        config = tiny(**{**SMALL, "scheduler": dask.address, **given})
        plan = prepare(config)
        plan.store.prepare()
        used = set()

        def start(config, store, jobs):
            pool = open_cluster(config, store, jobs)
            look = pool.slots

            def slots():
                found = look()
                used.update(pool._slots)
                return found

            pool.slots = slots
            return pool

        with plan.store.lock():
            Runner(config, plan.store, start, report, seconds=seconds).run(plan.cells, plan.todo)
        return plan, used

    return run


@pytest.mark.slow
def test_workers_that_are_killed_and_added_at_work_leave_the_numbers_of_one_process(bench, dask, wanted):
    """The only one is killed at a shard; the bench waits for another one, and gives the shard to that."""
    killed = []

    def meddle(report):
        if "samples" in " ".join(report.running) and not killed:
            killed.append(dask.first.kill())
            dask.worker("--nthreads", "1")  # with a nanny

    plan, used = bench(meddle)
    assert len(killed) == 1
    assert len(used) == 2
    assert found(plan) == wanted


def test_a_bench_that_is_stopped_on_a_cluster_waits_until_its_workers_have_saved(bench, tiny):
    with pytest.raises(Interrupted):
        bench(lambda report: None, seconds=4.0, **LONG)
    plan = prepare(tiny(**LONG))
    (cell,) = (c for c in plan.todo if c.kind == "train")
    assert plan.store.state_folder(cell.key).exists()


@pytest.mark.slow
def test_workers_save_and_end_what_they_do_when_the_bench_is_killed(tiny, dask, tmp_path):
    given = {**inline.TINY, **LONG, "out": str(tmp_path / "bench"), "scheduler": dask.address}
    words = [f"--{key.replace('.', '-').replace('_', '-')}={value}" for key, value in given.items()]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "genflow", "bench", *words]
        process = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=log, stderr=log)
    until = time.monotonic() + 120
    with distributed.Client(dask.address, set_as_default=False) as client:

        def wait_for(at_work):
            while any(client.run(in_workers.at_work).values()) != at_work:
                assert time.monotonic() < until, (tmp_path / "log").read_text()
                time.sleep(0.1)

        wait_for(True)
        assert process.poll() is None
        process.kill()
        process.wait()
        wait_for(False)
    assert list((tmp_path / "bench" / "cells").glob("*.state/*/MANIFEST.json"))


@pytest.mark.parametrize(("wrong", "said"), [("folder", "does not see"), ("code", "runs other code than the bench")])
def test_a_worker_that_cannot_do_the_right_thing_is_refused(bench, monkeypatch, wrong, said):
    if wrong == "folder":
        monkeypatch.setattr(cluster.os, "getcwd", lambda: "/nowhere/at/all")
    else:
        real = cluster.Assignment
        monkeypatch.setattr(
            cluster, "Assignment", lambda config, cell, *more: real(config, {**cell, "key": "0" * 20}, *more)
        )
    with pytest.raises(ConfigError, match=f"the worker on {socket.gethostname()} {said}"):
        bench()


def test_a_cell_that_fails_on_a_cluster_is_told_by_name(bench):
    with pytest.raises(CellError, match=r"train vp seed 0: NonFiniteLossError: the loss is nan at step"):
        bench(**{"train.lr": 1e30, "train.grad_clip": 0})


def test_a_scheduler_that_does_not_answer_is_named(tiny, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    config = tiny(scheduler="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"scheduler = 'tcp://127.0.0.1:1' does not answer .* `dask scheduler`"):
        open_cluster(config, prepare(config).store, 1)


def ask_on(pool):
    """Asks for the workers until that fails."""
    while True:
        pool.slots()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_scheduler_that_goes_ends_the_bench_with_a_sentence(tiny, tmp_path):
    own = Dask(tmp_path)
    try:
        config = tiny(scheduler=own.address)
        pool = open_cluster(config, prepare(config).store, 1)
        assert pool.slots() == []
        pool.client._timeout = 0.5
        own.started[0].kill()
        with pytest.raises(ClusterGoneError, match="does not answer any more; finished cells are kept"):
            ask_on(pool)
        pool.close()
    finally:
        own.close()


# ---- jobs ------------------------------------------------------------------------------------------------

SBATCH = """#!{python}
import itertools, json, os, subprocess, sys
from pathlib import Path

here, script = Path({folder!r}), Path(sys.argv[1]).read_text()
if "-p moon" in script:
    sys.exit("sbatch: error: invalid partition specified: moon")
number = next(n for n in itertools.count(100) if not (here / str(n)).exists())
(here / str(number)).write_text(script)
with (here / f"{{number}}.log").open("w") as log:
    job = subprocess.Popen(["bash", str(here / str(number))], stdout=log, stderr=log, start_new_session=True)
(here / f"{{number}}.pid").write_text(str(job.pid))
print("Submitted batch job", number)
"""
SCANCEL = """#!{python}
import os, signal, sys
from contextlib import suppress
from pathlib import Path

with suppress(OSError):
    os.killpg(int((Path({folder!r}) / f"{{sys.argv[1]}}.pid").read_text()), signal.SIGTERM)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster whose queue is empty: jobs start at once, as processes of this machine."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'genflow[cluster]'")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (folder / name).write_text(text.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", ENV["PYTHONPATH"])
    dask_config = pytest.importorskip("dask.config")
    with dask_config.set({"distributed.deploy.lost-worker-timeout": "0.5s"}):
        yield folder
    for job in folder.glob("*.pid"):
        try:
            os.killpg(int(job.read_text()), signal.SIGKILL)
        except OSError:
            continue


@pytest.mark.slow
def test_a_job_that_ends_before_the_bench_is_queued_again(bench, slurm, wanted):
    killed = []

    def end(report):
        if "samples" in " ".join(report.running) and not killed:
            killed.append(int((slurm / "100.pid").read_text()))
            os.killpg(killed[0], signal.SIGKILL)

    plan, used = bench(end, scheduler="", cluster="slurm:queue=gpu,time=1h,host=127.0.0.1", jobs=1)
    assert found(plan) == wanted
    assert len(killed) == 1
    assert len(used) == 2
    text = (slurm / "101").read_text()
    for line in ("-p gpu", "-t 01:00:00", "--cpus-per-task=1", "--mem=4G", "-J genflow"):
        assert f"#SBATCH {line}\n" in text
    assert "--nthreads 1" in text


@pytest.mark.slow
def test_a_job_that_the_system_refuses_and_a_system_that_is_not_here_are_told(tiny, slurm, monkeypatch):
    for words, said in (("slurm:queue=moon,host=127.0.0.1", "invalid partition"), ("pbs:queue=x", "no qsub here")):
        config = tiny(cluster=words)
        with pytest.raises(ConfigError, match=said):
            open_cluster(config, prepare(config).store, 1)
