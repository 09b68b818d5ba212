"""Which cells of a bench are to be done: --only, --force and --time-limit. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from genflow.bench.cells import REAL, Cell, plan
from genflow.bench.store import Store, missing
from genflow.bench.terms import cautions, settle
from genflow.config import BenchConfig, ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OWN = "own"
"""In patterns, the budget of a solver that chooses its own steps."""


def seconds_of(name: str, text: str) -> float:
    """A time written as 90s, 30m, 1h30m or 2d, in seconds.

    Raises:
        ConfigError: It is not one; the message has the name.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not total:
        raise ConfigError(f"{name} = '{text}' is not a time; write it as 90s, 30m, 1h30m or 2d")
    return total


def matches(cell: Cell, pattern: str) -> bool:
    """Whether a pattern matches a cell.

    PROCESS:SOLVER:NFE matches the cells of which all three match. `*` also matches a part that a cell lacks, so
    `pfgm:*:*` or `pfgm:` matches everything of pfgm. A single word matches a kind of cell, a metric, or a process. Each
    part may have the wildcards *, ? and [...].
    """
    if ":" not in pattern:
        names = (cell.kind, str(cell.spec.get("metric", cell.kind)), str(cell.labels["process"]))
        return any(fnmatchcase(name, pattern) for name in names)
    wanted = [part or "*" for part in pattern.split(":")]
    nfe = cell.labels.get("nfe")
    own = OWN if cell.labels.get("solver") and nfe is None else ""
    has = (str(cell.labels["process"]), str(cell.labels.get("solver", "")), own if nfe is None else str(nfe))
    return all(fnmatchcase(name, part) for name, part in zip(has, wanted + ["*"] * (3 - len(wanted)), strict=True))


def chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> set[str]:
    """Keys of the cells that a pattern matches.

    Raises:
        ConfigError: A pattern that matches none, or has more than three parts.
    """
    found: set[str] = set()
    for pattern in patterns:
        if pattern.count(":") > 2:
            raise ConfigError(f"only = '{pattern}' has too many parts; give PROCESS:SOLVER:NFE, a kind or a metric")
        keys = {cell.key for cell in cells if matches(cell, pattern)}
        if not keys:
            raise ConfigError(f"only = '{pattern}' matches no cell of this bench; it has {_known(cells)}")
        found |= keys
    return found


def _known(cells: Sequence[Cell]) -> str:
    rows = [
        ("kinds", {cell.kind for cell in cells}),
        ("metrics", {str(cell.spec["metric"]) for cell in cells if "metric" in cell.spec}),
        ("processes", {str(cell.labels["process"]) for cell in cells}),
        ("solvers", {str(cell.labels["solver"]) for cell in cells if "solver" in cell.labels}),
        ("NFE", {str(cell.labels["nfe"] or OWN) for cell in cells if "nfe" in cell.labels}),
    ]
    return "; ".join(f"{what} {', '.join(sorted(names))}" for what, names in rows)


@dataclass(frozen=True)
class BenchPlan:
    """The cells of a bench, and those to do now.

    Arguments:
        store: Its folder.
        cells: All its cells, parents before children.
        todo: Those to do now.
        again: Keys of those that are done again although they are finished.
        notes: A sentence for each damaged one.
        left: How many unfinished ones were not chosen.
    """

    store: Store
    cells: list[Cell]
    todo: list[Cell]
    again: frozenset[str]
    notes: list[str]
    left: int


def prepare(config: BenchConfig, only: Sequence[str] = (), force: bool = False) -> BenchPlan:
    """The plan of a bench.

    Arguments:
        config: The bench.
        only: Patterns of the cells to do, with what they build on; all where there are none.
        force: Do the chosen cells, and what builds on them, even if they are finished.
    """
    store, cells = Store(Path(config.out)), plan(config)
    keys = chosen(cells, only) if only else {cell.key for cell in cells}
    again = frozenset(_descendants(cells, keys) if force else ())
    missed, notes = missing(store, cells, again)
    notes = [*notes, *cautions(settle(config)[0])]
    kept = {cell.key for cell in with_parents(cells, keys)} | again
    todo = [cell for cell in missed if cell.key in kept]
    return BenchPlan(store, cells, todo, again, notes, len(missed) - len(todo))


def _descendants(cells: Sequence[Cell], keys: set[str]) -> set[str]:
    found = set(keys)
    for cell in cells:
        if found.intersection(cell.parents):
            found.add(cell.key)
    return found


def with_parents(cells: Sequence[Cell], keys: set[str]) -> list[Cell]:
    """Those cells, what they build on, and real data by their metrics, in the order of the plan."""
    by_key = {cell.key: cell for cell in cells}
    wanted, look = set(keys), [by_key[key] for key in keys]
    metrics = {cell.spec["metric"] for cell in look if cell.kind == "metric"}
    wanted |= {c.key for c in cells if c.labels["process"] == REAL and c.spec.get("metric") in metrics}
    while look:
        cell = look.pop()
        fresh = [key for key in cell.parents if key not in wanted]
        wanted.update(fresh)
        look += [by_key[key] for key in fresh]
    return [cell for cell in cells if cell.key in wanted]
