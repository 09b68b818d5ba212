"""Runs what is missing of a bench on worker processes, once, and keeps what is finished. Imports no torch."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genflow.bench.cells import Cell, plan
from genflow.bench.store import Store, missing
from genflow.config import BenchConfig, ConfigError, flatten


class Interrupted(Exception):
    """The bench was asked to stop; finished cells and training states are kept."""


class CellError(RuntimeError):
    """Cells that failed; the message says which and why."""


@dataclass
class Report:
    """What the runner tells while it works: share of all work done, seconds left, what each worker is at."""

    share: float
    left: float
    running: list[str]
    done: int
    total: int


@dataclass
class _Slot:
    """A worker process and what it is doing."""

    process: subprocess.Popen[str]
    ready: bool = False
    cell: Cell | None = None
    share: float = 0.0
    note: str = ""
    model: str = ""


def job_count(config: BenchConfig, todo: list[Cell]) -> int:
    """Workers: as asked, or one per CPU core, but not more than trained models to work on."""
    models = {cell.parents[0] if cell.kind == "sample" else cell.key for cell in todo if cell.kind != "metric"}
    metrics = sum(cell.kind == "metric" for cell in todo)
    useful = max(1, len(models) or min(metrics, 2))
    return min(config.jobs or usable_cores(), useful)


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Runner:
    """Gives cells to workers, parents first, and prefers a worker that just used the same model.

    Arguments:
        config: The bench.
        store: Its folder, locked by the caller.
        report: Called a few times a second.
    """

    config: BenchConfig
    store: Store
    report: Callable[[Report], None] = lambda report: None
    slots: list[_Slot] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopping: bool = False
    refused: str = ""

    def run(self, cells: list[Cell], todo: list[Cell]) -> None:
        """Does every cell of todo.

        Raises:
            ConfigError: A part refused its options; nothing ran.
            Interrupted: SIGINT or SIGTERM came; a second one ends the program at once.
            CellError: Cells failed, or a worker died.
        """
        if not todo:
            return
        self._todo, self._all = list(todo), list(todo)
        self._finished = {c.key for c in cells} - {c.key for c in todo}
        self._began, self._spent = time.monotonic(), 0.0
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._start(job_count(self.config, todo))
            self._loop()
        finally:
            self._end()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.stopping:
            raise Interrupted
        if self.refused:
            raise ConfigError(self.refused)
        if self.failures:
            raise CellError("\n".join(self.failures))

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stopping:
            for slot in self.slots:
                slot.process.kill()
            os._exit(128 + number)
        self.stopping = True
        for slot in self.slots:
            slot.process.terminate()

    # ---- workers -----------------------------------------------------------------------------------------

    def _start(self, jobs: int) -> None:
        threads = max(1, usable_cores() // jobs)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        log = (self.store.root / "worker.log").open("w")
        hello = json.dumps({"config": flatten(self.config), "threads": threads}) + "\n"
        for _ in range(jobs):
            process = subprocess.Popen(
                [sys.executable, "-m", "genflow.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                start_new_session=True,
            )
            self.slots.append(_Slot(process))
            self._send(self.slots[-1], hello)

    def _send(self, slot: _Slot, line: str) -> None:
        assert slot.process.stdin is not None
        try:
            slot.process.stdin.write(line)
            slot.process.stdin.flush()
        except BrokenPipeError:
            pass

    def _end(self) -> None:
        for slot in self.slots:
            if slot.process.stdin:
                slot.process.stdin.close()
        for slot in self.slots:
            try:
                slot.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                slot.process.kill()

    def _loop(self) -> None:
        with selectors.DefaultSelector() as selector:
            for slot in self.slots:
                assert slot.process.stdout is not None
                selector.register(slot.process.stdout, selectors.EVENT_READ, slot)
            while selector.get_map():
                for key, _ in selector.select(timeout=0.5):
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if line:
                        self._hear(key.data, json.loads(line))
                    else:
                        selector.unregister(key.fileobj)
                        self._lost(key.data)
                self.report(self._now())
                if not self.stopping and not self._todo and not any(s.cell for s in self.slots):
                    return

    def _hear(self, slot: _Slot, message: dict[str, Any]) -> None:
        if "refused" in message:
            self.refused = message["refused"]
            self._todo.clear()
            return
        if "share" in message:
            slot.share, slot.note = message["share"], message["note"]
            return
        if slot.cell and ("done" in message or "failed" in message):
            cell, slot.cell = slot.cell, None
            self._spent += cell.cost
            if "done" in message:
                self._finished.add(cell.key)
            else:
                self._fail(cell, message["error"])
        if "stopped" in message:
            slot.cell = None
        slot.ready = True
        self._hand_out()

    def _lost(self, slot: _Slot) -> None:
        """A worker's pipe closed: its cell, if it had one, has failed."""
        code, cell = slot.process.wait(), slot.cell
        slot.cell, slot.ready = None, False
        if not self.stopping and (cell or code):
            tail = (self.store.root / "worker.log").read_text()[-800:].strip()
            what = cell.name if cell else "start"
            self.failures.append(f"{what}: the worker ended with code {code}: {tail or 'it said nothing'}")
            if cell:
                self._drop_children({cell.key})
        self._hand_out()
        if not any(s.process.poll() is None for s in self.slots):
            self._todo.clear()

    def _fail(self, cell: Cell, error: str) -> None:
        self.failures.append(f"{cell.name}: {error}")
        self._drop_children({cell.key})

    def _drop_children(self, dead: set[str]) -> None:
        for cell in list(self._todo):
            if dead.intersection(cell.parents):
                dead.add(cell.key)
                self._todo.remove(cell)

    def _hand_out(self) -> None:
        for slot in self.slots:
            if self.stopping or not slot.ready or slot.cell or slot.process.poll() is not None:
                continue
            cell = self._choose(slot)
            if cell is None:
                continue
            self._todo.remove(cell)
            slot.cell, slot.share, slot.note = cell, 0.0, ""
            slot.model = (cell.parents or (cell.key,))[0] if cell.kind != "metric" else slot.model
            self._send(slot, json.dumps(cell.to_json()) + "\n")

    def _choose(self, slot: _Slot) -> Cell | None:
        """Training first, then the dearest cell of the model this worker used last, then of any."""
        ready = [c for c in self._todo if self._finished.issuperset(c.parents)]
        return max(ready, key=lambda c: (c.kind == "train", slot.model in c.parents, c.cost), default=None)

    def _now(self) -> Report:
        running = [s for s in self.slots if s.cell]
        total = sum(c.cost for c in self._all) or 1.0
        share = (self._spent + sum(s.cell.cost * s.share for s in running if s.cell)) / total
        elapsed = time.monotonic() - self._began
        left = elapsed * (1 - share) / share if share > 0.01 else float("nan")
        words = [f"{s.cell.name} {s.share:.0%} {s.note}".strip() for s in running if s.cell]
        busy = len(self._todo) + len(running)
        return Report(share, left, words, len(self._all) - busy, len(self._all))


