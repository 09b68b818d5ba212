"""Images in .npy and .npz files: layouts, types, declared ranges."""

import zipfile

import numpy as np
import pytest
import torch
from image_files import noise
from stored import stored, stored_labels

import genflow
from genflow.data.downloads import DataError

COUNT = 20


def images(path, **options):
    return genflow.get_dataset("images", path=str(path), **options)


def saved(path, array, **others):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        (np.savez_compressed if others.pop("packed", False) else np.savez)(path, images=array, **others)
    return path


def all_of(data):
    order = np.random.RandomState(0).permutation(COUNT)
    whole = torch.empty(COUNT, *data.shape)
    held_out = data.count("test")
    whole[np.sort(order[:-held_out])], whole[np.sort(order[-held_out:])] = stored(data, "train"), stored(data, "test")
    return whole


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "grey NHWC"])
def test_layouts_of_bytes(tmp_path, suffix, layout):
    channels = 3 if layout in ("NHWC", "NCHW") else 1
    wanted = noise(0, COUNT, channels, 6, 5)
    array = {"NHW": wanted[:, 0], "NCHW": wanted}.get(layout, wanted.transpose(0, 2, 3, 1))
    data = images(saved(tmp_path / f"a{suffix}", array))
    assert data.shape == (channels, 6, 5)
    assert (data.count("train"), data.count("test"), data.scaling.levels) == (18, 2, 256)
    assert data.held == (suffix == ".npz")
    assert torch.equal(all_of(data), torch.from_numpy(wanted).float())
    assert torch.equal(data.examples("train", torch.tensor([3, 3, 0])), data.train[[3, 3, 0]])


def test_a_mapped_file_is_not_read_into_memory(tmp_path):
    data = images(saved(tmp_path / "a.npy", noise(0, COUNT, 3, 4, 4)))
    array = data._part("train").array
    base = array
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == tmp_path / "a.npy"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_floats_map_their_declared_range_to_the_unit_box(tmp_path, dtype, low, high):
    array = np.random.RandomState(0).uniform(low, high, (COUNT, 4, 4, 3)).astype(dtype)
    array[0, 0, 0], array[1, 0, 0] = low, high
    data = images(saved(tmp_path / "a.npy", array), range=[low, high])
    x = data.scaling.encode(all_of(data), torch.Generator().manual_seed(0))
    assert (float(x.min()), float(x.max())) == pytest.approx((-1, 1), abs=1e-6)
    raw = torch.from_numpy(array.astype(np.float32)).permute(0, 3, 1, 2)
    torch.testing.assert_close(x, 2 * (raw - low) / (high - low) - 1, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.scaling.decode(x), raw, rtol=1e-4, atol=1e-3)
    assert data.declared()["dequantisation"].startswith("none")


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_values_outside_the_range_name_their_row(tmp_path, value):
    array = np.full((5000, 2, 2, 1), 0.5, np.float32)
    array[4321, 1, 0, 0] = value
    with pytest.raises(DataError, match=r"a\.npy: image 4321 has values outside the declared range \[0, 1\]"):
        images(saved(tmp_path / "a.npy", array), range=[0, 1])


def test_labels_and_test_path(tmp_path):
    array, labels = noise(0, COUNT, 4, 4, 3), np.arange(COUNT) % 3
    train = saved(tmp_path / "a.npz", array, labels=labels, packed=True)
    data = images(train, classes=True)
    assert data.classes == 3
    for split in ("train", "test"):
        found = {x.numpy().tobytes(): int(y) for x, y in zip(data.split(split), data.labels(split))}
        for image, label in zip(array.transpose(0, 3, 1, 2).astype(np.float32), labels):
            assert found.get(np.ascontiguousarray(image).tobytes(), label) == label
        assert len(found) == data.count(split)
    test = saved(tmp_path / "b.npz", array[:5], labels=labels[:5, None])
    data = images(train, test_path=str(test), classes=True)
    assert (data.count("train"), data.count("test")) == (COUNT, 5)
    assert stored_labels(data, "test").tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (noise(0, 4, 5, 5, 4), {}, r"neither axis 1 nor the last has 1 or 3 channels"),
        (noise(0, 4, 3, 5, 3), {}, r"both axis 1 and the last has 1 or 3 channels"),
        (noise(0, 4, 5), {}, r"must hold one array of images .*it holds images \(4, 5\)"),
        (noise(0, 4, 5, 5, 3).astype(np.int64), {}, "holds int64; store levels 0 to 255 as uint8"),
        (np.zeros((4, 5, 5, 3), np.float32), {}, r"range must be declared: give range=\[low, high\]"),
        (noise(0, 4, 5, 5, 3), {"range": [0, 1]}, "range is for arrays of floats"),
        (noise(0, 4, 5, 5, 3), {"size": 4}, "size is for image files"),
        (noise(0, 4, 5, 5, 3), {"channels": 1}, "channels is for image files"),
        (
            noise(0, 4, 5, 5, 3),
            {"classes": True},
            r"holds images, and no labels .* an \.npz file",
        ),
        (noise(0, 1, 5, 5, 3), {}, r"holds 1 example\(s\)"),
        (np.array([{}] * 4), {}, "cannot be read as an array file"),
    ],
)
def test_arrays_that_are_no_images_are_named(tmp_path, array, options, message):
    path = tmp_path / "a.npz"
    np.savez(path, images=array)
    with pytest.raises(ValueError, match=message) as error:
        images(path, **options)
    assert "images:" in str(error.value) or str(path) in str(error.value)


@pytest.mark.parametrize("labels", [[0.5] * 4, [-1, 0, 1, 2], [0, 1, 2]])
def test_labels_that_are_none_are_named(tmp_path, labels):
    path = saved(tmp_path / "a.npz", noise(0, 4, 5, 5, 3), y=np.array(labels))
    with pytest.raises(DataError, match=r"a\.npz: labels must be whole numbers from 0, one for each of the 4 images"):
        images(path, classes=True)


def test_both_files_must_be_alike(tmp_path):
    train = saved(tmp_path / "a.npy", noise(0, 4, 5, 5, 3))
    with pytest.raises(DataError, match=r"b\.npy holds images of shape \(3, 6, 6\), .*a\.npy of \(3, 5, 5\)"):
        images(train, test_path=str(saved(tmp_path / "b.npy", noise(0, 4, 6, 6, 3))))
    with pytest.raises(DataError, match="different types"):
        images(train, test_path=str(saved(tmp_path / "b.npy", np.zeros((4, 5, 5, 3)))))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("cut", [0, 30, 200])
def test_truncated_files_are_named(tmp_path, suffix, cut):
    path = saved(tmp_path / f"a{suffix}", noise(0, 4, 5, 5, 3))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"a\{suffix} cannot be read"):
        images(path)


def test_missing_files_and_bombs_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.npy does not exist"):
        images(tmp_path / "none.npy")
    path = saved(tmp_path / "bomb.npz", np.zeros((200, 300, 300, 3), np.uint8), packed=True)
    assert zipfile.ZipFile(path).infolist()[0].compress_size < 10**5
    with pytest.raises(DataError, match=r"its member 'images\.npy' would unpack"):
        images(path)
