"""The examples that a command begins with: test examples of the data set, or pictures and arrays that are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.commands.loaded import open_data
from genflow.config import ConfigError, Options

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened

IMAGE_HELP = (
    "begin with this instead of test examples, without the data set: a picture, a folder or zip file of them, or an "
    ".npy or .npz file with an array 'x' in data units, as genflow sample writes it"
)
"""Help of --image."""

ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class Given:
    """Examples (n, *shape), raw and dequantised in data units, with their classes (n,), or why they have none."""

    raw: Tensor
    x: Tensor
    labels: Tensor | None
    missing: str


def beginning(opened: Opened, image: str, options: Options, count: int, seed: int) -> Given:
    """The first `count` examples (all where there are fewer).

    They are those of --image, or of the test split (with --dataset-options) where that is "", dequantised by the seed.

    Raises:
        ConfigError: What was given cannot be read, or does not fit the model.
        CheckpointError: The data set is not here.
    """
    import torch

    draws = torch.Generator().manual_seed(seed)
    if not image:
        data = open_data(opened, options)
        raw = data.test[:count]
        return Given(
            raw, data.scaling.encode(raw, draws), data.labels("test"), f"the data set '{data.name}' has no classes"
        )
    path, scaling = Path(image).expanduser(), opened.known_scaling()
    if path.suffix.lower() in ARRAYS:
        x, labels = array_of(path, "x", opened.shape)
        return Given(scaling.decode(x[:count]), x[:count], labels, f"{path} has no array 'labels'")
    raw = scaling.decode(_grey(path, opened, count))
    return Given(raw, scaling.encode(raw, draws), None, f"{path} does not say its classes")


def _grey(path: Path, opened: Opened, count: int) -> Tensor:
    """Pictures in data units [−1, 1], each grey level at its middle, in the shape that a model makes."""
    import numpy as np
    import torch

    from genflow.data.base import Scaling
    from genflow.data.decoding import Decoder

    if len(opened.shape) != 3 or opened.shape[0] not in (1, 3):
        raise ConfigError(
            f"image = '{path}': {opened.path} makes examples of shape {opened.shape}, which no picture has; give an "
            ".npy or .npz file with an array 'x' in data units"
        )
    decoder = Decoder(opened.shape[0], (opened.shape[1], opened.shape[2]))
    levels = [decoder.decode(content) for content in _contents(path, count)]
    return Scaling.grey(256).encode(torch.from_numpy(np.stack(levels).astype(np.float32)))


def _contents(path: Path, count: int) -> Iterator[bytes]:
    """The bytes of a picture, or of the first `count` of a folder or zip file; errors of reading them are named."""
    from genflow.data.downloads import DataError
    from genflow.data.sources import BadImageError, open_source

    title = str(path)
    try:
        if path.is_dir() or path.suffix.lower() == ".zip":
            source = open_source(path)
            for name in source.names[:count]:
                title = source.title(name)
                yield source.read(name)
        else:
            yield path.read_bytes()
    except OSError as error:
        raise ConfigError(f"image = '{title}' cannot be read: {error.strerror}") from None
    except (BadImageError, DataError) as error:
        raise ConfigError(f"image = '{title}': {error}") from None


def read_arrays(path: Path, what: str) -> dict[str, Any]:
    """The arrays of a .npz file, or that of a .npy file under ""; raises ConfigError where it is damaged or another
    kind of file."""
    import zlib
    from zipfile import BadZipFile, is_zipfile

    import numpy as np

    if path.is_file() and not is_zipfile(path) and path.suffix != ".npy":
        raise ConfigError(f"the {what} {path} are not an .npz file, or one that was cut off; give what genflow wrote")
    damaged = (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile, zlib.error)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"": found}
        with found:
            return dict(found)
    except damaged as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error}") from None


def array_of(path: Path, name: str, shape: tuple[int, ...], what: str = "examples") -> tuple[Tensor, Tensor | None]:
    """An array of a file, float32, in a model's shape; and its array 'labels', where it has one.

    Raises:
        ConfigError: No such file or array, or one of another shape or kind.
    """
    import numpy as np
    import torch

    arrays = read_arrays(path, what)
    if "" in arrays and name != "x":
        raise ConfigError(f"the {what} {path} are one array; give a .npz file with an array '{name}'")
    found = arrays.get(name, arrays.get(""))
    if found is None:
        raise ConfigError(f"{path} has no array '{name}'; it has: {', '.join(arrays) or 'none'}")
    if found.shape[1:] != shape or not len(found) or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise ConfigError(f"'{name}' of {path} has shape {found.shape}; want finite numbers of shape (n, *{shape})")
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != (len(found),) or labels.dtype.kind not in "iu"):
        raise ConfigError(f"'labels' of {path} has shape {labels.shape}; want {len(found)} whole numbers")
    own = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return torch.from_numpy(found.astype(np.float32)), own
