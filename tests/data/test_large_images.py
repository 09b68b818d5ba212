"""CelebA, LSUN and FFHQ on small files of the published formats."""

import numpy as np
import pytest
import torch
from image_files import encoded, noise, write_folder, write_zip
from PIL import Image
from stored import stored

import genflow
from genflow.data.downloads import DataError

# ---- CelebA ----------------------------------------------------------------------------------------------

FACES = 12
PARTITION = [0, 1, 2, 0, 0, 2, 1, 0, 0, 0, 2, 0]


def face(k):
    """A smooth picture of 218x178 pixels, so that JPEG and resizing change little."""
    y, x = np.mgrid[0:218, 0:178]
    return np.stack([y * 255 / 218, x * 255 / 178, np.full_like(y, 20.0 * k)], 2).astype(np.uint8)


def celeba(folder, form="zip", form_of_images="JPEG", partition=PARTITION):
    files = {f"img_align_celeba/{k + 1:06d}.jpg": encoded(face(k), form_of_images) for k in range(FACES)}
    if form == "zip":
        write_zip(folder / "img_align_celeba.zip", files)
    else:
        write_folder(folder, files)
    lines = "".join(f"{k + 1:06d}.jpg {part}\n" for k, part in enumerate(partition))
    (folder / "list_eval_partition.txt").write_text(lines)
    return str(folder)


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_celeba_follows_its_partition_file(tmp_path, form):
    root = celeba(tmp_path, form)
    data = genflow.get_dataset("celeba64", root=root)
    other = genflow.get_dataset("celeba64", root=root, held_out="validation", flip=False)
    assert data.shape == (3, 64, 64)
    assert data.train.shape == (7, 3, 64, 64)
    assert (data.flip, other.flip, data.scaling.levels) == (True, False, 256)
    for split, part in ((stored(data, "train"), 0), (stored(data, "test"), 2), (stored(other, "test"), 1)):
        numbers = (split[:, 2].mean((1, 2)) / 20).round().int().tolist()
        assert numbers == [k for k in range(FACES) if PARTITION[k] == part]
    assert torch.equal(data.train, other.train)
    assert "140x140" in data.declared()["preprocessing"]
    assert "19,962 test" in data.declared()["split"]
    assert "validation part" in other.declared()["split"]


def test_celeba_is_cropped_to_140_pixels_and_averaged_down(tmp_path):
    """Lossless stand-ins: the crop is rows 39 to 178, columns 19 to 158; each pixel is a mean of a ramp."""
    data = genflow.get_dataset("celeba64", root=celeba(tmp_path, form_of_images="PNG"))
    first = stored(data, "train")[0]
    crop = torch.from_numpy(face(0)[39:179, 19:159]).permute(2, 0, 1).float()
    torch_way = torch.nn.functional.interpolate(crop[None], (64, 64), mode="bilinear", antialias=True)[0]
    assert float((first - torch_way).abs().max()) <= 1
    centres = (np.arange(64) + 0.5) * 140 / 64 - 0.5 + 39
    assert np.abs(first[0, 1:-1, 30].numpy() - centres[1:-1] * 255 / 218).max() <= 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "999999.jpg 0\n", r"lacks 999999\.jpg, which .*list_eval_partition\.txt:13 names"),
        (lambda text: text.replace("000002.jpg 1", "000002.jpg 7"), r"list_eval_partition\.txt:2 is '000002\.jpg 7'"),
        (lambda text: "<html>", r"list_eval_partition\.txt:1 is '<html>'"),
        (lambda text: "000001.jpg 0\n", "the test split of 'celeba64' has no image"),
    ],
)
def test_a_wrong_partition_file_is_named(tmp_path, change, message):
    root = celeba(tmp_path)
    path = tmp_path / "list_eval_partition.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        genflow.get_dataset("celeba64", root=root)


def test_held_out_is_a_published_part(tmp_path):
    with pytest.raises(ValueError, match="held_out = 'valid' is not allowed"):
        genflow.get_dataset("celeba64", root=celeba(tmp_path), held_out="valid")


