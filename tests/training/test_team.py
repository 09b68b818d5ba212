"""Several ranks: two gloo processes on one CPU do what one does, and one that dies ends the other."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import genflow
from genflow.config import TrainConfig
from genflow.devices import check_device
from genflow.distributed import ALONE, SILENT_SECONDS, LostRankError, Ranks, Team, open_team
from genflow.training import Trainer

TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--standalone",
    "-m",
    "--",
    "genflow",
)
WORDS = ("--process", "pfgm", "--backbone", "mlp", "--train-batch-size", 32, "--out", "pair")


def finish(ranks):
    """Waits for a team that must succeed: what each rank has written to standard output."""
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), said
    return [out for out, _ in said]


@pytest.mark.slow
def test_two_ranks_follow_one_and_resume_on_another_number_of_them(program, called, tmp_path):
    words = ("train", *WORDS, "--train-log-every", 1, "--train-schedule", "constant")
    pair = program.ranks(*words, "--train-steps", 12)
    code, _, errors = called(*words, "--train-steps", 24, "--out", "one")
    assert code == 0, errors
    finish(pair)
    code, _, errors = called(*words, "--train-steps", 24, "--allow-config-change", "train.steps")
    assert code == 0, errors
    one, two = (
        [json.loads(x)["loss"] for x in (tmp_path / name / "stats.jsonl").read_text().splitlines()]
        for name in ("one", "pair")
    )
    assert len(one) == len(two) == 24
    assert two == pytest.approx(one, rel=2e-5)
    assert two[:12] != one[:12] or two == one  # sums in another order
    ours, theirs = (load_file(tmp_path / n / "step-00000024" / "model.safetensors") for n in ("one", "pair"))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_with_its_name(program, tmp_path):
    first, second = program.ranks("train", *WORDS, "--train-steps", 100_000, "--train-save-seconds", 0.2)
    program.until_saved(first, "pair")
    began = time.monotonic()
    second.kill()
    _, errors = first.communicate(timeout=60)
    assert time.monotonic() - began < 45
    assert first.returncode > 0
    assert second.poll() == -signal.SIGKILL
    assert "rank 1 of 2 is lost" in errors
    assert "Run the same command again" in errors
    genflow.load(tmp_path / "pair")


GLOO = "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:33: Connection reset by peer"


def ranks(gone):
    """Rank 0 of 2, without a connection; `gone` are those without a heartbeat."""
    team = object.__new__(Ranks)
    team.rank, team.size, team.lost = 0, 2, lambda: gone
    return team


@pytest.mark.parametrize(
    ("gone", "message", "kind", "what"),
    [
        ([1], GLOO, LostRankError, "rank 1 of 2 is lost"),
        ([1], "an odd error", LostRankError, "rank 1 of 2 is lost"),
        ([], GLOO, LostRankError, "an unknown rank is lost"),
        ([], "mat1 and mat2 shapes cannot be multiplied", RuntimeError, "mat1 and mat2"),
        ([1], "CUDA out of memory", RuntimeError, "CUDA out of memory"),
    ],
)
def test_only_what_the_connection_did_names_a_rank(gone, message, kind, what):
    with pytest.raises(RuntimeError, match=what) as caught, ranks(gone).naming():
        raise RuntimeError(message)
    assert type(caught.value) is kind


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_rank_that_goes_during_a_pass_is_named(when):
    """The forward pass talks to the others too: it sends buffers round."""
    data = genflow.get_dataset("digits")
    process = genflow.get_process("vp_ode").for_data(data.fitting_points())
    network = genflow.get_backbone("mlp", shape=data.shape, extra_channels=0)
    trainer = Trainer(process, network, data, TrainConfig(batch_size=8))

    def fail(*_):
        raise RuntimeError(GLOO)

    if when == "forward":
        network.register_forward_pre_hook(fail)
    else:
        next(network.parameters()).register_hook(fail)
    trainer.team = type("Pair", (Team,), {"naming": lambda self: ranks([1]).naming()})()
    with pytest.raises(LostRankError, match="rank 1 of 2 is lost"):
        trainer.advance()


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_once_and_all_stop_after_the_same_step(program, tmp_path):
    process = program.start("train", *WORDS, "--train-steps", 100_000, "--train-save-seconds", 0.2, launcher=TORCHRUN)
    program.until_saved(process, "pair")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    stopped = re.findall(r"stopped at step (\d+)", errors)
    assert len(stopped) == 1, errors
    assert "torchrun --nproc-per-node 2 -m -- genflow train" in errors
    assert (tmp_path / "pair" / "latest").read_text().strip() == f"step-{int(stopped[0]):08d}"


class Store:
    """The store that ranks share: counters by name."""

    def __init__(self):
        self.counters = {}

    def add(self, name, count):
        self.counters[name] = self.counters.get(name, 0) + count
        return self.counters[name]


def test_a_rank_whose_heart_stops_while_a_card_waits_is_named_in_time(capsys, monkeypatch):
    """The loop of a rank's heart, second by second: under NCCL no error reaches the thread that waits for the card."""
    team, left = ranks([]), []
    team.size, team._store = 3, Store()
    seen = {}
    for second in range(40):
        team._store.add("genflow/beat/1", 1)
        if second < 5:
            team._store.add("genflow/beat/2", 1)
        gone = team._silent(seen, float(second))
        assert gone == ([2] if second > 4 + SILENT_SECONDS else [])
    monkeypatch.setattr(os, "_exit", left.append)
    team._leave([2])
    assert left == [1]
    assert "rank 2 of 3 is lost, and rank 0 cannot continue" in capsys.readouterr().err
    team._store.add("genflow/closed", 1)
    assert team._silent(seen, 100.0) == []


