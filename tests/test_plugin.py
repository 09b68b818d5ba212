"""The plugin of docs/design.md as it is printed there, the one of docs/examples, and what new-plugin writes."""

import csv
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import genflow
from genflow import cli
from genflow.commands.new_plugin import EXAMPLE, plugin_files
from genflow.registry import registries
from genflow.testing import check_process

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / "docs" / "design.md"


@pytest.mark.slow
def test_the_documented_plugin_passes_the_contract_and_is_usable_by_name():
    code = re.search(r"```python\n(.*?)```", DESIGN.read_text(encoding="utf-8"), re.S).group(1)
    names = {}
    exec(compile(code, str(DESIGN), "exec"), names)
    check_process(names["FastVE"]())
    processes = registries()["processes"]
    processes.add("fast_ve", names["FastVE"], tags={"mode": "ode"})
    try:
        process = genflow.get_process("fast_ve")
        points = process.sample_prior((5, 2), generator=__import__("torch").Generator())
        assert genflow.sample(process, process.oracle(points), "heun", 3, nfe=5).x.shape == (3, 2)
    finally:
        processes.remove("fast_ve")


# ---- a package -------------------------------------------------------------------------------------------


def test_the_example_of_the_docs_is_what_new_plugin_writes():
    folder = ROOT / "docs" / "examples" / "plugin"
    written = {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in folder.rglob("*.*") if p.is_file()}
    own = {path: text for path, text in written.items() if ".egg-info" not in path and "__pycache__" not in path}
    assert own == plugin_files(EXAMPLE)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["genflow", *words])
    code = cli.run()
    found = capsys.readouterr()
    return code, found.out + found.err


def test_new_plugin_writes_a_package_of_that_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = run(monkeypatch, capsys, "new-plugin", "my_flow")
    assert code == 0
    assert "pip install -e my_flow" in said
    files = {str(p.relative_to("my_flow")): p.read_text() for p in Path("my_flow").rglob("*") if p.is_file()}
    assert files == plugin_files("my_flow")
    assert "my_flow/process.py" in files
    assert not [path for path, text in files.items() if re.search("genflow.example", path + text)]
    assert 'name = "my-flow"' in files["pyproject.toml"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My-Flow", "'My-Flow' is not a name for a Python package; give lower-case letters"),
        ("My-Flow", "e.g. my_flow"),
        ("9x", "e.g. plugin_9x"),
        ("class", "e.g. plugin_class"),
        ("a/b", "e.g. a_b"),
        ("...", "is not a name for a Python package"),
        ("torch", "'torch' is the name of a package that is here already"),
        ("taken", "taken exists and is not an empty folder"),
        ("file", "file exists and is not an empty folder"),
    ],
)
def test_new_plugin_refuses_in_a_sentence(tmp_path, monkeypatch, capsys, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    code, found = run(monkeypatch, capsys, "new-plugin", name)
    assert code == 2
    assert said in found
    assert sorted(tmp_path.rglob("*")) == before


BROKEN = {
    "missing_module": "no_such_module:Thing",
    "missing_class": "json:Thing",
    "wrong_kind": "genflow.solver.ode:Euler",
    "no_class": "math:pi",
    "exits": "broken_at_import:Thing",
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A new environment that sees this one's packages and genflow, with the example and broken plugins installed."""
    root = tmp_path_factory.mktemp("fresh")
    venv.create(root / "env", system_site_packages=True, with_pip=False, symlinks=True)
    python = root / "env" / "bin" / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    (site / "here.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
    package = root / "plugin"
    for path, text in plugin_files(EXAMPLE).items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]

    def call(*words, check=True):
        done = subprocess.run(
            [python, "-m", *words], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    call("pip", "install", *offline, str(package))
    (site / "broken_at_import.py").write_text("raise SystemExit(3)\n")
    (site / "broken-1.0.dist-info").mkdir()
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    points = [f"[genflow.processes]\nvp_ode = {EXAMPLE}.process:ExponentialVE"]
    points += [f"{name} = {target}" for name, target in BROKEN.items()]
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text("\n".join([*points, ""]))
    return root, call


@pytest.mark.slow
def test_the_example_passes_its_own_tests_where_it_is_installed(fresh):
    root, call = fresh
    done = call("pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", str(root / "plugin" / "tests"))
    assert "7 passed" in done.stdout


@pytest.mark.slow
def test_bench_and_report_use_an_installed_plugin_beside_broken_ones(fresh):
    root, call = fresh
    call(
        "genflow", "bench", "--process", "genflow_example_ve,vp_ode", "--solver", "genflow_example_ralston",
        "--metric", "two_sample,genflow_example_mean", "--backbone", "mlp", "--backbone-options", "mlp.width=8",
        "--dataset", "gaussian_mixture", "--dataset-options", "gaussian_mixture.size=60", "--train-steps", "5",
        "--samples", "20", "--nfe", "4,5", "--jobs", "1", "--device", "cpu", "--out", "runs",
    )  # fmt: skip
    call("genflow", "report", "runs")
    rows = list(csv.DictReader((root / "runs" / "results.csv").open(encoding="utf-8")))
    own = [row for row in rows if row["metric"] == "mean_error"]
    assert {(row["process"], row["nfe"]) for row in own if row["process"] != "data"} == {
        (process, nfe) for process in ("genflow_example_ve", "vp_ode") for nfe in ("4.0", "5.0")
    }
    assert all(float(row["value"]) >= 0 and "RMS of the difference" in row["protocol"] for row in own)
    page = (root / "runs" / "report.html").read_text(encoding="utf-8")
    assert "error of the mean" in page
    assert "genflow_example_ve" in page


@pytest.mark.slow
def test_broken_plugins_are_listed_with_their_reason_and_break_nothing(fresh):
    _, call = fresh
    listed = call("genflow", "list", "processes").stdout
    for name, reason in {
        "missing_module": "No module named 'no_such_module'",
        "missing_class": "has no attribute 'Thing'",
        "wrong_kind": "Euler is a solver, not a process",
        "no_class": "points to float",
        "exits": "SystemExit: 3",
        "vp_ode (broken)": "the name is taken by genflow",
    }.items():
        (line,) = (line for line in listed.splitlines() if line.strip().startswith((name + " ", name + ":")))
        assert "BROKEN" in line, line
        assert reason in line, line
    for kind in ("solvers", "backbones", "datasets", "metrics"):
        assert "BROKEN" not in call("genflow", "list", kind).stdout
    done = call("genflow", "train", "--process", "exits", "--out", "never", check=False)
    assert done.returncode == 2
    assert "the process 'exits' cannot be used: SystemExit: 3 (plugin of broken)" in done.stderr
    assert "Traceback" not in done.stderr
