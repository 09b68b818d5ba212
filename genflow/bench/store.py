"""Results on disk: one folder a cell, written atomically and hashed; one bench at a time. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genflow.bench.cells import Cell
from genflow.checkpoint import CheckpointError, read_folder
from genflow.config import ConfigError

State = Literal["cached", "missing", "damaged"]


class BusyError(RuntimeError):
    """Another bench holds the output folder; the message says who."""


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

    def look(self, cell: Cell) -> tuple[State, str]:
        """Whether a cell's result is there and whole; what is wrong with it where it is damaged."""
        if not self.folder(cell.key).exists() and not self.folder(f"{cell.key}.old").exists():
            return "missing", ""
        try:
            self.files(cell.key)
        except CheckpointError as error:
            return "damaged", str(error)
        return "cached", ""

    def files(self, key: str) -> dict[str, bytes]:
        """The files of a finished cell, hashes checked."""
        return read_folder(self.folder(key))

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The measured rows of a finished cell."""
        return json.loads(self.files(key).get("rows.json", b"[]"))

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            ConfigError: It is a file, or can not be written.
        """
        for part in (self.root, *self.root.parents):
            if part.exists() and not part.is_dir():
                raise ConfigError(f"out = '{self.root}': {part} is a file, not a folder; choose another folder")
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"out = '{self.root}' can not be written: {error.strerror}; choose another folder"
            ) from None

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


def missing(store: Store, cells: Iterable[Cell]) -> tuple[list[Cell], list[str]]:
    """Cells that have no whole result, or whose parents have none; and a sentence for each damaged one."""
    todo: list[Cell] = []
    notes: list[str] = []
    keys: set[str] = set()
    for cell in cells:
        state, why = store.look(cell)
        if state == "damaged":
            notes.append(f"{cell.name} is computed again: {why}")
        if state != "cached" or keys.intersection(cell.parents):
            todo.append(cell)
            keys.add(cell.key)
    return todo, notes
