"""The training loop: resume bit for bit, equal data and weights across processes, EMA, NaN, and the other commands."""

import pytest
import torch

import genflow
from genflow.backbone.mlp import MLP
from genflow.checkpoint import CheckpointError
from genflow.config import TrainConfig
from genflow.data.digits import Digits
from genflow.data.paired import PairedDataset
from genflow.process.guidance import NO_CLASS
from genflow.process.score_sde import VP
from genflow.sampling import rectify
from genflow.training import Batches, NonFiniteLossError, Trainer, train

CONFIG = TrainConfig(steps=12, batch_size=16, warmup=2, log_every=1, save_seconds=1e9)


SMALL = {"mlp": {"width": 16}, "ncsnv2": {"features": 4}}


def parts(name="vp_ode", backbone="mlp", **more):
    process = genflow.get_process(name)
    options = {"shape": (1, 8, 8), "extra_channels": process.extra_channels, **SMALL[backbone], **more}
    return process, genflow.get_backbone(backbone, **options)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("backbone", ["mlp", "ncsnv2"])
@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
@pytest.mark.parametrize("classes", [0, 10])
def test_stop_and_resume_equals_one_run_bit_for_bit(name, backbone, classes, tmp_path):
    def pair():
        return parts(name, backbone, classes=classes)

    whole = train(*pair(), Digits(), CONFIG, seed=5)
    count = iter(range(100))
    first = train(*pair(), Digits(), CONFIG, seed=5, state=tmp_path / "s", should_stop=lambda: next(count) == 4)
    assert not first.finished
    assert first.steps == 5
    second = train(*pair(), Digits(), CONFIG, seed=5, state=tmp_path / "s")
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
    trainer.process.losses = lambda *args, **kw: torch.tensor([torch.nan], requires_grad=True)
    with pytest.raises(NonFiniteLossError, match=r"step 1 \(seed 9\)"):
        trainer.advance()
    assert all(torch.equal(p, before[n]) for n, p in trainer.backbone.named_parameters())
    assert trainer.step == 1


@pytest.mark.slow
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


# ---- classes and pairs -----------------------------------------------------------------------------------


def test_a_conditional_run_sees_the_data_and_noise_of_the_unconditional_one():
    """A fresh conditional network answers what the unconditional one does, so only another draw could part them."""
    plain, conditional = (
        Trainer(*parts(), Digits(), CONFIG, seed=3),
        Trainer(*parts(classes=10), Digits(), CONFIG, seed=3),
    )
    for step in (0, 1, 50):
        plain.step = conditional.step = step
        assert torch.equal(plain.loss(), conditional.loss())
    conditional.step = 0
    conditional.advance()
    assert conditional.backbone.by_class.weight.any()  # while it does learn from the labels


def test_labels_are_those_of_the_batch_and_a_share_is_hidden():
    data, batches = Digits(), Batches(Digits(), 100, seed=1)
    hidden = 0
    for step in range(120):
        own, conditional = data.labels("train")[batches.indices(step)], batches.labels(step, 0.2)
        assert torch.equal(batches.labels(step, 0.0), own)
        assert torch.equal(batches.labels(step, 0.2), conditional)
        kept = conditional != NO_CLASS
        assert torch.equal(conditional[kept], own[kept])
        hidden += int((~kept).sum())
    assert abs(hidden / 12_000 - 0.2) < 4 * (0.16 / 12_000) ** 0.5
    assert not torch.equal(batches.labels(0, 0.5) == NO_CLASS, batches.labels(1, 0.5) == NO_CLASS)


def test_the_network_is_told_the_labels_with_the_dropout_of_the_config():
    seen = []

    class Listening(MLP):
        def forward(self, x, condition, labels=None):
            seen.append(labels)
            return super().forward(x, condition, labels)

    config = TrainConfig(steps=12, batch_size=16, warmup=2, label_dropout=0.5)
    trainer = Trainer(parts()[0], Listening((1, 8, 8), width=8, classes=12), Digits(), config)  # two rows stay idle
    for _ in range(3):
        trainer.advance()
    assert all(torch.equal(seen[step], trainer.batches.labels(step, 0.5)) for step in range(3))
    assert bool((torch.cat(seen) == NO_CLASS).any())
    seen.clear()
    Trainer(parts()[0], Listening((1, 8, 8), width=8), Digits(), config).advance()
    assert seen == [None]


class Labelled(Digits):
    """Digits with labels of one's own choice."""

    def __init__(self, labels, classes=10):
        self.given, self.classes = labels, classes

    def labels(self, split):
        return self.given


@pytest.mark.parametrize(
    ("data", "classes", "message"),
    [
        (Digits(), 9, "'digits' has 10 classes, the backbone 9; give it classes = 10"),
        (Labelled(None, 0), 10, "'digits' has no labels; give it classes = 0"),
        (Labelled(torch.full((1297,), 10), 10), 10, "labels of the data set 'digits': 10 is not a class"),
        (Labelled(torch.zeros(5, dtype=torch.int64)), 10, r"labels of shape \(5,\) for 1297 examples"),
    ],
)
def test_labels_of_the_data_must_fit_the_backbone(data, classes, message):
    with pytest.raises(ValueError, match=message):
        Trainer(*parts(classes=classes), data, CONFIG)


