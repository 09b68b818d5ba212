"""Folders and zip files as people and their machines make them: what is read, what is told, what is a class."""

import io
import os
import socket
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import colour_files, encoded, noise, write_folder, write_zip

import genflow
from genflow.data import notes
from genflow.data.downloads import DataError
from genflow.data.image_formats import image_suffixes
from genflow.training import check_data

CATS = {f"cats/{k}.png": encoded(np.full((4, 4), 10 + k)) for k in range(6)}
DOGS = {f"dogs/{k}.png": encoded(np.full((4, 4), 200 + k)) for k in range(6)}
PETS = {**CATS, **DOGS}
SIX = colour_files(6)


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(notes, "_SAID", set())


def images(path, **options):
    return genflow.get_dataset("images", path=path, **options)


def total(data):
    return data.count("train") + data.count("test")


def check_pets(data):
    """Two classes by name, and each image with its own."""
    assert data.class_names == ("cats", "dogs")
    assert data.classes == 2
    assert total(data) == len(PETS)
    for split in ("train", "test"):
        assert torch.equal(data.labels(split), (data.split(split)[:, 0, 0, 0] > 100).long())


def placed(tmp_path, kind, files):
    return write_folder(tmp_path / "place", files) if kind == "folder" else write_zip(tmp_path / "place.zip", files)


# ---- classes ---------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("wrapper", ["", "photos/", "a/b/c/", "Meine Fotos (2)/", "#1: x/", "-d/", "\u5199\u771f/"])
@pytest.mark.parametrize(
    "others", [{}, {"readme.txt": b"x"}, {"photos/.DS_Store": b"x"}, {"__MACOSX/photos/cats/._0.png": b"x"}]
)
def test_wrappers_are_looked_through(tmp_path, kind, wrapper, others, caplog):
    data = images(placed(tmp_path, kind, {wrapper + name: file for name, file in PETS.items()} | others), classes=True)
    check_pets(data)
    assert "images: classes 0 cats, 1 dogs" in caplog.messages
    assert bool(others) == any("1 other files passed over" in line for line in caplog.messages)


def test_names_of_classes_are_said_once(tmp_path, caplog):
    place = write_folder(tmp_path, PETS)
    for _ in range(3):
        images(place, classes=True)
    assert caplog.messages.count("images: classes 0 cats, 1 dogs") == 1
    assert images(place).class_names == ()


@pytest.mark.parametrize(
    "name", ["naïve café", "a b", "#2", "x: y", "-v", "line\nbreak", "n" * 200, "2024", "null", "~"]
)
def test_classes_of_any_name(tmp_path, name, caplog):
    data = images(
        write_folder(tmp_path, {**{f"{name}/{k}.png": f for k, f in enumerate(CATS.values())}, **DOGS}), classes=True
    )
    assert data.class_names == tuple(sorted(["dogs", name]))
    assert all(line.isprintable() for line in caplog.messages)


def test_accents_mean_the_same_in_both_ways_of_writing_them(tmp_path):
    one = {f"caf\u00e9/{k}.png": encoded(noise(k, 4, 4)) for k in range(3)}
    other = {f"cafe\u0301/{k}.png": encoded(noise(k, 4, 4)) for k in range(3)}
    train, test = write_folder(tmp_path / "a", {**one, **DOGS}), write_zip(tmp_path / "b.zip", {**other, **DOGS})
    assert images(train, test_path=str(test), classes=True).class_names == ("caf\u00e9", "dogs")


def test_nested_folders_equal_names_and_empty_folders(tmp_path, caplog):
    files = {**CATS, **{name.replace("/", "/big/old/"): file for name, file in DOGS.items()}}
    place = write_folder(tmp_path, files)
    for name in ("birds", "birds/rare", ".hidden", "cats/none"):
        (place / name).mkdir()
    write_folder(place, {"fish/notes.txt": b"x"})
    check_pets(images(place, classes=True))
    assert any("folders without images are not classes: birds, fish" in line for line in caplog.messages)


