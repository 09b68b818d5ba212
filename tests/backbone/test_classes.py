"""Class labels in backbones: zero at the start, absent without classes, each row its own."""

import pytest
import torch
from torch import nn

import genflow
from genflow.backbone.base import Backbone, ClassEmbedding, check_labels
from genflow.process.guidance import NO_CLASS
from genflow.registry import registries
from genflow.testing import check_backbone

SMALL = {"mlp": {"width": 16}, "ncsnv2": {"features": 4}}
"""Options that keep a network small; one that is not named here is taken as it comes."""


def make(name, **options):
    return genflow.get_backbone(name, shape=(1, 8, 8), **{**SMALL.get(name, {}), **options})


@pytest.mark.parametrize("name", ["mlp", "ncsnv2"])
def test_without_classes_nothing_is_added_and_with_them_nothing_else_changes(name):
    torch.manual_seed(3)
    plain = make(name)
    torch.manual_seed(3)
    conditional = make(name, classes=10)
    assert (plain.classes, conditional.classes) == (0, 10)
    assert "classes" not in plain.config()
    ours, theirs = plain.state_dict(), conditional.state_dict()
    more = theirs.keys() - ours.keys()
    assert more
    assert all(name.endswith("by_class.weight") for name in more)
    assert all(theirs[n].shape[0] == 11 and not theirs[n].any() for n in more)
    assert all(torch.equal(theirs[n], ours[n]) for n in ours)
    x, condition = torch.randn(3, 1, 8, 8), torch.rand(3)
    labels = torch.tensor([0, 9, NO_CLASS])
    assert torch.equal(conditional(x, condition, labels), plain(x, condition))
    assert torch.equal(conditional(x, condition), plain(x, condition))


def test_ncsnv2_tells_every_norm_its_class():
    """A scale and an offset for each channel of each norm, not one norm without, and only the row of the label used."""
    from genflow.backbone.ncsnv2 import InstanceNormPlus

    net = make("ncsnv2", classes=3)
    norms = [m for m in net.modules() if isinstance(m, InstanceNormPlus)]
    assert len(norms) == 2 * 2 * 2 + 1  # two stages of two blocks of two norms, and the last
    for norm in norms:
        assert norm.by_class.weight.shape == (4, 2 * len(norm.gamma))
    net(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 1])).square().sum().backward()
    for norm in norms:
        assert norm.by_class.weight.grad.abs().sum(1).gt(0).tolist() == [False, False, True, False]


def test_a_class_is_a_scale_and_an_offset_of_the_norm():
    from genflow.backbone.ncsnv2 import InstanceNormPlus

    norm, plain = InstanceNormPlus(5, classes=2).double(), InstanceNormPlus(5).double()
    x, labels = torch.randn(3, 5, 4, 4, dtype=torch.float64), torch.tensor([1, NO_CLASS, 0])
    nn.init.normal_(norm.by_class.weight)
    for row, label in enumerate(labels.tolist()):
        scale, offset = norm.by_class.weight.detach()[label + 1].chunk(2)
        plain.load_state_dict({"alpha": norm.alpha, "gamma": norm.gamma + scale, "beta": norm.beta + offset})
        torch.testing.assert_close(norm(x, labels)[row : row + 1], plain(x[row : row + 1]))


def test_embedding_rows_are_those_of_their_labels():
    embedding = ClassEmbedding(3, 4)
    embedding.weight.data = torch.arange(16.0).reshape(4, 4)
    labels = torch.tensor([2, NO_CLASS, 0])
    assert embedding(labels, 3)[:, 0].tolist() == [12, 0, 4]
    assert embedding(None, 2)[:, 0].tolist() == [0, 0]
    for wrong in (3, -2):
        with pytest.raises(IndexError):
            embedding(torch.tensor([wrong]), 1)
    embedding(labels, 3).sum().backward()
    assert embedding.weight.grad[:, 0].tolist() == [1, 1, 0, 1]
    embedding.reset_parameters()
    assert not embedding.weight.any()


def test_labels_out_of_range_get_a_sentence():
    check_labels(torch.tensor([NO_CLASS, 0, 2]), 3)
    with pytest.raises(ValueError, match="3 is not a class of this backbone; give 0 to 2, or -1 for no class"):
        check_labels(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="give only -1"):
        check_labels(torch.tensor([0]), 0)


@pytest.mark.parametrize("name", list(registries()["backbones"].entries()))
@pytest.mark.parametrize("classes", [-1, 2.5, True])
def test_numbers_of_classes_that_make_no_sense_are_refused(name, classes):
    with pytest.raises(ValueError, match=r"classes = .* is not allowed; give a whole number"):
        make(name, classes=classes)


class Plugin(Backbone):
    """A backbone from elsewhere that knows nothing of classes."""

    def __init__(self, shape, extra_channels=0):
        super().__init__(shape, extra_channels)
        self.begin = nn.Conv2d(shape[0], 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.end = nn.Conv2d(8, shape[0] + extra_channels, 3, padding=1)

    def forward(self, x, condition):
        return self.end(self.middle(self.begin(x)).sin() * condition[:, None, None, None])


def test_a_backbone_without_classes_passes_the_contract_and_trains():
    check_backbone(Plugin, (1, 8, 8))
    result = genflow.train(genflow.get_process("vp_ode"), Plugin((1, 8, 8)), genflow.get_dataset("digits"), steps=2)
    assert genflow.sample(result.process, result.backbone, "euler", 2, nfe=2).nfe == 2
    with pytest.raises(ValueError, match="knows no classes"):
        genflow.sample(result.process, result.backbone, "euler", 2, nfe=2, labels=1)


class Deaf(Plugin):
    """Says that it knows classes, and does not listen."""

    def __init__(self, shape, extra_channels=0, classes=0):
        super().__init__(shape, extra_channels)
        self.classes = classes

    def config(self):
        return {**super().config(), "classes": self.classes}

    def forward(self, x, condition, labels=None):
        return super().forward(x, condition)


class Leaky(Deaf):
    """Tells every row the first row's class."""

    def __init__(self, shape, extra_channels=0, classes=0):
        super().__init__(shape, extra_channels, classes)
        self.by_class = ClassEmbedding(classes, 1) if classes else None

    def tell(self, labels, count):
        return self.by_class(labels, count)[:1]

    def forward(self, x, condition, labels=None):
        output = super().forward(x, condition, labels)
        return output if self.by_class is None else output + self.tell(labels, len(x))[:, :, None, None]


class Backwards(Leaky):
    """Takes no label for class 0."""

    def tell(self, labels, count):
        return self.by_class(torch.zeros(count, dtype=torch.int64) if labels is None else labels, count)


class Loud(Leaky):
    """Starts with classes that mean something already."""

    def __init__(self, shape, extra_channels=0, classes=0):
        super().__init__(shape, extra_channels, classes)
        if classes:
            self.by_class.reset_parameters = lambda: nn.init.normal_(self.by_class.weight)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(Deaf, "makes no difference"), (Leaky, "do not reach|not close"), (Backwards, "not close"), (Loud, "not close")],
)
def test_the_contract_of_classes_can_fail(wrong, message):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=message):
        check_backbone(wrong, (1, 8, 8))
