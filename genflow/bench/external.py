"""Samples that genflow did not draw, as rows of a bench: what they are called, and what is known of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genflow.bench.contents import contents
from genflow.config import BenchConfig, ConfigError
from genflow.places import expand

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.data.base import Dataset

EXTERNAL = "external"
"""The terms of such rows: nothing is known to be equal, so they are never ranked."""


@dataclass(frozen=True)
class External:
    """Samples at a place.

    Arguments:
        name: What tables call them, in the column process.
        place: A folder, zip file, array or table.
        nfe: Network calls per sample, as whoever drew them states; None where that is not known.
    """

    name: str
    place: str
    nfe: int | None = None

    @property
    def content(self) -> str:
        """Hash of the files."""
        return hashlib.sha256(repr(sorted(contents({"place": self.place}).values())).encode()).hexdigest()[:20]


def parse(word: str) -> External:
    """NAME=PLACE or NAME=PLACE:nfe=N.

    Raises:
        ConfigError: It is not of that form, or there is nothing at the place.
    """
    name, equals, rest = word.partition("=")
    stated = re.search(r":nfe=([^:]*)$", rest)
    place = rest[: stated.start()] if stated else rest
    if not (equals and name.strip() and place):
        raise ConfigError(f"samples_from: '{word}' is not of the form NAME=PLACE or NAME=PLACE:nfe=N")
    if stated and not (stated[1].isdecimal() and int(stated[1])):
        raise ConfigError(f"samples_from: nfe = '{stated[1]}' of '{name}' is not a whole number above 0")
    if not expand(place).exists():
        raise ConfigError(f"samples_from: {place} does not exist; give a folder, zip, .npy, .npz, CSV or parquet file")
    return External(name.strip(), place, int(stated[1]) if stated else None)


def externals(config: BenchConfig, taken: Iterable[str] = ()) -> list[External]:
    """The samples of a bench that others drew.

    Raises:
        ConfigError: One cannot be used, or its name is that of another row.
    """
    found, names = [parse(word) for word in config.samples_from], {"data", *taken}
    for one in found:
        if one.name in names:
            raise ConfigError(f"samples_from: the name '{one.name}' is taken by another row; choose another one")
        names.add(one.name)
    return found


def read(one: External, dataset: Dataset, count: int | None) -> tuple[Tensor, str]:
    """`count` of the samples, all for None, raw, and the words of the protocol.

    Raises:
        DataError: They do not fit the data set, or are too few.
    """
    import torch

    from genflow.data.downloads import DataError
    from genflow.data.given_samples import read_samples

    x, how = read_samples(expand(one.place), dataset)
    total, count = len(x), len(x) if count is None else count
    if total < count:
        raise DataError(f"{one.place} holds {total} samples, and {count} are measured; give --samples {total} or more")
    picked = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]  # files are often sorted
    chosen = f", a fixed random {count} of {total}" if count < total else ""
    stated = "its NFE as stated" if one.nfe else "its NFE not stated"
    return x[picked], f"samples not drawn by genflow: {how}{chosen}, content {one.content}, {stated}"
