"""`genflow bench` with workers in this process: exit codes, what is printed, and what is left behind."""

import csv
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import inline_workers as inline
import pytest
from said import said, without_device

from genflow import cli
from genflow.bench import shards
from genflow.bench.choose import prepare
from genflow.bench.rows import collect
from genflow.data.downloads import DataError
from genflow.evaluate.base import Measured, Metric, Result
from genflow.registry import registries

WORDS = [f"--{key.replace('.', '-').replace('_', '-')}={value}" for key, value in inline.TINY.items()]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def genflow(monkeypatch, capsys, tmp_path):
    """Runs the command with given workers: (code, out, err)."""
    monkeypatch.chdir(tmp_path)
    costs = {"flops": 3e6, "call": 1e-5, "step": 4e-5, "batch": 8, "parameters": 1000, "numbers": 2}

    def run(*words, start=inline.start):
        monkeypatch.setattr("genflow.bench.start.start_workers", start)
        monkeypatch.setattr(
            "genflow.bench.local.check", lambda config, threads, calibrate=False: ("", costs if calibrate else None)
        )
        monkeypatch.setattr(sys, "argv", ["genflow", "bench", *WORDS, "--out", "run", *words])
        capsys.readouterr()
        code = cli.run()
        return said(code, capsys)

    return run


def failing(*processes):
    def start(config, store, jobs):
        real = inline.working(config)

        def answer(task):
            lost = task.cell.labels["process"] in processes and task.cell.kind == "train"
            return ("failed", "NonFiniteLossError: the loss is nan") if lost else real(task)

        return inline.Inline(answer)

    return start


@pytest.mark.slow
def test_a_failure_is_code_3_with_or_without_keep_going_and_the_tables_show_the_rest(genflow, tmp_path):
    words = ["--process", "pfgm,vp_ode", "--nfe", "2", "--solver", "euler"]
    stopped = genflow(*words, start=failing("pfgm"))
    assert stopped.code == 3
    assert "train pfgm seed 0: NonFiniteLossError: the loss is nan" in stopped.err
    gone_on = genflow(*words, "--keep-going", start=failing("pfgm"))
    assert gone_on.code == 3
    assert "3 cells are missing" in gone_on.err
    assert "| vp_ode | euler |" in gone_on.out
    assert "| pfgm | euler |" not in gone_on.out
    assert json.loads((tmp_path / "run" / "failures.json").read_text()) == {
        "train pfgm seed 0": "NonFiniteLossError: the loss is nan"
    }
    healed = genflow(*words)
    assert healed.code == 0
    assert "| pfgm | euler |" in healed.out
    assert not (tmp_path / "run" / "failures.json").exists()


def test_the_time_limit_is_code_124_and_says_how_to_go_on(genflow, tmp_path):
    done = genflow("--time-limit", "0.2s", start=lambda *_: inline.Inline(lambda task: None))
    assert done.code == 124
    assert "the time limit of 0.2s is up; finished cells are kept. Go on with:\n  genflow bench" in done.err
    assert not (tmp_path / "run" / "results.csv").exists()
    assert genflow("--time-limit", "soon").code == 2


