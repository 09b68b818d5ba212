"""Class labels and guidance: fields against autograd of closed-form densities, every solver, NFE, bench and CLI."""

import json
import math
import sys
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import nn

import genflow
from genflow import cli
from genflow.bench.cells import plan
from genflow.bench.worker import Worker
from genflow.config import BenchConfig, TrainConfig, build
from genflow.data.base import Dataset
from genflow.process.guidance import NO_CLASS
from genflow.registry import registries
from genflow.sampling import class_labels
from genflow.training import Trainer, train

MEANS = torch.tensor([[-2.0, 0.5], [1.5, 1.0]], dtype=torch.float64)
SCALES = torch.tensor([0.5, 0.8], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


class ExactMixture(nn.Module):
    """The exact backbone of two Gaussian classes under a process with a Gaussian base; counts the rows it sees."""

    classes, shape = 2, (2,)

    def __init__(self, process):
        super().__init__()
        self.process, self.rows = process, 0

    def forward(self, x, condition, labels=None):
        self.rows += len(x)
        t = self.process.time(condition.double())
        c, y = self.process.at(t, x.double()), x.double()[:, None]
        a, b = c.a[:, :, None], c.b[:, :, None]
        variance = (a * SCALES[:, None]) ** 2 + b * b
        means = MEANS + a * SCALES[:, None] ** 2 / variance * (y - a * MEANS)
        logs = SHARES.log() - (y - a * MEANS).square().sum(2) / (2 * variance[..., 0]) - variance[..., 0].log()
        weights = logs.softmax(1)
        if labels is not None:
            weights = torch.where(labels[:, None] == NO_CLASS, weights, torch.eye(2).double()[labels.clamp_min(0)])
        mean = (weights[..., None] * means).sum(1)
        return self.process.prediction.encode(mean, x.double(), c).to(x.dtype)


def log_densities(x, a, b):
    """log p_t(x | class) and log p_t(x) of the mixture under x_t = a X + b N: (B, 2) and (B,)."""
    variance = a * a * SCALES**2 + b * b
    square = (x[:, None] - a * MEANS).square().sum(2)
    logs = -square / (2 * variance) - variance.log() - math.log(2 * math.pi)
    return logs, torch.logsumexp(logs + SHARES.log(), 1)


def guided_score(x, labels, guidance, a, b):
    """∇[log p + w (log p(·|c) − log p)] by autograd."""
    x = x.clone().requires_grad_()
    given, plain = log_densities(x, a, b)
    given = torch.where(labels == NO_CLASS, plain, given.gather(1, labels.clamp_min(0)[:, None])[:, 0])
    (found,) = torch.autograd.grad((plain + guidance * (given - plain)).sum(), x)
    return found


B0, B1 = 0.1, 20.0


def vp(t):
    """a and b of VP, and dx/dt from x and the score."""
    whole, beta = B0 * t + (B1 - B0) * t * t / 2, B0 + (B1 - B0) * t
    return math.exp(-whole / 2), math.sqrt(1 - math.exp(-whole)), lambda x, s: -beta / 2 * (x + s)


def subvp(t):
    whole, beta = B0 * t + (B1 - B0) * t * t / 2, B0 + (B1 - B0) * t
    rate = beta * (1 - math.exp(-2 * whole))
    return math.exp(-whole / 2), 1 - math.exp(-whole), lambda x, s: -beta / 2 * x - rate / 2 * s


def ve(t):
    sigma, rate = 0.01 * 5000**t, math.log(5000)
    return 1.0, sigma, lambda x, s: -rate * sigma * sigma * s


def si_linear(t):
    return t, 1 - t, lambda x, s: (x + (1 - t) * s) / t


def si_trig(t):
    a, b = math.sin(math.pi * t / 2), math.cos(math.pi * t / 2)
    return a, b, lambda x, s: math.pi / 2 * b / a * (x + s)


PATHS = {"vp_ode": vp, "subvp_ode": subvp, "ve_ode": ve, "si_linear": si_linear, "si_trig": si_trig}
"""a, b and the velocity of a score, written out for each process."""


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("guidance", [0.0, 1.0, 0.4, 3.0])
@pytest.mark.parametrize("name", list(PATHS))
def test_guided_score_and_velocity_against_autograd_of_the_densities(name, guidance):
    """Every head: the field's score, velocity, posterior mean and frozen step."""
    labels = torch.tensor([0, 1, 0, 1, NO_CLASS])
    for head in genflow.get_process(name).heads():
        process = genflow.get_process(name, head=head)
        field = process.field(ExactMixture(process), labels=labels, guidance=guidance)
        for time in (0.2, 0.5, 0.9):
            a, b, velocity = PATHS[name](time)
            x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * (a + b) * 1.5
            score = guided_score(x, labels, guidance, a, b)
            t = torch.tensor(time, dtype=torch.float64)
            near = {"rtol": 1e-8, "atol": 1e-8}
            torch.testing.assert_close(field.score(x, t), score, **near)
            torch.testing.assert_close(field.velocity(x, t), velocity(x, score), **near)
            mean = (x + b * b * score) / a
            torch.testing.assert_close(field.data(x, t), mean, rtol=1e-7, atol=1e-7)
            both = field.velocity_and_score(x, t)
            torch.testing.assert_close(both[0], velocity(x, score), **near)
            torch.testing.assert_close(both[1], score, **near)
            s = torch.tensor(time + 0.05, dtype=torch.float64)
            a_s, b_s, _ = PATHS[name](time + 0.05)
            torch.testing.assert_close(field.ddim_step(x, t, s), a_s * mean - b_s * b * score, rtol=1e-7, atol=1e-7)
        per_call = 2 if guidance not in (0.0, 1.0) else 1
        assert field.cost == per_call
        assert field.evaluations == field.backbone.rows == 5 * 5 * 3 * per_call  # five rows, readings, three times


class ExactCharges(nn.Module):
    """The exact backbone of two classes of charges: Poisson flow's oracle, of one class or of all."""

    classes = 2

    def __init__(self, process, points, of):
        super().__init__()
        kinds = {NO_CLASS: points, 0: points[of == 0], 1: points[of == 1]}
        self.oracles = {k: process.oracle(p) for k, p in kinds.items()}

    def forward(self, x, condition, labels=None):
        labels = torch.full((len(x),), NO_CLASS) if labels is None else labels
        rows = [self.oracles[int(k)](x[i : i + 1], condition[i : i + 1]) for i, k in enumerate(labels)]
        return torch.cat(rows)


def charge_slope(x, z, points):
    """E_x/E_z of unit charges on z = 0, by autograd of their potential Σ 1/|(x − y, z)|^(N−1)."""
    full = torch.cat([x, torch.full((len(x), 1), z, dtype=x.dtype)], 1).requires_grad_()
    away = torch.cat([points, torch.zeros(len(points), 1, dtype=x.dtype)], 1)
    potential = (full[:, None] - away).norm(dim=2).pow(1 - x.shape[1]).sum()
    (slope,) = torch.autograd.grad(potential, full)
    return slope[:, :-1] / slope[:, -1:]


@pytest.mark.parametrize("guidance", [1.0, 0.4, 3.0])
def test_guided_poisson_flow_against_autograd_of_the_potential(guidance):
    """The field head is nonlinear: what is combined must be velocities, not outputs."""
    random = torch.Generator().manual_seed(4)
    points = torch.randn(12, 3, generator=random, dtype=torch.float64)
    of = torch.arange(12) % 2
    points = points + 2.0 * of[:, None]
    labels, x = torch.tensor([0, 1, 1, NO_CLASS]), 2 * torch.randn(4, 3, generator=random, dtype=torch.float64)
    for head in genflow.get_process("pfgm").heads():
        process = genflow.get_process("pfgm", head=head).for_data(points)
        field = process.field(ExactCharges(process, points, of), labels=labels, guidance=guidance)
        for z in (0.3, 1.0, 6.0):
            plain = charge_slope(x, z, points)
            by_class = torch.stack([charge_slope(x, z, points[of == k]) for k in (0, 1)], 1)
            given = torch.where(labels[:, None] == NO_CLASS, plain, by_class[torch.arange(4), labels.clamp_min(0)])
            want = plain + guidance * (given - plain)
            found = field.velocity(x, torch.tensor(z, dtype=torch.float64))
            torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)


