"""Opening checkpoints: what is read, and that any folder that does not fit together is refused in one sentence."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

import genflow
from genflow import checkpoint, cli
from genflow.bench.checkpoints import open_finished
from genflow.checkpoint import (
    MANIFEST,
    CheckpointError,
    Checkpoints,
    describe,
    open_checkpoint,
    read_folder,
    resolve,
    write_folder,
)
from genflow.commands.average import AverageConfig, run_average
from genflow.config import ConfigError
from genflow.training import Keeping, train

NUMBERS = {"steps": 3, "batch_size": 8, "more_ema": (0.9,), "warmup": 0}


def parts():
    data = genflow.get_dataset("eight_gaussians", size=40)
    process = genflow.get_process("pfgm").for_data(data.fitting_points())
    return (
        process,
        genflow.get_backbone("mlp", shape=(2,), extra_channels=process.extra_channels, width=8, depth=1),
        data,
    )


def keeping(root):
    process, backbone, data = parts()
    about = describe("pfgm", process, "mlp", backbone, data)
    about["dataset"] = {"name": "eight_gaussians", "options": {"size": 40}}
    return Keeping(root, about, last=True)


def go_on(root, steps=4):
    process, backbone, data = parts()
    return train(
        process, backbone, data, state=keeping(root), fit=False, **{**NUMBERS, "steps": steps, "schedule": "constant"}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of three steps, whose configuration lets it go on."""
    root = tmp_path_factory.mktemp("run") / "model"
    process, backbone, data = parts()
    stopped = iter([False, False, True])
    config = {**NUMBERS, "steps": 4, "schedule": "constant"}
    train(process, backbone, data, state=keeping(root), fit=False, should_stop=lambda: next(stopped), **config)
    return root


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


# ---- damages ---------------------------------------------------------------------------------------------------------


def rewritten(change):
    """Files changed, hashes right."""

    def damage(folder):
        files = dict(read_folder(folder))
        change(files)
        write_folder(folder, files)

    return damage


def config(change):
    def damage(files):
        about = json.loads(files["config.json"])
        files["config.json"] = json.dumps(change(about) or about).encode()

    return rewritten(damage)


def tensors(name, change):
    def damage(files):
        header = json.loads(files[name][8 : 8 + int.from_bytes(files[name][:8], "little")])
        found = from_bytes(files[name])
        change(found)
        files[name] = to_bytes(found, metadata=header.get("__metadata__"))

    return rewritten(damage)


def content(name, data):
    return rewritten(lambda files: files.__setitem__(name, data))


def facts(change):
    def damage(files):
        found = json.loads(files["state.json"])
        files["state.json"] = json.dumps(change(found) or found).encode()

    return rewritten(damage)


def manifest(text):
    return lambda folder: (folder / MANIFEST).write_text(text if isinstance(text, str) else json.dumps(text))


def relisted(change):
    def damage(folder):
        found = json.loads((folder / MANIFEST).read_text())
        change(found)
        (folder / MANIFEST).write_text(json.dumps(found))

    return damage


def raw(name, change):
    return lambda folder: change(folder / name)


def as_folder(path):
    path.unlink()
    path.mkdir()


def latest(text):
    return lambda folder: (folder.parent / "latest").write_text(text)


def set_in(mapping, *keys, value):
    for key in keys[:-1]:
        mapping = mapping[key]
    mapping[keys[-1]] = value


def first(found):
    return next(name for name, value in found.items() if value.ndim == 2)


W, S, C, F = "model.safetensors", "state.safetensors", "config.json", "state.json"

