"""The training loop: resume bit for bit, equal data and weights across processes, EMA, NaN, and the other commands."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import genflow
from genflow.checkpoint import CheckpointError
from genflow.config import TrainConfig
from genflow.data.digits import Digits
from genflow.training import Batches, NonFiniteLossError, Trainer, train

CONFIG = TrainConfig(steps=12, batch_size=16, warmup=2, log_every=1, save_seconds=1e9)


SMALL = {"mlp": {"width": 16}, "ncsnv2": {"features": 4}}


def parts(name="vp_ode", backbone="mlp"):
    process = genflow.get_process(name)
    options = {"shape": (1, 8, 8), "extra_channels": process.extra_channels, **SMALL[backbone]}
    return process, genflow.get_backbone(backbone, **options)


@pytest.mark.parametrize("backbone", ["mlp", "ncsnv2"])
@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_stop_and_resume_equals_one_run_bit_for_bit(name, backbone, tmp_path):
    whole = train(*parts(name, backbone), Digits(), CONFIG, seed=5)
    count = iter(range(100))
    first = train(
        *parts(name, backbone), Digits(), CONFIG, seed=5, state=tmp_path / "s", should_stop=lambda: next(count) == 4
    )
    assert not first.finished
    assert first.steps == 5
    second = train(*parts(name, backbone), Digits(), CONFIG, seed=5, state=tmp_path / "s")
    assert second.finished
    for key, value in whole.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[key], value), key
    assert [x["loss"] for x in second.losses] == [x["loss"] for x in whole.losses]


def test_a_state_of_another_configuration_is_refused_with_the_difference(tmp_path):
    train(*parts(), Digits(), CONFIG, state=tmp_path / "state", should_stop=lambda: True)
    other = TrainConfig(steps=12, batch_size=16, warmup=2, log_every=1, lr=0.1)
    with pytest.raises(CheckpointError, match="lr"):
        train(*parts(), Digits(), other, state=tmp_path / "state")


def test_processes_see_the_same_data_order_and_initial_weights():
    pfgm, vp = parts("pfgm"), parts("vp_ode")
    runs = [Trainer(p.for_data(torch.ones(3, 1, 8, 8)), b, Digits(), CONFIG, seed=2) for p, b in (pfgm, vp)]
    for step in (0, 3, 100):
        assert torch.equal(runs[0].batches.batch(step), runs[1].batches.batch(step))
    ours, theirs = (dict(r.backbone.named_parameters()) for r in runs)
    same = [n for n in ours if ours[n].shape == theirs[n].shape]
    assert len(same) >= len(ours) - 2
    assert all(torch.equal(ours[n], theirs[n]) for n in same)


def test_an_epoch_shows_every_example_once_and_references_exclude_the_batch():
    batches = Batches(Digits(), 100, seed=0)
    epoch = torch.cat([batches.indices(step) for step in range(12)])
    assert len(epoch.unique()) == 1200
    assert not torch.equal(batches.indices(12), batches.indices(0))
    batch, refs = batches.batch(3), batches.references(3, 2000)
    assert len(refs) == 1197
    assert float(torch.cdist(batch.flatten(1), refs.flatten(1)).min()) > 0
    assert batches.references(3, 0) is None


def test_ema_and_learning_rate_follow_their_formulas():
    config = TrainConfig(steps=6, batch_size=8, warmup=3, lr=0.01, ema=0.5, schedule="constant")
    trainer = Trainer(*parts(), Digits(), config)
    name, parameter = next(iter(trainer.backbone.named_parameters()))
    mean = parameter.detach().clone()
    for step in range(6):
        trainer.advance()
        decay = min(0.5, (2 + step) / (11 + step))
        mean = decay * mean + (1 - decay) * parameter.detach()
        torch.testing.assert_close(trainer.ema[name], mean, rtol=1e-5, atol=1e-7)
    assert [trainer.learning_rate(s) for s in (0, 1, 2, 5)] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01])
    cosine = Trainer(*parts(), Digits(), TrainConfig(steps=10, warmup=0, lr=1.0))
    assert cosine.learning_rate(0) == 1.0
    assert cosine.learning_rate(5) == pytest.approx(0.5)


def test_a_nan_loss_changes_nothing_and_names_step_and_seed():
    trainer = Trainer(*parts(), Digits(), CONFIG, seed=9)
    trainer.advance()
    before = {n: p.detach().clone() for n, p in trainer.backbone.named_parameters()}
    trainer.process.loss = lambda *args, **kw: torch.tensor(torch.nan, requires_grad=True)
    with pytest.raises(NonFiniteLossError, match=r"step 1 \(seed 9\)"):
        trainer.advance()
    assert all(torch.equal(p, before[n]) for n, p in trainer.backbone.named_parameters())
    assert trainer.step == 1


def test_training_lowers_the_loss_and_a_checkpoint_loads(tmp_path):
    process = genflow.get_process("pfgm")
    backbone = genflow.get_backbone("mlp", shape=(1, 8, 8), extra_channels=1, width=64)
    result = train(process, backbone, Digits(), steps=300, batch_size=64, lr=5e-3, log_every=1)
    losses = [line["loss"] for line in result.losses]
    assert sum(losses[-30:]) / 30 < 0.4 * sum(losses[:10]) / 10  # 0.47 falls to 0.10
    from genflow.checkpoint import describe, save

    save(tmp_path / "model", describe("pfgm", result.process, "mlp", result.backbone), result.backbone.state_dict())
    process, loaded = genflow.load(tmp_path / "model")
    draws = [genflow.sample(result.process, b, "heun", 4, nfe=6).x for b in (result.backbone, loaded)]
    assert torch.equal(*draws)
    assert process == result.process


def genflow_command(folder, *words, **more):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-m", "genflow", *words],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_train_command_stops_resumes_and_samples(tmp_path):
    words = ["train", "--process", "vp_ode", "--backbone", "mlp", "--train-steps", "1500",
             "--train-save-seconds", "0.2", "--train-batch-size", "8", "--out", "model"]  # fmt: skip
    process = genflow_command(tmp_path, *words)
    deadline = time.monotonic() + 60
    while not (tmp_path / "model.state" / "MANIFEST.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Go on with:" in errors
    step = json.loads((tmp_path / "model.state" / "state.json").read_text())["step"]
    assert 0 < step < 1500
    done = genflow_command(tmp_path, *words)
    out, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    lines = (tmp_path / "model" / "stats.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 1500
    assert not (tmp_path / "model.state").exists()
    for name in ("a.png", "b.npz"):
        done = genflow_command(tmp_path, "sample", "--checkpoint", "model", "--n", "9", "--nfe", "3", "--out", name)
        out, errors = done.communicate(timeout=60)
        assert done.returncode == 0, errors
        assert "NFE 3" in out
        assert (tmp_path / name).stat().st_size > 100
