"""`genflow train` as a program: signals, kills, damaged and refused folders, full disks."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

import genflow
from genflow.checkpoint import MANIFEST, Checkpoints, folder, read_folder

LONG = ("--train-steps", 100_000, "--train-save-seconds", 0.05, "--train-log-every", 1)


def step_of(root):
    return json.loads(read_folder(root, ("state.json",))["state.json"])["step"]


@pytest.mark.slow
def test_sigterm_saves_says_how_to_go_on_and_the_same_command_finishes_bit_for_bit(called, program, tmp_path):
    words = ("--train-steps", 400, "--train-save-seconds", 0.1, "--train-schedule", "constant")
    process = program.train(*words, start=program.start)
    program.until_saved(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Go on with:\n  genflow train --process vp_ode" in errors
    step = step_of(tmp_path / "model")
    assert 0 < step < 400
    assert f"stopped at step {step}" in errors
    code, out, errors = called.train(*words)
    assert code == 0, errors
    assert "step 400" in out
    called.train(*words, "--out", "whole")
    whole, resumed = (tmp_path / name / "step-00000400" for name in ("whole", "model"))
    for name in ("model.safetensors", "state.safetensors"):
        ours, theirs = load_file(whole / name), load_file(resumed / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), name
    ours, theirs = ((tmp_path / name / "stats.jsonl").read_text().splitlines() for name in ("whole", "model"))
    assert [json.loads(x)["loss"] for x in ours] == [json.loads(x)["loss"] for x in theirs]
    assert [json.loads(x)["step"] for x in theirs] == list(range(10, 401, 10))


@pytest.mark.slow
def test_ctrl_c_once_saves_and_twice_stops_at_once(program, tmp_path):
    process = program.train(*LONG)
    program.until_saved(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Go on with:" in errors
    process = program.train(*LONG, "--train-save-seconds", 1000)
    lines = (tmp_path / "model" / "stats.jsonl").read_text().count("\n")
    program.until(process, lambda: (tmp_path / "model" / "stats.jsonl").read_text().count("\n") > lines)
    before = step_of(tmp_path / "model")
    process.send_signal(signal.SIGSTOP)  # both signals are there before it can act on the first
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    assert step_of(tmp_path / "model") == before


BULK = b"x" * 200_000


def killed_at(root, line):
    """Saves a checkpoint in another process, which dies before it runs the given line of the save.

    Returns:
        False where the save was finished before.
    """
    pid = os.fork()  # the write path alone, without the start of a program each time
    if pid == 0:
        left = [line]

        def count(frame, event, _):
            left[0] -= event == "line"
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return count

        sys.settrace(lambda frame, *_: count if frame.f_code.co_filename == folder.__file__ else None)
        Checkpoints(root, keep=1).write(2, {"a": BULK, "b": b"2"})
        os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.slow
def test_a_kill_at_any_line_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    """Every line that a save runs in turn, so nothing hangs on how fast the machine is."""
    Checkpoints(tmp_path / "before").write(1, {"a": BULK, "b": b"1"})
    found, line, root = [], 0, tmp_path / "killed"
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "before", root)
        line += 1
        if not killed_at(root, line):
            break
        files, wrong = Checkpoints(root).newest()
        assert wrong == [], line
        assert files["a"] == BULK
        found.append(int(files["b"]))
        Checkpoints(root, keep=1).write(4, {"b": b"4"})
        assert sorted(path.name for path in root.iterdir()) == ["latest", "step-00000004"]
    assert line > 40
    assert found == sorted(found)
    assert set(found) == {1, 2}


@pytest.mark.slow
def test_a_kill_within_a_write_leaves_the_checkpoint_before(tmp_path):
    """Killed at chance moments after a save that is known to be finished."""
    chance, root = random.Random(0), tmp_path / "killed"
    for _ in range(10):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            for step in range(1, 10_000):
                Checkpoints(root).write(step, {"a": 10 * BULK, "b": str(step).encode()})
                os.write(writer, step.to_bytes(2, "big"))
            os._exit(0)
        os.close(writer)
        done = int.from_bytes(os.read(reader, 2), "big")  # waits for a first save
        time.sleep(0.02 * chance.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(reader, 2):
            done = int.from_bytes(more, "big")
        os.close(reader)
        files, wrong = Checkpoints(root).newest()
        assert wrong == []
        assert int(files["b"]) >= done >= 1
        assert files["a"] == 10 * BULK
    Checkpoints(root).write(20_000, {"b": b"20000"})
    assert not list(root.glob("*.tmp-*"))


@pytest.fixture
def trained(called, tmp_path):
    """A run of 30 steps with two checkpoints."""
    words = ("--train-steps", 20, "--train-schedule", "constant", "--train-warmup", 1)
    assert called.train(*words)[0] == 0
    assert called.train(*words, "--train-steps", 30, "--allow-config-change", "train.steps")[0] == 0
    root = tmp_path / "model"
    assert Checkpoints(root).steps() == [20, 30]
    return root


GO_ON = ("--train-steps", 40, "--train-schedule", "constant", "--train-warmup", 1)


def damage(path, kind):
    content = path.read_bytes()
    if kind == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: int(len(content) * kind)])


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("kind", [0.0, 0.5, "flip"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(called, trained, kind):
    damage(trained / "step-00000030" / "state.safetensors", kind)
    code, _, errors = called.train(*GO_ON, "--allow-config-change", "train")
    assert code == 0, errors
    assert "step-00000030/state.safetensors does not match its hash" in errors
    assert "resuming from the checkpoint before it" in errors
    assert [json.loads(x)["step"] for x in (trained / "stats.jsonl").read_text().splitlines()] == [10, 20, 30, 40]


def test_no_whole_checkpoint_is_an_error_and_never_a_new_start(called, trained):
    for step in (20, 30):
        damage(trained / f"step-000000{step}" / MANIFEST, 0.3)
    code, _, errors = called.train(*GO_ON, "--allow-config-change", "train")
    assert code == 2, "as a damaged checkpoint has in every command"
    assert "no checkpoint of model is whole" in errors
    assert "MANIFEST.json is damaged" in errors


@pytest.mark.slow
def test_a_flipped_bit_is_refused_unless_asked(called, trained):
    path = trained / "step-00000030" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # a weight, not the header
    path.write_bytes(bytes(content))
    code, _, errors = called("sample", "--checkpoint", "model", "--n", 2, "--nfe", 2, "--out", "x.npz")
    assert code == 2
    assert "model.safetensors does not match its hash" in errors
    genflow.load(trained, verify=False)
    code, _, errors = called.train(*GO_ON, "--allow-config-change", "train", "--no-verify")
    assert code == 0, errors
    assert "does not match" not in errors


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "damaged"),
        ('{"format": 99, "files": {}}', "format 99"),
        ('{"format": 1, "files": 3}', "damaged"),
        (None, "no MANIFEST"),
    ],
)
def test_a_manifest_that_is_none(trained, content, says):
    path = trained / "step-00000030" / MANIFEST
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(RuntimeError, match=says):
        genflow.load(trained / "step-00000030")


@pytest.mark.slow
def test_a_changed_configuration_is_refused_with_the_difference(called, trained):
    before = (trained / "config.yaml").read_bytes()
    code, _, errors = called.train(*GO_ON, "--train-lr", 0.5, "--seed", 3)
    assert code == 2
    assert "train.lr was 0.005 and is 0.5" in errors
    assert "seed was 0 and is 3" in errors
    assert "--allow-config-change" in errors
    code, _, errors = called.train(*GO_ON, "--train-lr", 0.5, "--allow-config-change", "train.steps")
    assert code == 2
    assert "train.steps" not in errors
    code, _, errors = called.train(*GO_ON, "--allow-config-change", "train,sed")
    assert code == 2
    assert "unknown key in allow_config_change 'sed'; did you mean 'seed'?" in errors
    assert called.train(*GO_ON, "--process", "pfgm")[0] == 2
    assert (trained / "config.yaml").read_bytes() == before
    code, out, errors = called.train(*GO_ON, "--train-lr", 0.5, "--allow-config-change", "train.steps,train.lr")
    assert code == 0, errors
    assert "step 40" in out
    assert "lr: 0.5" in (trained / "config.yaml").read_text()


def test_keys_of_parts_that_keep_their_defaults_may_be_allowed_to_change(called, tmp_path):
    allowed = "process.t_min,backbone.width,backbone,train.steps,seed"
    code, _, errors = called.train("--train-steps", 1, "--allow-config-change", allowed)
    assert code == 0, errors
    code, _, errors = called.train("--train-steps", 1, "--process-options", "vp_ode.t_min=0.002")
    assert code == 2
    assert "process.t_min was not there and is 0.002" in errors


def test_another_batch_size_goes_on_by_images_seen(called, trained):
    code, _, errors = called.train(*GO_ON, "--train-batch-size", 12, "--allow-config-change", "train")
    assert code == 0, errors
    lines = [json.loads(x) for x in (trained / "stats.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [80, 160, 240, 360]


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_checkpoint(called, trained):
    @contextmanager
    def little():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    more = ("--allow-config-change", "train", *GO_ON)
    with little():
        code, _, errors = called.train(*more)
    assert code == 74
    assert "disk full" in errors
    assert "MiB are free" in errors
    assert Checkpoints(trained).newest()[1] == []
    assert Checkpoints(trained).steps() == [20, 30]
    assert not list(trained.glob("*.tmp-*"))
    with little():
        code, _, errors = called.train(*more, "--on-save-error", "warn")
    assert code == 0
    assert "training continues" in errors


@pytest.mark.slow
def test_a_folder_that_is_removed_while_it_runs_is_made_again(program, tmp_path):
    process = program.train(*LONG)
    program.until_saved(process)
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    program.until_saved(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    genflow.load(tmp_path / "model")


def test_folders_that_can_not_take_a_run_are_refused_first(called, tmp_path):
    (tmp_path / "model").write_text("here is a file")
    code, _, errors = called.train()
    assert code == 2
    assert "is a file, not a folder" in errors
    (tmp_path / "model").unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MANIFEST).write_text("{}")
    code, _, errors = called.train()
    assert code == 2
    assert "is a checkpoint, not the folder of a run" in errors


def test_runs_and_benches_do_not_take_each_other_s_folders(called, trained, tmp_path):
    def written(root):
        return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    (tmp_path / "bench" / "cells").mkdir(parents=True)
    (tmp_path / "bench" / "config.yaml").write_text("samples: 20\n")
    before = written(tmp_path)
    code, _, errors = called.train("--out", "bench")
    assert code == 2
    assert "out = 'bench' holds a bench, not a run" in errors
    for root in (trained, trained / "step-00000030"):
        code, _, errors = called("bench", "--process", "vp_ode", "--backbone", "mlp", "--out", root)
        assert code == 2
        assert "holds a training run or a checkpoint, not a bench" in errors
    assert written(tmp_path) == before


@pytest.mark.slow
def test_two_trainings_do_not_share_a_folder(called, program):
    process = program.train(*LONG)
    program.until_saved(process)
    code, _, errors = called.train(*LONG)
    process.kill()
    process.communicate()
    assert code == 75
    assert "is in use by process" in errors
