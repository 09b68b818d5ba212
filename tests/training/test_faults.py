"""Faults inside a run: losses that are not finite, memory, data that fail, and what must not change the numbers."""

import errno
import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest
import torch

import genflow
from genflow.checkpoint import SaveError, write_folder
from genflow.config import ConfigError, TrainConfig
from genflow.data.digits import Digits
from genflow.memory import MemoryExhaustedError, is_out_of_memory
from genflow.training import Keeping, NonFiniteLossError, Trainer, train

CONFIG = TrainConfig(steps=8, batch_size=16, warmup=2, log_every=1, save_seconds=1e9)


def parts(name="pfgm", **options):
    process = genflow.get_process(name)
    backbone = genflow.get_backbone("mlp", shape=(1, 8, 8), extra_channels=process.extra_channels, width=16, **options)
    return process, backbone


class Spoilt(Digits):
    """Digits of which one example is not a number."""

    @property
    def train(self):
        return torch.where(torch.arange(1297)[:, None, None, None] == 700, torch.nan, Digits().train)

    def fitting_points(self):
        return Digits().fitting_points()


@pytest.mark.slow
def test_a_batch_that_is_not_finite_stops_with_its_rows_or_is_passed_over(tmp_path, caplog):
    config = TrainConfig(steps=60, batch_size=64, log_every=1, ema=0.5)
    with pytest.raises(NonFiniteLossError, match=r"nan-\d+\.json") as caught:
        train(*parts("vp_ode"), Spoilt(), config, state=tmp_path / "stop")
    (path,) = (tmp_path / "stop").glob("nan-*.json")
    facts = json.loads(path.read_text())
    row = Spoilt().order("train").tolist().index(700)
    assert row in facts["rows"]
    assert facts["rows"][facts["places_of_inputs_not_finite"][0]] == row
    assert len(facts["t"]) == 64
    assert str(facts["step"]) in str(caught.value)
    config = TrainConfig(steps=60, batch_size=64, log_every=1, ema=0.5, on_nan="skip:5")
    with caplog.at_level(logging.WARNING, "genflow"):
        result = train(*parts("vp_ode"), Spoilt(), config, state=tmp_path / "skip")
    assert result.finished
    assert result.losses[-1]["skipped"] == 3  # once an epoch of twenty batches
    assert "is skipped" in caplog.text
    assert all(p.isfinite().all() for p in result.backbone.parameters())
    with pytest.raises(NonFiniteLossError):
        train(*parts("vp_ode"), Spoilt(), TrainConfig(steps=60, batch_size=64, on_nan="skip:1"))


@pytest.mark.parametrize("word", ["skip", "skip:x", "go on", "skip:-1"])
def test_on_nan_takes_two_words(word):
    with pytest.raises(ConfigError, match="skip:N"):
        TrainConfig(on_nan=word)


def weights(result):
    return torch.cat([p.flatten() for p in result.backbone.parameters()])


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
@pytest.mark.parametrize("count", [2, 3, 16, 40])
def test_a_batch_in_parts_gives_the_same_run(name, count):
    whole = train(*parts(name), Digits(), CONFIG)
    split = train(*parts(name), Digits(), TrainConfig(**{**vars(CONFIG), "accumulate": count}))
    torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=2e-5)
    assert [x["loss"] for x in split.losses] == pytest.approx([x["loss"] for x in whole.losses], rel=1e-4)


