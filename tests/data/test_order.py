"""The order of rows: random whatever the source, the same for all that belongs to a row, and cheap to read."""

import io
import pickle
import re
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import encoded, write_folder, write_zip
from scipy.io import savemat
from scipy.stats import hypergeom

import genflow
from genflow.data import arrays
from genflow.data.arrays import gather
from genflow.data.base import Dataset, ToyDataset
from genflow.data.order import permutation
from genflow.data.paired import PairedDataset
from genflow.evaluate.reference import whole_pass
from genflow.registry import registries

EACH = 60
"""Images of each class in the files made here."""
BLOCKS = (50, 100, 250)
FIRST = {"train": [987, 1111, 1122, 729, 1125, 552], "test": [473, 136, 46, 306, 31, 165]}


def sorted_labels(classes, each=EACH):
    return np.repeat(np.arange(classes), each)


def levels(labels, *shape):
    """Images that are of one level, ten times their class."""
    return (
        np.broadcast_to(10 * labels[:, None], (len(labels), int(np.prod(shape)))).reshape(-1, *shape).astype(np.uint8)
    )


def cifar10(root):
    for k in range(1, 7):
        labels = sorted_labels(10)[(k - 1) * 120 :][:120] if k < 6 else sorted_labels(10, 20)
        name = f"data_batch_{k}" if k < 6 else "test_batch"
        batch = {"data": levels(labels, 3072), "labels": labels.tolist()}
        write_folder(root, {f"cifar-10-batches-py/{name}": pickle.dumps(batch)})
    return {"root": str(root)}


def svhn(root):
    for split, each in (("train", EACH), ("test", 20)):
        labels = sorted_labels(10, each)
        fields = {"X": levels(labels, 3, 32, 32).transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        savemat(root / f"{split}_32x32.mat", fields)
    return {"root": str(root)}


def imagenet32(root):
    parts = np.split(sorted_labels(10), 10)
    for name, labels in [
        *((f"train_data_batch_{k + 1}", part) for k, part in enumerate(parts)),
        ("val_data", parts[0]),
    ]:
        out = io.BytesIO()
        np.savez(out, data=levels(labels, 3072), labels=1 + labels)
        write_folder(root, {f"{name}.npz": out.getvalue()})
    return {"root": str(root)}


def image_files(each):
    return {f"kind{k}/{i:03d}.png": encoded(np.full((4, 4), 10 * k)) for k in range(5) for i in range(each)}


def folder(root):
    return {"path": str(write_folder(root / "a", image_files(EACH))), "classes": True}


def zipped(root):
    return {"path": str(write_zip(root / "a.zip", image_files(EACH))), "classes": True, "test_share": 0.4}


def given_test(root):
    return {**folder(root), "test_path": str(write_folder(root / "b", image_files(20)))}


def npz(root):
    labels = sorted_labels(5)
    np.savez(root / "a.npz", images=levels(labels, 4, 4, 1), labels=labels)
    return {"path": str(root / "a.npz"), "classes": True, "test_share": 0.4}


FILES = [
    ("cifar10", cifar10),
    ("svhn", svhn),
    ("imagenet32", imagenet32),
    ("images", folder),
    ("images", zipped),
    ("images", given_test),
    ("images", npz),
]
PLAIN = [
    (name, None)
    for name, entry in registries()["datasets"].entries().items()
    if not entry.tags.get("files") and genflow.get_dataset(name).classes
]


def check_shares(labels, classes):
    """Shares of each class in every prefix from 20 rows on, and in every block, within four standard deviations of
    draws without replacement.

    Of blocks of 20 rows the deviation says little, since two of a class are expected: their exact law is asked.
    """
    total, whole = len(labels), labels.bincount(minlength=classes).double()
    seen = torch.nn.functional.one_hot(labels, classes).double().cumsum(0)
    share = whole / total

    def deviations(counts, n):
        spread = torch.as_tensor(n * share * (1 - share) * (total - n) / (total - 1)).sqrt()
        return float(((counts - n * share).abs() / spread.clamp_min(1e-9)).max())

    sizes = torch.arange(20, total).double()[:, None]
    assert deviations(seen[19:-1], sizes) < 4
    for n in BLOCKS:
        blocks = seen[n - 1 :: n].diff(dim=0, prepend=torch.zeros(1, classes))
        assert len(blocks) == total // n
        assert total <= n or deviations(blocks, n) < 4
    few = seen[19::20].diff(dim=0, prepend=torch.zeros(1, classes)).numpy()
    chances = hypergeom.sf(few - 1, total, whole.numpy(), 20)
    assert chances.min() * few.size > 1e-3


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("name", "make"), FILES + PLAIN, ids=lambda value: getattr(value, "__name__", value))
def test_every_prefix_and_block_has_the_classes_of_its_split(tmp_path, monkeypatch, name, make):
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    data = genflow.get_dataset(name, **(make(tmp_path) if make else {}))
    for split in ("train", "test"):
        labels = data.labels(split)
        if data.count(split) > 20:
            check_shares(labels, data.classes)
        if make:
            assert torch.equal((data.split(split).flatten(1)[:, 0] / 10).long(), labels)
            rows = torch.tensor([3, 11, 3, 0])
            assert torch.equal((data.examples(split, rows).flatten(1)[:, 0] / 10).long(), labels[rows])


