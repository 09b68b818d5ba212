"""From rows to tables.md. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from genflow.bench.axes import words_of_rows
from genflow.bench.cells import REAL
from genflow.bench.external import EXTERNAL
from genflow.bench.rows import Row
from genflow.bench.terms import settle, specs, terms_of, words_of_differences
from genflow.config import BenchConfig
from genflow.estimates import Estimate, chance, meaning, of_rows, short
from genflow.evaluate.facts import LIST, MODEL, NFE, SHARED, axis, facts, headline, title, words
from genflow.evaluate.protocol import FD_WORDS, FRAMED, in_caption, is_missing, reason, without_frame
from genflow.registry import registries


class Table:
    """A titled table of text cells with a caption.

    Arguments:
        title: Heading.
        header: Column names.
        rows: Text cells.
        caption: How the numbers were made.
        sign: 1 where lower is better, −1 where higher is better, 0 where neither is known to be.
    """

    def __init__(self, title: str, header: list[str], rows: list[list[str]], caption: str, sign: int = 0) -> None:
        self.title, self.header, self.rows, self.caption, self.sign = title, header, rows, caption, sign

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{body}\n\n{self.caption}\n"


def tables(rows: Sequence[Row], mixed: bool = False) -> list[Table]:
    """All tables of the rows, as their metrics ask: against NFE, shared, of models, and a list of the rest.

    Rows of different terms are in tables of their own, since they are not to be ranked together; samples that others
    drew (external terms) are in all of them, and are not ranked.

    Arguments:
        rows: Rows of results.csv.
        mixed: Put rows of different terms into one table.
    """
    known = [row for row in rows if not is_missing(row)]
    stated = _unique(r.get("terms") for r in known if r["process"] != REAL and r.get("terms") != EXTERNAL)
    stated = stated or _unique(r.get("terms") for r in known if r["process"] != REAL)
    found = []
    for terms in [stated] if mixed or not stated else [[one] for one in stated]:
        group = [row for row in known if row["process"] == REAL or row.get("terms") in (*terms, EXTERNAL)]
        own = [r for r in group if r["process"] != REAL]
        made = [*quality_tables(group), *column_tables(group)]
        made += [model_table([r for r in own if r["metric"] == metric]) for metric in _metrics(own, MODEL)]
        made += [table for table in (other_table(own),) if table is not None]
        for table in made:
            table.title += f", {terms[0]} terms" if len(stated) > 1 and not mixed else ""
            words = " and ".join(filter(None, terms))
            table.caption = f"{table.caption.removesuffix('.')}. Terms: {words}." if words else table.caption
            table.caption += f" {differ}" if (differ := words_of_rows(own)) else ""
        found += made
    lost = unmeasured_table(rows)
    return found + ([lost] if lost else [])


def terms_table(config: BenchConfig) -> Table | None:
    """The terms of a bench's processes, with what differs; None for checkpoints, which were trained elsewhere."""
    if config.checkpoint:
        return None
    config, _ = settle(config)
    found = specs(config)
    axes = list(next(iter(found.values())))
    lines = [[name, terms_of(config, name), *spec.values()] for name, spec in found.items()]
    return Table("Terms", ["process", "terms", *axes], lines, words_of_differences(found))


def unmeasured_table(rows: Sequence[Row]) -> Table | None:
    """What could not be measured on this machine, and why."""
    found = [row for row in rows if is_missing(row)]
    if not found:
        return None
    lines = []
    for metric, why in _unique((row["metric"], reason(row)) for row in found):
        of = _unique(row["process"] for row in found if (row["metric"], reason(row)) == (metric, why))
        lines.append([", ".join(of), metric, why])
    caption = "Where data or weights are missing, the same command measures it once they are here."
    return Table("Not measured here", ["process", "metric", "reason"], lines, caption)


def gaps_table(processes: Sequence[str], metrics: Sequence[str]) -> Table | None:
    """Metrics that a process of the bench does not have, and why; None where it has all."""
    rows = []
    for name in processes:
        missing = registries()["processes"].entry(name).tags.get("missing", {})
        for metric in metrics:
            reason = missing.get(registries()["metrics"].entry(metric).tags.get("asks", ""))
            rows += [[name, metric, reason]] if reason else []
    caption = "What a process does not have is left out of the tables above, not estimated by other means."
    return Table("Not measured", ["process", "metric", "reason"], rows, caption) if rows else None


