"""Arrays of every shape and type: each is an image set or is refused with what came and what is allowed."""

import itertools
import warnings

import numpy as np
import pytest
import torch

import genflow
from genflow.data.downloads import DataError
from genflow.data.image_arrays import MOST_CLASSES

SHAPES = [
    *(shape for rank in range(5) for shape in itertools.product((0, 1, 3, 4), repeat=rank)),
    (2, 3, 4, 4, 1),
    (4, 4, 0, 4, 1),
    (2, 1, 1, 1, 1, 1),
    (0, 0, 0, 0, 0, 0),
]
TYPES = [
    *("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", "g", "c8", "c16"),
    *("O", "U3", "S3", "M8[s]", "m8[s]", [("a", "i4"), ("b", "f4")], "V4"),
]


def saved(path, array, **labels):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, images=array, **labels)
    return path


def images(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return genflow.get_dataset("images", path=str(path), **options)


def is_image_set(shape):
    rows = bool(shape) and shape[0] > 1 and 0 not in shape
    return rows and (len(shape) == 3 or (len(shape) == 4 and (shape[1] in (1, 3)) != (shape[3] in (1, 3))))


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_every_shape_is_an_image_set_or_is_refused(tmp_path, suffix):
    for shape in SHAPES:
        path = saved(tmp_path / f"a{suffix}", np.ones(shape, np.uint8))
        if is_image_set(shape):
            data = images(path, test_share=0.5)
            assert data.train.shape == (data.count("train"), *data.shape)
            assert data.count("train") + data.count("test") == shape[0]
            assert float(data.train.mean()) == 1
            continue
        with pytest.raises(DataError) as error:
            images(path, test_share=0.5)
        assert str(path) in str(error.value)
        assert str(shape) in str(error.value) or "holds 1 example(s)" in str(error.value)
        assert any(word in str(error.value) for word in ("height", "store", "at least 2", "no images")), shape


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_an_image_set_or_is_refused(tmp_path, suffix, dtype):
    path = saved(
        tmp_path / f"a{suffix}", np.ones((6, 4, 4), np.float32).astype(dtype) if dtype != "O" else np.array([[[{}]]])
    )
    kind = np.dtype(dtype)
    options = {"range": [0, 1]} if kind.kind == "f" else {}
    if kind.kind == "f" or dtype == "u1":
        data = images(path, **options)
        assert float(data.train.mean()) == 1
        assert (data.scaling.levels == 256) == (dtype == "u1")
        other = saved(tmp_path / f"b{suffix}", np.zeros((3, 4, 4), "c8"))
        with pytest.raises(DataError, match="complex64"):
            images(path, test_path=str(other), **options)
        return
    with pytest.raises(DataError) as error:
        images(path)
    assert "uint8" in str(error.value)
    assert "floats with range=[low, high]" in str(error.value)
    assert str(kind) in str(error.value) or "bject" in str(error.value)


def test_an_empty_axis_is_named_before_a_process_sees_it(tmp_path):
    path = saved(tmp_path / "a.npy", np.zeros((10, 0, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"\(10, 0, 8, 3\): its images have no pixels, since axis 1 has no entries"):
        images(path)
    with pytest.raises(DataError, match=r"holds no images: its array has the shape \(0, 8, 8, 3\)"):
        images(saved(tmp_path / "b.npy", np.zeros((0, 8, 8, 3), np.uint8)))


def test_one_row_trains_where_the_held_out_ones_are_given(tmp_path):
    one, test = (saved(tmp_path / f"{n}.npy", np.full((n, 4, 4), n, np.uint8)) for n in (1, 3))
    data = images(one, test_path=str(test))
    assert (data.count("train"), data.count("test"), float(data.train.mean())) == (1, 3, 1)
    empty = saved(tmp_path / "none.npy", np.zeros((0, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"none\.npy holds no images"):
        images(one, test_path=str(empty))


@pytest.mark.parametrize("range", [[0, 1e39], [-1e300, 0]])
def test_a_range_beyond_float32_is_refused(tmp_path, range):
    with pytest.raises(ValueError, match=r"range = .* give numbers that float32 can hold"):
        images(saved(tmp_path / "a.npy", np.zeros((4, 4, 4))), range=range)


@pytest.mark.parametrize("range", [[0, 1e-320], [0, 5e-39], [2**24, 2**24 + 1], [1e30, 1.00001e30], [-1, -1 + 1e-6]])
def test_a_range_too_narrow_for_float32_is_refused(tmp_path, range):
    with pytest.raises(ValueError, match=r"range = .* with at least 256 numbers between them"):
        images(saved(tmp_path / "a.npy", np.full((4, 4, 4), float(range[0]))), range=range)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_no_range_lets_values_pass_that_are_not_finite(tmp_path, dtype, bad):
    """Also where a bound lies beyond the array's own type and would become an infinity there."""
    array = np.ones((6, 4, 4), dtype)
    place = saved(tmp_path / "a.npy", array)
    assert float(images(place, range=[-3e38, 3e38]).train.max()) == 1
    array[4, 1, 2] = bad
    with pytest.raises(DataError, match=r"image 4 has values outside the declared range \[-3e\+38, 3e\+38\], or NaN"):
        images(saved(tmp_path / "b.npy", array), range=[-3e38, 3e38])


# ---- labels ----------------------------------------------------------------------------------------------

IMAGES = (np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)).astype(np.uint8)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 5, 1_000_000] * 4, ("0", "5", "1000000")),
        (np.array([2**63, 7] * 6, np.uint64), ("7", str(2**63))),
        (np.array([3] * 12, np.int8), ("3",)),
        ([[0], [1]] * 6, ("0", "1")),
        (["cat", "ant", "Bee"] * 4, ("Bee", "ant", "cat")),
        (np.array([b"x", b"\xff"] * 6), ("x", "\\xff")),
        ([True, False] * 6, ("False", "True")),
    ],
)
def test_labels_are_numbered_and_keep_their_names(tmp_path, labels, names):
    data = images(saved(tmp_path / "a.npz", IMAGES, labels=labels), classes=True)
    assert (data.classes, data.class_names) == (len(names), names)
    given = np.asarray(labels).reshape(-1)
    for split in ("train", "test"):
        for image, label in zip(data.split(split), data.labels(split).tolist(), strict=True):
            own = given[int(image.mean())]
            text = own.decode("utf-8", "backslashreplace") if isinstance(own, bytes) else str(own)
            assert names[label] == text