class FortyPoints(Dataset):
    """Forty points of two classes, in three dimensions."""

    name, classes, shape = "forty_points", 2, (3,)

    @cached_property
    def train(self):
        return torch.randn(40, 3, generator=torch.Generator().manual_seed(6)) + 2.0 * self.labels("train")[:, None]

    test = None

    def labels(self, split):
        return torch.arange(40) % 2


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [40, 8])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pfgm", {"large_batch": "all"}),
        ("pfgm", {"large_batch": "all", "perturbation": "published", "prior": "published"}),
        ("vp_ode", {"objective": "stable", "large_batch": "all"}),
    ],
)
def test_targets_that_average_over_data_keep_to_the_class(name, options, batch_size, dropout):
    """With all data as references the exact conditional field has no loss, and the unconditional one has."""
    data = FortyPoints()
    process = genflow.get_process(name, **options).for_data(data.train)
    network = genflow.get_backbone("mlp", shape=(3,), extra_channels=process.extra_channels, classes=2, width=8)
    trainer = Trainer(process, network, data, TrainConfig(batch_size=batch_size, label_dropout=dropout), seed=2)
    points = data.train.double()
    exact = ExactCharges(process, points, data.labels("train"))
    trainer.network = exact

    def worst():
        """Of six batches: a small one may lie where the class makes no difference."""
        losses = []
        for trainer.step in range(6):
            losses.append(float(trainer.loss()))
        return max(losses)

    assert worst() < 1e-7
    exact.oracles = dict.fromkeys(exact.oracles, process.oracle(points))
    assert worst() > 1e-4


