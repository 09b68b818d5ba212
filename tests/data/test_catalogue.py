"""What the catalogue says about data sets without importing them is what they are."""

import inspect
import math
import re

import pytest
from image_files import colour_files, write_folder

import genflow
from genflow.config import TrainConfig
from genflow.data.base import Dataset
from genflow.registry import registries

ENTRIES = registries()["datasets"].entries()
FREE = [name for name, entry in ENTRIES.items() if not entry.tags.get("files")]
IMAGES = ["digits", "mnist5k", "cifar10", "svhn", "celeba64", "lsun_bedroom", "ffhq", "imagenet32"]
TABLES = ["power", "gas", "hepmass", "miniboone", "bsds300", "iris", "wine", "breast_cancer", "diabetes"]
NAMES = [*IMAGES, "images", *TABLES]


def test_all_published_sets_are_there():
    assert set(NAMES) <= set(ENTRIES)
    assert {entry.tags["kind"] for entry in ENTRIES.values() if entry.origin == "genflow"} == {
        "images",
        "tabular",
        "toy",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_summary_has_the_split_and_what_is_needed(name):
    entry = ENTRIES[name]
    assert entry.tags["split"] in entry.summary
    assert entry.tags["files"] in entry.summary
    assert ("mirrored" in entry.summary) == bool(entry.tags.get("flip"))


@pytest.mark.parametrize("name", IMAGES)
def test_tags_of_images_are_those_of_the_class(name):
    tags, factory = ENTRIES[name].tags, ENTRIES[name].load()
    assert tags["levels"] == factory.scaling.levels
    assert tags["classes"] == factory.classes
    options = inspect.signature(factory).parameters
    assert tags["flip"] == (options["flip"].default if "flip" in options else factory.flip)
    assert bool(tags["files"]) == ("root" in options)
    side = options["size"].default if "size" in options else getattr(factory, "SIDE", None)
    assert tags["shape"] == ((3, side, side) if side else factory.shape)


@pytest.mark.parametrize("name", FREE)
def test_tags_and_words_of_sets_that_need_no_files_are_what_they_hold(name):
    data, tags = genflow.get_dataset(name), ENTRIES[name].tags
    assert isinstance(data, Dataset)
    assert data.held
    declared = data.declared()
    assert list(declared) == ["source", "split", "preprocessing", "scaling", "dequantisation", "flip"]
    assert declared["source"] == ENTRIES[name].source
    if tags["kind"] != "toy":
        assert (tags["shape"], tags["classes"]) == (data.shape, data.classes)
        counts = [int(n.replace(",", "")) for n in re.findall(r"([\d,]*\d) (?:train|test)", tags["split"])]
        assert counts == [data.count("train"), data.count("test")]


def test_declared_says_what_the_scaling_does():
    images = genflow.get_dataset("digits").declared()
    assert images["scaling"] == "grey levels 0 to 16, each an equal part of [-1, 1]"
    assert images["dequantisation"] == "uniform within each of 17 levels"
    table = genflow.get_dataset("iris").declared()
    assert table["scaling"] == "none: data units are raw units"
    assert table["dequantisation"].startswith("none")


@pytest.mark.slow
def test_one_call_trains_on_a_folder(tmp_path):
    """A folder as the trainer uses it: count, examples, flips, dequantisation; all through `get_dataset`."""
    data = genflow.get_dataset("images", path=str(write_folder(tmp_path, colour_files(20, 8, 8))), flip=True)
    process = genflow.get_process("vp_ode").for_data(data.fitting_points())
    backbone = genflow.get_backbone("ncsnv2", shape=data.shape, extra_channels=process.extra_channels)
    result = genflow.train(process, backbone, data, TrainConfig(steps=2, batch_size=4, log_every=1))
    assert [line["images"] for line in result.losses] == [4, 8]
    assert all(math.isfinite(line["loss"]) for line in result.losses)