def test_a_state_with_classes_is_not_taken_up_without(tmp_path):
    train(*parts(classes=10), Digits(), CONFIG, state=tmp_path / "state", should_stop=lambda: True)
    with pytest.raises(CheckpointError, match="backbone"):
        train(*parts(), Digits(), CONFIG, state=tmp_path / "state")


class Recorder(VP):
    """Keeps the rows that a training batch was made of."""

    def perturb(self, x, *, generator, refs=None, **more):
        self.rows = (x, more)
        return super().perturb(x, generator=generator, refs=refs)


def test_partners_come_with_their_rows_and_only_where_there_are_any():
    x = torch.randn(50, 1, 8, 8)
    process, backbone = Recorder(), parts()[1]
    trainer = Trainer(process, backbone, PairedDataset("pairs", x, 3 * x + 1, x[:5]), CONFIG)
    for _ in range(5):
        trainer.advance()
        rows, more = process.rows
        assert more.keys() == {"partner"}
        assert torch.equal(more["partner"], 3 * rows + 1)
    Trainer(process, backbone, Digits(), CONFIG).advance()
    assert process.rows[1] == {}
    with pytest.raises(ValueError, match=r"partners of shape \(4, 1, 8, 8\) for examples of shape \(50, 1, 8, 8\)"):
        Trainer(process, backbone, PairedDataset("pairs", x, x[:4], x), CONFIG)


class ExactGaussian(torch.nn.Module):
    """The exact backbone of data N(m, S²)."""

    shape = (2,)
    mean, scale = torch.tensor([2.0, -1.0], dtype=torch.float64), 0.5

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x, condition):
        c = self.process.at(self.process.time(condition.double()), x)
        gain = c.a * self.scale**2 / (c.a**2 * self.scale**2 + c.b**2)
        return self.process.prediction.encode(self.mean + gain * (x - c.a * self.mean), x, c)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", ["si_linear", "vp_ode", "ve_ode"])
def test_rectified_pairs_are_those_of_the_gaussian_flow(name):
    """The flow of Gaussian data keeps (x − a m)/√(a² S² + b²) as it is."""
    process, data = genflow.get_process(name), genflow.get_dataset("gaussian_mixture", size=40)
    backbone = ExactGaussian(process)
    rk45 = genflow.get_solver("rk45", rtol=1e-7, atol=1e-7)
    pairs = rectify(process, backbone, rk45, 30, dataset=data, seed=4, dtype=torch.float64, batch_size=7)
    a, b = process.schedule(torch.tensor(process.safe_interval, dtype=torch.float64))
    start = float(b[1]) * pairs.partners if name != "vp_ode" else pairs.partners
    size = (a * a * backbone.scale**2 + b * b).sqrt()
    want = a[0] * backbone.mean + size[0] / size[1] * (start - a[1] * backbone.mean)
    torch.testing.assert_close(pairs.train, want, rtol=1e-5, atol=1e-5)
    assert abs(float(pairs.partners.std()) - 1) < 0.3
    assert torch.equal(pairs.test, data.test)
    assert pairs.name == "gaussian_mixture, rectified"
    assert (pairs.classes, pairs.labels("train")) == (0, None)


def test_rectified_pairs_keep_their_classes_and_units():
    process, backbone = parts(classes=10)
    process = process.for_data(torch.ones(1, 1, 8, 8))
    pairs = rectify(process, backbone, "euler", 12, nfe=4, dataset=Digits(), labels="all", guidance=2.0)
    order = pairs.order("train")
    assert pairs.labels("train").tolist() == (order % 10).tolist()
    assert torch.equal(pairs.labels("test"), Digits().labels("test"))
    assert pairs.classes == 10
    assert torch.equal(Digits.scaling.decode(pairs.test), Digits().test)
    wanted = genflow.sample(process, backbone, "euler", 12, nfe=4, labels="all", guidance=2.0)
    assert torch.equal(pairs.train, wanted.x[order])
    with pytest.raises(ValueError, match="pairs need an ODE solver"):
        rectify(process, backbone, "euler_maruyama", 2, nfe=4, dataset=Digits())


@pytest.mark.slow
def test_a_rectified_flow_is_nearly_straight():
    """One Euler step of the first flow ends between the Gaussians, at the mean; of the second one, on them."""
    data = genflow.get_dataset("gaussian_mixture", scales=0.2, size=500)
    first = genflow.get_process("si_linear")
    pairs = rectify(first, first.oracle(data.train), "heun", 1500, nfe=16, dataset=data)
    network = genflow.get_backbone("mlp", shape=(2,), width=64)
    process = genflow.get_process("si_linear", coupling="paired")
    second = train(process, network, pairs, steps=400, batch_size=256, lr=4e-3)

    def hits(process, backbone, nfe):
        """Share of samples within three standard deviations of a Gaussian's centre; 0.99 of the data are."""
        x = genflow.sample(process, backbone, "euler", 400, nfe=nfe, seed=9, shape=(2,)).x
        return float((torch.cdist(x.double(), data.means).amin(1) < 0.6).double().mean())

    assert hits(first, first.oracle(data.train), 1) < 0.05
    assert hits(second.process, second.backbone, 1) > 0.75
    assert hits(second.process, second.backbone, 8) > 0.9