def estimate(rows: Sequence[Row]) -> Estimate:
    """Rows of one setting as one number; its error is unknown where `stderr` is not a standard error."""
    known = rows if facts(rows[0]).error else [row | {"stderr": None} for row in rows]
    return of_rows(known)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def real_of(rows: Sequence[Row], metric: str = "") -> Row | None:
    """The row that measures real data by a metric, or by the headline, where there is one."""
    wanted = metric or headline(rows)
    return next((r for r in rows if r["process"] == REAL and r["metric"] == wanted), None)


def real_name(row: Row) -> str:
    """What a row of real data measures in place of samples: the test split, or its metric's tag `real` (formerly
    `floor`)."""
    entry = registries()["metrics"].entries().get(row.get("entry", ""))
    tags = entry.tags if entry else {}
    return f"real {tags.get('real', tags.get('floor', 'test split'))}"


def real_text(row: Row) -> str:
    """A number of real data: with its interval where it has one, 5.61 [4.2, 7.1], else with its error."""
    bounds = row.get("low"), row.get("high")
    if None in bounds or "" in bounds:
        return str(estimate([row])) if facts(row).table == SHARED else short(_value(row))
    return f"{short(_value(row))} [{', '.join(short(float(bound)) for bound in bounds if bound is not None)}]"


def _ways(rows: Sequence[Row]) -> str:
    """How the rows of one metric were measured, and at what n; where they differ, each way with its rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        way = f"{in_caption(without_frame(row['protocol']))}; n = {row['n']}"
        found.setdefault(way, []).append(" ".join(str(row[k]) for k in ("process", "solver") if row[k]))
    if len(found) < 2:
        return "".join(found) + _framed(rows)
    each = ". ".join(f"{', '.join(_unique(names))}: {way}" for way, names in found.items())
    return f"Measured in {len(found)} ways. {each}{_framed(rows)}"


def _framed(rows: Sequence[Row]) -> str:
    """The solvers that took their steps in the frame of σ."""
    names = _unique(row["solver"] for row in rows if FRAMED in row["protocol"])
    return f"{FRAMED} of {', '.join(names)}" if names else ""


def _short(rows: Sequence[Row]) -> str:
    """Rows with samples that a solver left short of the end, and how many."""
    stuck = ", ".join(
        f"{r['stopped']} of {r['process']} {r['solver']} (seed {r['seed']})" for r in rows if r.get("stopped")
    )
    return f". The solver left samples short of the data's end, where the field is stiff: {stuck}" if stuck else ""


def _real(real: Row) -> str:
    return f". Real against real: {in_caption(real['protocol'])}, n = {real['n']}"


def _metrics(rows: Sequence[Row], table: str) -> list[str]:
    """Metrics with a table of that kind, by their order."""
    order = {r["metric"]: facts(r).order for r in rows if facts(r).table == table}
    return sorted(order, key=lambda metric: order[metric])


def quality_tables(rows: Sequence[Row]) -> list[Table]:
    """A table of each metric of samples."""
    metrics = _metrics([r for r in rows if r["process"] != REAL], NFE)
    return [_quality_table([r for r in rows if r["metric"] == metric]) for metric in metrics]


def _quality_table(rows: Sequence[Row]) -> Table:
    """A metric by process and solver (rows) against budget (columns); adaptive solvers in their own column."""
    real = next((r for r in rows if r["process"] == REAL), None)
    found = [r for r in rows if r["process"] != REAL]
    fact = facts(found[0])
    budgets = sorted({r["budget"] for r in found if r.get("budget") is not None})
    adaptive = any(r.get("budget") is None for r in found)
    header = ["process", "solver", *(f"NFE {b}" for b in budgets), *(["own NFE"] if adaptive else [])]
    pairs = _unique((r["process"], r["solver"]) for r in found)
    lines = [_quality_line(found, pair, budgets, adaptive) for pair in pairs]
    caption = words(fact) + _ways(found)
    if real:
        lines.insert(0, [real_name(real), "–", *[real_text(real)] * (len(header) - 2)])
        caption += _real(real)
    caption += f"{_short(found)}. NFE counts every backbone call per sample{_seed_words(found)}."
    return Table(f"{title(found[0]['metric'], fact)} against NFE", header, lines, caption, fact.sign)


def _value(row: Row) -> float:
    return math.nan if row["value"] is None else float(row["value"])


def _seed_words(rows: Sequence[Row]) -> str:
    """The seeds of a table, and what ± means in it."""
    seeds, found = _unique(r["seed"] for r in rows), [estimate(group) for group in by_setting(rows).values()]
    meant = meaning(found)
    if not meant and all(one.seeds == 1 for one in found):
        meant = "one training seed, without a standard error"
    return f"; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" + (f"; {meant}" if meant else "")


def by_setting(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by process, solver, budget and metric: one for each seed."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["process"], row["solver"], row.get("budget"), row["metric"]), []).append(row)
    return groups


def _quality_line(found: Sequence[Row], pair: tuple[str, str], budgets: list[int], adaptive: bool) -> list[str]:
    own = [r for r in found if (r["process"], r["solver"]) == pair]
    line = [pair[0], EXTERNAL if own[0].get("terms") == EXTERNAL else pair[1]]
    for budget in budgets:
        cell = [r for r in own if r["budget"] == budget]
        line.append(str(estimate(cell)) if cell else "")
    if adaptive:
        free = [r for r in own if r["budget"] is None]
        calls = of_rows(free, "nfe").value if free else math.nan
        spent = f" (NFE {short(calls)})" if math.isfinite(calls) else ""
        line.append(f"{estimate(free)}{spent}" if free else "")
    return line


def column_tables(rows: Sequence[Row]) -> list[Table]:
    """Tables that several numbers share: a line for each process, or for each setting of samples."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        fact = facts(row)
        if fact.table == SHARED and row["process"] != REAL:
            groups.setdefault(fact.group.format(metric=row["metric"].partition("@")[0]), []).append(row)
    return [_column_table(name, found, rows) for name, found in groups.items()]


