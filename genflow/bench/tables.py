"""Rows to results.csv and tables.md. Imports no torch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from genflow.bench.cells import REAL, Cell
from genflow.bench.store import Store
from genflow.evaluate.protocol import FD_WORDS, is_missing, reason
from genflow.registry import registries

COLUMNS = (
    "process",
    "backbone",
    "dataset",
    "solver",
    "nfe",
    "metric",
    "value",
    "stderr",
    "n",
    "seed",
    "protocol",
    "seconds",
    "stopped",
)
"""Of results.csv. `stopped`: samples that the solver left short of the data's end, empty for none."""

Row = dict[str, Any]
OWN_TABLES = ("norm_spread", "norm_tied", "bits/dim", "nll[nats]")
"""How names of metrics begin that have tables of another kind."""


def collect(store: Store, cells: Iterable[Cell]) -> list[Row]:
    """Every measured row, in the order of the cells."""
    return [row for cell in cells if cell.kind == "metric" for row in store.rows(cell.key)]


def to_csv(rows: Sequence[Row]) -> str:
    """results.csv: one row per measured number; numbers in full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


class Table:
    """A titled table of text cells with a caption.

    Arguments:
        title: Heading.
        header: Column names.
        rows: Text cells.
        caption: How the numbers were made.
    """

    def __init__(self, title: str, header: list[str], rows: list[list[str]], caption: str) -> None:
        self.title, self.header, self.rows, self.caption = title, header, rows, caption

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{body}\n\n{self.caption}\n"


def tables(rows: Sequence[Row]) -> list[Table]:
    """The tables that the rows allow: quality against NFE, norm–z, bits/dim, and anything else measured."""
    known = [row for row in rows if not is_missing(row)]
    makers = (norm_table, push_table, likelihood_table, other_table, unmeasured_table)
    found = [make(rows if make is unmeasured_table else known) for make in makers]
    return quality_tables(known) + [table for table in found if table is not None]


def unmeasured_table(rows: Sequence[Row]) -> Table | None:
    """What could not be measured on this machine, and why."""
    found = [row for row in rows if is_missing(row)]
    if not found:
        return None
    lines = []
    for metric, why in _unique((row["metric"], reason(row)) for row in found):
        of = _unique(row["process"] for row in found if (row["metric"], reason(row)) == (metric, why))
        lines.append([", ".join(of), metric, why])
    caption = "The same command measures it once it can."
    return Table("Not measured here", ["process", "metric", "reason"], lines, caption)


def gaps_table(processes: Sequence[str], metrics: Sequence[str]) -> Table | None:
    """What of a bench's metrics its processes can not give, and why; None where they give all."""
    rows = []
    for name in processes:
        missing = registries()["processes"].entry(name).tags.get("missing", {})
        for metric in metrics:
            reason = missing.get(registries()["metrics"].entry(metric).tags.get("asks", ""))
            rows += [[name, metric, reason]] if reason else []
    caption = "What a process has not got is left out of the tables above, not estimated by other means."
    return Table("Not measured", ["process", "metric", "reason"], rows, caption) if rows else None


def mean_over_seeds(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and sample standard deviation (NaN for one value); a number that is not known, None, makes both NaN."""
    known = [math.nan if v is None else v for v in values]
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1))


def is_frechet(metric: str) -> bool:
    """Whether a metric's name is a Fréchet distance of plain samples, e.g. FD[digits]."""
    return metric.startswith("FD[") and metric.endswith("]")


def _number(value: float | None, digits: int = 2) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3g}" if 0 < abs(value) < 10.0 ** (1 - digits) else f"{value:.{digits}f}"