def test_a_small_image_is_named(tmp_path):
    files = {f"img_align_celeba/{k}.jpg": encoded(noise(k, 100, 100, 3)) for k in range(2)}
    write_folder(tmp_path, files)
    (tmp_path / "list_eval_partition.txt").write_text("0.jpg 0\n1.jpg 2\n")
    with pytest.raises(DataError, match=r"0\.jpg is 100x100, smaller than the crop of 140x140"):
        genflow.get_dataset("celeba64", root=str(tmp_path)).train  # noqa: B018


# ---- LSUN ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "zip", "lmdb"])
def test_bedrooms_are_cropped_and_resized_as_published(tmp_path, form):
    rooms = {f"room{k}": noise(k, 40, 56, 3) for k in range(5)}
    for part, names in (("train", list(rooms)[:3]), ("val", list(rooms)[3:])):
        files = {f"{name}.png": encoded(rooms[name]) for name in names}
        if form == "lmdb":
            lmdb = pytest.importorskip("lmdb")
            with (
                lmdb.open(str(tmp_path / f"bedroom_{part}_lmdb"), map_size=2**24) as base,
                base.begin(write=True) as out,
            ):
                for name in names:
                    out.put(name.encode(), encoded(rooms[name], "WEBP", lossless=True))
        elif form == "zip":
            write_zip(tmp_path / f"bedroom_{part}.zip", files)
        else:
            write_folder(tmp_path / f"bedroom_{part}", files)
    data = genflow.get_dataset("lsun_bedroom", root=str(tmp_path), size=16)
    assert (data.count("train"), data.count("test"), data.shape, data.flip) == (3, 2, (3, 16, 16), True)
    squares = [Image.fromarray(room[:, 8:48]).resize((16, 16), Image.Resampling.BICUBIC) for room in rooms.values()]
    whole = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()
    assert torch.equal(torch.cat([stored(data, "train"), stored(data, "test")]), whole)


def test_an_lmdb_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    write_folder(tmp_path, {"bedroom_train_lmdb/data.mdb": b"", "bedroom_val_lmdb/data.mdb": b""})
    with pytest.raises(DataError, match=r"pip install 'genflow\[lsun\]'"):
        genflow.get_dataset("lsun_bedroom", root=str(tmp_path))


# ---- FFHQ ------------------------------------------------------------------------------------------------

NUMBERS = [0, 1, 999, 59_999, 60_000, 69_999]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("ffhq-8x8.zip", "{0:05d}/img{1:08d}.png"),
        ("thumbnails128x128", "{0:05d}/{1:05d}.png"),
        ("images1024x1024.zip", "{1:05d}.png"),
    ],
)
def test_faces_split_at_number_60000(tmp_path, place, name):
    files = {name.format(k // 1000 * 1000, k): encoded(np.full((8, 8, 3), i)) for i, k in enumerate(NUMBERS)}
    files["dataset.json"] = b"{}"
    if place.endswith("zip"):
        write_zip(tmp_path / place, files)
    else:
        write_folder(tmp_path / place, files)
    data = genflow.get_dataset("ffhq", root=str(tmp_path), size=8)
    assert stored(data, "train")[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert stored(data, "test")[:, 0, 0, 0].tolist() == [4, 5]
    assert data.flip


def test_faces_without_numbers_or_held_out_ones_are_named(tmp_path):
    with pytest.raises(DataError, match=r"face\.png has no number"):
        genflow.get_dataset("ffhq", root=str(write_folder(tmp_path, {"ffhq-64x64/face.png": b""})))
    (tmp_path / "ffhq-64x64" / "face.png").rename(tmp_path / "ffhq-64x64" / "00001.png")
    with pytest.raises(DataError, match="the test split of 'ffhq' has no image"):
        genflow.get_dataset("ffhq", root=str(tmp_path))
    with pytest.raises(ValueError, match="ffhq: size = 0"):
        genflow.get_dataset("ffhq", root=str(tmp_path), size=0)