def _column_table(name: str, found: Sequence[Row], rows: Sequence[Row]) -> Table:
    metrics = sorted(_unique(r["metric"] for r in found), key=lambda m: star(m) if "*" in m else math.inf)
    of_samples = any(r.get("of") == "samples" for r in found)
    pushed = "@" in metrics[0]
    lines = []
    for place in _unique(_place(r, of_samples) for r in found):
        own = ([r for r in found if (_place(r, of_samples), r["metric"]) == (place, m)] for m in metrics)
        lines.append([*place, *(_cell(group) for group in own)])
    heads = [head(next(r for r in found if r["metric"] == m)) for m in metrics]
    reals = [real_of(rows, metrics[0].partition("@")[0] if pushed else m) for m in metrics]
    real = next(filter(None, reals), None)
    if real:
        blank = ["–"] * (len(lines[0]) - len(metrics) - 1)
        lines.insert(0, [real_name(real), *blank, *(real_text(one) if one else "–" for one in reals)])
    how = _push_caption(found) if pushed else _each_protocol(found)
    calls = [] if of_samples else _unique(short(r["nfe"]) for r in found if r["nfe"] is not None)
    caption = how + (_real(real) if real and pushed else "") + (f". NFE {', '.join(calls)}" if calls else "")
    header = ["process", *(("solver", "NFE") if of_samples else ()), *heads]
    return Table(name, header, lines, f"{caption}{_seed_words(found)}.")


def _cell(rows: Sequence[Row]) -> str:
    """One setting's number; p of each seed; of a single row with an interval, that."""
    if not rows:
        return ""
    if facts(rows[0]).column == "p":
        return ", ".join(chance(_value(row)) for row in rows)
    return real_text(rows[0]) if len(rows) == 1 and rows[0].get("low") not in (None, "") else str(estimate(rows))