def _with_error(rows: Sequence[Row], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; for one seed ± its standard error, where it is known."""
    if len(rows) == 1 and rows[0]["stderr"] is not None:
        return f"{_number(rows[0]['value'], digits)} ± {_number(rows[0]['stderr'], digits)}"
    return _with_spread([r["value"] for r in rows], digits)


def _with_spread(values: Sequence[float | None], digits: int = 2) -> str:
    mean, spread = mean_over_seeds(values)
    return _number(mean, digits) + ("" if math.isnan(spread) else f" ± {_number(spread, digits)}")


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def floor_of(rows: Sequence[Row]) -> Row | None:
    """The row that measures real data, where there is one."""
    return next((r for r in rows if r["process"] == REAL and is_frechet(r["metric"])), None)


def floor_name(row: Row) -> str:
    """What a row of real data measures in place of samples: the test split, or what its metric's tag `floor` says."""
    entry = registries()["metrics"].entries().get(row.get("entry", ""))
    return f"real {entry.tags.get('floor', 'test split') if entry else 'test split'}"


def _ways(rows: Sequence[Row]) -> str:
    """How rows of one metric were measured, and at what n; where that is not the same for all, which in which way."""
    found: dict[str, list[str]] = {}
    for row in rows:
        way = f"{row['protocol']}; n = {row['n']}"
        found.setdefault(way, []).append(" ".join(str(row[k]) for k in ("process", "solver") if row[k]))
    if len(found) < 2:
        return "".join(found)
    return f"Measured in {len(found)} ways. " + ". ".join(
        f"{', '.join(_unique(names))}: {way}" for way, names in found.items()
    )


def _short(rows: Sequence[Row]) -> str:
    """Which rows have samples that a solver left short of the end, and how many."""
    stuck = ", ".join(
        f"{r['stopped']} of {r['process']} {r['solver']} (seed {r['seed']})" for r in rows if r.get("stopped")
    )
    return f". Samples left short of the data's end, where the field is stiff: {stuck}" if stuck else ""


def _floor(real: Row) -> str:
    return f". Floor: {real['protocol']}, n = {real['n']}"


def of_samples(rows: Sequence[Row]) -> list[str]:
    """Metrics of plain samples, Fréchet distances first: what has a table and a curve against NFE."""
    entries = registries()["metrics"].entries()

    def fits(row: Row) -> bool:
        if row["process"] == REAL or "@norm*" in row["metric"] or row["metric"].startswith(OWN_TABLES):
            return False
        if row.get("entry") in entries:
            return entries[row["entry"]].tags.get("needs", "samples") == "samples"
        return row.get("budget") is not None or is_frechet(row["metric"])

    return sorted(_unique(r["metric"] for r in rows if fits(r)), key=lambda metric: not is_frechet(metric))


def quality_tables(rows: Sequence[Row]) -> list[Table]:
    """A table of each metric of samples."""
    return [_quality_table([r for r in rows if r["metric"] == metric]) for metric in of_samples(rows)]


def _quality_table(rows: Sequence[Row]) -> Table:
    """A metric by process and solver (rows) against budget (columns); adaptive solvers in their own column."""
    real = next((r for r in rows if r["process"] == REAL), None)
    found = [r for r in rows if r["process"] != REAL]
    digits = _digits(found)
    budgets = sorted({r["budget"] for r in found if r.get("budget") is not None})
    adaptive = any(r.get("budget") is None for r in found)
    header = ["process", "solver", *(f"NFE {b}" for b in budgets), *(["own NFE"] if adaptive else [])]
    lines = [
        _quality_line(found, pair, budgets, adaptive, digits)
        for pair in _unique((r["process"], r["solver"]) for r in found)
    ]
    caption = _ways(found)
    if real:
        lines.insert(0, [floor_name(real), "–", *[_number(real["value"], digits)] * (len(header) - 2)])
        caption += _floor(real)
    caption += _short(found)
    caption += ". NFE counts every backbone call per sample" + _seed_words(found) + "."
    return Table(f"{found[0]['metric']} against NFE", header, lines, caption)


def _seed_words(rows: Sequence[Row]) -> str:
    seeds = _unique(r["seed"] for r in rows)
    return (
        f"; mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else f"; seed {seeds[0]}"
    )


def _digits(rows: Sequence[Row]) -> int:
    """Decimals of a metric: two for Fréchet distances, which are of the order of ten, more for smaller numbers."""
    most = max((abs(r["value"]) for r in rows if r["value"] is not None), default=0.0)
    return 2 if is_frechet(rows[0]["metric"]) or most >= 10 else 3 if most >= 1 else 4


def _quality_line(
    found: Sequence[Row], pair: tuple[str, str], budgets: list[int], adaptive: bool, digits: int
) -> list[str]:
    own = [r for r in found if (r["process"], r["solver"]) == pair]
    line = [*pair]
    for budget in budgets:
        cell = [r for r in own if r["budget"] == budget]
        line.append(_with_error(cell, digits) if cell else "")
    if adaptive:
        free = [r for r in own if r["budget"] is None]
        calls = mean_over_seeds([r["nfe"] for r in free])[0] if free else math.nan
        line.append(f"{_with_error(free, digits)} (NFE {_number(calls, 1)})" if free else "")
    return line


def norm_table(rows: Sequence[Row]) -> Table | None:
    """How wide |x| is at given time, and how tied it is to time."""
    found = [r for r in rows if r["metric"].startswith(("norm_spread", "norm_tied"))]
    if not found:
        return None
    metrics = _unique(r["metric"] for r in found)
    lines = []
    for process in _unique(r["process"] for r in found):
        values = ([r["value"] for r in found if (r["process"], r["metric"]) == (process, m)] for m in metrics)
        lines.append([process, *(_with_spread(v, 3) for v in values)])
    words = [f"`{m}`: {next(r for r in found if r['metric'] == m)['protocol']}" for m in metrics]
    caption = ". ".join(words) + f". n = {found[0]['n']}" + _seed_words(found) + "."
    return Table("Norm against noise level", ["process", *metrics], lines, caption)


def push_table(rows: Sequence[Row]) -> Table | None:
    """Fréchet distance after |x| was multiplied mid-way, below what real data get."""
    found = [r for r in rows if "@norm*" in r["metric"]]
    if not found:
        return None
    metrics = sorted(_unique(r["metric"] for r in found), key=lambda m: float(m.split("*")[1]))
    lines = []
    for process in _unique(r["process"] for r in found):
        values = ([r["value"] for r in found if (r["process"], r["metric"]) == (process, m)] for m in metrics)
        lines.append([process, *(_with_spread(v) for v in values)])
    header = ["process", *(f"|x| × {m.split('*')[1]}" for m in metrics)]
    name = metrics[0].split("@")[0]
    real = next((r for r in rows if r["process"] == REAL and r["metric"] == name), None)
    if real:
        lines.insert(0, [floor_name(real), *[_number(real["value"])] * len(metrics)])
    caption = _push_caption(found) + (_floor(real) if real else "")
    caption += f". NFE {_number(found[0]['nfe'], 0)}" + _seed_words(found) + "."
    return Table(f"{name} after the norm is pushed off mid-way", header, lines, caption)


def _push_caption(found: Sequence[Row]) -> str:
    """Where each process was pushed, and how the distance was measured."""
    each = [next(r for r in found if r["process"] == p) for p in _unique(r["process"] for r in found)]
    parts = [(r, *r["protocol"].partition(FD_WORDS)[::2]) for r in each]
    pushes = [f"{r['process']}: |x| times the factor{''.join(push.partition(' at t')[1:])}" for r, push, _ in parts]
    sizes = ", ".join(str(n) for n in _unique(r["n"] for r in found))
    return ". ".join([*pushes, *_unique(words for *_, words in parts if words), f"n = {sizes}"])


def likelihood_table(rows: Sequence[Row]) -> Table | None:
    """bits/dim or nats with standard error."""
    found = [r for r in rows if r["metric"] in ("bits/dim", "nll[nats]")]
    if not found:
        return None
    lines = [
        [
            r["process"],
            f"{_number(r['value'], 3)} ± {_number(r['stderr'], 3)}",
            r["solver"],
            _number(r["nfe"], 1),
            str(r["n"]),
            str(r["seed"]),
        ]
        for r in found
    ]
    caption = _ways(found) + ". ± is one standard error over examples."
    return Table(found[0]["metric"], ["process", found[0]["metric"], "solver", "NFE", "n", "seed"], lines, caption)


def other_table(rows: Sequence[Row]) -> Table | None:
    """Numbers of metrics that have no table of their own."""
    sampled = of_samples(rows)
    found = [
        r
        for r in rows
        if not r["metric"].startswith(OWN_TABLES) and r["metric"] not in sampled and "@norm*" not in r["metric"]
    ]
    found = [r for r in found if r["process"] != REAL or not is_frechet(r["metric"])]
    if not found:
        return None
    lines = [
        [
            r["process"],
            r["solver"] or "",
            "" if r["nfe"] is None else f"{r['nfe']:.4g}",
            r["metric"],
            _measured(r),
            str(r["n"] or ""),
            str(r["seed"]),
        ]
        for r in found
    ]
    told = {
        p: _unique(f"`{r['metric']}`" for r in found if r["protocol"] == p)
        for p in _unique(r["protocol"] for r in found)
    }
    caption = ". ".join(f"{', '.join(names)}: {protocol}" for protocol, names in told.items()) + "."
    return Table("Other measurements", ["process", "solver", "NFE", "metric", "value", "n", "seed"], lines, caption)


def _measured(row: Row) -> str:
    """A value with as many digits as its standard error, or four where that is not known."""
    value, error = row["value"], row["stderr"]
    if value is None or math.isnan(value):
        return "–"
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 9)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def to_markdown(found: Sequence[Table], command: str) -> str:
    """tables.md: every table with its caption and the command that made it."""
    head = f"# genflow bench\n\nMade by `{command}`.\n\n"
    return head + "\n".join(table.markdown() for table in found)
