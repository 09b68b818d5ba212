"""Sentences that a reader must know before trusting a report's numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from genflow.bench.cells import REAL, Cell, lacking
from genflow.bench.rows import Row
from genflow.config import BenchConfig
from genflow.evaluate.facts import facts
from genflow.evaluate.protocol import is_missing
from genflow.registry import UnknownNameError, registries

PER_DIMENSION = 50
"""Samples for each feature dimension below which the report mentions the bias of a Fréchet distance."""


def cautions(config: BenchConfig, rows: Sequence[Row], missing: Sequence[Cell], notes: Iterable[str]) -> list[str]:
    """Sentences, the most serious first.

    Arguments:
        config: The bench.
        rows: Its rows, each with `of` = "samples" or "model".
        missing: Cells that are planned and not finished.
        notes: Sentences of the bench, e.g. on damaged cells.
    """
    rows = [row for row in rows if not is_missing(row)]  # these have a table of their own, with the reasons
    found = [*_missing(missing), *_unknown_numbers(rows), *_stuck(rows), *_protocols(rows), *_seeds(config, rows)]
    return list(dict.fromkeys([*found, *_small(rows), *_left_out(config), *notes]))


def _missing(cells: Sequence[Cell]) -> list[str]:
    if not cells:
        return []
    names = ", ".join(cell.name for cell in cells[:6]) + (" ..." if len(cells) > 6 else "")
    return [f"{len(cells)} planned cells are not finished, and their numbers are missing here: {names}."]


def _unknown_numbers(rows: Sequence[Row]) -> list[str]:
    lost = [
        f"{r['process']} {r['solver']} {r['metric']} (seed {r['seed']})"
        for r in rows
        if r["value"] is None and not is_missing(r)
    ]
    return [f"{len(lost)} measurements gave no finite number: {', '.join(lost[:6])}."] if lost else []


def _stuck(rows: Sequence[Row]) -> list[str]:
    """Samples that a solver left short of the end, once for each setting."""
    found = {(r["process"], r["solver"], r["budget"], r["seed"]): r["stopped"] for r in rows if r.get("stopped")}
    return [
        f"{solver} left {count} samples of {process} (seed {seed}) short of the data's end, where the field is stiff; "
        "they are measured as they are."
        for (process, solver, _, seed), count in found.items()
    ]


def _protocols(rows: Sequence[Row]) -> list[str]:
    """Metrics of samples that were measured in several ways."""
    said: dict[str, set[tuple[str, int]]] = {}
    for row in rows:
        if row.get("of") == "samples":
            said.setdefault(row["metric"], set()).add((comparable(row["protocol"]), row["n"]))
    return [
        f"{metric} was measured by {len(kinds)} protocols; compare only rows with the same one (see results.csv)."
        for metric, kinds in said.items()
        if len(kinds) > 1
    ]


def comparable(protocol: str) -> str:
    """A protocol without the number of blocks in its mean, which does not change the expected value."""
    return re.sub(r"over \d+ blocks? of n", "over blocks of n", protocol)


def _seeds(config: BenchConfig, rows: Sequence[Row]) -> list[str]:
    held: dict[tuple[str, ...], set[int]] = {}
    for row in rows:
        if row["process"] != REAL:
            key = tuple(str(row.get(k)) for k in ("process", "solver", "budget", "metric"))
            held.setdefault(key, set()).add(row["seed"])
    if len({frozenset(seeds) for seeds in held.values()}) > 1:
        return [
            "Not all settings have the same seeds: a mean is over its own, and a test over those that both sides have."
        ]
    count = len(config.seed)
    if count == 1:
        return [
            "One seed: standard errors cover the draw of samples, not how much another training would differ. There is "
            "no verdict on a process."
        ]
    few = f"{count} seeds: the tests keep their level, but detect only large differences."
    return [few] if count < 5 else []


def _small(rows: Sequence[Row]) -> list[str]:
    """The bias of Fréchet distances at small n, and real data at another n."""
    found = []
    real = {r["metric"]: r["n"] for r in rows if r["process"] == REAL}
    for metric in dict.fromkeys(r["metric"] for r in rows if facts(r).bias and "@" not in r["metric"]):
        own = [r for r in rows if r["metric"] == metric and r["process"] != REAL]
        if not own:
            continue
        n, stated = min(r["n"] for r in own), re.search(r"\(d = (\d+)\)", own[0]["protocol"])
        dim = int(stated[1]) if stated else 2048 if metric == "FID" else 0
        if dim and n < PER_DIMENSION * dim:
            found.append(
                f"{metric} at n = {n} in d = {dim} dimensions is biased upwards; "
                "real data are measured in the same way and show about how much; FD∞ is without that bias."
            )
        if metric in real and real[metric] != n:
            found.append(f"{metric}: samples are measured at n = {n}, real data at n = {real[metric]}.")
    return found


def _left_out(config: BenchConfig) -> list[str]:
    """Pairs of process and solver of the same mode that cannot be run, with the reason."""
    registry, found = registries(), []
    for name in config.process:
        for other in config.solver:
            try:
                process, solver = registry["processes"].entry(name), registry["solvers"].entry(other)
            except UnknownNameError:
                continue
            if process.tags.get("mode", "ode") == solver.tags.get("mode", "ode") and lacking(process, solver):
                found.append(f"Not run: {name} by {lacking(process, solver)}.")
    return found
