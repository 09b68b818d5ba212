"""Options of data sets: every wrong value is answered by the option's name, before anything is drawn or read."""

import inspect
import math

import numpy as np
import pytest

import genflow
from genflow.registry import registries

ENTRIES = registries()["datasets"].entries()
NO_NUMBERS = [None, "", "two", [1], {}, math.nan, math.inf, -math.inf, True, 1j]
COUNTS = [*NO_NUMBERS, 0, -1, 2.5]
FLAGS = [None, "yes", 1, 0, 1.0, [], math.nan]
WRONG = {
    "size": [*COUNTS, 10**30, 10**9],
    "seed": [*NO_NUMBERS, -1, 0.5, 2**63, 10**30],
    "noise": [*NO_NUMBERS, -0.1],
    "scale": [*NO_NUMBERS, 0, -1.0],
    "radius": [*NO_NUMBERS, 0, -1.0],
    "scales": [None, "", "two", {}, math.nan, math.inf, 0, -1, [], [1, 2], [1, 1, 0]],
    "weights": ["", "two", {}, math.nan, 0, [], [1, 2], [1, 1, 0], [1, 1, -1], [1, 1, math.inf]],
    "means": [None, "", 3, [], [1, 2], [[1, 2, 3]], [[1, math.nan]], [[1, 2], [3]]],
}
OF_IMAGES = {
    "path": [None, "", 3, [], True],
    "size": [value for value in COUNTS if value is not None] + [[0, 4], [4, 4, 4], [4, 2.5], [True, 4]],
    "channels": [value for value in COUNTS if value is not None] + [2, 4],
    "test_share": [*NO_NUMBERS, 0, 1, -0.1, 1.5],
    "bad_limit": [*NO_NUMBERS, -1, 0.5],
    "on_bad_image": [None, "", "ignore", 0, True],
    "classes": FLAGS,
    "flip": FLAGS,
    "range": ["", "01", 0, [], [0], [0, 1, 2], [1, 0], [0, 0], [0, math.nan], [0, math.inf], [False, True], {0: 1}],
}
TOYS = [name for name, entry in ENTRIES.items() if entry.tags["kind"] == "toy"]


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in TOYS for option in inspect.signature(ENTRIES[name].load()).parameters],
)
def test_wrong_options_of_toys_are_answered_by_name(name, option):
    for value in WRONG[option]:
        with pytest.raises(ValueError, match=rf"\b{option}\b") as error:
            genflow.get_dataset(name, **{option: value})
        assert "wrong kind" not in str(error.value), "the data set itself answers"


@pytest.mark.parametrize("option", OF_IMAGES)
def test_wrong_options_of_images_are_answered_by_name(tmp_path, option):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 4)))
    for value in OF_IMAGES[option]:
        with pytest.raises(ValueError, match=rf"\b{option}\b"):
            genflow.get_dataset("images", **{"path": str(tmp_path), option: value})


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("gas", "share", [*NO_NUMBERS, 0, -0.1, 1.1]),
        *((name, "held_out", [None, "", "train", 0, [], {}]) for name in ("power", "gas", "hepmass", "celeba64")),
        *((name, "flip", FLAGS) for name in ("cifar10", "svhn", "imagenet32")),
        *((name, "download", FLAGS) for name in ("cifar10", "svhn", "imagenet32", "gas", "ffhq", "lsun_bedroom")),
        *((name, "size", COUNTS) for name in ("ffhq", "lsun_bedroom")),
    ],
)
def test_wrong_options_of_published_sets_are_answered_before_files_are_looked_for(tmp_path, name, option, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"\b{option}\b") as error:
            genflow.get_dataset(name, **{"root": str(tmp_path), option: value})
        assert "needs" not in str(error.value)


@pytest.mark.parametrize("root", [3, True, [], "/nonexistent/folder"])
def test_a_root_that_is_no_folder_is_answered(root):
    with pytest.raises(ValueError, match=r"root|needs"):
        genflow.get_dataset("cifar10", root=root)