def test_a_class_s_target_is_its_own_charges_field():
    random = torch.Generator().manual_seed(8)
    points, of = torch.randn(14, 3, generator=random, dtype=torch.float64), torch.arange(14) % 2
    points = points + 2.0 * of[:, None]
    process = genflow.get_process("pfgm").for_data(points)
    pairs = process.perturb(points[:6], generator=random, refs=points[6:])
    labels = torch.tensor([0, 1, NO_CLASS, 1, 0, NO_CLASS])
    told = process.own_class(pairs, labels, points, of)
    for k, label in enumerate(labels.tolist()):
        slope = process.velocity(told.target[k : k + 1], pairs.x_t[k : k + 1], pairs.t[k])
        own = points if label == NO_CLASS else points[of == label]
        want = charge_slope(pairs.x_t[k : k + 1], float(pairs.t[k]), own)
        torch.testing.assert_close(slope, want, rtol=1e-5, atol=1e-5)


# ---- sampling --------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", ["vp_ode", "ve_ode", "si_trig"])
def test_conditional_samples_have_the_class_s_own_mean_and_spread(name):
    process = genflow.get_process(name)
    for label in (0, 1):
        backbone = ExactMixture(process)
        x = genflow.sample(process, backbone, "heun", 1000, nfe=120, labels=label, dtype=torch.float64).x
        error = float(SCALES[label]) / math.sqrt(1000)
        # the prior of VE and the last step each leave about a hundredth
        torch.testing.assert_close(x.mean(0), MEANS[label], rtol=0, atol=4 * error + 0.02)
        torch.testing.assert_close(x.std(0), SCALES[label].expand(2), rtol=0, atol=4 * error + 0.02)


@pytest.mark.quick_one_in(31)
@pytest.mark.parametrize("name", list(registries()["solvers"].entries()))
def test_every_solver_keeps_labels_with_their_rows_and_counts_both_calls(name):
    process, budget = genflow.get_process("vp_ode"), registries()["solvers"].entry(name).tags.get("budget", True)
    solver = genflow.get_solver(name, **({} if budget else {"rtol": 1e-2, "atol": 1e-2}))
    labels = [0, 1, 1, 0]

    def draw(labels, size):
        """Samples, after it was seen that NFE is what the network was called for."""
        backbone = ExactMixture(process)
        found = genflow.sample(
            process, backbone, solver, 4, nfe=24 if budget else None, seed=3, labels=labels, guidance=1.5,
            batch_size=size, dtype=torch.float64,
        )  # fmt: skip
        assert backbone.rows == pytest.approx(4 * found.nfe)
        assert found.nfe == 24 or not budget
        return found.x

    whole, others = draw(labels, 4), draw(1, 4)
    torch.testing.assert_close(draw(labels, 3), whole, rtol=1e-6, atol=1e-6)
    assert torch.cdist(whole, MEANS).argmin(1).tolist() == labels
    own = torch.tensor(labels) == 1
    torch.testing.assert_close(others[own], whole[own], rtol=1e-6, atol=1e-6)
    assert bool(((others - whole)[~own].abs().amax(1) > 0.1).all())


