"""Checkpoints: folders of safetensors and plain JSON, written atomically, hashed, loaded without running code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genflow.backbone.base import Backbone
    from genflow.process.base import Process

FORMAT = 1
MANIFEST = "MANIFEST.json"


class CheckpointError(RuntimeError):
    """A checkpoint that can not be read; the message names the file and what is wrong with it."""


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files so that readers see the old one or the new one, never a part.

    Files go to a sibling folder, are synced, and are listed with their hashes in a manifest written last; then the
    folder takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f"{path.name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    fresh.mkdir()
    try:
        manifest = {"format": FORMAT, "files": {n: hashlib.sha256(b).hexdigest() for n, b in files.items()}}
        for name, content in {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
            _write_synced(fresh / name, content)
        old = path.with_name(f"{path.name}.old")
        if path.exists():  # else the old one may be the only whole copy, left by an interrupted swap
            _remove(old)
            path.rename(old)
        fresh.rename(path)
        _remove(old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a folder, or a file that stands where a folder should."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_file(path: Path, text: str) -> None:
    """Writes a text file by way of a sibling, so that readers never see a part of it."""
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_folder(path: Path) -> dict[str, bytes]:
    """The files of a folder that `write_folder` wrote, each checked against its hash.

    Raises:
        CheckpointError: No manifest, a missing file, or a hash that differs; the file is named.
    """
    if not path.exists() and path.with_name(f"{path.name}.old").exists():
        path = path.with_name(f"{path.name}.old")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        wanted, version = manifest["files"], int(manifest["format"])
        if not isinstance(wanted, dict):
            raise TypeError("'files' is not a mapping of names to hashes")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} is not a finished checkpoint: it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST} can not be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}") from None
    if version > FORMAT:
        raise CheckpointError(f"{path} has format {version}; this genflow reads up to {FORMAT}: update it")
    return {name: _read_checked(path / name, digest) for name, digest in wanted.items()}


def _read_checked(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} does not match its hash ({len(content)} bytes): it was truncated or changed")
    return content


def describe(process_name: str, process: Process, backbone_name: str, backbone: Backbone) -> dict[str, Any]:
    """What rebuilds the pair: names and constructor options."""
    return {
        "process": {"name": process_name, "options": process.config()},
        "backbone": {"name": backbone_name, "options": backbone.config()},
    }


def save(
    path: Path | str,
    config: Mapping[str, Any],
    weights: Mapping[str, Any],
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes config.json and model.safetensors as one checkpoint folder.

    Arguments:
        path: The folder.
        config: From `describe`, with anything else plain beside it.
        weights: Tensors by name.
        beside: More files.
    """
    from safetensors.torch import save as to_bytes

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_folder(
        Path(path),
        {
            "config.json": json.dumps(config, indent=1, sort_keys=True).encode(),
            "model.safetensors": to_bytes(tensors),
            **(beside or {}),
        },
    )


def load(path: Path | str) -> tuple[Process, Backbone]:
    """The process and the trained backbone (EMA weights, eval mode) of a checkpoint folder.

    Raises:
        CheckpointError: The folder is no checkpoint, is damaged, or does not fit this version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    import genflow

    files = read_folder(Path(path))
    try:
        config = json.loads(files["config.json"])
        process = genflow.get_process(config["process"]["name"], **config["process"]["options"])
        backbone = genflow.get_backbone(config["backbone"]["name"], **config["backbone"]["options"])
        backbone.load_state_dict(from_bytes(files["model.safetensors"]))
    except (KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not describe a model of this genflow: {reason}") from error
    return process, backbone.eval().requires_grad_(False)
