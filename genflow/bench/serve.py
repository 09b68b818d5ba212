"""A worker's side of a bench: hears errands, does them, says how it goes. torch is imported by the first one."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from typing import Any

from genflow.bench.post import Follower

Message = dict[str, Any]


class Errands(ABC):
    """Where errands come from and answers go to."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._waiting: queue.Queue[Message | None] = queue.Queue()
        self._told = 0.0

    @abstractmethod
    def say(self, **message: Any) -> None:
        """Tells the bench."""

    def next(self) -> Message | None:
        """The next errand; None where there will be none."""
        while not self.stop.is_set():
            try:
                return self._waiting.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def progress(self, share: float, note: str) -> None:
        """Tells how far the errand is, at most ten times a second."""
        now = time.monotonic()
        if now - self._told > 0.1:
            self._told = now
            self.say(share=share, note=note)


class ByPipe(Errands):
    """Over standard input and output. When the bench is gone the process ends at once, whatever it is doing."""

    def __init__(self) -> None:
        super().__init__()
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._waiting.put(json.loads(line))
        os._exit(1)

    def say(self, **message: Any) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


class ByPost(Errands):
    """Through a mailbox in the bench's folder. When the bench is gone the errand is stopped, its work kept.

    Arguments:
        follower: Knows the session.
        name: Of the mailbox.
        again: Whether it comes for the second time; what was said to it before is void.
    """

    POLL, ALIVE, GRACE = 0.05, 1.0, 30.0
    """Seconds between looks into the box and at the bench's signs of life; and until a stopped worker is ended."""

    def __init__(self, follower: Follower, name: str, again: bool = False) -> None:
        super().__init__()
        self.follower, self.box, self._over = follower, follower.box(name), threading.Event()
        if again:
            self.box.skip()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        looked = time.monotonic()
        while not self.stop.is_set():
            for message in self.box.receive():
                if "stop" in message:
                    self.stop.set()
                self._waiting.put(None if "end" in message else message)
            if time.monotonic() - looked > self.ALIVE:
                looked = time.monotonic()
                if self.follower.alone():
                    self.stop.set()
            time.sleep(self.POLL)
        if not self._over.wait(self.GRACE):
            os._exit(1)

    def finish(self) -> None:
        """Nothing is being done any more: the process may live on."""
        self._over.set()
        self.stop.set()

    def say(self, **message: Any) -> None:
        if not self.follower.alone():
            self.box.send(message)


def serve(errands: Errands, threads: int = 0, place: int | None = None) -> None:
    """Does errands until there are none.

    Arguments:
        errands: Where they come from. The first is {"config", "threads", "place", "calls"}.
        threads: Of this worker; 0: as the bench says.
        place: Which of the machine's GPUs it takes; None: as the bench says.
    """
    errands.say(hello=os.getpid(), host=socket.gethostname())
    first = errands.next()
    if first is None:
        return
    import torch

    from genflow.bench.worker import Worker
    from genflow.config import BenchConfig, build

    torch.set_num_threads(threads or first["threads"])
    try:
        worker = Worker(build(BenchConfig, first["config"]), errands.stop.is_set)
        if worker.config.device == "cuda" and torch.cuda.device_count():
            torch.cuda.set_device((first["place"] if place is None else place) % torch.cuda.device_count())
        worker.check()
    except (ValueError, TypeError, RuntimeError) as error:
        traceback.print_exc()
        errands.say(refused=str(error))
        return
    costs = None
    if first.get("calls"):
        from genflow.bench.calibrate import measure_costs

        costs = measure_costs(worker, first["calls"])
    errands.say(ready=True, costs=costs)
    while (errand := errands.next()) and _answer(worker, errand, errands):
        pass


def _answer(worker: Any, errand: Message, errands: Errands) -> bool:
    """Does one errand and says what came of it; whether to go on."""
    from genflow.bench.worker import Stopped

    cell = errand["cell"]
    try:
        worker.run(cell, errands.progress, errand["part"])
        errands.say(done=cell["key"])
    except Stopped:
        errands.say(stopped=cell["key"])
        return False
    except Exception as error:
        traceback.print_exc()
        errands.say(failed=cell["key"], error=f"{type(error).__name__}: {error}")
    return True


def main() -> None:
    """A worker that the bench has started on this machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    errands = ByPipe()
    signal.signal(signal.SIGTERM, lambda *_: errands.stop.set())
    serve(errands)


if __name__ == "__main__":
    main()