def test_a_rank_takes_its_own_card_before_anything_else_is_asked_of_cuda(monkeypatch):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", lambda k: asked.append(k))
    monkeypatch.setattr(torch, "zeros", lambda *_, device: asked.append(device) or torch.ones(1))
    check_device("cuda")
    assert asked == [3, "cuda"]
    with pytest.raises(ValueError, match="give device = 'cuda', one card a rank"):
        check_device("cuda:0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    asked.clear()
    check_device("cuda:0")
    assert asked == ["cuda:0"]


@pytest.mark.slow
def test_two_ranks_average_over_references_of_which_each_makes_half(program, tmp_path):
    finish(program.ranks(Path(__file__).with_name("references_in_parts.py"), tmp_path))
    for rank in (0, 1):
        for line in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert line["error"] < 2e-6, line  # of numbers up to 1, float32
            assert line["made"] == line["references"] // 2
            assert not line["read"] or line["read"] <= line["references"] // 2 + line["batch"]


def test_shares_cover_every_row_once():
    for size in (1, 2, 3, 7):
        for count in (0, 1, 5, 64, 65):
            teams = [Team() for _ in range(size)]
            for rank, team in enumerate(teams):
                team.rank, team.size = rank, size
            rows = [row for team in teams for row in team.share(count)]
            assert rows == list(range(count))
            assert max(len(t.share(count)) for t in teams) - min(len(t.share(count)) for t in teams) <= 1


def test_one_alone_needs_no_launcher():
    team = open_team()
    assert team is ALONE
    rows = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(team.gather(rows), rows)
    assert torch.equal(team.total(rows), rows)
    assert team.gather_objects("x") == ["x"]
    assert team.leads


@pytest.mark.slow
def test_two_ranks_draw_the_samples_of_one_bit_for_bit(program, called, tmp_path):
    import numpy as np

    assert called("train", *WORDS, "--train-steps", 3)[0] == 0
    words = ("sample", "--checkpoint", "pair", "--n", 23, "--nfe", 3, "--sample-batch", 5)
    code, out, errors = called(*words, "--out", "one.npz")
    assert code == 0, errors
    assert finish(program.ranks(*words, "--out", "two.npz")) == [out.replace("one", "two"), ""]
    assert np.array_equal(np.load(tmp_path / "one.npz")["x"], np.load(tmp_path / "two.npz")["x"])


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(program, called, tmp_path):
    import csv

    assert called("train", *WORDS, "--train-steps", 3)[0] == 0
    words = ("evaluate", "--checkpoint", "pair", "--metric", "fd", "--samples", 1000, "--nfe", 2, "--solver", "euler")
    code, _, errors = called(*words, "--out", "one.csv")
    assert code == 0, errors
    finish(program.ranks(*words, "--out", "two.csv"))
    one, two = (list(csv.DictReader((tmp_path / f"{n}.csv").open())) for n in ("one", "two"))
    assert len(one) == len(two)
    assert next(row["metric"] for row in one if row["process"] != "data").startswith("FD")
    for ours, theirs in zip(one, two, strict=True):
        assert float(theirs["value"]) == pytest.approx(float(ours["value"]), rel=1e-9)
        assert theirs["protocol"] == ours["protocol"]