@pytest.mark.slow
def test_only_what_is_chosen_is_done_and_the_rest_is_told(genflow, tmp_path):
    done = genflow("--only", "vp_ode:heun:3")
    assert done.code == 0
    assert "4 of 10 cells to do in run" in done.out
    assert "6 cells were not chosen and are not there" in done.err
    rows = list(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    assert {r["solver"] for r in rows if r["process"] == "vp_ode"} == {"heun"}
    assert {r["process"] for r in rows} == {"data", "vp_ode"}
    assert "matches no cell" in genflow("--only", "vp_ode:heum").err
    assert "to do  " not in genflow("--only", "vp_ode:heun:3", "--dry-run").out
    assert genflow("--only", "vp_ode:heun:3", "--force", "--dry-run").out.count("to do  ") == 2
    assert genflow("--dry-run").out.count("  left  ") == 0


@pytest.mark.slow
def test_an_estimate_stands_before_the_work_and_in_the_dry_run(genflow):
    words = ("--dry-run", "--calibrate")
    lines = [genflow(*words).out.splitlines()[-1], genflow().out.splitlines()[1]]
    for line in lines:
        assert line.startswith("estimated time: 0.1 min with 1 job (from a timed call); ")
        assert "3 MFLOP a network call; at most " in line
    assert "no cell is finished yet" in genflow("--dry-run", "--out", "elsewhere").out.splitlines()[-1]


def test_shards_that_are_there_are_told_in_the_dry_run(genflow, tiny, tmp_path):
    from genflow.bench.worker import Worker

    config = tiny(out=str(tmp_path / "run"))
    plan = prepare(config)
    plan.store.prepare()
    worker = Worker(config, lambda: False)
    worker.run(plan.todo[1].to_json(), lambda *_: None)
    worker.run(plan.todo[2].to_json(), lambda *_: None, (16, 32))
    assert f"{plan.todo[2].name} (1 of 4 shards saved)" in genflow("--dry-run").out


# ---- results that change under the same key --------------------------------------------------------------


class Sometimes(Metric):
    """A metric whose data may not be here."""

    here, value = False, 1.5

    def measure(self, context):
        if not self.here:
            raise DataError("the data of 'sometimes' are not in /data")
        return Result([Measured("sometimes", self.value, len(context.samples), "by hand")])


@pytest.fixture
def sometimes(monkeypatch):
    """Its class, registered, and pictures that are not drawn, which takes the most time and is proved elsewhere."""
    monkeypatch.setattr("genflow.report.figures.draw", lambda *_: [])
    monkeypatch.setattr(Sometimes, "here", False)
    registries()["metrics"].add("sometimes", Sometimes, tags={"needs": "samples"})
    yield Sometimes
    registries()["metrics"].remove("sometimes")


def test_what_is_measured_later_under_the_same_key_comes_into_the_tables(genflow, sometimes, tmp_path, monkeypatch):
    words = ("--metric", "sometimes", "--nfe", "2", "--solver", "euler")
    table, page = tmp_path / "run" / "tables.md", tmp_path / "run" / "report.html"
    assert genflow(*words).code == 0
    assert "are not in /data" in table.read_text(encoding="utf-8")
    before = page.stat().st_mtime_ns
    assert genflow(*words).code == 0
    assert page.stat().st_mtime_ns == before, "tried again and found no more: nothing to write"
    monkeypatch.setattr(sometimes, "here", True)
    assert genflow(*words).code == 0
    text = table.read_text(encoding="utf-8")
    assert "| vp_ode | euler | 1.5 |" in text
    assert "are not in /data" not in text
    monkeypatch.setattr(sometimes, "value", 2.5)
    assert "| vp_ode | euler | 1.5 |" in genflow(*words).out
    assert genflow(*words, "--force").code == 0
    assert "| vp_ode | euler | 2.5 |" in table.read_text(encoding="utf-8")


def test_a_cell_that_was_damaged_and_comes_out_the_same_is_told_on_the_page(genflow, sometimes, tmp_path, monkeypatch):
    monkeypatch.setattr(sometimes, "here", True)
    words = ("--metric", "sometimes", "--nfe", "2", "--solver", "euler")
    assert genflow(*words).code == 0
    rows = next(p for p in (tmp_path / "run" / "cells").glob("*/rows.json") if "1.5" in p.read_text())
    rows.write_text("[]")
    assert "does not match its hash" in genflow(*words).err
    assert "is computed again" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


# ---- SIGTERM in the middle of a cell ---------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_in_a_cell_loses_at_most_one_shard(tiny, tmp_path):
    """As a program, with a worker of its own: the code, the mark, and the same numbers after going on."""
    long = {"samples": 480, "nfe": "40", "solver": "euler"}
    words = [f"--{key}={value}" for key, value in long.items()]
    bench = subprocess.Popen(
        [sys.executable, "-m", "genflow", "bench", *WORDS, *words, "--out", "run"],
        cwd=tmp_path,
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    cells, deadline = tmp_path / "run" / "cells", time.monotonic() + 120
    while not list(cells.glob("*.shards/*/MANIFEST.json")):
        assert bench.poll() is None, bench.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    bench.send_signal(signal.SIGTERM)
    _, errors = bench.communicate(timeout=60)
    assert bench.returncode == 143
    assert "Go on with:" in errors
    config = tiny(out=str(tmp_path / "run"), **long)
    plan = prepare(config)
    assert [c.kind for c in plan.todo if c.kind != "metric"] == ["sample"], "the trained model is kept"
    (cell,) = (c for c in plan.todo if c.kind == "sample")
    kept = shards.saved(plan.store, cell, config)
    assert 0 < len(kept) < len(shards.parts(cell, config))
    mark = json.loads((plan.store.shard_folder(cell.key) / shards.MARK).read_text())
    assert mark["of"] == len(shards.parts(cell, config))
    assert 0 <= len(kept) - mark["shards"] <= 1
    _, log = inline.run(config, plan)
    drawn = [task.part for task in inline.tasks(log) if task.part]
    assert sorted([*drawn, *kept]) == shards.parts(cell, config)
    undisturbed = tiny(out=str(tmp_path / "undisturbed"), shard=1000, **long)
    whole = prepare(undisturbed)
    whole.store.prepare()
    inline.run(undisturbed, whole)
    numbers = [{r["process"]: r["value"] for r in collect(p.store, p.cells)} for p in (plan, whole)]
    assert numbers[0] == numbers[1]


# ---- terminals -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A folder in which a bench is finished: its command only reads and prints."""
    folder = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("genflow.bench.start.start_workers", inline.start)
        patch.setattr("genflow.bench.local.check", lambda config, threads, calls: ("", None))
        patch.setattr(sys, "argv", ["genflow", "bench", *WORDS])
        assert cli.run() == 0
    return folder


COMMAND = [sys.executable, "-m", "genflow", "bench", *WORDS]


def shell(folder, line, **more):
    quoted = " ".join(f"'{word}'" for word in COMMAND)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {quoted} {line}"],
        cwd=folder,
        env={**ENV, **more},
        capture_output=True,
        timeout=60,
    )


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(cached):
    done = shell(cached, "| head -c 5")
    assert (done.returncode, done.stdout, without_device(done.stderr)) == (0, b"# gen", b"")


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("line", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(cached, line):
    done = shell(cached, line)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "cp437"])