MODEL = {
    "another process": config(lambda c: c["process"].update(name="vp_ode", options={})),
    "another process of one head": config(lambda c: c["process"].update(name="ve_ode", options={})),
    "another process option": config(lambda c: c["process"]["options"].update(z_min=0.5)),
    "unknown process": config(lambda c: c["process"].update(name="gone_plugin")),
    "unknown process option": config(lambda c: c["process"]["options"].update(colour=1)),
    "bad process option": config(lambda c: c["process"]["options"].update(head="velocity of light")),
    "process option of a wrong kind": config(lambda c: c["process"]["options"].update(found=[1, 2])),
    "no process": config(lambda c: c.pop("process") and None),
    "process a word": config(lambda c: c.update(process="pfgm")),
    "process without name": config(lambda c: c["process"].pop("name") and None),
    "process without options": config(lambda c: c["process"].pop("options") and None),
    "process options a list": config(lambda c: c["process"].update(options=[])),
    "name a number": config(lambda c: c["process"].update(name=3)),
    "another backbone": config(lambda c: c["backbone"].update(name="ncsnv2")),
    "unknown backbone": config(lambda c: c["backbone"].update(name="mpl")),
    "no backbone": config(lambda c: c.pop("backbone") and None),
    "another width": config(lambda c: c["backbone"]["options"].update(width=9)),
    "negative width": config(lambda c: c["backbone"]["options"].update(width=-9)),
    "endless width": config(lambda c: c["backbone"]["options"].update(width=10**12)),
    "width a word": config(lambda c: c["backbone"]["options"].update(width="wide")),
    "backbone options a list": config(lambda c: c["backbone"].update(options=[1])),
    "backbone options null": config(lambda c: c["backbone"].update(options=None)),
    "unknown backbone option": config(lambda c: c["backbone"]["options"].update(breadth=9)),
    "another shape": config(lambda c: c["backbone"]["options"].update(shape=[3])),
    "no shape": config(lambda c: c["backbone"]["options"].pop("shape") and None),
    "shape of words": config(lambda c: c["backbone"]["options"].update(shape=["2"])),
    "empty shape": config(lambda c: c["backbone"]["options"].update(shape=[])),
    "more classes": config(lambda c: c["backbone"]["options"].update(classes=3)),
    "classes a word": config(lambda c: c["backbone"]["options"].update(classes="three")),
    "other channels": config(lambda c: c["backbone"]["options"].update(extra_channels=0)),
    "shape of another model": config(lambda c: c.update(shape=[3])),
    "scaling a word": config(lambda c: c.update(scaling="grey")),
    "scaling of words": config(lambda c: c["scaling"].update(scale="one")),
    "scaling of zero": config(lambda c: c["scaling"].update(scale=0)),
    "scaling with more": config(lambda c: c["scaling"].update(offset=0)),
    "no levels": config(lambda c: c["scaling"].update(levels=-3)),
    "class names a number": config(lambda c: c.update(classes=3)),
    "data set a word": config(lambda c: c.update(dataset="digits")),
    "cell a list": config(lambda c: c.update(cell=[1])),
    "config a list": config(lambda c: [c]),
    "config a number": content(C, b"3"),
    "config empty": content(C, b""),
    "config not JSON": content(C, b"{'process':"),
    "config not text": content(C, b"\xff\xfe\x00"),
    "config endless": content(C, b"[" * 100_000),
    "weights empty": content(W, b""),
    "weights short": content(W, b"\x10"),
    "weights text": content(W, b"hello world, this is no tensor"),
    "weights cut": rewritten(lambda f: f.__setitem__(W, f[W][:-8])),
    "weights of another file": rewritten(lambda f: f.__setitem__(W, f[S])),
    "no tensor": tensors(W, lambda t: t.clear()),
    "one tensor less": tensors(W, lambda t: t.pop(first(t)) is None),
    "one tensor more": tensors(W, lambda t: t.update(more=torch.zeros(2))),
    "a tensor of another shape": tensors(W, lambda t: t.update({first(t): torch.zeros(1, 1)})),
    "a tensor of half": tensors(W, lambda t: t.update({first(t): t[first(t)].half()})),
    "a tensor of double": tensors(W, lambda t: t.update({first(t): t[first(t)].double()})),
    "a tensor of whole numbers": tensors(W, lambda t: t.update({first(t): t[first(t)].long()})),
    "NaN": tensors(W, lambda t: t[first(t)].view(-1)[0].fill_(float("nan"))),
    "infinity": tensors(W, lambda t: t[first(t)].view(-1)[0].fill_(float("inf"))),
    "config gone from the list": rewritten(lambda f: f.pop(C) and None),
    "weights gone from the list": rewritten(lambda f: f.pop(W) and None),
}
"""Of what a model consists of, hashes right."""

