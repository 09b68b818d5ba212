"""Reading a published .pth file: plain types only, every record against its checksum, no code run.

The file stores a dictionary of "model" (tensors by name, each name with the prefix "module."), "ema" (decay,
num_updates, and shadow_params, a list in the order of the trained parameters), "step" and "optimizer", which is not
used.
"""

from __future__ import annotations

import _codecs
import hashlib
import mmap
import re
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genflow.checkpoint import CheckpointError

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
"""First bytes of files that torch wrote before 1.6, or with _use_new_zipfile_serialization=False."""

SOURCE_MARK = b"_reconstruct_persistent_obj"
"""What the pickles of EDM and PFGM++ refer to: a function that runs the Python source stored with them."""

NOT_RUN = "none of it was run"


@dataclass(frozen=True)
class Average:
    """The exponential moving average of the weights: one tensor per trained parameter, in their order.

    `decay` is the largest per step.
    """

    decay: float
    updates: int
    values: list[Tensor]


@dataclass(frozen=True)
class PublishedFile:
    """What a published checkpoint holds: the weights of the last step, names without "module.", and their average.

    `size` is in bytes; average and step are None where the file has none.
    """

    name: str
    size: int
    sha256: str
    model: dict[str, Tensor]
    average: Average | None
    step: int | None


def read_published(path: Path, sha256: str | None = None) -> PublishedFile:
    """The weights of a published checkpoint. Tensors stay in the mapped file, so the optimiser costs no memory.

    Arguments:
        path: A .pth file.
        sha256: Its expected hash, 64 hexadecimal digits.

    Raises:
        CheckpointError: The file does not exist, is damaged, is of another kind, or cannot be read without running
            code; the message says which.
    """
    size, found = _fingerprint(path)
    if sha256 is not None and found != sha256.lower().strip():
        raise CheckpointError(
            f"{path} ({size:,} bytes) has sha256 {found}, not {sha256}: it is another file or damaged"
        )
    zipped = _kind(path, known=sha256 is not None)
    if zipped:
        _check_records(path)
    stored = _load(path, zipped)
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), Mapping):
        held = f"the keys {sorted(map(str, stored))[:6]}" if isinstance(stored, dict) else f"a {type(stored).__name__}"
        raise CheckpointError(f"{path} holds {held}; a published checkpoint has 'model', 'ema', 'step' and 'optimizer'")
    model = {str(name).removeprefix("module."): value for name, value in stored["model"].items()}
    _check_tensors(path, "model", model)
    step = stored.get("step")
    return PublishedFile(
        path.name, size, found, model, _average(path, stored.get("ema")), step if isinstance(step, int) else None
    )


def _fingerprint(path: Path) -> tuple[int, str]:
    """Bytes and sha256."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the .pth file itself")
    try:
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def _kind(path: Path, known: bool) -> bool:
    """True for a zip file, False for torch's old format; raises CheckpointError for anything else.

    The old format has no checksums, so it is only read where the whole file's hash is `known`.
    """
    with path.open("rb") as file:
        head = file.read(len(LEGACY))
    if head.startswith(b"PK\x03\x04"):
        return True
    if head == LEGACY:
        if not known:
            raise CheckpointError(
                f"{path} is in torch's old format, which has no checksums, so damage would go unnoticed; give its hash "
                "with --sha256 to read it"
            )
        return False
    if head.startswith(b"\x80"):
        raise CheckpointError(f"{path} is {_pickle_words(path)}; {NOT_RUN}")
    what = "is empty" if not head else "is not a file that torch wrote"
    hint = ": it looks like a web page, the result of a failed download" if head.lstrip()[:1] == b"<" else ""
    raise CheckpointError(f"{path} {what}{hint}")


def _pickle_words(path: Path) -> str:
    """What a bare pickle is, in words."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        edm = content.find(SOURCE_MARK) >= 0
    return (
        EDM_WORDS if edm else "a Python pickle, which can run any code when it is read; genflow does not read pickles"
    )


EDM_WORDS = (
    "a pickle of EDM or PFGM++, which holds Python source code that reading it would run; genflow runs no code from "
    "files. Save the network's state_dict() with the authors' own code instead"
)


def _check_records(path: Path) -> None:
    """Checks every record of the zip file against its length and CRC-32, which torch does not always check."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            packed = next((r.filename for r in records if r.compress_type != zipfile.ZIP_STORED), None)
            total = sum(r.file_size for r in records)
            damaged = None if packed or total > path.stat().st_size else archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds on damaged headers
        raise CheckpointError(f"{path} is truncated or damaged: {_short(error)}") from None
    if packed:
        raise CheckpointError(f"{path}: the record '{packed}' is compressed, which torch never does")
    if total > path.stat().st_size:
        raise CheckpointError(f"{path}: its records claim {total:,} bytes, more than the file has")
    if damaged:
        raise CheckpointError(f"{path} is damaged: the record '{damaged}' does not match its CRC-32")


def _plain_globals() -> AbstractContextManager[None]:
    """Allows a numpy number, the optimiser's learning rate, under the names of both numpy generations."""
    import numpy as np

    core: Any = getattr(np, "_core", None) or np.core
    scalar = core.multiarray.scalar
    float64 = getattr(np, "dtypes", np).Float64DType
    names = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    allowed: list[Any] = [*names, np.dtype, float64, _codecs.encode]
    return torch.serialization.safe_globals(allowed)


def _load(path: Path, zipped: bool) -> Any:
    """The content of the file, by torch's restricted reader."""
    with _plain_globals():
        try:
            asked = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if zipped else []
            if not asked:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except MemoryError:
            raise
        except Exception as error:  # torch raises many kinds on other contents
            asked = re.findall(r"(?:GLOBAL|global:?) ([\w.]+)", str(error))[:1]
            if not asked:
                raise CheckpointError(f"{path} cannot be read: {_short(error)}") from None
    if any(name.endswith(SOURCE_MARK.decode()) for name in asked):
        raise CheckpointError(f"{path} is {EDM_WORDS}; {NOT_RUN}")
    names = ", ".join(sorted(asked)[:5])
    raise CheckpointError(f"{path} refers to {names}, which is not plain data: reading it would run code; {NOT_RUN}")


def _average(path: Path, ema: Any) -> Average | None:
    if ema is None:
        return None
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    decay = ema.get("decay") if isinstance(ema, dict) else None
    if not isinstance(shadow, list | tuple) or not isinstance(decay, float):
        raise CheckpointError(f"{path}: its 'ema' is not as published: it needs 'decay' and 'shadow_params'")
    _check_tensors(path, "ema.shadow_params", dict(enumerate(shadow)))
    updates = ema.get("num_updates")
    return Average(decay, updates if isinstance(updates, int) else 0, list(shadow))


def _check_tensors(path: Path, owner: str, values: Mapping[Any, Any]) -> None:
    """Raises CheckpointError where a value is not an ordinary floating-point tensor."""
    if not values:
        raise CheckpointError(f"{path}: its '{owner}' is empty")
    for name, value in values.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not plain or not value.is_floating_point():
            kind = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{path}: {owner}[{name!r}] is a {kind}, not a tensor of floating-point numbers")


def _short(error: Exception) -> str:
    """The first sentence of an error, without its advice."""
    return " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__
