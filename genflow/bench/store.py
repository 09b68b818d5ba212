"""Results on disk: one folder a cell, written atomically and hashed; one bench at a time. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genflow.bench.cells import Cell
from genflow.checkpoint import MANIFEST, CheckpointError, holds_run, read_folder, write_file
from genflow.config import ConfigError
from genflow.evaluate.weight_files import is_without_weights

State = Literal["cached", "missing", "damaged", "unavailable"]
"""Of a cell's result. Unavailable: it says which data or weights are not here, and is tried again if that can help."""

UNAVAILABLE = "unavailable.json"
"""File of a metric cell whose data or weights are not here, with the reason."""


class BusyError(RuntimeError):
    """Another process holds the output folder; the message says who."""

    exit_code = 75


@dataclass
class Store:
    """The output folder of a bench.

    Arguments:
        root: The folder; made when something is written.
    """

    root: Path

    @property
    def cells(self) -> Path:
        return self.root / "cells"

    def folder(self, key: str) -> Path:
        return self.cells / key

    def state_folder(self, key: str) -> Path:
        """Where an unfinished training run keeps what it needs to go on."""
        return self.cells / f"{key}.state"

    def shard_folder(self, key: str) -> Path:
        """Where the parts of an unfinished sample cell are kept."""
        return self.cells / f"{key}.shards"

    def look(self, cell: Cell) -> tuple[State, str]:
        """Whether a cell's result is there and whole; what is wrong with it where it is damaged."""
        if not self.folder(cell.key).exists() and not self.folder(f"{cell.key}.old").exists():
            return "missing", ""
        try:
            files = self.files(cell.key)
        except CheckpointError as error:
            return "damaged", str(error)
        if UNAVAILABLE in files:
            return "unavailable", str(json.loads(files[UNAVAILABLE])["reason"])
        return "cached", ""

    def finished(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that have a whole result, be it the reason why there is none."""
        return [cell for cell in cells if self.look(cell)[0] in ("cached", "unavailable")]

    def files(self, key: str) -> dict[str, bytes]:
        """The files of a finished cell, hashes checked."""
        return read_folder(self.folder(key))

    def contents(self, key: str) -> str:
        """What is in a cell, by the hashes of its files; a cell that was tried again and found no more is the same."""
        place = self.folder(key) if self.folder(key).exists() else self.folder(f"{key}.old")
        try:
            hashes = dict(json.loads((place / MANIFEST).read_text())["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        if UNAVAILABLE in hashes:
            hashes.pop("cell.json", None)
        return json.dumps(hashes, sort_keys=True)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The measured rows of a finished cell."""
        return json.loads(self.files(key).get("rows.json", b"[]"))

    def sweep(self, again: Container[str] = frozenset()) -> None:
        """Removes what earlier benches left half-written, and what was begun of cells that are to be done anew."""
        for path in [*self.cells.glob("*.tmp-*"), *self.cells.glob("*.shards"), *self.cells.glob("*.state")]:
            key, _, kind = path.name.partition(".")
            if kind.startswith("tmp-") or key in again or (self.folder(key) / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)

    def write_failures(self, failures: Mapping[str, str]) -> None:
        """Keeps what failed, by cell, in failures.json; there is no such file where nothing did."""
        path = self.root / "failures.json"
        if failures:
            write_file(path, json.dumps(failures, indent=1, ensure_ascii=False) + "\n")
        elif path.exists():
            path.unlink()

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            ConfigError: It is a file, or can not be written.
        """
        self.check_place()
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"out = '{self.root}' can not be written: {error.strerror}; choose another folder"
            ) from None

    def check_place(self) -> None:
        """Raises ConfigError where a file stands in the folder's way, or a training run is kept; writes nothing."""
        for part in (self.root, *self.root.parents):
            if part.exists() and not part.is_dir():
                raise ConfigError(f"out = '{self.root}': {part} is a file, not a folder; choose another folder")
        if holds_run(self.root):
            raise ConfigError(
                f"out = '{self.root}' holds a training run or a checkpoint, no bench; choose another folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; freed by the system however it ends.

        Raises:
            BusyError: Somebody else holds it.
        """
        with (self.root / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise BusyError(f"{self.root} is in use by {holder}; wait for it, or choose another --out") from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
            file.truncate(0)


def missing(store: Store, cells: Iterable[Cell], again: Container[str] = frozenset()) -> tuple[list[Cell], list[str]]:
    """Cells that have no whole result, or whose parents have none; and a sentence for each damaged one.

    Arguments:
        store: The bench's folder.
        cells: Parents before children.
        again: Keys of cells that are to be computed again although they are there.
    """
    todo: list[Cell] = []
    notes: list[str] = []
    keys: set[str] = set()
    for cell in cells:
        state, why = store.look(cell)
        if state == "damaged":
            notes.append(f"{cell.name} is computed again: {why}")
        if state == "unavailable" and is_without_weights(cell.spec):
            state = "cached"  # the same reason still holds; another one, or weights, would be another cell
        if state != "cached" or cell.key in again or keys.intersection(cell.parents):
            todo.append(cell)
            keys.add(cell.key)
    return todo, notes