def refusal(config: BenchConfig) -> str:
    """Why a part of the bench refuses its options, found by building everything in a process of its own; "" if none.

    Costs the import of torch, in that process; nothing is written.
    """
    hello = json.dumps({"config": flatten(config), "threads": 1}) + "\n"
    done = subprocess.run(
        [sys.executable, "-m", "genflow.bench.worker", "--check"], input=hello, capture_output=True, text=True
    )
    answer = done.stdout.splitlines()
    if not answer:
        return f"the worker did not start: {done.stderr.strip()[-800:]}"
    return str(json.loads(answer[0]).get("refused", ""))


def estimate_seconds(config: BenchConfig, store: Store, cells: list[Cell], todo: list[Cell]) -> tuple[float, str]:
    """Rough seconds for todo, and what the guess rests on.

    Finished cells of the same folder give the time per network evaluation; without any, a two-core CPU with the
    default network and data is assumed (0.4 ms).
    """
    timed = [(c.cost, _seconds(store, c)) for c in cells if c not in todo and c.kind != "metric"]
    known = [(cost, seconds) for cost, seconds in timed if seconds]
    rate = sum(s for _, s in known) / sum(c for c, _ in known) if known else 4e-4
    basis = "the finished cells" if known else "the default network on a two-core CPU; no cell is finished yet"
    return sum(c.cost for c in todo) * rate / job_count(config, todo) if todo else 0.0, basis


def _seconds(store: Store, cell: Cell) -> float:
    files = store.files(cell.key)
    return float(json.loads(files.get("cell.json") or files["config.json"]).get("seconds", 0.0))


def prepare(config: BenchConfig) -> tuple[Store, list[Cell], list[Cell], list[str]]:
    """(store, all cells, cells to do, notes on damaged ones)."""
    store, cells = Store(Path(config.out)), plan(config)
    todo, notes = missing(store, cells)
    return store, cells, todo, notes
