"""The tasks of a bench, ready or not: cells, and the shards of large sample cells. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from genflow.bench import shards
from genflow.bench.cells import Cell
from genflow.bench.store import Store
from genflow.config import BenchConfig


@dataclass(frozen=True)
class Task:
    """What a worker does in one go.

    Arguments:
        cell: The cell.
        part: The shard to draw, or None: the whole cell, or its shards put together where they are all there.
        cost: In the cell's units.
    """

    cell: Cell
    part: shards.Part | None
    cost: float

    @property
    def name(self) -> str:
        """For people: the cell's, with the samples of a shard."""
        return self.cell.name + (f", samples {self.part[0]} to {self.part[1] - 1}" if self.part else "")


class Tasks:
    """Cells to do, handed out when what they build on is done; a cell's shards go to any free worker.

    Arguments:
        store: The bench's folder.
        config: The bench.
        cells: All its cells.
        todo: Those to do, parents before children.
    """

    def __init__(self, store: Store, config: BenchConfig, cells: list[Cell], todo: list[Cell]) -> None:
        self.store, self.config = store, config
        self.total = len(todo)
        self.cost = sum(cell.cost for cell in todo)
        self.spent = 0.0
        self._waiting = list(todo)
        self._there = {c.key for c in cells} - {c.key for c in todo}
        self._ready: list[Task] = []
        self._out: list[Task] = []
        self._left: dict[str, set[shards.Part]] = {}
        self._failed: set[str] = set()
        self._release()

    @property
    def over(self) -> bool:
        """Whether nothing is ready and no worker has a task: what still waits can never be done."""
        return not self._ready and not self._out

    @property
    def unfinished(self) -> int:
        """Cells that are not finished and have not failed."""
        return len(self._waiting) + len({task.cell.key for task in (*self._ready, *self._out)})

    def take(self, model: str) -> Task | None:
        """The next task for a worker that has this model loaded; None while there is none.

        Training first, then putting shards together, then the costliest cell of the same model, then of any.
        """

        def rank(task: Task) -> tuple[bool, bool, bool, float]:
            merges = task.part is None and task.cell.key in self._left
            return task.cell.kind == "train", merges, bool(model) and task.cell.model == model, task.cell.cost

        task = max(self._ready, key=rank, default=None)
        if task:
            self._ready.remove(task)
            self._out.append(task)
        return task

    def put_back(self, task: Task) -> None:
        """Takes back the task of a worker that stopped or was lost; a shard of a failed cell is not done again."""
        self._out.remove(task)
        if not self.given_up(task):
            self._ready.append(task)

    def given_up(self, task: Task) -> bool:
        """Whether the task's cell has failed, by another shard of it."""
        return task.cell.key in self._failed

    def done(self, task: Task) -> None:
        """Counts a task as finished, and releases what waited for it."""
        self._out.remove(task)
        self.spent += task.cost
        if task.part is None:
            self._there.add(task.cell.key)
            self._release()
            return
        left = self._left[task.cell.key]
        left.discard(task.part)
        total = shards.number(task.cell, self.config)
        shards.mark(self.store, task.cell, total - len(left), total)
        if not left:
            self._ready.append(Task(task.cell, None, 0.0))

    def failed(self, task: Task) -> None:
        """Gives up a cell, with its other shards and all that builds on it."""
        self._out.remove(task)
        self._failed.add(task.cell.key)
        self._ready = [other for other in self._ready if other.cell.key != task.cell.key]
        dead = {task.cell.key}
        for cell in list(self._waiting):
            if dead.intersection(cell.parents):
                dead.add(cell.key)
                self._waiting.remove(cell)

    def clear(self) -> None:
        """Nothing more is handed out."""
        self._ready.clear()
        self._waiting.clear()

    def _release(self) -> None:
        for cell in [c for c in self._waiting if self._there.issuperset(c.parents)]:
            self._waiting.remove(cell)
            self._ready += self._cut(cell)

    def _cut(self, cell: Cell) -> list[Task]:
        every = shards.parts(cell, self.config)
        if not every:
            return [Task(cell, None, cell.cost)]
        kept = shards.saved(self.store, cell, self.config)
        shards.mark(self.store, cell, len(kept), len(every))
        self._left[cell.key] = set(every) - set(kept)
        share = cell.cost / len(every)
        self.spent += share * len(kept)
        todo = [Task(cell, part, share) for part in every if part not in kept]
        return todo or [Task(cell, None, 0.0)]
