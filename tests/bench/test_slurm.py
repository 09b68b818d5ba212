"""Workers as jobs of a cluster: the words of --slurm, and a bench in submitit's local executor."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from genflow.bench.slurm import Job, parameters
from genflow.config import ConfigError
from genflow.registry import UnknownNameError

submitit = pytest.importorskip("submitit")


@pytest.mark.parametrize(
    ("words", "cluster", "wanted"),
    [
        (
            ["partition=gpu", "time=4h", "gpus=2"],
            "slurm",
            {"slurm_partition": "gpu", "timeout_min": 240, "gpus_per_node": 2},
        ),
        (["time=90s", "cpus=8", "mem=32GB"], "slurm", {"timeout_min": 2, "cpus_per_task": 8, "mem_gb": 32.0}),
        (
            ["account=a", "nodelist=n[1-2]", "reservation=r"],
            "slurm",
            {"slurm_account": "a", "slurm_additional_parameters": {"nodelist": "n[1-2]", "reservation": "r"}},
        ),
        (["local"], "local", {}),
        (["cluster=local", "time=1h"], "local", {"timeout_min": 60}),
    ],
)
def test_words_become_parameters_of_submitit(words, cluster, wanted):
    assert parameters(words) == (cluster, wanted)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("partition", "'partition' is not of the form KEY=VALUE"),
        ("partition=", "'partition=' is not of the form"),
        ("gpus=two", "'gpus=two' is not allowed; give a whole number"),
        ("gpus=-1", "'gpus=-1' is not allowed"),
        ("mem=much", "give a number of gigabytes"),
        ("time=4", "slurm: time = '4' is not a time"),
        ("cluster=moon", "cluster = 'moon' is not known; give slurm or local"),
    ],
)
def test_words_that_are_refused(word, said):
    with pytest.raises(ConfigError) as caught:
        parameters([word])
    assert said in str(caught.value)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown key of slurm 'partiton'; did you mean 'partition'"):
        parameters(["partiton=gpu"])


def test_sbatch_gets_what_was_asked(tmp_path):
    """The submission file as submitit writes it, without a cluster."""
    from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

    _, given = parameters(["partition=gpu", "time=4h", "gpus=2", "mem=16", "qos=low", "nodelist=n1"])
    names = SlurmExecutor._equivalence_dict()
    plain = {names.get(k, k.removeprefix("slurm_")): v for k, v in given.items()}
    text = _make_sbatch_string("work", tmp_path, **{**plain, "mem": "16GB"})
    for line in ("--partition=gpu", "--time=240", "--gpus-per-node=2", "--mem=16GB", "--qos=low", "--nodelist=n1"):
        assert f"#SBATCH {line}\n" in text


def test_a_job_that_runs_out_of_time_comes_again_as_the_same_worker():
    job = Job("/somewhere/bench", "abc", "job-1", "/here", 2)
    again = job.checkpoint().function
    assert again == Job("/somewhere/bench", "abc", "job-1", "/here", 2, again=True)


def test_a_job_whose_bench_is_over_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("genflow.bench.slurm.PATIENCE", 0.2)
    assert Job(str(tmp_path), "abc", "job-0", str(tmp_path))() == "the bench is over"


# ---- a bench in jobs -------------------------------------------------------------------------------------

DRIVE = """
import json, sys
from genflow.bench.choose import prepare
from genflow.bench.crew import crew
from genflow.bench.runner import Runner
from genflow.bench.tables import collect, to_csv
from genflow.config import BenchConfig, build

config = build(BenchConfig, json.loads(sys.argv[1]))
plan = prepare(config)
plan.store.prepare()
with plan.store.lock(), crew(config, plan.store) as hire:
    Runner(config, plan.store, hire).run(plan.cells, plan.todo)
print(to_csv(collect(plan.store, plan.cells)))
"""


def drive(config, **more):
    from genflow.config import flatten

    values = {**flatten(config), **more}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVE, json.dumps(values)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def values(text):
    rows = csv.DictReader(text.strip().splitlines())
    return {(r["process"], r["solver"], r["nfe"]): r["value"] for r in rows}


@pytest.fixture
def wanted(tiny, tmp_path):
    import inline_workers as inline

    from genflow.bench.choose import prepare
    from genflow.bench.tables import collect, to_csv

    config = tiny(out=str(tmp_path / "here"))
    plan = prepare(config)
    plan.store.prepare()
    inline.run(config, plan)
    return values(to_csv(collect(plan.store, plan.cells)))


def ready(bench):
    """Process of the first job that has said it is ready."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for box in bench.glob(".workers/*/*/to-bench.jsonl"):
            said = [json.loads(line) for line in box.read_text().splitlines()]
            if any("ready" in message for message in said):
                return said[0]["hello"]
        time.sleep(0.01)
    raise AssertionError("no job became ready")


def test_a_bench_in_two_jobs_one_of_which_is_preempted(tiny, wanted, tmp_path):
    """submitit's local executor: a job is a process of its own, which SIGUSR2 pre-empts as on a cluster."""
    folder = tmp_path / "bench"
    bench = drive(tiny(), slurm=["local"], jobs=2)
    os.kill(ready(folder), signal.SIGUSR2)
    out, errors = bench.communicate(timeout=120)
    assert bench.returncode == 0, errors
    assert "2 jobs queued: " in errors
    assert values(out) == wanted
    assert not (folder / ".workers").exists()
    logs = "".join(path.read_text() for path in (folder / "slurm").glob("*_log.*"))
    assert "this job is preempted" in logs
    assert "Requeued job" in logs


def test_a_bench_without_its_cluster_says_so(tiny):
    bench = drive(tiny(), slurm=["partition=gpu"])
    _, errors = bench.communicate(timeout=60)
    assert bench.returncode != 0
    assert "Could not detect" in errors