class Small(torch.nn.Module):
    """A network that does not fit more than `most` examples at once."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most, self.sizes = inner, most, []

    def __call__(self, x, condition, labels=None):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return self.inner(x, condition)


def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog):
    whole = train(*parts(), Digits(), CONFIG)
    process, backbone = parts()
    trainer = Trainer(process.for_data(Digits().fitting_points()), backbone, Digits(), CONFIG)
    trainer.network = Small(backbone, 5)
    with caplog.at_level(logging.WARNING, "genflow"):
        losses = [trainer.advance() for _ in range(8)]
    assert trainer.network.sizes[:3] == [16, 8, 4]
    assert set(trainer.network.sizes[3:]) == {4}
    assert "4 examples at a time" in caplog.text
    assert losses == pytest.approx([x["loss"] for x in whole.losses], rel=1e-4)
    trainer.network = Small(backbone, 0)
    with pytest.raises(MemoryExhaustedError, match="one example at a time") as caught:
        trainer.advance()
    assert caught.value.exit_code == 70


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def test_another_error_of_the_network_is_raised_as_it_is():
    trainer = Trainer(parts("vp_ode")[0], parts("vp_ode")[1], Digits(), CONFIG)

    def fails(x, condition):
        raise RuntimeError("shapes cannot be multiplied")

    trainer.network = fails
    with pytest.raises(RuntimeError, match="multiplied"):
        trainer.advance()


def test_watching_and_saving_change_no_number(tmp_path):
    plain = train(*parts(), Digits(), CONFIG)
    seen = []

    def watch(run):
        with run.trainer.averaged() as network:
            seen.append(network(torch.zeros(1, 1, 8, 8), torch.zeros(1)).detach())
        run.save()

    watched = train(*parts(), Digits(), CONFIG, state=Keeping(tmp_path / "run", keep=3), watch=watch)
    assert torch.equal(weights(plain), weights(watched))
    assert len(seen) == 8
    assert not torch.equal(seen[0], seen[-1])
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*")) == [f"step-0000000{n}" for n in (6, 7, 8)]


def test_statistics_say_images_time_and_memory(tmp_path):
    result = train(*parts(), Digits(), CONFIG, state=tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert lines == result.losses
    assert [x["images"] for x in lines] == list(range(16, 129, 16))
    assert all(x["seconds_per_kimg"] >= 0 and x["gradient_norm"] > 0 for x in lines)
    assert lines[-1]["peak_memory_mib"] > 50
    assert lines[-1]["seconds"] >= lines[0]["seconds"]


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "disk full"), (errno.EACCES, "Permission denied")])
def test_a_write_that_fails_leaves_nothing_and_says_why(tmp_path, monkeypatch, number, says):
    write_folder(tmp_path / "x", {"a": b"old"})

    def fails(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(SaveError, match=says):
        write_folder(tmp_path / "x", {"a": b"new"})
    assert (tmp_path / "x" / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_data_that_vanish_end_the_run_with_their_error():
    class Gone(Digits):
        held = False

        def examples(self, split, rows):
            raise FileNotFoundError(2, "No such file or directory", "images/7.png")

        def fitting_points(self):
            return Digits().fitting_points()

    with pytest.raises(FileNotFoundError, match=r"7\.png"):
        train(*parts(), Gone(), CONFIG)


class OnDisk(Digits):
    """Digits that are read on demand, slowly."""

    held = False

    def __init__(self):
        self.threads, self.reads = set(), 0

    def examples(self, split, rows):
        self.threads.add(threading.current_thread().name)
        self.reads += 1
        if self.reads == 9:
            raise OSError(5, "Input/output error", "images/9.png")
        time.sleep(0.001)
        return super().examples(split, rows)

    def fitting_points(self):
        return Digits().fitting_points()


@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_data_on_a_disk_are_read_ahead_and_change_no_number(name):
    config = TrainConfig(**{**vars(CONFIG), "steps": 4})
    data = OnDisk()
    found = train(*parts(name), data, config)
    assert torch.equal(weights(found), weights(train(*parts(name), Digits(), config)))
    assert any(thread.startswith("genflow-read") for thread in data.threads)


def test_a_read_that_fails_ahead_of_time_ends_the_run_with_its_error():
    with pytest.raises(OSError, match=r"9\.png"):
        train(*parts("vp_ode"), OnDisk(), TrainConfig(**{**vars(CONFIG), "steps": 40}))


def test_nothing_forks():
    """A fork after CUDA has started hangs, and a worker of a data loader can die unseen: processes are only spawned."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(genflow.__file__).parent.rglob("*.py")}
    forbidden = ("os.fork(", "DataLoader", '"fork"', '"forkserver"', "set_start_method", "multiprocessing.Process(")
    assert [f"{name}: {word}" for name, text in sources.items() for word in forbidden if word in text] == []
    pools = [name for name, text in sources.items() if "ProcessPoolExecutor(" in text or ".Pool(" in text]
    assert all('get_context("spawn")' in sources[name] for name in pools), pools


def test_a_flip_shows_half_of_the_images_mirrored_and_the_same_for_all_processes():
    class Flipped(Digits):
        flip = True

    from genflow.training import Batches

    plain, flipped = Batches(Digits(), 64, 0), Batches(Flipped(), 64, 0)
    raw = Digits().train[plain.indices(3)]
    shown = flipped.scaling.decode(flipped.batch(3))
    same = (shown == raw).flatten(1).all(1)
    mirrored = (shown == raw.flip(-1)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 16 < int(mirrored.sum()) < 48
    assert not torch.equal(flipped.batch(3), flipped.batch(3 + 20))
    assert torch.equal(flipped.batch(3), Batches(Flipped(), 64, 0).batch(3))
