"""Messages through files of a folder that a bench shares with workers that are no children of it. Imports no torch.

Whoever leads the bench shows that it lives by a number that grows; who follows compares what it sees with what it saw
before, so no clocks are compared and an old file is no sign of life. Every mailbox has two files of JSON lines, each
with one writer, who only appends.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from genflow.checkpoint import write_file

BEAT, PATIENCE = 0.5, 60.0
"""Seconds between signs of life, and without one until a follower takes the bench for gone."""

FOLDER, SIGN = ".workers", "open.json"


class Mailbox:
    """Both directions between the bench and one worker.

    Arguments:
        folder: The box's own.
        inbox: File to read from; the other one is written to.
    """

    FILES = ("to-bench.jsonl", "to-worker.jsonl")

    def __init__(self, folder: Path, inbox: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (other,) = (name for name in self.FILES if name != inbox)
        self._read, self._write, self._place = folder / inbox, folder / other, 0
        self._lock = threading.Lock()

    @classmethod
    def of_bench(cls, folder: Path) -> Mailbox:
        return cls(folder, cls.FILES[0])

    @classmethod
    def of_worker(cls, folder: Path) -> Mailbox:
        return cls(folder, cls.FILES[1])

    def send(self, message: dict[str, Any]) -> None:
        """Appends a line."""
        with self._lock, self._write.open("ab") as file:
            file.write(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Whole lines that have come since the last look."""
        try:
            with self._read.open("rb") as file:
                file.seek(self._place)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def skip(self) -> None:
        """Leaves what is there unread: it was meant for one who came before."""
        self.receive()


class Leader:
    """The one who leads a bench, inside `with`: a fresh session, and signs of life.

    Arguments:
        root: The bench's folder, which it holds.
    """

    def __init__(self, root: Path) -> None:
        self.folder, self.session = root / FOLDER, uuid.uuid4().hex[:12]
        self._over = threading.Event()

    def box(self, name: str) -> Mailbox:
        """The mailbox of the worker of that name."""
        return Mailbox.of_bench(self.folder / self.session / name)

    def __enter__(self) -> Leader:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._beat(0)
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _go_on(self) -> None:
        beat = 0
        while not self._over.wait(BEAT):
            beat += 1
            self._beat(beat)

    def _beat(self, beat: int) -> None:
        with suppress(OSError):  # a full disk, say; the next beat may come through
            write_file(self.folder / SIGN, json.dumps({"session": self.session, "beat": beat}))


class Follower:
    """A worker's view of the one who leads.

    Arguments:
        root: The bench's folder.
        session: The only session that it is for; "" takes the one it finds alive.
    """

    def __init__(self, root: Path, session: str = "") -> None:
        self.folder, self.session = root / FOLDER, session
        self._seen: tuple[str, int] | None = None
        self._since = time.monotonic()

    def find(self, patience: float) -> bool:
        """Waits for a leader that shows a second sign of life; whether one came in time."""
        began, first = time.monotonic(), self._look()
        while time.monotonic() - began < patience:
            time.sleep(BEAT / 5)
            seen = self._look()
            if seen and first and seen[0] == first[0] and seen[1] != first[1] and self.session in ("", seen[0]):
                self.session, self._since = seen[0], time.monotonic()
                return True
            first = first if seen and first and seen[0] == first[0] else seen
        return False

    def box(self, name: str) -> Mailbox:
        """The mailbox of this worker."""
        return Mailbox.of_worker(self.folder / self.session / name)

    def alone(self) -> bool:
        """Whether the leader is gone: another session is open, none is, or there was no sign of life for long."""
        seen = self._look()
        if seen and seen[0] == self.session:
            if seen != self._seen:
                self._seen, self._since = seen, time.monotonic()
            return time.monotonic() - self._since > PATIENCE
        return seen is not None or time.monotonic() - self._since > 10 * BEAT

    def _look(self) -> tuple[str, int] | None:
        try:
            facts = json.loads((self.folder / SIGN).read_text())
            return str(facts["session"]), int(facts["beat"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
