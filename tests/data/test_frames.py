"""Files of several pages or frames: told, or all read."""

import io

import numpy as np
import pytest
import raw_images as raw
import torch
from image_files import encoded, noise, write_folder, write_zip
from PIL import Image

import genflow
from genflow.data import notes
from genflow.data.downloads import DataError
from genflow.data.image_files import PictureDataset

FORMS = {"TIFF": ".tif", "GIF": ".gif", "WEBP": ".webp", "PNG": ".apng", "AVIF": ".avif", "MPO": ".mpo"}


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(notes, "_SAID", set())


def film(form, count, first=0):
    """Frames of one grey level each, 20 apart."""
    frames = [Image.fromarray(np.full((16, 16, 3), first + 20 * k, np.uint8)) for k in range(count)]
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "MPO": {"quality": 95}}
    out = io.BytesIO()
    frames[0].save(out, form, save_all=True, append_images=frames[1:], **lossless.get(form, {}))
    return out.getvalue()


def images(path, **options):
    return genflow.get_dataset("images", path=path, channels=1, **options)


def levels(data, split):
    """Of all rows, sorted: what they are, in whatever order the split has."""
    return sorted(data.examples(split, torch.arange(data.count(split)))[:, 0, 8, 8].tolist())


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("held", [True, False])
def test_frames_are_told_or_all_read(tmp_path, form, kind, held, caplog, monkeypatch):
    if not held:
        monkeypatch.setattr(PictureDataset, "HELD_BYTES", 0)
    train = {f"{k}{FORMS[form]}": film(form, 3, k) for k in range(2)}
    test = write_folder(tmp_path / "test", {"one.png": encoded(np.full((16, 16, 3), 7))})
    place = write_folder(tmp_path / "a", train) if kind == "folder" else write_zip(tmp_path / "a.zip", train)
    data = images(place, test_path=test)
    assert levels(data, "train") == pytest.approx([0, 1], abs=1)
    told = [line for line in caplog.messages if "has 3 frames; the first of each file is read" in line]
    assert len(told) == 1
    assert "frames=all" in told[0]
    caplog.clear()
    data = images(place, test_path=test, frames="all", size=16)
    assert levels(data, "train") == pytest.approx([0, 1, 20, 21, 40, 41], abs=1)
    assert levels(data, "test") == [7]
    assert not any(" frames; " in line for line in caplog.messages)
    rows = torch.tensor([4, 2, 5])
    assert torch.equal(data.examples("train", rows), data.train[rows])


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("form", FORMS)
def test_no_frame_of_a_film_that_is_cut_off_is_lost_in_silence(tmp_path, form):
    """Every cut is either named, skipped as a whole file, or leaves all frames."""
    whole = Image.fromarray(noise(0, 16, 16, 3))
    out = io.BytesIO()
    whole.save(out, form, save_all=True, append_images=[Image.fromarray(noise(k, 16, 16, 3)) for k in (1, 2)])
    data, test = out.getvalue(), write_folder(tmp_path / "test", {"one.png": encoded(noise(3, 16, 16, 3))})
    for k in range(1, 20):
        train = write_folder(
            tmp_path / f"{k}", {f"a{FORMS[form]}": data, f"b{FORMS[form]}": data[: len(data) * k // 20]}
        )
        try:
            found = images(train, test_path=test, frames="all").count("train")
        except DataError as error:
            assert f"b{FORMS[form]}" in str(error)  # noqa: PT017
        else:
            assert found == 6
        skipping = images(train, test_path=test, frames="all", on_bad_image="skip")
        assert skipping.count("train") == 6 or skipping.skipped > 0


def test_all_frames_of_a_file_are_on_one_side_of_the_split(tmp_path):
    files = {f"{'cats' if k % 2 else 'dogs'}/{k}.tif": film("TIFF", 1 + k % 4, 80 + k) for k in range(10)}
    data = images(write_folder(tmp_path, files), frames="all", test_share=0.3, classes=True)
    assert data.count("train") + data.count("test") == sum(1 + k % 4 for k in range(10))
    sides = {split: {round(level - 80) % 20 for level in levels(data, split)} for split in ("train", "test")}
    assert not sides["train"] & sides["test"]
    assert len(sides["test"]) == 3
    for split in ("train", "test"):
        assert torch.equal((data.split(split)[:, 0, 8, 8] - 80) % 2, 1.0 - data.labels(split))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("form", ["ICO", "ICNS", "PSD"])
def test_sizes_and_layers_of_one_image_are_no_frames(tmp_path, form, caplog):
    if form == "PSD":
        data = raw.psd(8)
    else:
        data = encoded(noise(0, 64, 64, 3), form, **({"sizes": [(16, 16), (32, 32)]} if form == "ICO" else {}))
    write_folder(tmp_path, {f"{k}.{form.lower()}": data for k in range(3)})
    found = images(tmp_path, frames="all", size=16)
    assert found.count("train") + found.count("test") == 3
    images(tmp_path, size=16).train  # noqa: B018
    assert not any(" frames; " in line for line in caplog.messages)


def test_frames_of_several_sizes_and_damaged_films_are_named(tmp_path):
    out = io.BytesIO()
    Image.new("L", (4, 4)).save(out, "TIFF", save_all=True, append_images=[Image.new("L", (5, 4))])
    write_folder(tmp_path, {"a.tif": out.getvalue(), "b.tif": out.getvalue()})
    with pytest.raises(DataError, match=r"differ in size: .*\(frame 1\) has 4x4, .*\(frame 2\) has 4x5"):
        images(tmp_path, frames="all")
    write_folder(tmp_path, {"a.tif": out.getvalue()[:60], "c.tif": out.getvalue()})
    with pytest.raises(DataError, match=r"a\.tif is damaged"):
        images(tmp_path, frames="all", size=4, test_path=tmp_path).train  # noqa: B018
    data = images(tmp_path, frames="all", size=4, on_bad_image="skip", test_path=tmp_path)
    assert (data.count("train"), data.skipped) == (4, 1)
    with pytest.raises(ValueError, match="frames = 'some' is not allowed; give 'first' or 'all'"):
        images(tmp_path, frames="some")