FOLDER = {
    "manifest {}": manifest("{}"),
    "manifest a list": manifest("[]"),
    "manifest null": manifest("null"),
    "manifest a word": manifest('"files"'),
    "manifest empty": manifest(""),
    "manifest not JSON": manifest("{files"),
    "manifest endless": manifest("[" * 100_000),
    "manifest without files": manifest({"format": 1}),
    "manifest files a list": manifest({"format": 1, "files": ["config.json"]}),
    "manifest without format": relisted(lambda m: m.pop("format")),
    "format a word": relisted(lambda m: m.update(format="1")),
    "format true": relisted(lambda m: m.update(format=True)),
    "format of later": relisted(lambda m: m.update(format=99)),
    "format zero": relisted(lambda m: m.update(format=0)),
    "hash a number": relisted(lambda m: m["files"].update({C: 3})),
    "hash a word": relisted(lambda m: m["files"].update({C: "abc"})),
    "hash of another": relisted(lambda m: m["files"].update({W: "0" * 64})),
    "a file more": relisted(lambda m: m["files"].update({"more.bin": m["files"][C]})),
    "path upwards": relisted(lambda m: m["files"].update({"../config.json": m["files"][C]})),
    "path from the root": relisted(lambda m: m["files"].update({"/etc/passwd": m["files"][C]})),
    "path with a backslash": relisted(lambda m: m["files"].update({"..\\x": m["files"][C]})),
    "empty name": relisted(lambda m: m["files"].update({"": m["files"][C]})),
    "manifest of itself": relisted(lambda m: m["files"].update({MANIFEST: m["files"][C]})),
    "manifest gone": raw(MANIFEST, Path.unlink),
    "manifest a folder": raw(MANIFEST, as_folder),
    "config gone": raw(C, Path.unlink),
    "weights gone": raw(W, Path.unlink),
    "config a folder": raw(C, as_folder),
    "weights a folder": raw(W, as_folder),
    "config emptied": raw(C, lambda p: p.write_bytes(b"")),
    "weights emptied": raw(W, lambda p: p.write_bytes(b"")),
    "weights truncated": raw(W, lambda p: p.write_bytes(p.read_bytes()[:50])),
    "a bit of the weights": raw(W, lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1]))),
    "the folder a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "the folder empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}
"""Of the folder."""

STATE = {
    "state gone from the list": rewritten(lambda f: f.pop(S) and None),
    "facts gone from the list": rewritten(lambda f: f.pop(F) and None),
    "state cut": rewritten(lambda f: f.__setitem__(S, f[S][:-4])),
    "facts a list": content(F, b"[]"),
    "facts {}": content(F, b"{}"),
    "facts not JSON": content(F, b"step"),
    "step a word": facts(lambda f: f.update(step="3")),
    "step below 0": facts(lambda f: f.update(step=-3)),
    "step a fraction": facts(lambda f: f.update(step=1.5)),
    "no images": facts(lambda f: f.pop("images") and None),
    "config of the facts a list": facts(lambda f: f.update(config=[])),
    "scaler a word": facts(lambda f: f.update(scaler="x")),
    "smooth a word": facts(lambda f: f.update(smooth="x")),
    "no Adam": tensors(S, lambda t: [t.pop(n) for n in list(t) if n.startswith("adam.0.")] and None),
    "half of Adam": tensors(S, lambda t: t.pop("adam.0.exp_avg") is None),
    "Adam of another network": tensors(S, lambda t: t.update({"adam.99.exp_avg": torch.zeros(1)})),
    "Adam of another shape": tensors(S, lambda t: t.update({"adam.0.exp_avg": torch.zeros(1, 1, 1)})),
    "a name of no kind": tensors(S, lambda t: t.update({"what": torch.zeros(1)})),
    "NaN in the state": tensors(S, lambda t: t["adam.0.exp_avg"].view(-1)[0].fill_(float("nan"))),
    "an average less": tensors(S, lambda t: t.pop(next(n for n in t if n.startswith("ema-"))) is None),
    "a weight less": tensors(S, lambda t: t.pop(next(n for n in t if n.startswith("model."))) is None),
    "weights of half": tensors(
        S, lambda t: [t.update({n: v.half()}) for n, v in list(t.items()) if "model." in n] and None
    ),
}
"""Of what a run goes on from, hashes right."""