def test_guidance_of_one_is_conditional_of_zero_unconditional_and_none_is_no_class():
    process = genflow.get_process("vp_ode")
    backbone = ExactMixture(process)

    def draw(**how):
        return genflow.sample(process, backbone, "heun", 5, nfe=9, dtype=torch.float64, **how)

    assert torch.equal(draw(labels=1, guidance=1.0).x, draw(labels=[1] * 5).x)
    assert torch.equal(draw(labels=1, guidance=0.0).x, draw().x)
    assert torch.equal(draw(labels=NO_CLASS).x, draw().x)
    assert torch.equal(draw(labels="all").x, draw(labels=[0, 1, 0, 1, 0]).x)
    assert torch.equal(draw(labels=np.array([0, 1, 0, 1, 0])).x, draw(labels="all").x)
    assert draw(labels=1, guidance=0.0).nfe == 9
    with pytest.raises(ValueError, match="nfe = 9 is odd"):
        draw(labels=1, guidance=2.0)


def test_labels_that_do_not_fit_are_refused():
    process = genflow.get_process("vp_ode")
    backbone, plain = ExactMixture(process), process.oracle(MEANS)

    def refused(match, network=backbone, **how):
        with pytest.raises(ValueError, match=match):
            genflow.sample(process, network, "euler", 3, nfe=2, **how)
        assert backbone.rows == 0

    refused("2 is not a class of this backbone; give 0 to 1, or -1", labels=2)
    refused("-2 is not a class", labels=[0, 1, -2])
    refused("a class for each of the 3 samples", labels=[0, 1])
    refused("a class for each of the 3 samples", labels=0.5)
    refused("labels = 'each' is not allowed", labels="each")
    refused("knows no classes; train one with classes=K", network=plain, labels=0)
    refused("guidance = 2 needs labels", guidance=2.0)
    refused("guidance = -1", labels=0, guidance=-1)