def test_a_terminal_of_another_encoding_gets_what_it_can_show(cached, encoding):
    done = shell(cached, "", PYTHONIOENCODING=encoding)
    assert (done.returncode, without_device(done.stderr.decode(encoding))) == (0, "")
    text = done.stdout.decode(encoding)
    assert "against NFE" in text
    assert "vp_ode | heun" in text


def test_a_narrow_terminal_without_colours(cached):
    """A real terminal of 20 columns, by pty; NO_COLOR and TERM=dumb besides."""
    leader, follower = pty.openpty()
    env = {**ENV, "COLUMNS": "20", "NO_COLOR": "1", "TERM": "dumb"}
    process = subprocess.Popen(COMMAND, cwd=cached, env=env, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += (piece := os.read(leader, 4096))
        except OSError:
            break
        if not piece:
            break
    os.close(leader)
    assert process.wait(60) == 0
    assert b"Traceback" not in shown
    assert b"\x1b[3" not in shown, "no colours"
    assert b"vp_ode | heun" in shown


def test_the_progress_line_fits_and_speaks_plainly_without_a_terminal(capsys, monkeypatch):
    from genflow.bench.runner import Report
    from genflow.commands.bench import ProgressLine

    monkeypatch.setenv("COLUMNS", "20")
    with ProgressLine() as line:
        for share in (0.0, 0.04, 0.5, 1.0):
            line.show(Report(share, float("nan"), ["train pfgm"], 1, 4))
    said = capsys.readouterr().err.splitlines()
    assert [text.split()[0] for text in said] == ["0%", "50%", "100%"]
    assert "\r" not in "".join(said)


def test_a_cached_bench_is_quick_and_a_copy_of_it_too(cached, tmp_path):
    """No torch: the store, the plan and the tables alone; the folder may have been moved."""
    shutil.copytree(cached / "runs", tmp_path / "runs")
    probe = f"import sys; sys.argv = ['genflow', *{COMMAND[3:]!r}]\nfrom genflow.cli import run\ncode = run()\n"
    probe += "sys.exit(code or ('torch' in sys.modules and 'torch was imported' or 0))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert (done.returncode, without_device(done.stderr)) == (0, "")
