"""Cells know what the files of a data set hold, not only what they are called."""

import numpy as np
import pytest

from genflow.bench.cells import plan
from genflow.bench.contents import contents
from genflow.config import BenchConfig, build


def keys(options):
    config = build(BenchConfig, {"dataset": "images", "dataset_options": {"images": options}, "process": "vp_ode"})
    return {cell.name: cell.key for cell in plan(config)}


def write(path, seed):
    np.save(path, np.random.default_rng(seed).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8))


def test_another_file_of_one_name_and_size_is_other_data(tmp_path):
    file = tmp_path / "images.npy"
    write(file, 0)
    first = keys({"path": str(file)})
    assert keys({"path": str(file)}) == first
    write(file, 1)
    assert not set(keys({"path": str(file)}).values()) & set(first.values())
    write(file, 0)
    assert keys({"path": str(file)}) == first


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_more_in_a_folder_or_below_it_is_other_data(tmp_path, below):
    folder = tmp_path / "images"
    (folder / below).mkdir(parents=True)
    (folder / below / "one.png").write_bytes(b"1234")
    first = keys({"path": str(folder)})
    assert keys({"path": str(folder)}) == first
    (folder / below / "two.png").write_bytes(b"1234")
    second = keys({"path": str(folder)})
    assert not set(second.values()) & set(first.values())
    (folder / below / "two.png").rename(folder / below / "three.png")
    assert not set(keys({"path": str(folder)}).values()) & {*first.values(), *second.values()}


def test_a_copy_elsewhere_in_time_is_the_same_and_other_options_are_no_files(tmp_path):
    file = tmp_path / "images.npy"
    write(file, 0)
    found = contents({"path": str(file)})
    copy = tmp_path / "copy.npy"
    copy.write_bytes(file.read_bytes())
    assert [*found.values()] == [*contents({"path": str(copy)}).values()]
    assert contents({"size": 32, "classes": True, "path": str(tmp_path / "gone"), "test_path": "", "x": None}) == {}
    assert "files" not in plan(build(BenchConfig, {}))[0].spec["dataset"]