def test_all_labels_go_round():
    assert class_labels("all", 7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert class_labels(None, 7, 3) is None


# ---- trained ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    data = genflow.get_dataset("eight_gaussians", size=4000)
    backbone = genflow.get_backbone("mlp", shape=(2,), classes=8, width=64)
    return data, train(genflow.get_process("vp_ode"), backbone, data, steps=400, batch_size=128, lr=5e-3)


@pytest.mark.slow
def test_a_short_training_learns_the_classes(trained):
    data, result = trained

    def shares(**how):
        x = genflow.sample(result.process, result.backbone, "heun", 800, nfe=30, **how).x
        return torch.cdist(x.double(), data.means).argmin(1)

    hit = (shares(labels="all") == torch.arange(800) % 8).double().mean()
    assert float(hit) > 0.9
    counts = torch.bincount(shares(), minlength=8)
    assert int(counts.min()) > 30  # of 100: no class is left out where none is asked for


def test_the_label_lowers_the_loss(trained):
    data, result = trained
    x, labels = data.test[:2000], data.labels("test")[:2000]

    def loss(given):
        random = torch.Generator().manual_seed(0)
        return float(result.process.loss(result.backbone, x, generator=random, labels=given))

    assert loss(labels) < 0.5 * loss(None)
    assert loss((labels + 1) % 8) > 1.5 * loss(labels)
    assert loss(None) == loss(torch.full_like(labels, NO_CLASS))


# ---- command line and bench ------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(words):
        monkeypatch.setattr(sys, "argv", ["genflow", *words.split()])
        capsys.readouterr()
        return cli.run(), capsys.readouterr()

    return run


TRAIN = (
    "train --process vp_ode --backbone mlp --dataset gaussian_mixture --train-steps 1 --train-batch-size 8 "
    "--train-warmup 0 --backbone-options mlp.width=4 --dataset-options gaussian_mixture.size=50 --out "
)


def test_sample_command_takes_a_label_and_guidance(command, tmp_path):
    assert command(TRAIN + "told --backbone-options mlp.classes=3")[0] == 0
    assert command(TRAIN + "plain")[0] == 0
    base = "sample --checkpoint told --n 7 --nfe 4 --out x.npz "
    code, said = command(base + "--label 2 --guidance 2")
    assert code == 0, said.err
    assert "class 2, guidance 2" in said.out
    assert np.load(tmp_path / "x.npz")["labels"].tolist() == [2] * 7
    code, said = command(base + "--label all")
    assert np.load(tmp_path / "x.npz")["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    code, said = command(base)
    assert np.load(tmp_path / "x.npz").files == ["x"]
    (tmp_path / "x.npz").unlink()
    for words, sentence in (
        (base + "--guidance 2", "guidance = 2 needs labels"),
        (base + "--label 3", "3 is not a class of this backbone; give 0 to 2"),
        (base + "--label three", "label = 'three' is not a class"),
        (base + "--label 1 --guidance -1", "guidance"),
        (base.replace("4", "5") + "--label 1 --guidance 2", "nfe = 5 is odd"),
        (base.replace("told", "plain") + "--label 1", "knows no classes"),
    ):
        code, said = command(words)
        assert code == 2, words
        assert sentence in said.err
        assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--backbone-options mlp.classes=2", "has 3 classes, the backbone 2; give it classes = 3"),
        ("--backbone-options mlp.classes=-1", "classes = -1 is not allowed"),
        ("--backbone-options mlp.classes=3 --train-label-dropout 1", "train.label_dropout = 1.0 is not allowed"),
    ],
)
def test_train_command_refuses_classes_that_do_not_fit(command, tmp_path, more, sentence):
    code, said = command(f"{TRAIN}model {more}")
    assert code == 2
    assert sentence in said.err
    assert not list(tmp_path.iterdir())


def test_bench_trains_and_samples_by_class_and_says_so(tmp_path, monkeypatch):
    """The cells of a bench, done by the worker itself."""
    given = {
        "process": "vp_ode", "backbone": "mlp", "backbone_options": ["mlp.width=8", "mlp.classes=10"],
        "train.steps": 5, "train.batch_size": 16, "samples": 1300, "nfe": 2, "solver": "euler", "metric": "fd,bpd",
        "bpd.examples": 2, "out": str(tmp_path),
    }  # fmt: skip
    told_labels = []

    def listen(*parts, **how):
        told_labels.append(how["labels"])
        return genflow.sample(*parts, **how)

    monkeypatch.setattr("genflow.bench.worker.sample", listen)
    config = build(BenchConfig, given)
    worker = Worker(config, lambda: False)
    worker.check()
    cells = plan(config)
    for cell in cells:
        worker.run(cell.to_json(), lambda share, note: None)
    rows = [row for c in cells if c.kind == "metric" for row in json.loads(worker.store.files(c.key)["rows.json"])]
    told = {(row["process"], row["metric"]): row["protocol"].split("; ") for row in rows}
    assert "the classes of the samples are those of the training examples in turn" in told["vp_ode", "FD[digits]"]
    assert told["vp_ode", "bits/dim"][-1] == "no class is given"
    assert not [words for words in told["data", "FD[digits]"] if "class of" in words or "classes of" in words]
    key = next(c.key for c in cells if c.kind == "train")
    assert genflow.load(worker.store.folder(key))[1].classes == 10
    assert told_labels[0].tolist() == [*worker.dataset.labels("train"), *worker.dataset.labels("train")[:3]]
    refused = build(BenchConfig, {**given, "backbone_options": ["mlp.classes=4"]})
    with pytest.raises(ValueError, match="the data set 'digits' has 10 classes, the backbone 4"):
        Worker(refused, lambda: False).check()