@pytest.mark.parametrize("wrapper", ["", "photos/", "a/b/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_image_beside_the_class_folders_is_named(tmp_path, wrapper, kind):
    files = {wrapper + name: file for name, file in {**PETS, "loose.png": SIX["img000.png"]}.items()}
    place = placed(tmp_path, kind, files)
    with pytest.raises(DataError, match=r"loose\.png is in no sub-folder, beside the class folders cats, dogs"):
        images(place, classes=True)
    assert total(images(place, channels=1, size=4)) == len(PETS) + 1


def test_one_class_and_folders_that_are_not_used_are_told(tmp_path, caplog):
    images(write_folder(tmp_path / "one", CATS), classes=True)
    assert any("all images are in one class, cats; give the folder above" in line for line in caplog.messages)
    images(write_folder(tmp_path / "two", PETS))
    assert any("2 folders (cats, dogs) are not used as classes; classes=true uses them" in x for x in caplog.messages)
    caplog.clear()
    images(write_folder(tmp_path / "flat", SIX))
    assert not any("class" in line for line in caplog.messages)


@pytest.mark.parametrize("inner", [".", "cats", "link", "../place/dogs"])
def test_held_out_images_that_are_trained_on_too_are_told(tmp_path, inner, caplog):
    place = write_folder(tmp_path / "place", PETS)
    (place / "link").symlink_to(place / "cats")
    images(place, test_path=place / inner)
    assert any("so the held-out images are trained on too" in line for line in caplog.messages)
    caplog.clear()
    images(place / "cats", test_path=place / "dogs")
    assert not any("trained on too" in line for line in caplog.messages)


def test_parts_that_are_taken_for_classes_and_classes_without_training_images_are_told(tmp_path, caplog):
    images(
        write_folder(tmp_path / "a", {**{f"train/{x}": y for x, y in PETS.items()}, "test/0.png": CATS["cats/0.png"]}),
        classes=True,
    )
    assert any("names of splits; give one as path and the other as test_path" in line for line in caplog.messages)
    files = {f"{k:03d}/0.png": file for k, file in enumerate(PETS.values())}
    images(write_folder(tmp_path / "b", files), classes=True, test_share=0.5)
    assert any("no training image of class" in line for line in caplog.messages)


def test_labels_of_an_array_file_that_are_not_used_are_told(tmp_path, caplog):
    np.savez(tmp_path / "a.npz", images=noise(0, 6, 4, 4), labels=np.arange(6) % 2)
    images(tmp_path / "a.npz")
    assert any("the array labels is not used; classes=true" in line for line in caplog.messages)


# ---- other files -----------------------------------------------------------------------------------------


def test_every_suffix_of_pillow_is_read_in_any_case(tmp_path):
    png = SIX["img000.png"]
    suffixes = sorted(image_suffixes())
    files = {f"{k}{suffix.upper() if k % 2 else suffix}": png for k, suffix in enumerate(suffixes)}
    assert total(images(write_folder(tmp_path, files))) == len(suffixes)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_other_files_are_counted_by_their_suffixes(tmp_path, kind, caplog):
    hidden = (".DS_Store", "__MACOSX/._img.png", ".git/config", "._z.png")
    others = ("a.txt", "b.TXT", "Thumbs.db", "x.heic", "LICENSE", "deep/y.json", "inner.zip")
    data = images(placed(tmp_path, kind, {**SIX, **dict.fromkeys(hidden + others, b"words")}))
    assert total(data) == 6
    line = next(line for line in caplog.messages if "passed over" in line)
    assert "6 images; 11 other files passed over: 4 hidden, 2 .txt, " in line
    for part in ("1 .db", "1 .heic", "1 without a suffix", "1 .json", "1 .zip"):
        assert part in line


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_without_a_suffix_are_told_by_their_first_bytes(tmp_path, kind):
    forms = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "QOI")
    files = {f"{form.lower()}0001": encoded(noise(0, 8, 8, 3), form) for form in forms}
    assert total(images(placed(tmp_path, kind, {**files, "README": b"Pictures"}), channels=3)) == len(forms)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_place_of_archives_alone_says_what_to_do(tmp_path, kind):
    place = placed(tmp_path, kind, {"inner.zip": b"PK", "a.tar": b"x"})
    with pytest.raises(DataError, match=r"has no images .*2 other files, such as a.tar .*; unpack inner\.zip"):
        images(place)


# ---- links and odd files in folders ----------------------------------------------------------------------


def test_links_are_followed_once(tmp_path, caplog):
    write_folder(tmp_path / "disk", {"kitten/0.png": CATS["cats/0.png"], **DOGS})
    place = write_folder(tmp_path / "place", CATS)
    (place / "dogs").symlink_to(tmp_path / "disk" / "dogs")
    (place / "again").symlink_to(place / "cats")
    (place / "cats" / "loop").symlink_to(place)
    (place / "cats" / "self").symlink_to("self")
    check_pets(images(place, classes=True))
    line = next(line for line in caplog.messages if "passed over" in line)
    assert "2 links to folders that are read already" in line
    assert "1 without a suffix" in line


def test_the_place_and_its_files_may_be_links(tmp_path):
    write_folder(tmp_path / "disk", SIX)
    (tmp_path / "way").symlink_to(tmp_path / "disk")
    (tmp_path / "place").mkdir()
    for name in SIX:
        (tmp_path / "place" / name).symlink_to(tmp_path / "disk" / name)
    assert total(images(tmp_path / "way")) == total(images(tmp_path / "place")) == 6
    (tmp_path / "place" / "dead.png").symlink_to("nothing.png")
    with pytest.raises(DataError, match=r"dead\.png is a link that leads nowhere"):
        images(tmp_path / "place")
    (tmp_path / "place" / "dead.png").unlink()
    (tmp_path / "place" / "dead.png").symlink_to("dead.png")
    with pytest.raises(DataError, match=r"dead\.png cannot be read: Too many levels"):
        images(tmp_path / "place")


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, monkeypatch):
    write_folder(tmp_path, SIX)
    (tmp_path / "folder.png").mkdir()
    assert total(images(tmp_path)) == 6
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png cannot be read: it is not a regular file"):
        images(tmp_path)
    with pytest.raises(DataError, match=r"pipe\.png is not a regular file"):
        images(tmp_path / "pipe.png")
    os.unlink(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        assert images(tmp_path, on_bad_image="skip").skipped == 1


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    place, scandir = write_folder(tmp_path, PETS), os.scandir

    def refused(path):
        if Path(path).name == "dogs":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"the folder .*dogs cannot be read: Permission denied"):
        images(place)


