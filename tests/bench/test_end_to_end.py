"""The main command on a tiny budget: once, again, interrupted, killed, damaged, and two at a time."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time

import inline_workers
import pytest

from genflow import cli
from genflow.registry import registries

TINY = (
    "--train-steps=40", "--train-batch-size=16", "--train-save-seconds=0.2", "--samples=24", "--nfe=2,5",
    "--solver=euler,heun", "--bpd-examples=6", "--norm-nfe=4", "--norm-factors=0.5,1", "--jobs=2",
    "--backbone-options=ncsnv2.features=4", "--sample-batch=10", "--bpd-rtol=0.1", "--bpd-atol=0.1",
)  # fmt: skip
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def command(*words):
    return [sys.executable, "-m", "genflow", "bench", "--process", "pfgm,vp_ode", "--backbone", "ncsnv2", *TINY, *words]


def run(folder, *words, code=0):
    done = subprocess.run(
        command(*words), cwd=folder, env=ENV, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def called(monkeypatch, capsys):
    """The command in this process, where it starts no workers: what it writes to standard output and to the other."""

    def call(folder, *words, code=0):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["genflow", *command(*words)[3:]])
        capsys.readouterr()
        found, done = cli.run(), capsys.readouterr()
        assert found == code, done.out + done.err
        return done

    return call


def numbers(folder):
    """Every measured number of a run, by what it is."""
    with (folder / "runs" / "bench" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(r["process"], r["solver"], r["nfe"], r["metric"], r["seed"]): r["value"] for r in rows}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


@pytest.mark.slow
def test_everything_is_written(finished):
    out = finished / "runs" / "bench"
    rows = numbers(finished)
    assert {key[0] for key in rows} == {"data", "pfgm", "vp_ode"}
    fd = [key for key in rows if key[3] == "FD[digits]"]
    assert len(fd) == 1 + 2 * 2 * 2  # the floor; two processes, two solvers, two budgets
    assert {key[2] for key in fd if key[0] == "pfgm"} == {"2.0", "5.0"}
    assert sum(key[3] == "bits/dim" for key in rows) == 2
    assert sum("@norm*" in key[3] for key in rows) == 4
    assert all(float(value) == float(value) for value in rows.values())
    assert {p.name for p in (out / "plots").iterdir()} >= {"fd_nfe.png", "norm_z.png", "norm_push.png", "loss.png"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 8
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "bits/dim = −[log p(x)" in (out / "tables.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_second_run_only_reads_and_imports_no_torch(finished):
    before = {p: p.stat().st_mtime_ns for p in (finished / "runs").rglob("*") if p.is_file() and p.name != ".lock"}
    words = command()[3:]
    probe = (
        f"import sys; sys.argv = ['genflow', *{words!r}]\n"
        "from genflow.cli import run\n"
        "code = run()\n"
        "heavy = {'torch', 'matplotlib', 'pandas', 'sklearn', 'scipy', 'distributed', 'genflow.bench.local'}\n"
        "bad = sorted(heavy & set(sys.modules))\n"
        "sys.exit(code or (f'imported {bad}' if bad else 0))"
    )
    before_it = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", probe], cwd=finished, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_it < 4  # whatever else the machine does
    assert "FD[digits] against NFE" in done.stdout
    after = {p: p.stat().st_mtime_ns for p in (finished / "runs").rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == before


@pytest.mark.slow
def test_dry_run_tells_what_is_cached(finished, called, tmp_path):
    text = called(finished, "--dry-run").out
    assert "to do" not in text.split("cells, ", 1)[1]
    assert "command line" in text
    assert "estimated time" in text
    fresh = called(tmp_path, "--dry-run").out
    assert "0 cached" in fresh
    assert not (tmp_path / "runs").exists()


def start(folder, *words):
    """A bench in the background that has saved a training state and not finished."""
    process = subprocess.Popen(
        command(*words), cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    cells, deadline = folder / "runs" / "bench" / "cells", time.monotonic() + 120
    while not list(cells.glob("*.state/*/MANIFEST.json")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_sigint_and_sigkill_lose_nothing_that_was_saved_and_the_same_command_goes_on(finished, tmp_path):
    """First one, then the other, in one folder: the third bench ends with the numbers of an undisturbed one."""
    process = start(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Go on with:" in errors
    assert "genflow bench" in errors.replace("__main__.py", "genflow")
    assert not (tmp_path / "runs" / "bench" / "results.csv").exists()
    process = start(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    time.sleep(0.5)  # the workers notice that the bench is gone
    run(tmp_path)
    assert numbers(tmp_path) == numbers(finished)
    left = [p.name for p in (tmp_path / "runs" / "bench" / "cells").iterdir() if ".state" in p.name or ".tmp" in p.name]
    assert left == []


@pytest.mark.slow
def test_a_damaged_cell_is_named_and_computed_again(finished):
    want = numbers(finished)
    cells = finished / "runs" / "bench" / "cells"
    sample = next(p for p in cells.iterdir() if (p / "samples.npz").exists())
    content = (sample / "samples.npz").read_bytes()
    (sample / "samples.npz").write_bytes(content[: len(content) // 2])
    done = run(finished)
    assert "sample" in done.stderr
    assert "does not match its hash" in done.stderr
    assert str(sample.name) in done.stderr
    assert numbers(finished) == want


@pytest.mark.slow
def test_a_second_bench_in_the_same_folder_says_who_holds_it(tmp_path):
    process = start(tmp_path, "--train-steps=100000")  # far from done when the second begins, however slow the machine
    second = run(tmp_path, code=75)
    assert f"process {process.pid} on" in second.stderr
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.slow
def test_refused_options_exit_2_before_anything_runs(called, tmp_path):
    done = called(tmp_path, "--process-options", "pfgm.gamma=-1", code=2)
    assert "gamma = -1" in done.err
    done = called(tmp_path, "--process-options", "pfgm.gama=1", code=2)
    assert "did you mean 'gamma'" in done.err
    done = called(tmp_path, "--dataset", "checkerboard", code=2)
    assert "(channels, height, width)" in done.err
    assert not list((tmp_path / "runs" / "bench" / "cells").glob("*"))


@pytest.mark.slow
def test_a_nan_loss_stops_before_the_step_and_names_it(tmp_path):
    done = run(tmp_path, "--train-lr", "1e30", "--train-grad-clip", "0", "--train-warmup", "0", "--jobs=1", code=3)
    assert "the loss is nan at step" in done.stderr.lower()
    assert "seed 0" in done.stderr


def test_vp_ode_and_vp_sde_share_one_trained_model(tmp_path, monkeypatch):
    """With a worker in this process."""
    monkeypatch.setattr("genflow.bench.start.start_workers", inline_workers.start)
    monkeypatch.setattr("genflow.report.figures.draw", lambda *_: [])
    words = ["--process", "vp_ode,vp_sde", "--backbone", "mlp", "--metric", "fd", "--samples", "8", "--nfe", "3"]
    quick = ["--train-steps", "3", "--train-batch-size", "8", "--out", "shared"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["genflow", "bench", *words, *quick])
    assert cli.run() == 0
    cells = list((tmp_path / "shared" / "cells").iterdir())
    assert sum((c / "model.safetensors").exists() for c in cells) == 1
    solvers = {
        json.loads((c / "cell.json").read_text())["labels"].get("solver") for c in cells if (c / "samples.npz").exists()
    }
    assert solvers == {"euler", "heun", "dpmpp_2m", "rk45", "euler_maruyama"}


@pytest.mark.slow
def test_every_process_runs_through_the_bench_and_what_is_missing_is_said(tmp_path):
    names = list(registries()["processes"].entries())
    words = ["--process", ",".join(names), "--backbone", "mlp", "--samples", "8", "--nfe", "4", "--bpd-examples", "2"]
    quick = ["--train-steps", "2", "--train-batch-size", "8", "--norm-nfe", "2", "--norm-factors", "1", "--out", "all"]
    words += ["--terms", "published"]  # not every process has a noise level
    loose = ["--bpd-rtol", "0.1", "--bpd-atol", "0.1", "--solver", "euler,unipc,ancestral,euler_maruyama"]
    done = subprocess.run(
        [sys.executable, "-m", "genflow", "bench", *words, *quick, *loose],
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "all" / "results.csv").read_text(encoding="utf-8").splitlines()))
    measured = {(row["process"], row["metric"]) for row in rows if row["value"]}
    for name in names:
        missing = registries()["processes"].entry(name).tags.get("missing", {})
        assert (name, "FD[digits]") in measured
        assert ((name, "bits/dim") in measured) == ("likelihood" not in missing)
        for asked in {"norm", "likelihood"} & set(missing):
            assert missing[asked] in done.stdout
    assert "## Not measured" in done.stdout