def _place(row: Row, of_samples: bool) -> tuple[str, ...]:
    """What the first columns of a shared table say of a row."""
    budget = row.get("budget")
    return (row["process"], *((row["solver"], "own" if budget is None else str(budget)) if of_samples else ()))


def star(metric: str) -> float:
    """The number after a metric's star; 0 where it has none."""
    return float(metric.partition("*")[2] or 0)


def head(row: Row) -> str:
    """The head of a number's column in the table that it shares."""
    column = facts(row).column
    return column.format(star=row["metric"].partition("*")[2]) if column else row["metric"]


def _each_protocol(found: Sequence[Row]) -> str:
    first = dict(reversed({r["metric"]: r["protocol"] for r in reversed(found)}.items()))
    ways: dict[str, list[str]] = {}
    for metric, protocol in first.items():
        ways.setdefault(protocol, []).append(f"`{metric.partition('*')[0]}`")
    sizes = ", ".join(str(n) for n in sorted({r["n"] for r in found}))
    return ". ".join(f"{', '.join(_unique(names))}: {way}" for way, names in ways.items()) + f". n = {sizes}"


def _push_caption(found: Sequence[Row]) -> str:
    """Where each process was pushed, and how the distance was measured."""
    each = [next(r for r in found if r["process"] == p) for p in _unique(r["process"] for r in found)]
    parts = [(r, *r["protocol"].partition(FD_WORDS)[::2]) for r in each]
    pushes = [f"{r['process']}: |x| times the factor{''.join(push.partition(' at t')[1:])}" for r, push, _ in parts]
    sizes = ", ".join(str(n) for n in _unique(r["n"] for r in found))
    return ". ".join([*pushes, *_unique(words for *_, words in parts if words), f"n = {sizes}"])


def model_table(found: Sequence[Row]) -> Table:
    """A number of models: a line for each process and seed, and with several seeds one for their mean."""
    metric, fact, lines = found[0]["metric"], facts(found[0]), []
    for group in by_setting(found).values():
        lines += [_model_line(row["process"], [row], str(row["seed"])) for row in group]
        lines += [_model_line(group[0]["process"], group, "mean")] if len(group) > 1 else []
    meant = meaning(estimate([r]) for r in found)
    caption = words(fact) + _ways(found) + (f". {meant}" if meant else "")
    over = meaning(estimate(group) for group in by_setting(found).values() if len(group) > 1)
    caption += f"; in the lines of means, {over.partition(', ')[2]}" if over and meant else f". {over}" if over else ""
    name = title(metric, fact)
    return Table(name, ["process", axis(metric, fact), "solver", "NFE", "n", "seed"], lines, f"{caption}.", fact.sign)


def _model_line(process: str, rows: Sequence[Row], seed: str) -> list[str]:
    calls = short(of_rows(rows, "nfe").value)
    return [process, str(estimate(rows)), rows[0]["solver"] or "", calls, str(rows[0]["n"] or ""), seed]


def other_table(rows: Sequence[Row]) -> Table | None:
    """Numbers of metrics without a table of their own."""
    found = [r for r in rows if facts(r).table == LIST]
    if not found:
        return None
    lines = [
        [
            r["process"],
            r["solver"] or "",
            "" if r["nfe"] is None else short(r["nfe"]),
            r["metric"],
            str(estimate([r])),
            str(r["n"] or ""),
            str(r["seed"]),
        ]
        for r in found
    ]
    meant = meaning(estimate([r]) for r in found)
    caption = f"{_by_protocol(found)}." + (f" {meant}." if meant else "")
    return Table("Other measurements", ["process", "solver", "NFE", "metric", "value", "n", "seed"], lines, caption)


def _by_protocol(found: Sequence[Row]) -> str:
    metrics: dict[str, list[str]] = {}
    for row in found:
        metrics.setdefault(row["protocol"], []).append(f"`{row['metric']}`")
    return ". ".join(f"{', '.join(_unique(names))}: {protocol}" for protocol, names in metrics.items())


def to_markdown(found: Sequence[Table], command: str) -> str:
    """tables.md: every table with its caption and the command that made it."""
    head = f"# genflow bench\n\nMade by `{command}`.\n\n"
    return head + "\n".join(table.markdown() for table in found)
