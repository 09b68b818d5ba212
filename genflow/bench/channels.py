"""How a bench speaks with a worker: lines of JSON, by pipes or through files of the shared folder. Imports no torch."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from genflow.bench.post import Mailbox

Message = dict[str, Any]
Arrivals: TypeAlias = "queue.Queue[tuple[Channel, Message | None]]"


class Channel(ABC):
    """A worker as the bench sees it. What it says arrives in a queue; None is the last word of one that is gone."""

    @abstractmethod
    def listen(self, arrivals: Arrivals) -> None:
        """Starts to put what the worker says into the queue."""

    @abstractmethod
    def send(self, message: Message) -> None:
        """Tells the worker; one that is gone hears nothing."""

    @abstractmethod
    def stop(self) -> None:
        """Asks it to save what it can and end."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be asked: it may end. Waits until it has."""

    @abstractmethod
    def last_words(self) -> str:
        """Why it is gone, as far as that is known."""


class Pipe(Channel):
    """A process of this machine, spoken to through its standard input and output.

    Arguments:
        log: File for what it writes to standard error.
        env: Variables that differ from this process's own; None takes one away.
    """

    def __init__(self, log: Path, env: dict[str, str | None]) -> None:
        self.log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "genflow.bench.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={k: v for k, v in {**os.environ, **env}.items() if v is not None},
                start_new_session=True,
            )

    def listen(self, arrivals: Arrivals) -> None:
        def read() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                arrivals.put((self, json.loads(line)))
            self.process.wait()
            arrivals.put((self, None))

        threading.Thread(target=read, daemon=True).start()

    def send(self, message: Message) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        said = self.log.read_text(errors="replace")[-800:].strip()
        return f"the worker ended with code {self.process.poll()}: {said or 'it said nothing'}"


class Job(Protocol):
    """What a bench needs to know of a cluster's job."""

    def done(self) -> bool: ...
    def cancel(self) -> None: ...
    def stderr(self) -> str | None: ...


class Letters(Channel):
    """A worker elsewhere, spoken to through files in the bench's folder.

    Arguments:
        box: Its mailbox.
        job: The cluster's job that it is, where it is one.
    """

    POLL, ASK = 0.05, 2.0
    """Seconds between looks into the box, and between questions to the cluster."""

    def __init__(self, box: Mailbox, job: Job | None = None) -> None:
        self.box, self.job = box, job
        self._closed, self._came = threading.Event(), False

    def listen(self, arrivals: Arrivals) -> None:
        def read() -> None:
            gone, asked = False, time.monotonic()
            while not self._closed.is_set():
                for message in self.box.receive():
                    self._came = True
                    arrivals.put((self, message))
                if gone:
                    arrivals.put((self, None))
                    return
                if self.job and time.monotonic() - asked > self.ASK:
                    gone, asked = self.job.done(), time.monotonic()
                time.sleep(self.POLL)

        threading.Thread(target=read, daemon=True).start()

    def send(self, message: Message) -> None:
        self.box.send(message)

    def stop(self) -> None:
        self.box.send({"stop": True})

    def kill(self) -> None:
        self._closed.set()
        if self.job:
            self.job.cancel()

    def close(self) -> None:
        self.box.send({"end": True})
        if self.job:
            patience = time.monotonic() + (20 if self._came else 0)  # one that still waits in a queue is not waited for
            while not self.job.done() and time.monotonic() < patience:
                time.sleep(self.POLL)
            if not self.job.done():
                self.job.cancel()
        self._closed.set()

    def last_words(self) -> str:
        said = ((self.job and self.job.stderr()) or "")[-800:].strip()
        return f"the job has ended: {said or 'it said nothing'}"
