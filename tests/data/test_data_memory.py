"""Memory: sizes that cannot fit are refused before work, and memory that ends is not called damage."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from image_files import colour_files, encoded, noise, write_folder, write_zip
from PIL import Image, ImageFile

import genflow
from genflow.data import decoding, memory
from genflow.data.downloads import DataError


def images(path, **options):
    return genflow.get_dataset("images", path=path, **options)


@pytest.mark.parametrize("size", [50_000, 100_000, [8193, 8192], [1, 2**26 + 1]])
def test_sizes_of_too_many_pixels_are_refused_by_name(tmp_path, size):
    place = write_folder(tmp_path, colour_files(2))
    with pytest.raises(
        ValueError, match=r"images: size = .* is too large: .* give a size of at most 67,108,864 pixels"
    ):
        images(place, size=size)


@pytest.mark.parametrize("given", [{"size": 300}, {}])
def test_sizes_that_do_not_fit_are_refused_before_pixels_are_read(tmp_path, given, monkeypatch):
    place = write_folder(tmp_path, colour_files(2, 300, 300))
    monkeypatch.setattr(memory, "room", lambda: 10**6)
    monkeypatch.setattr(decoding.Decoder, "decode", lambda *args: pytest.fail("an image was decoded"))
    with pytest.raises(ValueError, match=r"images of 300x300 pixels need at least 4 MiB of memory, and 1 MiB are free"):
        images(place, **given, channels=3)


def test_the_set_that_is_held_counts_too(tmp_path, monkeypatch):
    place = write_folder(tmp_path, colour_files(20, 100, 100))
    needed = 8 * 100**2 + 9 * 3 * 100**2 + 2 * 20 * 3 * 100**2
    monkeypatch.setattr(memory, "room", lambda: needed)
    assert images(place).count("train") == 18
    monkeypatch.setattr(memory, "room", lambda: needed - 1)
    with pytest.raises(ValueError, match="give a smaller size"):
        images(place)


def test_an_array_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", images=noise(0, 6, 100, 100, 3))
    monkeypatch.setattr("genflow.data.image_arrays.room", lambda: 10**5)
    with pytest.raises(DataError, match=r"a\.npz unpacks to 0 MiB, and 0 MiB of memory are free; store .* \.npy file"):
        images(tmp_path / "a.npz")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited by ulimit")
def test_the_limit_of_the_address_space_is_seen():
    code = "from genflow.memory import room; import torch; print(room() / 2**20)"
    found = subprocess.run(
        ["bash", "-c", f"ulimit -v 8000000; exec {sys.executable} -c '{code}'"], capture_output=True, text=True
    )
    assert 0 < float(found.stdout) < 8_000_000 / 1024


FAILURES = {
    "memory": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((9,), np.dtype("u1")),
    "decoder": OSError("out of memory error when reading image file"),
}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("target", ["convert", "resize", "load"])
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_memory_that_ends_is_not_damage(tmp_path, error, target, action, monkeypatch):
    def ended(*args, **options):
        raise error

    place = write_folder(tmp_path, colour_files(3))
    monkeypatch.setattr(*{"load": (ImageFile.ImageFile, "load")}.get(target, (Image.Image, target)), ended)
    with pytest.raises(MemoryError):
        images(place, size=3, channels=3, on_bad_image=action).train  # noqa: B018


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_interrupts_pass_through_reading(tmp_path, error, kind, monkeypatch):
    files = colour_files(3)
    place = write_folder(tmp_path / "a", files) if kind == "folder" else write_zip(tmp_path / "a.zip", files)
    source = genflow.data.sources.open_source(place)

    def ended(*args):
        raise error

    monkeypatch.setattr("genflow.data.sources.check_regular", ended)
    monkeypatch.setattr("zipfile.ZipFile.open", ended)
    with pytest.raises(type(error)):
        source.read(source.names[0])


def test_bombs_in_images_are_refused_by_their_headers(tmp_path):
    """A PNG and a BMP of a few hundred bytes that declare 30,000 x 30,000 pixels."""
    small = encoded(noise(0, 4, 4, 3))
    wide = (30_000).to_bytes(4, "big")
    head = small[:16] + wide + wide + small[24:29]
    import zlib

    bomb = head + zlib.crc32(head[12:29]).to_bytes(4, "big") + small[33:]
    bmp = bytearray(encoded(noise(0, 4, 4, 3), "BMP"))
    bmp[18:26] = (30_000).to_bytes(4, "little") * 2
    for name, data in (("a.png", bomb), ("b.bmp", bytes(bmp))):
        place = write_folder(tmp_path / name, {name: data, f"x{name}": data})
        for options in ({}, {"size": 4, "channels": 3}):
            with pytest.raises(DataError, match=r"is too large: (30000x30000 pixels|Image size \(900000000 pixels\))"):
                images(place, **options).train  # noqa: B018


def test_fitting_points_are_bounded_by_their_values(tmp_path, monkeypatch):
    data = images(write_folder(tmp_path, colour_files(12)), test_share=0.1)
    assert len(data.fitting_points()) == data.count("train") == 11
    monkeypatch.setattr(type(data), "FITTED_VALUES", 4 * 90)
    assert len(data.fitting_points()) == 4
    assert torch.equal(data.fitting_points()[0], data.scaling.encode(data.train[:1])[0])
    monkeypatch.setattr(type(data), "FITTED_VALUES", 1)
    assert len(data.fitting_points()) == 1
