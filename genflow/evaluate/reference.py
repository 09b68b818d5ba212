"""Statistics of real data in a feature space, cached by content, and files of published statistics."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genflow.data.base import Dataset
from genflow.evaluate.features import Space
from genflow.evaluate.frechet import Factor, Gaussian, Statistics, moments_of
from genflow.evaluate.passes import feature_pass
from genflow.places import expand

FORMAT = 3


def first_chunks(
    dataset: Dataset, split: str, count: int | None = None, size: int = 1000, first: int = 0
) -> Iterator[Tensor]:
    """`count` raw examples of a split from row `first` on (all for None), in batches; memory does not grow with the
    split."""
    total = dataset.count(split)
    end = total if count is None else min(first + count, total)
    for start in range(first, end, size):
        yield dataset.examples(split, torch.arange(start, min(start + size, end)))


def whole_pass(
    dataset: Dataset, split: str, count: int | None = None, keep: int = 0, first: int = 0
) -> Iterator[Tensor]:
    """The same: in order where they are in memory; on a disk only the first `keep`, and the others as they lie, so that
    it is read from front to back."""
    total = dataset.count(split)
    end = total if count is None else min(first + count, total)
    ordered = end if dataset.held else min(first + keep, end)
    yield from first_chunks(dataset, split, ordered - first, first=first)
    for _, chunk in dataset.sweep(split, torch.arange(ordered, end)):
        yield chunk


def content_digest(dataset: Dataset, split: str, count: int | None = None) -> str:
    """Hash of the raw examples themselves, so that other data under the same name are noticed."""
    facts = tuple(dataset.shape), dataset.scaling, dataset.count(split)  # the count decides the order of rows
    digest = hashlib.sha256(repr(facts).encode())
    for chunk in whole_pass(dataset, split, count):
        digest.update(chunk.contiguous().numpy().tobytes())
    return digest.hexdigest()


def key_of(dataset: Dataset, split: str, space: Space, count: int | None, keep: int, first: int = 0) -> str:
    """Name of cached statistics: a hash of data, split, extractor with its resize, and which examples."""
    seen = None if count is None else first + count
    facts = (FORMAT, split, content_digest(dataset, split, seen), space.digest, first, count, keep)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def reference(
    dataset: Dataset, split: str, space: Space, *, count: int | None = None, keep: int = 0, every: bool = False
) -> tuple[Gaussian, Tensor]:
    """Moments of a split's features, and the first `keep` features (m, d): from the cache, or by one pass.

    Arguments:
        dataset: Real data.
        split: "train" or "test".
        space: Where they are compared.
        count: The first so many examples; None for all.
        keep: How many features to keep.
        every: Whether the rows that trained the space's extractor count too; else references begin after them.

    A damaged file of the cache is computed again, with a note on standard error.
    """
    from genflow.cache import folder

    first = space.first_row(dataset) if split == "train" and not every else 0
    path = folder("stats") / f"{key_of(dataset, split, space, count, keep, first)}.npz"
    if path.exists():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"genflow: {path} is damaged ({error}); its statistics are computed again", file=sys.stderr)
    seen = feature_pass(whole_pass(dataset, split, count, keep, first), space, keep=keep)
    moments, features = seen.moments.result(), seen.features
    _write(path, moments, features)
    return moments, features


def _write(path: Path, moments: Gaussian, features: Tensor) -> None:
    spread = {"rows": moments.rows} if isinstance(moments, Factor) else {"sigma": moments.cov}
    arrays = {"mu": moments.mean, **spread, "n": torch.tensor(moments.n), "features": features}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    fresh.write_bytes(buffer.getvalue())
    fresh.replace(path)


def _read(path: Path) -> tuple[Gaussian, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    n = int(arrays["n"])
    spread = Factor(arrays["mu"], arrays["rows"], n) if "rows" in arrays else None
    return spread or Statistics(arrays["mu"], arrays["sigma"], n), arrays["features"]


def published(path: Path) -> tuple[Gaussian, str]:
    """A published statistics file, and its hash: `mu` and `sigma` (clean-fid, pytorch-fid, EDM), or activations
    `pool_3` (n, d) of a whole data set (score_sde, PFGM).

    Raises:
        ValueError: There is no such file, it holds neither of the two, or numbers are not finite.
    """
    from genflow.evaluate.weight_files import sha256

    arrays = _published_arrays(path)
    for name, values in arrays.items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{path}: {name} is not finite everywhere; fetch or compute the statistics again")
    if "pool_3" in arrays:
        features = arrays["pool_3"]
        if features.ndim < 2 or len(features) < 2:
            raise ValueError(f"{path}: pool_3 has shape {tuple(features.shape)}; expected (n, d) with n >= 2")
        return moments_of(features.flatten(1)), sha256(path)
    mean, cov = arrays["mu"].double().flatten(), arrays["sigma"].double()
    if cov.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu has {len(mean)} entries and sigma the shape {tuple(cov.shape)}")
    return Statistics(mean, cov, int(arrays["n"]) if "n" in arrays else 0), sha256(path)


def statistics_of(place: str, space: Space) -> tuple[Gaussian, str]:
    """Statistics of a file for a feature space, and their description.

    Raises:
        ValueError: As `published`, or they are of other features.
    """
    path = expand(place)
    if not path.is_file():
        raise ValueError(f"reference: {place} is not a file; write one with `genflow statistics`")
    moments, digest = published(path)
    with np.load(path, allow_pickle=False) as file:
        own = str(file["features"]) if "features" in file.files else ""
    if own and own != space.digest:
        raise ValueError(f"reference: the statistics {place} are of other features than {space.about}; write them anew")
    size = f"n = {moments.n}, " if moments.n else ""
    return moments, f"{path.name} ({size}sha256 {digest[:12]})"


def _published_arrays(path: Path) -> dict[str, Tensor]:
    """mu and sigma, or pool_3, and n where it is there."""
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is a single array (.npy); expected an .npz with mu and sigma, or pool_3")
            names = set(file.files)
            arrays = {name: torch.from_numpy(file[name]) for name in names & {"mu", "sigma", "pool_3", "n"}}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"the reference statistics {path} cannot be read: {error}") from None
    if "pool_3" not in arrays and not {"mu", "sigma"} <= set(arrays):
        raise ValueError(f"{path} holds {', '.join(sorted(names))}; expected mu and sigma, or pool_3")
    return arrays


def save_published(path: Path, moments: Gaussian, **about: str) -> None:
    """Writes mu, sigma and n, as other tools read them, and words beside them (`features`: the space's digest)."""
    cov = moments.rows.T @ moments.rows if isinstance(moments, Factor) else moments.cov
    facts: dict[str, Any] = {name: np.array(words) for name, words in about.items()}
    np.savez_compressed(path, mu=moments.mean.numpy(), sigma=cov.numpy(), n=moments.n, **facts)