POINTER = {
    "latest names nothing": latest(""),
    "latest names another": latest("step-00000099\n"),
    "latest upwards": latest("../../model\n"),
    "latest upwards by a step": latest("step-1/../../x\n"),
    "latest from the root": latest("/etc\n"),
    "latest of zeros": latest("step-\0\n"),
}
"""Of the pointer to the newest checkpoint: a run goes on from its newest all the same."""

assert len(MODEL) + len(FOLDER) + len(STATE) + len(POINTER) >= 120


OF_ANOTHER = (
    "another process",
    "another process of one head",
    "another process option",
    "another width",
    "more classes",
)
"""What the note in the weights tells: their own process or network is another than that of config.json."""


def refused(call, *arguments):
    with pytest.raises((CheckpointError, ConfigError)) as error:
        call(*arguments)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 2000
    assert getattr(error.value, "exit_code", 2) == 2
    return text


def damaged(run, damage):
    damage(resolve(run))
    return run


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", [*MODEL, *FOLDER, *POINTER])
def test_no_damaged_model_is_opened(run, name):
    damaged(run, {**MODEL, **FOLDER, **POINTER}[name])
    text = refused(genflow.load, run)
    assert any(word in text for word in (C, W, MANIFEST, "latest", "step-0"))
    assert refused(run_average, AverageConfig(run=str(run), decay=0.9, out=str(run.parent / "average")))
    assert not (run.parent / "average").exists()


WEIGHTS_ALONE = (
    "weights gone",
    "weights emptied",
    "weights truncated",
    "a bit of the weights",
    "weights a folder",
    "hash of another",
)
"""What a bench is not planned by: its workers read the weights."""


@pytest.mark.parametrize("name", [name for name in (*FOLDER, *POINTER) if name not in WEIGHTS_ALONE])
def test_no_bench_takes_a_damaged_folder(run, name):
    assert refused(open_finished, str(damaged(run, {**FOLDER, **POINTER}[name])))


@pytest.mark.quick_one_in(17)
@pytest.mark.parametrize("name", [*MODEL, *FOLDER, *STATE])
def test_no_run_goes_on_from_a_damaged_checkpoint(run, name):
    """What is wrong with the bytes is found by their hashes; there is one checkpoint only, so none is whole."""
    damaged(run, {**MODEL, **FOLDER, **STATE}[name])
    text = refused(go_on, run)
    if name in OF_ANOTHER:
        assert "is not the one that" in text
    assert not (run / "step-00000004").exists()


@pytest.mark.parametrize("name", ["state gone from the list", "state cut", "NaN in the average", "an average less"])
def test_no_average_is_made_of_a_damaged_state(run, name):
    nan = tensors(S, lambda t: t[next(n for n in t if n.startswith("ema-"))].view(-1)[0].fill_(float("nan")))
    damaged(run, STATE.get(name, nan))
    assert refused(run_average, AverageConfig(run=str(run), decay=0.9, out=str(run.parent / "average")))
    assert not (run.parent / "average").exists()


@pytest.mark.parametrize("name", POINTER)
def test_a_run_goes_on_where_only_its_pointer_is_damaged(run, name):
    damaged(run, POINTER[name])
    assert go_on(run).steps == 4
    assert genflow.load(run)


