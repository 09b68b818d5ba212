"""Folders and zip files of images: what is read, what is refused, and what is done about bad files."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from image_files import colour_files, encoded, noise, write_folder, write_zip
from PIL import Image
from stored import stored

import genflow
from genflow.data.downloads import DataError
from genflow.data.image_files import PictureDataset
from genflow.data.sources import FolderSource, ZipSource, open_source

COUNT = 12
SPLIT = np.random.RandomState(0).permutation(COUNT)
"""The declared split: the last of this permutation are held out."""


def images(path, **options):
    return genflow.get_dataset("images", path=str(path), **options)


@pytest.fixture
def unheld(monkeypatch):
    monkeypatch.setattr(PictureDataset, "HELD_BYTES", 0)


@pytest.fixture(params=["folder", "zip", "stored zip"])
def place(request, tmp_path):
    """Twelve random images of 6x5 pixels in sub-folders, other files among them."""
    files = {**colour_files(COUNT, name="sub{0}/img{0:03d}.png"), "notes.txt": b"no image", "__MACOSX/._img.png": b"x"}
    if request.param == "folder":
        return write_folder(tmp_path / "data", files)
    method = zipfile.ZIP_STORED if "stored" in request.param else zipfile.ZIP_DEFLATED
    return write_zip(tmp_path / "data.zip", files, method)


def expected(rows):
    names = sorted(f"sub{k}/img{k:03d}.png" for k in range(COUNT))
    kept = [int(names[row].split("/")[0][3:]) for row in rows]
    return torch.from_numpy(np.stack([noise(k, 6, 5, 3) for k in kept])).permute(0, 3, 1, 2).float()


# ---- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, "unheld"])
def test_pixels_split_and_scaling(place, size, request):
    if size:
        request.getfixturevalue("unheld")
    data = images(place, test_share=0.25)
    assert (data.shape, data.held, data.classes, data.flip) == ((3, 6, 5), size is None, 0, False)
    assert (data.count("train"), data.count("test")) == (9, 3)
    assert torch.equal(stored(data, "train"), expected(np.sort(SPLIT[:-3])))
    assert torch.equal(stored(data, "test"), expected(np.sort(SPLIT[-3:])))
    assert torch.equal(data.examples("train", torch.tensor([4, 0, 4])), data.train[[4, 0, 4]])
    assert torch.equal(torch.cat(list(data.chunks("train", 4))), data.train)
    assert data.examples("test", torch.empty(0, dtype=torch.int64)).shape == (0, 3, 6, 5)
    dequantised = data.scaling.encode(data.train, torch.Generator().manual_seed(0))
    assert torch.equal(data.scaling.decode(dequantised), data.train)
    assert data.labels("train") is None
    assert data.declared()["source"] == str(place)


def test_a_large_set_reads_only_what_is_asked_for(tmp_path, unheld):
    folder = write_folder(tmp_path, colour_files(COUNT))
    data = images(folder, size=4, channels=3)
    opened = []
    source = data._pictures["train"].source
    source.read = lambda name, most=-1, read=source.read: opened.append(name) or read(name, most)
    assert data.examples("train", torch.tensor([3, 1])).shape == (2, 3, 4, 4)
    names = data._pictures["train"].names
    assert opened == [names[row] for row in sorted(data.order("train")[[3, 1]].tolist())]  # as they lie


def test_a_header_is_enough_for_the_shape(tmp_path, unheld):
    """Files of 200 kB: their shape comes from the first bytes, or from all of a file that keeps it elsewhere."""
    for k in range(3):
        Image.fromarray(noise(k, 256, 256, 3)).save(tmp_path / f"{k}.{'tif' if k == 2 else 'png'}")
    reads = []
    plain = FolderSource.read

    def read(self, name, most=-1):
        reads.append((name, len(data := plain(self, name, most))))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderSource, "read", read)
        assert images(tmp_path).shape == (3, 256, 256)
    assert all(size <= 2**16 for name, size in reads if name != "2.tif")


def test_a_zip_source_survives_pickling_and_forking(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", colour_files(3)))
    first = source.read(source.names[0])
    assert pickle.loads(pickle.dumps(source)).read(source.names[0]) == first
    handle = source._archive
    source._owner = -1  # as a forked process finds it
    assert source.read(source.names[0]) == first
    assert source._archive is not handle


def test_test_path_and_flip(tmp_path):
    train, test = (write_folder(tmp_path / name, colour_files(n)) for name, n in (("a", 4), ("b", 2)))
    data = images(train, test_path=str(test), flip=True)
    assert (data.count("train"), data.count("test"), data.flip) == (4, 2, True)
    assert "mirrored" in data.declared()["flip"]
    with pytest.raises(ValueError, match="flip = 1 is not allowed"):
        images(train, flip=1)


@pytest.mark.parametrize("held", [True, False])
def test_top_folders_are_classes(tmp_path, held, request):
    if not held:
        request.getfixturevalue("unheld")
    kinds = ("ant", "bee", "cat")
    files = {f"{kinds[k % 3]}/deep/{k:02d}.png": encoded(np.full((4, 4), 10 * (k % 3))) for k in range(COUNT)}
    data = images(write_folder(tmp_path, files), classes=True)
    assert data.classes == 3
    for split in ("train", "test"):
        assert torch.equal(data.labels(split), (data.split(split)[:, 0, 0, 0] / 10).long())
        assert data.labels(split).dtype == torch.int64
    write_folder(tmp_path, {"loose.png": encoded(np.zeros((4, 4)))})
    with pytest.raises(DataError, match=r"loose.png is in no sub-folder"):
        images(tmp_path, classes=True)


def test_classes_of_both_folders_must_agree(tmp_path):
    train = write_folder(tmp_path / "a", {"ant/0.png": encoded(noise(0, 4, 4))})
    test = write_folder(tmp_path / "b", {"bee/0.png": encoded(noise(0, 4, 4))})
    with pytest.raises(DataError, match="differ: ant, bee"):
        images(train, test_path=str(test), classes=True)


# ---- size and channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "box"), [(4, (1, 0, 7, 6)), ([3, 4], (0, 0, 8, 6)), ([8, 4], (2, 0, 5, 6))])
def test_resizing_takes_the_largest_centred_box(tmp_path, size, box):
    levels = noise(1, 6, 8, 3)
    folder = write_folder(tmp_path, {"a.png": encoded(levels), "b.png": encoded(levels)})
    data = images(folder, size=size)
    height, width = (size, size) if isinstance(size, int) else size
    wanted = Image.fromarray(levels).crop(box).resize((width, height), Image.Resampling.BICUBIC)
    assert data.shape == (3, height, width)
    assert torch.equal(data.train[0], torch.from_numpy(np.array(wanted)).permute(2, 0, 1).float())
    assert f"{height}x{width}" in data.declared()["preprocessing"]


def test_shrinking_is_antialiased(tmp_path):
    """A fine chequered pattern shrinks to its mean, not to one of its levels."""
    pattern = 200 * (np.indices((64, 64)).sum(0) % 2)
    data = images(write_folder(tmp_path, {f"{k}.png": encoded(pattern) for k in range(2)}), size=8)
    assert float((data.train - 100).abs().max()) <= 2


def test_mixed_sizes_name_the_first_two_that_differ(tmp_path):
    files = {"a.png": (4, 4), "b.png": (4, 4), "c.png": (6, 4), "d.png": (9, 9)}
    write_folder(tmp_path, {name: encoded(noise(0, *size, 3)) for name, size in files.items()})
    with pytest.raises(DataError, match=r"differ in size: .*a.png has 4x4, .*[cd].png has (6x4|9x9); give size=S"):
        images(tmp_path, test_path=str(write_folder(tmp_path / "x", {"e.png": encoded(noise(0, 4, 4, 3))})))
    assert images(tmp_path, size=4).shape == (3, 4, 4)


def test_mixed_channels_are_named_and_converted_where_declared(tmp_path):
    colour, grey = noise(0, 4, 4, 3), noise(1, 4, 4)
    write_folder(tmp_path, {"a.png": encoded(grey), "b.png": encoded(colour)})
    with pytest.raises(DataError, match=r"differ in channels: .*a.png has 1 channels, .*b.png has 3 channels; give ch"):
        images(tmp_path, test_path=str(tmp_path))
    one, three = images(tmp_path, channels=1), images(tmp_path, channels=3)
    assert (one.shape, three.shape) == ((1, 4, 4), (3, 4, 4))
    found = {"one": torch.cat([one.train, one.test]), "three": torch.cat([three.train, three.test])}
    luma = (colour @ np.array([0.299, 0.587, 0.114]))[None]
    assert any(np.abs(image.numpy() - luma).max() <= 1 for image in found["one"])
    assert any(torch.equal(image, torch.from_numpy(grey).float().expand(3, 4, 4)) for image in found["three"])


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA"])
def test_other_modes_want_a_declared_conversion(tmp_path, mode):
    for k in range(2):
        image = Image.fromarray(noise(k, 4, 4, 3)).convert("L" if mode == "LA" else "RGB").convert(mode)
        image.save(tmp_path / f"{k}.{'tif' if mode == 'CMYK' else 'png'}")
    with pytest.raises(DataError, match=rf"[01]\.(png|tif) is neither grey nor RGB \(mode {mode}.*channels=3 converts"):
        images(tmp_path, size=4)
    assert images(tmp_path, channels=3).shape == (3, 4, 4)


def test_deep_images_are_refused_not_clipped(tmp_path):
    for k in range(2):
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / f"{k}.png")
    with pytest.raises(DataError, match=r"more than 8 bits a channel \(16 bits"):
        images(tmp_path, channels=1, size=4).train  # noqa: B018


# ---- bad files -------------------------------------------------------------------------------------------

GOOD = colour_files(COUNT)
PNG = GOOD["img005.png"]
BAD = {
    "truncated": PNG[: len(PNG) // 2],
    "text": b"this is no image",
    "empty": b"",
    "flipped": PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:],
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("declared", [{}, {"size": 5, "channels": 3}])
def test_a_corrupt_image_is_named(tmp_path, kind, bad, held, declared, request):
    if not held:
        request.getfixturevalue("unheld")
    files = {**GOOD, "img005.png": BAD[bad]}
    place = write_folder(tmp_path / "d", files) if kind == "folder" else write_zip(tmp_path / "d.zip", files)
    with pytest.raises(DataError, match=r"img005\.png is damaged.*on_bad_image=skip"):
        torch.cat([images(place, **declared).split(split) for split in ("train", "test")])


@pytest.mark.parametrize("declared", [{}, {"size": 5, "channels": 3}])
def test_skipping_counts_and_says_so_once(tmp_path, capsys, declared):
    place = write_folder(tmp_path, {**GOOD, "img005.png": BAD["text"], "img007.png": BAD["truncated"]})
    data = images(place, on_bad_image="skip", test_share=0.25, **declared)
    assert data.count("train") + data.count("test") == COUNT - 2
    assert data.skipped == 2
    assert data.declared()["skipped"] == "2"
    note = capsys.readouterr().err
    assert note.count("genflow: skipping") == 1
    assert "img005.png, which is damaged" in note or "img007.png" in note
    whole = images(write_folder(tmp_path / "whole", GOOD), test_share=0.25, **declared)
    kept = {image.numpy().tobytes() for split in ("train", "test") for image in data.split(split)}
    all_good = {image.numpy().tobytes() for split in ("train", "test") for image in whole.split(split)}
    assert len(kept) == COUNT - 2
    assert kept < all_good


def test_of_a_large_set_the_next_of_its_class_stands_in(tmp_path, unheld, capsys):
    files = {f"{'ab'[k % 2]}/{k:02d}.png": encoded(np.full((4, 4), k)) for k in range(COUNT)}
    test = write_folder(tmp_path / "test", {name.replace("0", "9"): data for name, data in files.items()})
    files["a/04.png"] = files["a/06.png"] = b"bad"
    train = write_folder(tmp_path / "train", files)
    data = images(train, test_path=str(test), classes=True, size=4, channels=1, on_bad_image="skip")
    rows = torch.arange(data.count("train"))
    levels = data.examples("train", rows)[:, 0, 0, 0]
    assert levels[data.order("train").argsort()].tolist() == [0, 2, 8, 8, 8, 10, 1, 3, 5, 7, 9, 11]
    assert torch.equal(data.labels("train"), (levels % 2).long())
    assert torch.equal(data.examples("train", rows.flip(0))[:, 0, 0, 0], levels.flip(0))
    assert data.skipped == 2
    assert capsys.readouterr().err.count("genflow: skipping") == 1


def test_no_stand_in_is_said(tmp_path, unheld):
    files = {"a/0.png": b"bad", "b/0.png": encoded(noise(0, 4, 4)), "b/1.png": encoded(noise(1, 4, 4))}
    place = str(write_folder(tmp_path, files))
    data = images(place, test_path=place, classes=True, size=4, channels=1, on_bad_image="skip")
    with pytest.raises(DataError, match=r"no image can stand in for .*a/0.png"):
        data.examples("train", torch.tensor([0]))


def test_too_many_bad_images_end_it(tmp_path):
    place = write_folder(tmp_path, {**GOOD, **{f"img{k:03d}.png": b"bad" for k in range(3)}})
    assert images(place, on_bad_image="skip", bad_limit=3).count("train") > 0
    with pytest.raises(DataError, match=r"more than bad_limit = 2 images.*img00\d.png.*img00\d.png"):
        images(place, on_bad_image="skip", bad_limit=2).train  # noqa: B018
    bad = {f"{k}.png": b"bad" for k in range(4)}
    with pytest.raises(DataError, match="has no image that can be used"):
        images(write_folder(tmp_path / "bad", bad), on_bad_image="skip").train  # noqa: B018


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_file_that_vanishes_is_named(tmp_path, unheld, action, capsys):
    data = images(write_folder(tmp_path, GOOD), on_bad_image=action)
    gone = data._pictures["train"].names[2]
    os.remove(tmp_path / gone)
    if action == "stop":
        with pytest.raises(DataError, match=rf"{gone} has vanished"):
            data.train  # noqa: B018
        return
    assert torch.equal(*stored(data, "train")[2:4])
    assert gone in capsys.readouterr().err


def test_an_archive_that_vanishes_is_named(tmp_path, unheld):
    data = images(write_zip(tmp_path / "a.zip", GOOD))
    data._pictures["train"].source._owner = -1  # as a forked process finds it
    os.remove(tmp_path / "a.zip")
    with pytest.raises(DataError, match="is in an archive that has vanished"):
        data.train  # noqa: B018


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "wide.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "wider.png")
    with pytest.raises(DataError, match=r"wide.* is too large"):
        images(tmp_path, size=4, channels=1).train  # noqa: B018


# ---- places ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "..\\evil.png", "C:\\evil.png", "\\evil.png"]
)
def test_names_that_leave_an_archive_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "evil.zip", {**colour_files(2), name: PNG})
    with pytest.raises(DataError, match=r"refused: its member .*evil.png' points outside the archive"):
        images(path)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.zip"]


@pytest.mark.parametrize("size", [2**25, 2**28 + 1])
def test_zip_bombs_are_refused_by_their_declared_size(tmp_path, size):
    """32 MiB of zeros pack to 1/1000; 256 MiB are too many at any ratio (declared in the directory)."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", PNG)
        archive.writestr("bomb.png", bytes(min(size, 2**25)))
    if size > 2**28:
        data = path.read_bytes()
        entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
        declared = size.to_bytes(4, "little")
        packed = (size // 2).to_bytes(4, "little")
        path.write_bytes(data[: entry + 20] + packed + declared + data[entry + 28 :])
    with pytest.raises(DataError, match=rf"refused: its member 'bomb.png' would unpack from \d+ to {size} bytes"):
        images(path)


def test_a_lying_directory_unpacks_no_more_than_it_declares(tmp_path):
    path = tmp_path / "liar.zip"
    write_zip(path, {"a.png": PNG, "liar.png": bytes(2**22)})
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    path.write_bytes(data[: entry + 24] + (100).to_bytes(4, "little") + data[entry + 28 :])
    with pytest.raises(DataError, match=r"liar.png (cannot be unpacked|is damaged)"):
        images(path).train  # noqa: B018


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), r"has no images \(\.png, .*\): it holds nothing"),
        (lambda p: write_folder(p, {"a.txt": b"", "b/c.csv": b""}), r"holds 2 other files, such as a\.txt"),
        (lambda p: write_zip(p, {"a.txt": b"x"}), r"has no images .*1 other files, such as a\.txt"),
        (lambda p: p.write_bytes(b"text"), "is neither a zip file nor an array file; give a folder"),
        (
            lambda p: p.write_bytes(write_zip(p, GOOD).read_bytes()[:300]),
            "cannot be read as a zip file: it is truncated or damaged",
        ),
        (lambda p: None, "does not exist; give a folder"),
        (lambda p: write_folder(p, {"a.png": PNG}), r"holds 1 example\(s\)"),
    ],
    ids=["empty", "no images", "zip without", "text", "truncated zip", "nothing", "one image"],
)
def test_places_without_images_are_named(tmp_path, make, message):
    path = tmp_path / "place"
    make(path)
    with pytest.raises(DataError, match=message) as error:
        images(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "path = ''"),
        ({"size": 0}, "size = 0"),
        ({"size": [4]}, r"size = \[4\]"),
        ({"size": "big"}, "size = 'big'"),
        ({"channels": 4}, "channels = 4 is not allowed; give 1 or 3"),
        ({"test_share": 1}, "test_share = 1"),
        ({"classes": "yes"}, "classes = 'yes'"),
        ({"on_bad_image": "ignore"}, "on_bad_image = 'ignore'.*'stop' or 'skip'"),
        ({"bad_limit": -1}, "bad_limit = -1"),
        ({"range": [0, 1]}, "range is for arrays"),
        ({"range": [1, 0]}, "range = "),
        ({"sise": 4}, "did you mean 'size'"),
    ],
)
def test_bad_options_are_refused_by_name(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        genflow.get_dataset("images", **{"path": str(write_folder(tmp_path, GOOD)), **options})


def test_the_source_of_a_zip_lists_images_in_order(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", {"b.png": PNG, "a.JPG": PNG, ".hidden.png": PNG}))
    assert isinstance(source, ZipSource)
    assert source.names == ["a.JPG", "b.png"]