@pytest.mark.parametrize(
    "name", ["~", "~nobody-of-this-name", "a b", "#1", "x:y", "-v", "ü", "n" * 250, "new\nline", "s.zip", "t.npy"]
)
def test_paths_of_any_legal_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(Path(name), SIX)
    here = f"./{name}"  # a name that begins with ~ is reached so
    assert total(images(here)) == total(images(tmp_path / name, test_path=here)) - 6 == 6
    if name != "~":
        assert total(images(name)) == 6


def test_names_of_no_encoding_are_read(tmp_path):
    write_folder(tmp_path, SIX)
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"bad")
    with pytest.raises(DataError, match=r"caf\\udce9\.png is damaged"):
        images(tmp_path)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "none", Path("none/at/all")])
def test_paths_of_nothing_are_named(path):
    with pytest.raises(DataError, match=r"(does not exist|cannot be read: File name too long); give a folder"):
        images(path)
    with pytest.raises(ValueError, match="test_path = 3 is not allowed"):
        images("a", test_path=3)


# ---- zip files -------------------------------------------------------------------------------------------


def zip_of(path, members, **facts):
    """A zip file of (name, data) members, each with some facts set on its entry."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            for fact, value in facts.items():
                setattr(info, fact, value)
            archive.writestr(info, data)
    return path


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("wrapper", ["", "photos/", "./", "./photos/"])
@pytest.mark.parametrize("system", [0, 3, 19])
@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("backslash", [False, True])
def test_zip_files_of_all_systems(tmp_path, wrapper, system, folders, backslash):
    members = [(wrapper + name, data) for name, data in PETS.items()]
    if folders:
        members = [(f"{wrapper}{name}/", b"") for name in ("cats", "dogs", "birds")] + members
    if backslash:
        members = [(name.replace("/", "\\"), data) for name, data in members]
    path = zip_of(tmp_path / "a.zip", members, create_system=system)
    check_pets(images(path, classes=True))
    check_pets(images(path.rename(tmp_path / "named.npz"), classes=True))
    check_pets(images((tmp_path / "named.npz").rename(tmp_path / "named"), classes=True))


def test_names_in_utf8_are_read_where_the_archive_does_not_say_so(tmp_path):
    """As macOS packs them: the bytes of UTF-8 without the flag."""
    path = zip_of(
        tmp_path / "a.zip", [(f"Köter/{k}.png", data) for k, data in enumerate(DOGS.values())] + list(CATS.items())
    )
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = data.find(mark)
        while start >= 0:
            flags = struct.unpack_from("<H", data, start + place)[0]
            struct.pack_into("<H", data, start + place, flags & ~0x800)
            start = data.find(mark, start + 4)
    path.write_bytes(data)
    assert images(path, classes=True).class_names == ("Köter", "cats")


def test_of_equal_members_the_last_is_read(tmp_path, caplog):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the duplicate name
        archive.writestr("dogs\\0.png", CATS["cats/0.png"])
        for name, data in [("cats/0.png", DOGS["dogs/0.png"]), *PETS.items()]:
            archive.writestr(name, data)
    check_pets(images(path, classes=True))
    assert any("2 earlier members of the same name" in line for line in caplog.messages)


def test_links_in_a_zip_file_are_counted(tmp_path, caplog):
    path = zip_of(tmp_path / "a.zip", list(PETS.items()))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("cats/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "0.png")
    check_pets(images(path, classes=True))
    assert any("1 links" in line for line in caplog.messages)


@pytest.mark.parametrize(("place", "value", "message"), [(8, 1, "is encrypted"), (10, 9, "is packed by method 9")])
def test_members_that_cannot_be_unpacked_are_refused_at_once(tmp_path, place, value, message):
    path = write_zip(tmp_path / "a.zip", SIX)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + place, value)
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"refused: its member 'img005.png' {message}; pack the images"):
        images(path)


def test_zip64_and_a_prefix_are_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in PETS.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    check_pets(images(path, classes=True))
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    check_pets(images(path, classes=True))


# ---- what a path holds -----------------------------------------------------------------------------------


def arrays(form):
    out = io.BytesIO()
    (np.save if form == "npy" else np.savez)(out, noise(0, 6, 4, 4))
    return out.getvalue()


@pytest.mark.parametrize("form", ["npy", "npz"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.zip", "a", "a.NPY", "a.png", "a.b.c"])
def test_array_files_are_told_by_their_contents(tmp_path, form, name):
    (tmp_path / name).write_bytes(arrays(form))
    assert total(images(tmp_path / name)) == 6
    assert images(tmp_path / name).shape == (1, 4, 4)


def tarred(mode):
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tarred("w:"), "is a tar archive; unpack it and give the folder"),
        (tarred("w:gz"), r"is a gzip file \(.gz, .tar.gz\); unpack it"),
        (tarred("w:bz2"), "is a bzip2 file .*; unpack it"),
        (tarred("w:xz"), "is an xz file .*; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it"),
        (b"Rar!\x1a\x07", "is a RAR archive; unpack it"),
        (SIX["img000.png"], "is one image; give the folder that holds your images"),
        (b"", "is empty; give a folder or zip file of images, or an .npy or .npz file"),
        (b"words", "is neither a zip file nor an array file; give a folder or zip file"),
        (b"\x89HDF\r\n\x1a\n", "but an HDF5 file; give a folder"),
        (b"PK\x03\x04" + bytes(40), "cannot be read as a zip file: it is truncated or damaged"),
        (arrays("npz")[:200], "cannot be read as a zip file: it is truncated or damaged"),
        (arrays("npy")[:150], "cannot be read as an array file"),
    ],
    ids=["tar", "gz", "bz2", "xz", "7z", "rar", "image", "empty", "words", "hdf5", "zip head", "cut npz", "cut npy"],
)
@pytest.mark.parametrize("suffix", ["", ".dat", ".jpg"])
def test_other_files_are_named_with_what_is_allowed(tmp_path, data, message, suffix):
    path = tmp_path / f"place{suffix}"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        images(path)
    assert str(path) in str(error.value)


def test_images_and_arrays_do_not_mix(tmp_path):
    np.save(tmp_path / "a.npy", noise(0, 6, 4, 4))
    folder = write_folder(tmp_path / "b", SIX)
    with pytest.raises(DataError, match=r"a\.npy is an array file and .*b is a folder; give images for both"):
        images(tmp_path / "a.npy", test_path=str(folder))
    with pytest.raises(DataError, match=r"b is a folder and .*a\.npy is an array file"):
        images(folder, test_path=str(tmp_path / "a.npy"))


# ---- small sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 8, 9, 95, 104])
@pytest.mark.parametrize("form", ["folder", "npy"])
def test_how_many_images_each_split_has_is_said(tmp_path, count, form, caplog):
    if form == "npy":
        np.save(path := tmp_path / "a.npy", noise(0, count, 4, 4))
    else:
        path = write_folder(tmp_path, {f"{k}.png": SIX["img000.png"] for k in range(count)})
    data = images(path)
    line = next(line for line in caplog.messages if "held out" in line)
    assert f"{data.count('train')} to train on, {data.count('test')} held out (test_share = 0.1)" in line
    assert ("a larger test_share or a test_path" in line) == (data.count("test") < 10)


@pytest.mark.parametrize("form", ["folder", "npy"])
def test_one_image_cannot_be_split(tmp_path, form):
    path = tmp_path / "a.npy" if form == "npy" else write_folder(tmp_path, {"0.png": SIX["img000.png"]})
    if form == "npy":
        np.save(path, noise(0, 1, 4, 4))
    with pytest.raises(DataError, match=r"holds 1 example.*at least 2 \(or test_path\)"):
        images(path)
    assert images(path, test_path=path).count("test") == 1


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_classes_that_the_backbone_does_not_see_are_told(tmp_path, form, caplog):
    if form == "npz":
        np.savez(tmp_path / "a.npz", images=noise(0, 6, 4, 4), labels=np.arange(6) % 2)
    place = tmp_path / "a.npz" if form == "npz" else write_folder(tmp_path, PETS)
    for asked, classes, told in ((True, 0, 1), (True, 2, 0), (False, 0, 0)):
        caplog.clear()
        check_data(images(place, classes=asked), classes)
        lines = [line for line in caplog.messages if "since the backbone takes none; give it classes = 2" in line]
        assert len(lines) == told
    check_data(genflow.get_dataset("digits"), 0)
    assert not [line for line in caplog.messages if "digits" in line]
