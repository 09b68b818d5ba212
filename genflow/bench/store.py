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
"""Of a cell's result. Unavailable: it records which data or weights are missing; tried again where that may help."""

UNAVAILABLE = "unavailable.json"
"""File of a metric cell whose data or weights are missing, with the reason."""


class BusyError(RuntimeError):
    """Another process holds the output folder; the message names it."""

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
        """Where an unfinished training keeps what it needs to go on."""
        return self.cells / f"{key}.state"

    def shard_folder(self, key: str) -> Path:
        """Where the parts of an unfinished sample cell are kept."""
        return self.cells / f"{key}.shards"

    def look(self, cell: Cell) -> tuple[State, str]:
        """Whether a cell's result is there and whole, and what is wrong with a damaged one."""
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
        """Those with a whole result, which may be the reason why there is no number."""
        return [cell for cell in cells if self.look(cell)[0] in ("cached", "unavailable")]

    def files(self, key: str) -> dict[str, bytes]:
        """The files of a finished cell, hashes checked."""
        return read_folder(self.folder(key))

    def contents(self, key: str) -> str:
        """Hashes of a cell's files as text; the same after another attempt that again found no data or weights."""
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
        """Removes what earlier benches left half-written, and what was begun of cells that are to be done again."""
        for path in [*self.cells.glob("*.tmp-*"), *self.cells.glob("*.shards"), *self.cells.glob("*.state")]:
            key, _, kind = path.name.partition(".")
            if kind.startswith("tmp-") or key in again or (self.folder(key) / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)

    def write_failures(self, failures: Mapping[str, str]) -> None:
        """Writes what failed, by cell, to failures.json; removes the file where nothing did."""
        path = self.root / "failures.json"
        if failures:
            write_file(path, json.dumps(failures, indent=1, ensure_ascii=False) + "\n")
        elif path.exists():
            path.unlink()

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            ConfigError: It is a file, or cannot be written.
        """
        self.check_place()
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"out = '{self.root}' cannot be written: {error.strerror}; choose another folder"
            ) from None

    def check_place(self) -> None:
        """Raises ConfigError where a file is in the folder's place, or it holds a training run; writes nothing."""
        for part in (self.root, *self.root.parents):
            if part.exists() and not part.is_dir():
                raise ConfigError(f"out = '{self.root}': {part} is a file, not a folder; choose another folder")
        if holds_run(self.root):
            raise ConfigError(
                f"out = '{self.root}' holds a training run or a checkpoint, not a bench; choose another folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; the system frees it however the process ends.

        Raises:
            BusyError: Another process holds it.
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
    """Cells that lack a whole result, or whose parents do; and a sentence for each damaged one.

    Arguments:
        store: The bench's folder.
        cells: Parents before children.
        again: Keys of cells that are to be computed again although they are finished.
    """
    todo: list[Cell] = []
    notes: list[str] = []
    keys: set[str] = set()
    for cell in cells:
        state, why = store.look(cell)
        if state == "damaged":
            notes.append(f"{cell.name} is computed again: {why}")
        if state == "unavailable" and is_without_weights(cell.spec):
            state = "cached"  # for the same reason as before; with weights it would be another cell
        if state != "cached" or cell.key in again or keys.intersection(cell.parents):
            todo.append(cell)
            keys.add(cell.key)
    return todo, notes
