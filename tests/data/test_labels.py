"""Classes of data sets, and data that come in pairs."""

import pytest
import torch

import genflow
from genflow.data.paired import PairedDataset
from genflow.registry import registries

ENTRIES = registries()["datasets"].entries()


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if not entry.tags.get("files")])
def test_labels_are_there_exactly_where_classes_are(name):
    data = genflow.get_dataset(name)
    for split in ("train", "test"):
        labels = data.labels(split)
        if not data.classes:
            assert labels is None
            continue
        assert labels.shape == (len(data.split(split)),)
        assert labels.dtype == torch.int64
        assert labels.unique().tolist() == list(range(data.classes))
    assert len(data.class_names) == data.classes
    assert all(isinstance(name, str) for name in data.class_names)
    assert data.partners is None
    with pytest.raises(ValueError, match="split = 'valid'"):
        data.labels("valid")


def test_class_names_are_the_data_s_own_where_there_are_any():
    names = {name: genflow.get_dataset(name).class_names for name in ("iris", "breast_cancer", "digits", "diabetes")}
    assert names["iris"] == ("setosa", "versicolor", "virginica")
    assert names["breast_cancer"] == ("malignant", "benign")
    assert names["digits"] == tuple("0123456789")
    assert names["diabetes"] == ()
    pairs = PairedDataset("pairs", *torch.randn(3, 5, 3), classes=2, class_names=["a", "b"])
    assert pairs.class_names == ("a", "b")
    assert PairedDataset("pairs", *torch.randn(3, 5, 3), classes=2).class_names == ("0", "1")


def test_classes_of_a_mixture_are_the_gaussians_the_points_were_drawn_from():
    data = genflow.get_dataset("gaussian_mixture", scales=[0.1, 0.2, 0.3], weights=[1, 2, 5], size=20_000, seed=3)
    for split in ("train", "test"):
        x, labels = data.split(split).double(), data.labels(split)
        shares = torch.bincount(labels).double() / len(labels)
        torch.testing.assert_close(shares, torch.tensor([1, 2, 5]).double() / 8, rtol=0, atol=0.012)
        for k in range(3):
            own = x[labels == k]
            torch.testing.assert_close(own.mean(0), data.means[k], rtol=0, atol=0.03)
            torch.testing.assert_close(own.std(0), data.scales[k].expand(2), rtol=0.05, atol=0)


def test_classes_of_the_moons_are_their_half_circles():
    data = genflow.get_dataset("two_moons", noise=0.0)
    for split in ("train", "test"):
        x, labels = data.split(split), data.labels(split)
        # centres (−1/2, −1/4), opening downwards, and (1/2, 1/4), opening upwards
        for label, (cx, cy), up in ((1, (-0.5, -0.25), 1), (0, (0.5, 0.25), -1)):
            away = x[labels == label] - torch.tensor([cx, cy])
            torch.testing.assert_close(away.norm(dim=1), torch.ones(len(away)))
            assert float((up * away[:, 1]).min()) > -1e-6


def test_pairs_are_held_as_given():
    train, partners, test = torch.randn(5, 3), torch.randn(5, 3), torch.randn(4, 3)
    data = PairedDataset("pairs", train, partners, test)
    assert (data.shape, data.classes, data.labels("train")) == ((3,), 0, None)
    for split, row in ("train", train), ("test", test):
        assert torch.equal(data.split(split), row[data.order(split)])
    assert torch.equal(data.partners, partners[data.order("train")])
    assert torch.equal(data.scaling.encode(train, torch.Generator()), train)
    labels = {"train": torch.tensor([0, 1, 0, 1, 1]), "test": torch.tensor([1, 0, 0, 1])}
    data = PairedDataset("pairs", train, partners, test, labels, 2)
    assert data.classes == 2
    assert torch.equal(data.labels("test"), labels["test"][data.order("test")])
    with pytest.raises(ValueError, match="split = 'valid'"):
        data.labels("valid")