def test_accents_of_labels_mean_the_same_in_both_ways_of_writing_them(tmp_path):
    data = images(saved(tmp_path / "a.npz", IMAGES, labels=["caf\u00e9", "cafe\u0301", "tea"] * 4), classes=True)
    assert data.class_names == ("caf\u00e9", "tea")


def test_two_arrays_of_labels_are_not_chosen_between(tmp_path):
    place = saved(tmp_path / "a.npz", IMAGES, label=[0, 1] * 6, y=[0, 1, 2] * 4)
    with pytest.raises(DataError, match="holds both label and y; keep one"):
        images(place, classes=True)


def test_labels_of_two_files_are_numbered_together(tmp_path):
    train = saved(tmp_path / "a.npz", IMAGES, labels=[7, 30] * 6)
    test = saved(tmp_path / "b.npz", IMAGES[:3], labels=np.array([30, 7, 8], np.uint64))
    data = images(train, classes=True, test_path=str(test))
    assert data.class_names == ("7", "8", "30")
    assert data.labels("test")[data.order("test").argsort()].tolist() == [2, 0, 1]
    words = saved(tmp_path / "c.npz", IMAGES[:3], labels=["7", "8", "30"])
    with pytest.raises(DataError, match=r"labels must be of one type: .*a\.npz holds int64 and .*c\.npz holds <U2"):
        images(train, classes=True, test_path=str(words))


@pytest.mark.parametrize(
    ("labels", "came"),
    [
        (np.arange(12) - 3, r"int64 of shape \(12,\), the smallest -3"),
        (np.arange(12) / 2, r"float64 of shape \(12,\)"),
        (np.full(12, np.nan), r"float64 of shape \(12,\)"),
        (np.arange(12) + 0j, "complex128"),
        (np.zeros(12, "M8[s]"), r"datetime64\[s\]"),
        (np.zeros(12, [("a", "i4")]), r"\('a', '<i4'\)"),
        (np.arange(11), r"int64 of shape \(11,\)"),
        (np.zeros((12, 2), int), r"int64 of shape \(12, 2\)"),
        (np.int64(3), r"int64 of shape \(\)"),
        (np.zeros(0, int), r"int64 of shape \(0,\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, came):
    with pytest.raises(DataError, match=rf"one for each of the 12 images, or as many names .*; they are {came}|{came}"):
        images(saved(tmp_path / "a.npz", IMAGES, labels=labels), classes=True)


def test_too_many_different_labels_are_refused(tmp_path):
    count = MOST_CLASSES + 1
    path = saved(tmp_path / "a.npz", np.zeros((count, 1, 1), np.uint8), labels=np.arange(count))
    with pytest.raises(DataError, match=rf"{count} different values, such as 0 and {count - 1}; .*classes=false"):
        images(path, classes=True)
    assert images(path).classes == 0
    assert torch.equal(images(path).train, torch.zeros(images(path).count("train"), 1, 1, 1))