@pytest.mark.slow
def test_the_undamaged_run_does_all_of_it(run):
    process, backbone = genflow.load(run)
    assert genflow.sample(process, backbone, "euler", 3, nfe=2).x.shape == (3, 2)
    assert open_finished(str(run)).process == "pfgm"
    assert "average" in run_average(AverageConfig(run=str(run), decay=0.9, out=str(run.parent / "average")))
    genflow.load(run.parent / "average")
    assert go_on(run).steps == 4


@pytest.mark.parametrize("name", ["another process", "NaN", "manifest {}", "latest upwards", "another width"])
@pytest.mark.parametrize(
    "line",
    [
        "sample --n 2 --out x.npz",
        "encode --n 2 --out x.npz",
        "decode --latents l.npz --out x.npz",
        "interpolate --pairs 1 --out x.npz",
        "inpaint --out x.npz",
        "colourise --out x.npz",
        "likelihood --examples 2",
        "evaluate --metric fd --samples 4 --out x.csv",
    ],
)
def test_every_command_refuses_in_one_line_with_exit_code_2(run, monkeypatch, capsys, tmp_path, name, line):
    damaged(run, {**MODEL, **FOLDER, **POINTER}[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["genflow", *line.split(), "--checkpoint", str(run)])
    assert cli.run() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_each_file_is_read_and_hashed_once_and_only_where_it_is_asked_for(run, monkeypatch):
    read, wanted = [], checkpoint.folder.read_checked

    def watched(path, digest):
        read.append(path.name)
        return wanted(path, digest)

    monkeypatch.setattr("genflow.checkpoint.folder.read_checked", watched)
    monkeypatch.setattr("genflow.checkpoint.opened.read_checked", watched)
    genflow.load(run)
    assert sorted(read) == [C, W]
    read.clear()
    opened = open_checkpoint(run)
    assert (opened.name, opened.shape, len(opened.content)) == ("pfgm", (2,), 20)
    assert read == [C]
    assert opened.backbone is opened.backbone
    assert opened.sampler() is opened.process
    assert read == [C, W]
    read.clear()
    go_on(run)
    assert sorted(read) == [C, W, F, S]


def test_a_checkpoint_is_opened_without_torch():
    import subprocess

    code = "import sys, genflow.checkpoint.opened, genflow.bench.checkpoints; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=dict(os.environ))


def test_the_weights_and_the_manifest_are_enough_for_a_colleague(run):
    folder = resolve(run)
    for name in (S, F):
        (folder / name).unlink()
    genflow.load(folder)
    assert "state" in refused(go_on, run)


def test_without_verification_a_bit_may_differ(run):
    damaged(run, FOLDER["a bit of the weights"])
    genflow.load(run, verify=False)


@pytest.mark.parametrize(
    "name", ["another process", "other channels", "another shape", "another width", "more classes"]
)
def test_weights_without_a_note_are_held_to_the_config_by_their_shapes(run, name):
    damaged(run, rewritten(lambda f: f.__setitem__(W, to_bytes(from_bytes(f[W])))))
    genflow.load(run)
    assert "does not" in refused(genflow.load, damaged(run, MODEL[name]))


def test_checkpoints_written_before_scaling_was_kept_load(run):
    """The note in the weights, scaling, shape and classes are missing; the data set is opened instead."""
    damaged(run, rewritten(lambda f: f.__setitem__(W, to_bytes(from_bytes(f[W])))))
    damaged(run, config(lambda c: [c.pop(k) for k in ("scaling", "shape", "classes", "examples")] and None))
    opened = open_checkpoint(run)
    want = genflow.get_dataset("eight_gaussians", size=40)
    assert opened.scaling is None
    assert opened.known_scaling() == want.scaling
    assert opened.sampler().config() == opened.process.config()
    assert genflow.load(run)[0].config() == opened.process.config()
    assert Checkpoints(run).newest()[1] == []