@pytest.mark.parametrize("make", [folder, zipped, given_test])
def test_images_that_are_read_when_asked_for_are_in_the_same_order(tmp_path, monkeypatch, make):
    options = make(tmp_path)
    held = genflow.get_dataset("images", **options)
    wanted = held.train
    monkeypatch.setattr("genflow.data.image_files.PictureDataset.HELD_BYTES", 0)
    data = genflow.get_dataset("images", **options)
    assert (held.held, data.held) == (True, False)
    assert torch.equal(data.labels("train"), held.labels("train"))
    assert torch.equal(data.examples("train", torch.arange(50)), wanted[:50])


def test_every_data_set_with_classes_is_tried():
    entries = registries()["datasets"].entries()
    wanted = {name for name, entry in entries.items() if entry.tags.get("classes")} | {"images"}
    assert wanted <= {name for name, _ in FILES + PLAIN}


# ---- data sets of a plugin -------------------------------------------------------------------------------


def points(labels):
    return labels[:, None] + torch.arange(len(labels))[:, None] / 10_000


LABELS = torch.arange(600) // 100


class ByProperty(Dataset):
    name, shape, classes = "by_property", (1,), 6
    train = property(lambda self: points(self.labels("train")))
    test = property(lambda self: points(self.labels("test")))

    def labels(self, split):
        return LABELS


class ByCachedProperty(ByProperty):
    @cached_property
    def train(self):
        return super().train  # as stored, since the data set itself asks

    @cached_property
    def test(self):
        return points(self.labels("test"))


class ByClassAttribute(ByProperty):
    train = test = points(LABELS)


class ByAssignment(ByProperty):
    def __init__(self):
        self.train = points(LABELS)
        self.test = points(LABELS)


class ByRows(Dataset):
    name, shape, classes, held = "by_rows", (1,), 6, False

    def count(self, split):
        return len(LABELS)

    def examples(self, split, rows):
        assert bool((rows.diff() >= 0).all()), "a disk is read from front to back"
        return points(self.labels(split))[rows]

    def labels(self, split):
        return LABELS


class Told:
    """A parent that is no data set."""

    def labels(self, split):
        return LABELS


class ByMixin(Told, Dataset):
    name, shape, classes = "by_mixin", (1,), 6
    train = test = points(LABELS)


class ByAnother(Dataset):
    """A data set around another one."""

    name, shape, classes = "by_another", (1,), 6
    inner = ByRows()

    def count(self, split):
        return self.inner.count(split)

    def examples(self, split, rows):
        return torch.cat([self.inner.examples(split, row[None]) for row in rows]) if len(rows) else torch.empty(0, 1)

    def labels(self, split):
        return self.inner.labels(split)


class ByArray(ByRows):
    """Gives arrays and lists where tensors are wanted, of other types."""

    def examples(self, split, rows):
        return points(LABELS).double().numpy()[rows]

    def labels(self, split):
        return LABELS.tolist() if split == "train" else LABELS.numpy().astype(np.uint8)


class ByArrayAttribute(ByProperty):
    train = test = points(LABELS).numpy()


class ByStaticMethod(ByProperty):
    @staticmethod
    def labels(split):
        return LABELS


class ByClassMethod(ByProperty):
    @classmethod
    def labels(cls, split):
        return LABELS


class ByFunctions(Dataset):
    """Functions of an instance, which hide the methods of its class."""

    name, shape, classes, held = "by_functions", (1,), 6, False

    def __init__(self):
        self.labels = lambda split: LABELS
        self.examples = lambda split, rows: points(LABELS)[rows]

    def count(self, split):
        return len(LABELS)


