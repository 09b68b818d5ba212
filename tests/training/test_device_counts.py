"""What a training step asks of an accelerator: kernels of our own, waits of the host, copies; and the same numbers."""

import pytest
import torch
from pretended import pretend

import genflow
from genflow.config import TrainConfig
from genflow.data.base import Dataset, Scaling
from genflow.distributed import Team
from genflow.training import Batches, Trainer


class Images(Dataset):
    """Random grey levels that are shown mirrored too."""

    name, scaling, flip = "images", Scaling.grey(256), True

    def __init__(self, count=64, shape=(1, 4, 4), classes=0):
        self.shape, self.classes = shape, classes
        self.levels = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0)).float()

    @property
    def train(self):
        return self.levels

    @property
    def test(self):
        return self.levels[:8]

    def labels(self, split):
        return torch.arange(len(self.split(split))) % self.classes if self.classes else None


class OnDisk(Images):
    """The same, read by rows."""

    held = False


def trainer(name, device, data, options=None, **config):
    process = genflow.get_process(name, **(options or {})).for_data(data.fitting_points())
    more = {"classes": data.classes} if data.classes else {}
    network = genflow.get_backbone(
        "mlp", shape=data.shape, extra_channels=process.extra_channels, width=8, depth=1, **more
    )
    return Trainer(process, network, data, TrainConfig(**config), 0, device)


def counted(made, steps=2):
    """Losses of some steps and, of the last, kernels outside the network, waits, copies and bytes."""
    card, inside = made.card, [0]

    def apart(call):
        def marked(*args, **more):
            before = card.kernels
            try:
                return call(*args, **more)
            finally:
                inside[0] += card.kernels - before

        return marked

    made.network, made._take = Called(apart(made.network), made.network), apart(made._take)
    losses = []
    for _ in range(steps):
        card.reset()
        inside[0] = 0
        losses.append(made.advance())
    return losses, card.kernels - inside[0], card.waits, card.copies, card.bytes


class Called:
    """A network under another call."""

    def __init__(self, call, network):
        self.call, self.inner = call, network

    def __call__(self, *args):
        return self.call(*args)

    def __getattr__(self, name):
        return getattr(self.inner, name)


BARS = {
    "vp_ode": ({}, 25),
    "si_linear": ({}, 25),
    "pfgm": ({"large_batch": 3968}, 60),
}


@pytest.mark.parametrize("name", BARS)
def test_a_step_at_the_size_of_cifar(name):
    """128 images of 3x32x32. The copies are row numbers with what dequantises them, noise, and times."""
    options, kernels = BARS[name]
    data = Images(6000, (3, 32, 32))
    with pretend("cuda") as card:
        made = trainer(name, card.name, data, options, batch_size=128)
        made.card = card
        _, own, waits, copies, size = counted(made)
    assert own <= kernels
    assert waits == 1  # for the loss
    assert copies <= 4  # the loss comes back
    drawn = 4 * 3072 * (128 + 128 + (3968 if name == "pfgm" else 0))
    assert size < drawn + 2**17  # images stay on the device


CASES = [
    ("pfgm", {}, {}, Images()),
    ("pfgm", {"perturbation": "published", "prior": "published"}, {}, Images()),
    ("pfgm", {}, {}, Images(classes=3)),
    ("vp_ode", {"objective": "stable"}, {}, OnDisk()),
    ("vp_ode", {"objective": "stable", "large_batch": "all"}, {}, OnDisk()),
    ("vp_ode", {}, {"accumulate": 3}, Images(classes=3)),
    ("si_linear", {"source": "uniform", "gamma": "brownian", "head": "velocity_score"}, {}, Images()),
    ("ve_ode", {"levels": 10}, {}, Images()),
]


@pytest.mark.parametrize(("name", "options", "config", "data"), CASES)
def test_the_losses_are_those_of_the_cpu(name, options, config, data):
    plain = trainer(name, "cpu", data, options, batch_size=8, **config)
    want = [plain.advance() for _ in range(3)]
    with pretend("cuda") as card:
        made = trainer(name, card.name, data, options, batch_size=8, **config)
        made.card = card
        losses, _, waits, *_ = counted(made, 3)
    assert losses == pytest.approx(want, rel=2e-6)
    assert waits <= 3


def test_pairs_made_ahead_are_dropped_where_the_run_goes_elsewhere():
    """Another process, or a restored state, gets pairs of its own."""
    data = Images()
    with pretend("cuda") as card:
        made = trainer("vp_ode", card.name, data, batch_size=8)
        made.advance()
        assert made._ahead[0] == 1
        made.process = genflow.get_process("ve_ode")
        pairs, _ = made._made(1)
        assert torch.equal(pairs.x_t.cpu(), made.pairs(1)[0].x_t.cpu())


@pytest.mark.parametrize("last", [True, False])
def test_a_last_step_makes_no_pairs_ahead(last):
    with pretend("cuda") as card:
        made = trainer("vp_ode", card.name, Images(), batch_size=8, steps=1 if last else 2)
        made.advance()
        assert bool(made._ahead) is not last


def test_images_are_kept_on_the_device_as_bytes_where_they_are_levels():
    with pretend("cuda") as card:
        whole = Batches(Images(), 8, 0, device=card.name)._kept
        assert whole.dtype == torch.uint8
        fractions = Images()
        fractions.levels = fractions.levels + 0.5
        assert Batches(fractions, 8, 0, device=card.name)._kept.dtype == torch.float32
        assert Batches(OnDisk(), 8, 0, device=card.name)._kept is None


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", ["ncsnv2", "ddpmpp"])
def test_the_team_gets_the_network_in_its_last_layout(name, channels_last):
    """DistributedDataParallel keeps sums of gradients laid out as the weights were when it was made."""
    seen = {}

    class Two(Team):
        def parallel(self, network):
            seen.update((name, p.stride()) for name, p in network.named_parameters())
            return network

    data = Images(shape=(1, 8, 8))
    process = genflow.get_process("vp_ode")
    network = genflow.get_backbone(name, shape=data.shape)
    config = TrainConfig(batch_size=8, channels_last=channels_last)
    with pretend("cuda") as card:
        Trainer(process, network, data, config, 0, card.name, Two())
        now = {name: p.stride() for name, p in network.named_parameters()}
    assert seen == now


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("name", ["mlp", "ncsnv2", "ddpmpp"])
def test_initial_weights_are_the_same_wherever_the_network_lives(name, kind, monkeypatch):
    plain, there = (genflow.get_backbone(name, shape=(1, 8, 8)) for _ in range(2))
    plain.initialise(5)
    with pretend(kind) as card:
        there.to(card.name)
        monkeypatch.setattr(torch, "manual_seed", None)  # it would seed the device's generator as well
        there.initialise(5)
        assert all(p.device == card.device for p in there.parameters())
        got = [p.detach().cpu() for p in there.parameters()]
    for weight, same in zip(plain.parameters(), got, strict=True):
        assert torch.equal(weight, same)
