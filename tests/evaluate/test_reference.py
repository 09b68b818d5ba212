"""Statistics of real data kept by content, and published statistics files."""

import numpy as np
import pytest
import torch

from genflow.data.base import Dataset, Scaling
from genflow.evaluate import passes, reference
from genflow.evaluate.features import Space
from genflow.evaluate.frechet import Factor, Statistics, statistics


class Numbers(Dataset):
    """Drawn vectors."""

    name, shape = "numbers", (5,)

    def __init__(self, seed=0, n=40):
        self.train = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
        self.test = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed + 99))


def space(digest="one"):
    return Space("plain", digest, "features 'plain'", lambda raw: raw.flatten(1).double())


@pytest.fixture(autouse=True)
def counted(tmp_path, monkeypatch):
    """A cache of its own, and the list of passes that were made."""
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path))
    made = []

    def count(*args, **kwargs):
        made.append(1)
        return passes.feature_pass(*args, **kwargs)

    monkeypatch.setattr(reference, "feature_pass", count)
    return made


def test_statistics_are_kept_by_content(counted):
    first, _ = reference.reference(Numbers(), "train", space())
    again, _ = reference.reference(Numbers(), "train", space())
    assert len(counted) == 1
    assert torch.equal(first.cov, again.cov)
    torch.testing.assert_close(first.cov, torch.cov(Numbers().train.T.double()))
    changed = Numbers()
    changed.train[7, 2] += 1e-6
    scaled = Numbers()
    scaled.scaling = Scaling(2.0)
    for data, split, where, count, keep in (
        (changed, "train", space(), None, 0),
        (Numbers(), "test", space(), None, 0),
        (Numbers(), "train", space("two"), None, 0),
        (Numbers(), "train", space(), 30, 0),
        (Numbers(), "train", space(), None, 4),
        (scaled, "train", space(), None, 0),
    ):
        before = len(counted)
        reference.reference(data, split, where, count=count, keep=keep)
        assert len(counted) == before + 1


def test_few_examples_are_kept_as_rows_and_features_beside(counted):
    for _ in range(2):
        found, kept = reference.reference(Numbers(), "train", space(), count=4, keep=3)
        assert isinstance(found, Factor)
        assert (found.n, kept.shape) == (4, (3, 5))
        torch.testing.assert_close(kept, Numbers().train[:3])
    assert len(counted) == 1


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_a_damaged_file_is_made_again_and_said(counted, tmp_path, capsys, cut):
    want, _ = reference.reference(Numbers(), "train", space())
    (path,) = (tmp_path / "stats").glob("*.npz")
    path.write_bytes(path.read_bytes()[:cut])
    found, _ = reference.reference(Numbers(), "train", space())
    assert torch.equal(found.cov, want.cov)
    assert "is damaged" in capsys.readouterr().err
    assert len(counted) == 2


def test_a_split_is_read_in_pieces_up_to_its_count():
    parts = list(reference.first_chunks(Numbers(), "train", 25, size=10))
    assert [len(p) for p in parts] == [10, 10, 5]
    torch.testing.assert_close(torch.cat(parts), Numbers().train[:25])
    assert sum(map(len, reference.first_chunks(Numbers(), "train", 1000, size=7))) == 40


def test_published_files_are_read(tmp_path):
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    want = statistics(x)
    reference.save_published(tmp_path / "clean.npz", want)
    np.savez(tmp_path / "theirs.npz", mu=want.mean.numpy(), sigma=want.cov.numpy())
    np.savez(tmp_path / "pool.npz", pool_3=x.numpy()[:, None, None])
    for name, n in (("clean.npz", 50), ("theirs.npz", 0), ("pool.npz", 50)):
        found, digest = reference.published(tmp_path / name)
        torch.testing.assert_close(found.cov, want.cov, rtol=1e-6, atol=1e-9)
        assert (found.n, len(digest)) == (n, 64)
    np.savez(tmp_path / "few.npz", pool_3=x.numpy()[:4])
    assert isinstance(reference.published(tmp_path / "few.npz")[0], Factor)
    rows = reference.published(tmp_path / "few.npz")[0]
    reference.save_published(tmp_path / "rows.npz", rows)
    assert isinstance(reference.published(tmp_path / "rows.npz")[0], Statistics)


def test_other_files_are_refused_by_what_they_hold(tmp_path):
    np.savez(tmp_path / "other.npz", samples=np.zeros(3))
    np.savez(tmp_path / "crooked.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "single.npy", np.eye(3))
    np.savez(tmp_path / "words.npz", mu=np.array(["a"]), sigma=np.eye(1))
    np.savez(tmp_path / "flat.npz", pool_3=np.zeros(5))
    np.savez(tmp_path / "holes.npz", mu=np.zeros(2), sigma=np.array([[1.0, np.nan], [0.0, 1.0]]))
    np.savez(tmp_path / "endless.npz", mu=np.array([np.inf, 0.0]), sigma=np.eye(2))
    for name, message in (
        ("single.npy", "single.npy cannot be read: it is a single array"),
        ("words.npz", "cannot be read"),
        ("flat.npz", "pool_3 has shape"),
        ("holes.npz", "sigma is not finite everywhere"),
        ("endless.npz", "mu is not finite everywhere"),
        ("other.npz", "holds samples; expected mu and sigma, or pool_3"),
        ("crooked.npz", "mu has 3 entries and sigma the shape"),
        ("pickle.npz", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("absent.npz", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            reference.published(tmp_path / name)
