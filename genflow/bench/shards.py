"""Samples of one cell in shards: how it is cut, and which shards are on disk. Imports no torch.

A shard is a whole number of sample batches, so the batches of a cell are the same whether it is drawn in one go, after
a stop, or by several workers, and so are its samples.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from genflow.bench.cells import Cell
from genflow.bench.store import Store
from genflow.checkpoint import CheckpointError, read_folder, write_file, write_folder
from genflow.config import BenchConfig

MARK = "INCOMPLETE"
"""File beside the saved shards of an unfinished cell."""

Part = tuple[int, int]
"""Number of a shard's first sample, and of the one after its last."""


def cut(count: int, config: BenchConfig) -> list[Part]:
    """The shards of that many samples in order; none where they are drawn in one go."""
    size = config.shard * config.sample_batch
    return [(first, min(first + size, count)) for first in range(0, count, size)] if count > size else []


def parts(cell: Cell, config: BenchConfig) -> list[Part]:
    """The shards of a cell in order; none where it is done in one go."""
    return cut(cell.spec["samples"], config) if cell.kind == "sample" else []


def number(cell: Cell, config: BenchConfig) -> int:
    """How many shards a cell has, 0 where it is done in one go; counted without making the list."""
    samples, size = cell.spec["samples"] if cell.kind == "sample" else 0, config.shard * config.sample_batch
    return -(-samples // size) if samples > size else 0


def shard_path(store: Store, key: str, part: Part) -> Path:
    return store.shard_folder(key) / f"{part[0]:08d}-{part[1]:08d}"


def write_shard(store: Store, key: str, part: Part, files: dict[str, bytes]) -> None:
    """Keeps a finished shard."""
    write_folder(shard_path(store, key, part), files)


def read_shard(store: Store, key: str, part: Part) -> dict[str, bytes]:
    """The files of a shard; raises CheckpointError where it is not there or damaged."""
    return read_folder(shard_path(store, key, part))


def saved(store: Store, cell: Cell, config: BenchConfig) -> list[Part]:
    """Shards of a cell that are there and whole."""
    if not store.shard_folder(cell.key).is_dir():
        return []
    return [part for part in parts(cell, config) if is_whole(store, cell.key, part)]


def is_whole(store: Store, key: str, part: Part) -> bool:
    """Whether a shard is there and matches its hashes."""
    try:
        read_shard(store, key, part)
    except CheckpointError:
        return False
    return True


def mark(store: Store, cell: Cell, done: int, total: int) -> None:
    """Writes beside the shards which cell they belong to, and how many of them are saved."""
    store.shard_folder(cell.key).mkdir(parents=True, exist_ok=True)
    facts = {"cell": cell.name, "shards": done, "of": total, "samples": cell.spec["samples"]}
    write_file(store.shard_folder(cell.key) / MARK, json.dumps(facts) + "\n")


def discard(store: Store, key: str) -> None:
    """Removes the shards of a cell."""
    shutil.rmtree(store.shard_folder(key), ignore_errors=True)