class SortedToy(ToyDataset):
    name, classes = "sorted_toy", 6

    def sample(self, count, *, generator):
        return points(self.components(count, generator=generator)).expand(-1, 2).contiguous()

    def components(self, count, *, generator):
        return torch.arange(count) * 6 // count


def pairs():
    return PairedDataset(
        "p", points(LABELS), -points(LABELS), points(LABELS), dict.fromkeys(("train", "test"), LABELS), 6
    )


PLUGINS = [
    ByProperty,
    ByCachedProperty,
    ByClassAttribute,
    ByAssignment,
    ByRows,
    ByMixin,
    ByAnother,
    ByArray,
    ByArrayAttribute,
    ByStaticMethod,
    ByClassMethod,
    ByFunctions,
    lambda: SortedToy(size=600),
    pairs,
]


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("make", PLUGINS)
def test_a_plugin_cannot_get_it_wrong(make):
    data = make()
    for split in ("train", "test"):
        labels, x = data.labels(split), data.split(split)
        check_shares(labels, 6)
        assert x.shape == (600, *data.shape)
        assert torch.equal(x[:, 0].floor().long(), labels)
        assert len(x.unique(dim=0)) == 600
        assert torch.equal(x, make().split(split)), "the order is fixed"
        rows = torch.tensor([5, 599, 5, 0])
        assert torch.equal(data.examples(split, rows), x[rows])
        assert torch.equal(torch.cat(list(data.chunks(split, 77))), x)
        swept = list(data.sweep(split, torch.arange(600), 77))
        assert torch.equal(torch.cat([raw for _, raw in swept]), x[torch.cat([rows for rows, _ in swept])])
        assert torch.equal(data.order(split), permutation(split, 600))
    assert pickle.loads(pickle.dumps(data)).train.equal(data.train) if make in PLUGINS[:4] else True
    if data.partners is not None:
        assert torch.equal(data.partners, -data.train)


@pytest.mark.parametrize("make", [ByProperty, ByRows, lambda: SortedToy(size=600), lambda: genflow.get_dataset("iris")])
def test_rows_are_asked_for_in_any_usual_way(make):
    data = make()
    x = data.train
    last = len(x) - 1
    mask = torch.arange(len(x)) % 7 == 3
    for rows in (
        [3, 3, 0],
        range(2),
        np.array([5, 1], np.int16),
        torch.tensor([2, 1], dtype=torch.uint8),
        [-1, -len(x)],
    ):
        assert torch.equal(data.examples("train", rows), x[torch.as_tensor(rows).long()])
    assert torch.equal(data.examples("train", mask), x[mask])
    assert data.examples("train", []).shape == (0, *data.shape)
    for rows in ([last + 1], [-last - 2], [0.0], [[0, 1]], 3, slice(2), None, "1", [True], torch.ones(5).bool()):
        with pytest.raises(ValueError, match=rf"rows = .* is not allowed; give .* whole numbers from 0 to {last}"):
            data.examples("train", rows)
    for size in (0, -1, 2.5, "3"):
        for passed in (data.chunks("train", size), data.sweep("train", torch.arange(3), size)):
            with pytest.raises(ValueError, match=r"size = .* is not allowed; give a whole number above 0"):
                next(passed)
    for asked in (data.labels, data.order, data.split, lambda split: data.examples(split, [0])):
        with pytest.raises(ValueError, match=r"split = 'val' is not allowed; give 'train' or 'test'"):
            asked("val")


def test_rows_that_are_too_many_or_too_few_are_named():
    class Longer(ByProperty):
        train = test = points(LABELS[:500])

    class Whole(ByRows):
        def examples(self, split, rows):
            return points(LABELS)

    with pytest.raises(ValueError, match=r"Longer gives labels of shape \(600,\) for 500 examples of its train split"):
        Longer().labels("train")
    with pytest.raises(ValueError, match=r"Whole gives rows of shape \(600, 1\) for 2 examples of its test split"):
        Whole().examples("test", [3, 1])


def test_whoever_writes_to_an_order_changes_their_own_copy_alone():
    data = ByProperty()
    data.order("train").zero_()
    assert torch.equal(data.order("train").sort()[0], torch.arange(600))


def test_the_data_set_of_the_docs_is_in_order():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    names = {}
    exec(next(code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "class Stripes" in code), names)
    data = names["Stripes"]()
    assert data.class_names == ("across", "down")
    for split in ("train", "test"):
        check_shares(data.labels(split), 2)
        across = (data.split(split)[:, 0, 0] == 255).all(1)
        assert torch.equal(data.labels(split), (~across).long())


