"""Bad input to the command line: exit code 2, one clear line, and nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from said import said

from genflow import cli
from genflow.checkpoint import resolve
from genflow.process import CAPABILITIES
from genflow.registry import registries

TINY = "train --process vp_ode --backbone mlp --backbone-options mlp.width=4 --dataset checkerboard --train-steps 1"
TINY += " --train-batch-size 8 --train-warmup 0 --dataset-options checkerboard.size=50"


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def genflow(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder: (code, out, err), and whether the folder is as it was."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        words = line.split() if isinstance(line, str) else line
        monkeypatch.setattr(sys, "argv", ["genflow", *map(str, words)])
        before = snapshot(tmp_path)
        capsys.readouterr()
        code = cli.run()
        return said(code, capsys, untouched=snapshot(tmp_path) == before)

    return run


def refused(done) -> str:
    """The one line of a refusal; click puts its own two lines of usage before it."""
    assert done.code == 2
    assert done.untouched, "a refused command has written something"
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if line]
    if lines[0].startswith("Usage:"):
        lines = lines[2:]
    assert len(lines) == 1, lines
    assert lines[0].startswith(("genflow: ", "Error: "))
    assert "Traceback" not in done.err
    return lines[0].split(": ", 1)[1]


def known(plural: str) -> str:
    return f"known: {', '.join(sorted(registries()[plural].entries()))}"


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what", "plural"),
    [
        ("bench --process pfmg", "unknown process 'pfmg'; did you mean 'pfgm'?", "processes"),
        ("bench --process pfgm,vp_od", "unknown process 'vp_od'; did you mean 'vp_ode'?", "processes"),
        ("bench --backbone ncsn", "unknown backbone 'ncsn'; did you mean 'ncsnv2'?", "backbones"),
        ("bench --solver heum", "unknown solver 'heum'; did you mean 'heun'?", "solvers"),
        ("bench --dataset digit", "unknown dataset 'digit'; did you mean 'digits'?", "datasets"),
        ("bench --metric norm", "unknown metric 'norm'; did you mean 'norm_z'?", "metrics"),
        ("train --process pfmg", "unknown process 'pfmg'; did you mean 'pfgm'?", "processes"),
        ("train --backbone ncsn", "unknown backbone 'ncsn'; did you mean 'ncsnv2'?", "backbones"),
        ("train --dataset digit", "unknown dataset 'digit'; did you mean 'digits'?", "datasets"),
    ],
)
@pytest.mark.parametrize("more", ["--out new/folder/run", "--out new --dry-run"])
def test_unknown_names(genflow, line, what, plural, more):
    if line.startswith("train"):
        more = more.replace(" --dry-run", "")
    message = refused(genflow(f"{line} {more}"))
    assert message.startswith(what)
    assert message.endswith(known(plural))


@pytest.mark.parametrize("name", ["heum", "rk45", "euler_maruyama"])
def test_a_norm_solver_that_is_unknown_or_does_not_fit(genflow, name):
    """It walks an ODE on a fixed grid, and is known to be wrong before anything is trained."""
    message = refused(genflow(f"bench --process pfgm --norm-solver {name} --dry-run"))
    assert f"'{name}'" in message
    assert "heun" in message


def test_unknown_commands_and_kinds(genflow):
    message = refused(genflow("benhc --samples 3"))
    assert message.startswith("unknown command 'benhc'; did you mean 'bench'? known: ")
    assert all(name in message for name in ("bench", "train", "sample", "report", "list", "doctor"))
    assert refused(genflow("list process")).startswith("unknown kind 'process'; did you mean 'processes'? known: ")


@pytest.mark.parametrize(
    ("line", "typed", "nearest"),
    [
        ("bench --train-step 3", "--train-step", "--train-steps"),
        ("bench --sampels 3", "--sampels", "--samples"),
        ("train --procss pfgm", "--procss", "--process"),
        ("sample --chekpoint x", "--chekpoint", "--checkpoint"),
        ("--hepl", "--hepl", "--help"),
    ],
)
def test_unknown_options(genflow, line, typed, nearest):
    message = refused(genflow(line))
    assert f"'{typed}'" in message or f" {typed}" in message
    assert nearest in message


@pytest.mark.parametrize(
    "line", ["bench pfgm", "list solvers metrics", "doctor now", "report", "bench --config", "bench --samples"]
)
def test_words_too_many_or_too_few(genflow, line):
    assert refused(genflow(line))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("bench --process-options pfmg.gamma=1", "'pfmg'; did you mean 'pfgm'?"),
        ("bench --solver-options heum.rtol=1", "'heum'; did you mean 'heun'?"),
        ("bench --process-options gamma=1", "'gamma=1' is not of the form NAME.OPTION=VALUE"),
        ("bench --process-options pfgm.gamma=[1", "pfgm.gamma=[1"),
        (f"{TINY} --process-options vp_od.head=noise", "'vp_od'; did you mean 'vp_ode'?"),
        (f"{TINY} --process-options vp_ode.hed=noise", "'hed'; did you mean 'head'?"),
        (f"{TINY} --backbone-options mlp.widht=4", "'widht'; did you mean 'width'?"),
        (f"{TINY} --dataset-options checkerboard.sise=4", "'sise'; did you mean 'size'?"),
        (f"{TINY} --backbone-options mlp.depth=0", "depth = 0 is not allowed"),
        (f"{TINY} --backbone-options mlp.shape=3", "mlp.shape follows from the data and the process; leave it out"),
        ("bench --backbone-options ncsnv2.extra_channels=2", "ncsnv2.extra_channels follows from the data"),
        (f"{TINY} --backbone-options mlp.normalise=abc", "normalise = 'abc' is not allowed; give true or false"),
        (f"{TINY} --process-options vp_ode.beta_min=abc", "beta_min = 'abc' is not allowed"),
        ("bench --metric-options fidd.mode=clean", "'fidd'"),
        ("bench --metric=", "metric has an empty entry"),
    ],
)
def test_bad_constructor_options(genflow, line, what):
    assert what in refused(genflow(f"{line} --out new/run"))


@pytest.mark.slow
def test_a_bench_refuses_constructor_options_before_it_writes(genflow):
    line = "bench --process-options pfgm.gama=1 --process pfgm --backbone mlp --jobs 1 --out new"
    assert "'gama'; did you mean 'gamma'?" in refused(genflow(line))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "options", "what"),
    [
        ("fid", "fid.mode=nope", "mode = 'nope' is not one of clean, legacy_tensorflow, legacy_pytorch"),
        ("fid", "fid.colour=3", "'colour'"),
    ],
)
def test_options_of_a_metric_are_refused_before_anything_is_trained(genflow, metric, options, what):
    quick = "--process vp_ode --backbone mlp --solver euler --jobs 1 --out new"
    assert what in refused(genflow(f"bench --metric {metric} --metric-options {options} {quick} --dry-run"))


def test_what_cannot_fit_in_memory_is_refused_before_the_work(genflow):
    done = genflow(f"{TINY} --backbone-options mlp.width=1e9 --out new")
    assert done.code == 2
    assert done.untouched
    assert "backbone 'mlp' with width = 1000000000" in done.err
    assert "take a smaller one" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--train-more-ema 0.9,0.9", "train.more_ema lists a value twice: 0.9, 0.9"),
        ("--train-posthoc 0.05,0.0500000001", "train.posthoc lists a value twice: 0.05, 0.05"),
        ("--process si_linear --process-options si_linear.source=digits", "'digits' has samples of shape (1, 8, 8)"),
        ("--process si_linear --process-options si_linear.coupling=paired", "needs a data set that gives partners"),
        ("--allow-config-change foo", "unknown key in allow_config_change 'foo'"),
        ("--allow-config-change train.stpes", "'train.stpes'; did you mean 'train.steps'?"),
    ],
)
def test_a_refused_training_leaves_no_folder(genflow, words, what):
    assert what in refused(genflow(f"{TINY} {words} --out new"))


def test_a_name_given_twice(genflow):
    assert "process lists a name twice: pfgm, pfgm" in refused(genflow("bench --process pfgm,pfgm"))


# ---- numbers ---------------------------------------------------------------------------------------------

SIZES = {
    "bench": [
        "--samples",
        "--nfe",
        "--train-steps",
        "--train-batch-size",
        "--sample-batch",
        "--norm-nfe",
        "--bpd-examples",
    ],
    "train": ["--train-steps", "--train-batch-size"],
    "sample": ["--n", "--nfe", "--sample-batch"],
}


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many", "2.5", "", "1e400"])
@pytest.mark.parametrize("command", SIZES)
def test_sizes_that_are_no_counts(genflow, command, value):
    for option in SIZES[command]:
        message = refused(genflow([command, option, value]))
        key = message.split(" ")[0]
        assert key.replace(".", "-").replace("_", "-") == option[2:]
        assert f"= {value} " in message or f"= '{value}' " in message
        assert " of at least " in message


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_learning_rates(genflow, value):
    message = refused(genflow(["bench", "--train-lr", value]))
    assert message.startswith("train.lr = ")
    assert value in message
    assert "above 0" in message


def test_a_list_with_a_hole_and_one_bad_entry(genflow):
    assert "nfe = ''" in refused(genflow("bench --nfe 5,,10"))
    assert "nfe = 'x'" in refused(genflow("bench --nfe 5,x"))


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_an_unknown_device(genflow, device):
    assert f"device = '{device}' is not available; found: cpu" in refused(
        genflow(f"{TINY} --device {device} --out run")
    )


# ---- folders and files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bench", "train"])
@pytest.mark.parametrize("out", ["file.txt", "file.txt/below", "file.txt/far/below"])
def test_an_out_that_is_a_file_or_below_one(genflow, tmp_path, command, out):
    (tmp_path / "file.txt").write_text("mine")
    message = refused(genflow([command, "--out", tmp_path / out]))
    assert f"out = '{tmp_path / out}': {tmp_path / 'file.txt'} is a file, not a folder" in message


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "cannot be read: No such file"),
        ("a: [1,\nb: }", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        ("", "is empty"),
        ("- 1", "is a list"),
        ("samples: 3\nsampels: 4", "c.yaml:2: unknown config key 'sampels'; did you mean 'samples'? known: "),
        ("on: 4", "c.yaml:1: unknown config key 'on'"),
        ("train: {steps: no}", "c.yaml:1: train.steps = 'no' is not a whole number"),
        ("process: pfmg", "unknown process 'pfmg'"),
        ("seed: 2020-01-01", "c.yaml:1: seed = '2020-01-01' is not a whole number"),
        ("seed: 2020-13-45", "seed = '2020-13-45' is not a whole number"),
        ("seed: &a [*a]", "c.yaml, line 1: an alias stands within what it stands for"),
        ("samples: " + 3000 * "[", "c.yaml is not YAML"),
    ],
)
def test_bad_configs(genflow, tmp_path, text, what):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(genflow("bench --config c.yaml --out new"))
    assert what in message


def test_a_config_without_a_name(genflow):
    assert "'' is not a path; give a file or a folder" in refused(genflow(["bench", "--config", ""]))


def test_a_config_that_is_a_folder(genflow, tmp_path):
    (tmp_path / "configs").mkdir()
    assert "the config configs cannot be read: Is a directory" in refused(genflow("bench --config configs"))


@pytest.mark.parametrize("folder", ["missing", "empty", "file.txt"])
def test_a_report_of_no_bench(genflow, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    assert f"'{folder}' holds no bench" in refused(genflow(f"report {folder}"))


def test_a_report_of_a_bench_without_results_or_with_a_damaged_config(genflow, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("samples: 20\n")
    assert "no finished cells" in refused(genflow("report run"))
    (tmp_path / "run" / "config.yaml").write_text("samples: [\n")
    assert "config.yaml is not YAML" in refused(genflow("report run"))


@pytest.mark.slow
def test_a_folder_in_use(genflow, tmp_path):
    from genflow.bench.store import Store

    store = Store(tmp_path / "run")
    store.prepare()
    with store.lock():
        done = genflow("bench --out run")
    assert (done.code, done.out, done.untouched) == (75, "", True)
    assert done.err.startswith("genflow: run is in use by process ")
    assert done.err.count("\n") == 1


# ---- pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "mode", "known_solver"),
    [
        ("--process vp_sde --solver euler", "SDE", "euler_maruyama"),
        ("--process pfgm --solver euler_maruyama", "ODE", "heun"),
        ("--process pfgm,vp_sde --solver euler,heun", "SDE", "euler_maruyama"),
    ],
)
def test_pairs_that_can_not_work(genflow, pair, mode, known_solver):
    message = refused(genflow(f"bench {pair} --out new"))
    assert f"is sampled as an {mode}" in message
    assert pair.rsplit(" ", 1)[1].replace(",", ", ") in message
    assert known_solver in message.rsplit("known for", 1)[1]


# ---- train and sample ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint made by one step of training."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["genflow", *TINY.split(), "--out", str(folder)])
        assert cli.run() == 0
    return resolve(folder)


@pytest.fixture
def model(trained, tmp_path):
    """A copy of the checkpoint in the folder that commands run in."""
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "model"))


SAMPLE = "sample --checkpoint model --n 3 --nfe 2"


def test_the_device_of_auto_is_named_once_and_an_error_stays_one_line(genflow, model):
    assert genflow(f"{SAMPLE} --out x.npz").whole == "device: cpu (--device auto)\n"
    assert genflow(f"{SAMPLE} --out x.npz --device cpu").whole == ""
    assert genflow(f"{SAMPLE} --out x.npz --label 3").whole.count("\n") == 1
    trained = genflow([*TINY.split(), "--out", "other"]).whole
    assert trained.startswith("device: cpu (--device auto)\n")  # a long command names it before it computes
    assert trained.count("device: ") == 1


@pytest.mark.parametrize("ending", ["npz", "png"])
def test_a_good_checkpoint_is_sampled(genflow, model, ending, tmp_path):
    """The control of the refusals below."""
    done = genflow(f"{SAMPLE} --out new/x.{ending}")
    assert (done.code, done.err) == (0, "")
    assert "3 samples of vp_ode, heun, NFE 2" in done.out
    assert (tmp_path / "new" / f"x.{ending}").stat().st_size > 100


@pytest.mark.parametrize("out", ["x.jpg", "x", "x.png.gz", "folder/"])
def test_an_out_with_another_ending(genflow, model, out):
    message = refused(genflow(f"{SAMPLE} --out {out}"))
    assert f"out = '{out.rstrip('/')}'" in message
    assert ".png or .npz" in message


@pytest.mark.parametrize("out", ["model/config.json/x.png", "folder.npz"])
def test_an_out_that_can_not_be_written(genflow, model, tmp_path, out):
    (tmp_path / "folder.npz").mkdir()
    assert f"out = '{out}'" in refused(genflow(f"{SAMPLE} --out {out}"))


@pytest.mark.parametrize("out", ["/proc/x.png", "/proc/x.npz", "/proc/new/x.npz"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_a_place_that_can_not_be_written_is_refused_before_the_work(genflow, model, out, monkeypatch):
    monkeypatch.setattr("genflow.load", lambda *_: pytest.fail("the model was opened"))
    assert f"out = '{out}' cannot be written: " in refused(genflow(f"{SAMPLE} --out {out}"))


def test_looking_whether_a_file_can_be_written_leaves_it_alone(genflow, model, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"mine")
    assert "does not exist" in refused(genflow("sample --checkpoint missing --out x.npz"))


@pytest.mark.parametrize("ending", ["npz", "png"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_when_it_is_written_is_one_line(genflow, model, tmp_path, ending):
    (tmp_path / f"x.{ending}").symlink_to("/dev/full")
    done = genflow(f"{SAMPLE} --out x.{ending}")
    assert done.code == 74
    assert done.out == ""
    assert done.err.startswith("genflow: ")
    assert done.err.endswith("No space left on device\n")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "gone.csv"), 2, "gone.csv: No such file or directory"),
        (OSError(28, "No space left on device", "big.csv"), 74, "big.csv: No space left on device"),
        (MemoryError("Unable to allocate 8 TiB"), 70, "out of memory: Unable to allocate 8 TiB; take a smaller"),
        (RuntimeError("CUDA out of memory."), 70, "out of memory: CUDA out of memory.; take a smaller"),
    ],
)
def test_errors_of_the_machine_are_one_line(genflow, monkeypatch, error, code, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    done = genflow("doctor")
    assert done.code == code
    assert done.err.startswith(f"genflow: {line}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("a bug"), ConnectionError()])
def test_other_errors_are_not_hidden(genflow, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(type(error)):
        genflow("doctor")


@pytest.mark.parametrize("place", ["missing", "model/config.json", "empty"])
def test_a_checkpoint_that_is_none(genflow, model, tmp_path, place):
    (tmp_path / "empty").mkdir()
    said = {"missing": "missing does not exist; give the folder", "empty": "empty is not a finished checkpoint"}
    assert said.get(place, place) in refused(genflow(f"sample --checkpoint {place} --out x.npz"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_names_the_file(genflow, model, name, damage):
    path = model / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:40] + bytes([content[40] ^ 128]) + content[41:])
    assert name in refused(genflow(f"{SAMPLE} --out x.npz"))


def rewrite(model: Path, change) -> None:
    """The checkpoint with another config.json, hashes right."""
    from genflow.checkpoint import read_folder, write_folder

    files = read_folder(model)
    config = json.loads(files["config.json"])
    change(config)
    write_folder(model, {**files, "config.json": json.dumps(config).encode()})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.pop("process"), "process"),
        (lambda c: c["process"].update(name="gone_plugin"), "unknown process 'gone_plugin'"),
        (lambda c: c["backbone"]["options"].update(width=5), "is not the one that model.safetensors was written with"),
    ],
)
def test_a_checkpoint_of_another_model(genflow, model, change, what):
    rewrite(model, change)
    assert what in refused(genflow(f"{SAMPLE} --out x.npz"))


def test_a_picture_of_a_checkpoint_that_names_no_dataset(genflow, model):
    """Such checkpoints come from the Python interface; their samples can be had as .npz only."""
    rewrite(model, lambda c: [c.pop(key) for key in ("dataset", "scaling")])
    assert ".npz" in refused(genflow(f"{SAMPLE} --out x.png"))
    assert genflow(f"{SAMPLE} --out x.npz").code == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--solver heum", "unknown solver 'heum'; did you mean 'heun'?"),
        ("--solver rk45 --solver-options rk45.rtoll=1", "'rtoll'; did you mean 'rtol'?"),
        ("--solver rk45 --solver-options rk54.rtol=1", "'rk54'; did you mean 'rk45'?"),
        ("--solver-options heun.grid=[3]", "grid = [3.0] is not allowed; give a name or at least two finite times"),
        ("--device nonsense", "nonsense"),
    ],
)
def test_a_sampling_that_can_not_work(genflow, model, words, what):
    assert what in refused(genflow(f"{SAMPLE} {words} --out new/x.npz"))


def test_a_process_without_score_is_not_sampled_by_an_sde_solver(genflow, tmp_path):
    line = TINY.replace("vp_ode", "pfgm").split()
    assert genflow([*line, "--out", tmp_path / "model"]).code == 0
    message = refused(genflow(f"{SAMPLE} --solver euler_maruyama --out x.npz"))
    assert "EulerMaruyama cannot sample PFGM" in message


# ---- as a program ----------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("words", "code"), [("bench --nfe 0", 2), ("benhc", 2), ("list solvers", 0), ("--version", 0)])
def test_exit_codes_reach_the_shell(words, code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "genflow", *words.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert (done.stderr == "") == (code == 0)
    assert list(tmp_path.iterdir()) == []


# ---- what works ------------------------------------------------------------------------------------------


def test_list_gives_every_name_and_the_reason_for_what_is_missing(genflow):
    done = genflow("list")
    assert (done.code, done.err, done.untouched) == (0, "", True)
    for plural, registry in registries().items():
        section = done.out.split(f"{plural}:\n")[1].split("\n\n")[0]
        for name, entry in registry.entries().items():
            assert any(line.split()[0] == name for line in section.splitlines())
            for capability, reason in entry.tags.get("missing", {}).items():
                assert f"no {CAPABILITIES.get(capability, capability)}: {reason}" in section
    assert "no score: the base is not Gaussian" in done.out


def test_list_of_one_kind(genflow):
    done = genflow("list solvers")
    assert done.code == 0
    assert "heun" in done.out
    assert "pfgm" not in done.out


def test_doctor_is_content_and_leaves_nothing(genflow, tmp_path, monkeypatch):
    for name in ("GENFLOW_DATA_DIR", "GENFLOW_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path.parent / "cache"))
    done = genflow("doctor")
    assert (done.code, done.err, done.untouched) == (0, "", True)
    assert "everything works" in done.out
    assert "torch" in done.out
    assert "weights inception: not found; get them with genflow weights download inception" in done.out


def test_doctor_names_folders_that_are_not_there(genflow, tmp_path, monkeypatch):
    monkeypatch.setenv("GENFLOW_DATA_DIR", str(tmp_path / "gone"))
    assert "GENFLOW_DATA_DIR (published data sets): " in (text := genflow("doctor").out)
    assert "gone, NO SUCH FOLDER" in text
    assert "to fix: set GENFLOW_DATA_DIR to an existing folder" in text
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "file"))
    done = genflow("doctor")
    assert "to fix: set GENFLOW_CACHE to a writable folder" in done.out
    assert done.code != 0


def test_help_and_version(genflow):
    done = genflow("--help")
    assert done.code == 0
    assert all(name in done.out for name in ("bench", "train", "sample", "report", "list", "doctor"))
    for name in ("bench", "train", "sample", "report"):
        text = genflow(f"{name} --help").out
        assert text.index("Examples:") < text.index("Options:")
    assert genflow("--version").out.startswith("genflow")


def test_dry_run_shows_values_with_their_origin_and_writes_nothing(genflow, tmp_path):
    (tmp_path / "c.yaml").write_text("samples: 40\ntrain:\n  lr: 1e-4\n")
    done = genflow("bench --config c.yaml --nfe 5 --process pfgm --solver heun --dry-run --out new")
    assert (done.code, done.untouched) == (0, True)
    shown = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.startswith("  ")}
    assert shown["samples"] == ["40", "c.yaml:1"]
    assert shown["train.lr"] == ["0.0001", "c.yaml:3"]
    assert shown["nfe"] == ["5", "command", "line"]
    assert shown["train.steps"][1:] == ["default"]
    assert "to do" in done.out
    assert "sample pfgm heun 5 seed 0" in done.out
