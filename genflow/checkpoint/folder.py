"""Folders of files that are written whole or not at all and checked against their hashes, and those of one run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from genflow.places import FULL

FORMAT = 1
MANIFEST = "MANIFEST.json"
LATEST = "latest"
STATS = "stats.jsonl"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message names the file and what is wrong with it."""

    exit_code = 2


class SaveError(CheckpointError):
    """A checkpoint that cannot be written; what was there before is whole."""

    exit_code = 74


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files so that readers see the old one or the new one, never a part.

    Files go to a sibling folder, are synced, and are listed with their hashes in a manifest written last; then the
    folder takes its place.

    Raises:
        SaveError: The disk is full or cannot be written; nothing is left behind.
    """
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f"{path.name}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        fresh.mkdir()
        hashes = {name: _write_synced(fresh / name, content) for name, content in files.items()}
        manifest = {"format": FORMAT, "files": hashes}
        _write_synced(fresh / MANIFEST, json.dumps(manifest, indent=1).encode())
        old = path.with_name(f"{path.name}.old")
        if path.exists():  # else the old one may be the only whole copy, left by an interrupted swap
            _remove(old)
            path.rename(old)
        fresh.rename(path)
        _remove(old)
    except OSError as error:
        raise _save_error(path, error, sum(map(len, files.values()))) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save_error(path: Path, error: OSError, needed: int) -> SaveError:
    if error.errno not in FULL:
        return SaveError(f"{path} cannot be written: {error.strerror}")
    there = next((folder for folder in path.parents if folder.exists()), Path())
    free = shutil.disk_usage(there).free
    return SaveError(
        f"disk full: {path} needs {needed / 2**20:.1f} MiB, and {free / 2**20:.1f} MiB are free there "
        f"({error.strerror}); what was saved before is whole. Make room and start the same command again"
    )


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


def _write_synced(path: Path, content: bytes) -> str:
    """Writes and syncs a file while another thread hashes it; returns the hash."""
    with ThreadPoolExecutor(1) as pool, path.open("wb") as file:
        digest = pool.submit(lambda: hashlib.sha256(content).hexdigest())
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return digest.result()


def read_folder(path: Path, names: Collection[str] | None = None, verify: bool = True) -> dict[str, bytes]:
    """The files of a folder that `write_folder` wrote, each checked against its hash.

    Arguments:
        path: The folder, or that of a run, which stands for its newest checkpoint.
        names: Only these files, where they are there; None: all.
        verify: False reads files whose hash differs.

    Raises:
        CheckpointError: No manifest, a missing file, or a hash that differs; the file is named.
    """
    folder = whole_folder(path)
    listed = read_manifest(folder)
    chosen = {n: digest for n, digest in listed.items() if names is None or n in names}
    return {name: read_checked(folder / name, digest if verify else None) for name, digest in chosen.items()}


def whole_folder(path: Path) -> Path:
    """The folder of a checkpoint that a path stands for; raises CheckpointError where there is none."""
    path = resolve(path)
    if not path.exists() and path.with_name(f"{path.name}.old").exists():
        path = path.with_name(f"{path.name}.old")
    if path.is_file():
        raise CheckpointError(f"{path} is a file, not a checkpoint folder; bring published files in by genflow import")
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give the folder of a checkpoint or of a run")
    return path


def read_manifest(folder: Path) -> dict[str, str]:
    """Hash of each file of a folder, by name.

    Raises:
        CheckpointError: No manifest, or one that `write_folder` did not write.
    """
    place = folder / MANIFEST
    try:
        manifest = json.loads(place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder} is not a finished checkpoint: it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{place} is damaged: it is not JSON ({error})") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is not int or version < 1 or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{place} is damaged: want 'format', a whole number, and 'files', names with hashes")
    if version > FORMAT:
        raise CheckpointError(f"{folder} has format {version}; this genflow reads up to {FORMAT}: update it")
    for name, digest in manifest["files"].items():
        if not name or name != Path(name).name or "\\" in name or name in (MANIFEST, ".", ".."):
            raise CheckpointError(f"{place} is damaged: it lists {name[:60]!r}, which is not a file of the folder")
        if not isinstance(digest, str) or not HASH.fullmatch(digest):
            raise CheckpointError(f"{place} is damaged: it has no SHA-256 hash of {name}")
    return dict(manifest["files"])


HASH = re.compile("[0-9a-f]{64}")


def read_checked(path: Path, digest: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} does not match its hash ({len(content)} bytes): it was truncated or changed")
    return content


# ---- the checkpoints of one run --------------------------------------------------------------------------------------


class Checkpoints:
    """Folders step-00001600 in a run's folder, the newest named in the file `latest`, which is written last.

    Arguments:
        root: The run's folder.
        keep: How many of the newest are kept.
    """

    def __init__(self, root: Path, keep: int = 2) -> None:
        self.root, self.keep = root, keep

    def folder(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of which there is a folder, rising."""
        found = [path.name.removesuffix(".old") for path in self.root.glob("step-*") if ".tmp-" not in path.name]
        return sorted({int(name.removeprefix("step-")) for name in found if name.removeprefix("step-").isdecimal()})

    def write(self, step: int, files: Mapping[str, bytes]) -> None:
        """Writes a checkpoint, then the pointer to it, and removes what is older than the newest `keep`.

        Raises:
            SaveError: It cannot be written; those before are whole.
        """
        for stale in self.root.glob("*.tmp-*"):
            _remove(stale)
        write_folder(self.folder(step), files)
        try:
            write_file(self.root / LATEST, f"{self.folder(step).name}\n")
        except OSError as error:
            raise _save_error(self.root / LATEST, error, 0) from error
        for old in self.steps()[: -self.keep]:
            if old < step:
                _remove(self.folder(old))

    def newest(self, names: Collection[str] | None = None, verify: bool = True) -> tuple[dict[str, bytes], list[str]]:
        """The files of the newest whole checkpoint, and what is wrong with newer ones. No files in a new run's folder.

        Raises:
            CheckpointError: There are checkpoints and none is whole: a run never begins again unasked.
        """
        return self.find(names, verify)[1:]

    def find(
        self, names: Collection[str] | None = None, verify: bool = True
    ) -> tuple[Path, dict[str, bytes], list[str]]:
        """The folder of the newest whole checkpoint, with what `newest` gives."""
        wrong: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.folder(step), read_folder(self.folder(step), names, verify), wrong
            except CheckpointError as error:
                wrong.append(str(error))
        if wrong or (self.root / LATEST).exists():
            reason = "; ".join(wrong) or f"{self.root / LATEST} names one that is gone"
            raise CheckpointError(
                f"no checkpoint of {self.root} is whole: {reason}. Choose another folder, or empty it"
            )
        return self.root, {}, wrong


def holds_run(root: Path) -> bool:
    """Whether a folder is that of a training run, or a checkpoint."""
    return any((root / name).exists() for name in (LATEST, STATS, MANIFEST))


def resolve(path: Path) -> Path:
    """The checkpoint that a path stands for: a run's folder stands for its newest.

    Raises:
        CheckpointError: The pointer to the newest is damaged.
    """
    pointer = path / LATEST
    if (path / MANIFEST).exists() or not pointer.is_file():
        return path
    try:
        name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise CheckpointError(f"{pointer} cannot be read: {error.strerror}") from None
    if not name.startswith("step-") or name != Path(name).name or "\\" in name or "\0" in name:
        raise CheckpointError(f"{pointer} is damaged: it names {name[:40]!r}, not a checkpoint of the run")
    return path / name