def test_the_first_rows_of_the_two_orders_never_change():
    """Every recorded number is of these orders."""
    assert permutation("train", 1297)[:6].tolist() == FIRST["train"]
    assert permutation("test", 500)[:6].tolist() == FIRST["test"]


@pytest.mark.parametrize("name", ["chunks", "order", "split", "sweep"])
def test_what_gives_rows_in_order_belongs_to_the_base(name):
    with pytest.raises(TypeError, match=rf"Mine overrides {name}, .* is the base's own; give rows as they are stored"):
        type("Mine", (Dataset,), {name: lambda self, split: None})


def test_a_data_set_without_rows_says_so():
    class Empty(Dataset):
        name, shape = "empty", (2,)

    with pytest.raises(NotImplementedError, match="Empty gives no train"):
        Empty().train  # noqa: B018


# ---- reading ---------------------------------------------------------------------------------------------


class Counted(np.memmap):
    """A mapped file that notes the rows each read spans."""

    reads: list = []

    def __getitem__(self, key):
        if isinstance(key, slice) and len(self) == TOTAL:
            Counted.reads.append((key.start, key.stop))
        return super().__getitem__(key)


TOTAL = 20_000


@pytest.fixture
def mapped(tmp_path):
    """A data set of 20,000 images of 768 bytes in a mapped file, and the reads of its file."""
    rows = np.arange(TOTAL, dtype=np.uint32)
    raw = np.zeros((TOTAL, 3, 16, 16), np.uint8)
    raw[:, :, 0, :4] = rows.view(np.uint8).reshape(-1, 1, 4)
    np.save(tmp_path / "a.npy", raw)
    data = genflow.get_dataset("images", path=str(tmp_path / "a.npy"))
    data._parts = {k: type(v)(v.array.view(Counted), v.labels, v.rows) for k, v in data._parts.items()}
    Counted.reads = []
    return data


def numbers(raw):
    """The row of the file that each image is."""
    return (raw[:, 0, 0, :4] * torch.tensor([1.0, 256.0, 65536.0, 0.0])).sum(1).long()


def test_a_pass_over_a_mapped_file_reads_it_once_from_front_to_back(mapped):
    found = [numbers(raw) for raw in whole_pass(mapped, "train")]
    assert torch.cat(found).tolist() == mapped._part("train").rows.tolist()  # ascending
    reads = Counted.reads
    assert len(reads) <= len(found) + TOTAL * 768 // arrays.READ_BYTES  # one a chunk, and none twice
    assert all(before[1] <= after[0] for before, after in pairwise(reads))


def test_a_chunk_of_a_mapped_file_is_gathered_in_few_reads(mapped):
    """1,000 of 18,000 random rows lie 20 rows apart: near enough to be read together."""
    raw = mapped.examples("train", torch.arange(1000))
    wanted = mapped._part("train").rows[mapped.order("train")[:1000].numpy()]
    assert numbers(raw).tolist() == wanted.tolist()
    assert len(Counted.reads) < 20
    assert all(stop - start <= arrays.READ_BYTES // 768 for start, stop in Counted.reads)
    Counted.reads = []
    mapped.examples("train", torch.tensor([0, 1, 2]))
    assert len(Counted.reads) == 3  # far apart: each by itself


def test_gathered_rows_are_those_of_plain_indexing(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "GAP_BYTES", 40)
    monkeypatch.setattr(arrays, "READ_BYTES", 200)
    array = np.random.RandomState(0).rand(300, 2, 3).astype(np.float16)
    np.save(tmp_path / "a.npy", array)
    for mode in (None, "r"):
        stored = np.load(tmp_path / "a.npy", mmap_mode=mode)
        for seed in range(20):
            places = np.sort(np.random.RandomState(seed).randint(0, 300, seed * 7))
            for view, plain in ((stored, array), (stored.transpose(0, 2, 1), array.transpose(0, 2, 1))):
                found = gather(view, places)
                assert found.dtype == np.float32
                assert np.array_equal(found, plain[places].astype(np.float32))


def test_the_first_rows_are_kept_in_order_and_the_rest_as_they_lie(mapped):
    found = torch.cat([numbers(raw) for raw in whole_pass(mapped, "train", 500, keep=70)])
    first = numbers(mapped.examples("train", torch.arange(500)))
    assert torch.equal(found[:70], first[:70])
    assert found[70:].tolist() == sorted(first[70:].tolist())
