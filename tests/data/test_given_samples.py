"""Samples that others drew: every container gives the same raw rows, and what does not fit is named."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import genflow
from genflow.data.base import Scaling
from genflow.data.downloads import DataError
from genflow.data.given_samples import read_samples

LEVELS = np.random.RandomState(0).randint(0, 256, (6, 3, 8, 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photos.npy"
    np.save(path, np.random.RandomState(1).randint(0, 256, (20, 3, 8, 8)).astype(np.uint8))
    return genflow.get_dataset("images", path=str(path))


def pictures(folder, levels=LEVELS):
    folder.mkdir()
    for k, image in enumerate(levels):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{k}.png")
    return folder


def write(root, kind):
    if kind == "folder":
        return pictures(root / "made")
    if kind == "zip":
        with zipfile.ZipFile(root / "made.zip", "w") as archive:
            for file in sorted(pictures(root / "made").iterdir()):
                archive.write(file, file.name)
        return root / "made.zip"
    path = root / f"made.{kind[:3]}"
    x = {"bytes": LEVELS, "last": LEVELS.transpose(0, 2, 3, 1)}.get(kind[4:])
    if x is None:
        x = Scaling.grey(256).encode(torch.from_numpy(LEVELS.astype(np.float32))).numpy()
    np.savez(path, x=x) if kind.startswith("npz") else np.save(path, x)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "npy bytes", "npy last", "npy units", "npz bytes", "npz units"])
def test_images_of_every_container_are_the_same_levels(tmp_path, photos, kind):
    found, _ = read_samples(write(tmp_path, kind), photos)
    assert torch.equal(found, torch.from_numpy(LEVELS.astype(np.float32)))


def test_levels_become_those_of_a_data_set_with_fewer(tmp_path):
    digits = genflow.get_dataset("digits")
    grey = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8) * 4
    np.save(tmp_path / "x.npy", grey)
    found, _ = read_samples(tmp_path / "x.npy", digits)
    assert torch.equal(found, torch.from_numpy((2 * grey.astype(np.int64) + 1) * 17 // 512).float())
    shown = np.rint(np.arange(17) * 255 / 16).astype(np.uint8)  # as pictures of such levels are written
    np.save(tmp_path / "x.npy", np.resize(shown, (1, 1, 8, 8)))
    found, _ = read_samples(tmp_path / "x.npy", digits)
    assert torch.equal(found.flatten()[:17], torch.arange(17.0))


def test_a_table_is_preprocessed_as_the_data_were(tmp_path):
    rows = np.random.RandomState(2).randn(30, 2) * [3.0, 0.1] + [10.0, -1.0]
    text = "\n".join(["a,b", *(f"{x},{y}" for x, y in rows), ""])
    (tmp_path / "data.csv").write_text(text)
    turned = "\n".join(["b,a", *(f"{y},{x}" for x, y in rows), ""])
    (tmp_path / "made.csv").write_text(turned)
    data = genflow.get_dataset("table", path=str(tmp_path / "data.csv"))
    found, how = read_samples(tmp_path / "made.csv", data)
    assert np.allclose(data.original(found.numpy()), rows, rtol=1e-5)
    assert "units of the data's file" in how
    np.savez(tmp_path / "made.npz", x=data.preprocessed(rows))
    assert torch.equal(read_samples(tmp_path / "made.npz", data)[0], found)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: saved(p, np.zeros((4, 3, 9, 9), np.uint8)), r"shape \(3, 9, 9\), and examples of 'images' have"),
        (lambda p: saved(p, np.zeros((4, 7), np.float32)), r"shape \(7,\), and examples"),
        (lambda p: saved(p, np.full((4, 3, 8, 8), np.nan, np.float32)), r"sample 0 is not finite \(4 of 4\)"),
        (lambda p: saved(p, np.zeros((0, 3, 8, 8), np.float32)), "holds no samples"),
        (lambda p: saved(p, np.zeros((4, 3, 8, 8), np.int64)), "give levels as uint8"),
        (lambda p: saved(p, np.array(["a"])), "give levels as uint8"),
        (lambda p: pictures(p / "made", LEVELS[:, :, :5]), "resize it as the data were"),
        (lambda p: one_picture(p), "is one image; give the folder"),
        (lambda p: empty(p), "holds no|no image"),
        (lambda p: two_arrays(p), "has no array 'x'; it has a, b"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, photos, make, said):
    with pytest.raises(DataError, match=said):
        read_samples(make(tmp_path), photos)


def saved(root, array):
    np.save(root / "x.npy", array)
    return root / "x.npy"


def one_picture(root):
    return next(pictures(root / "made").iterdir())


def empty(root):
    (root / "none").mkdir()
    return root / "none"


def two_arrays(root):
    np.savez(root / "x.npz", a=LEVELS, b=LEVELS)
    return root / "x.npz"


def test_text_in_a_table_of_samples_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,red\n2,blue\n")
    with pytest.raises(DataError, match=r"column 1 \(b\) is not a column of numbers"):
        read_samples(tmp_path / "x.csv", genflow.get_dataset("eight_gaussians", size=20))
