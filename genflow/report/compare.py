"""Two benches side by side: settings that differ, numbers with their differences, and which of those are significant.

Reads results.csv, config.yaml and report.json of a bench's folder, not its cells, so that benches of other versions of
genflow can be compared.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genflow.bench.axes import VARIED, named_rows
from genflow.bench.cells import REAL
from genflow.bench.rows import Row, training
from genflow.bench.tables import Table, by_setting, to_markdown
from genflow.checkpoint import write_file
from genflow.config import BenchConfig, ConfigError, flatten
from genflow.estimates import FAILS, HOLDS, Estimate, Judgement, chance, holm, judge, least_seen, short, text, together
from genflow.evaluate.facts import NFE, Number, facts, owner
from genflow.registry import registries
from genflow.report.cautions import comparable
from genflow.report.figures import Figure, slug, spread_words
from genflow.report.latex import to_latex
from genflow.report.measures import Setting, setting
from genflow.report.palette import GREY, palette
from genflow.report.record import Record, read_bench, read_record
from genflow.report.words import REAL_DATA, is_real

Key = tuple[str, str, Any, str]
"""process, solver, budget (None for adaptive solvers), metric."""


@dataclass(frozen=True)
class Bench:
    """A finished bench, as read from its folder."""

    folder: Path
    config: BenchConfig
    rows: Sequence[Row]
    record: Record


def open_bench(folder: Path) -> Bench:
    """Reads a finished bench from its folder.

    Raises:
        ConfigError: The folder holds no finished bench, or its results.csv cannot be read.
    """
    config, path = read_bench(folder), folder / "results.csv"
    if not path.is_file():
        raise ConfigError(f"'{folder}' has no results.csv; write it with `genflow report {folder}`")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = named_rows(_row(line, config) for line in csv.DictReader(file))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a bench's results.csv ({error}); write it again") from None
    return Bench(folder, config, rows, read_record(folder)[0])


def _row(line: Mapping[str, str], config: BenchConfig) -> Row:
    numbers: dict[str, Any] = {k: float(line[k]) if line[k] else None for k in ("nfe", "value", "stderr")}
    words = {k: line[k] for k in ("process", "solver", "metric", "protocol")}
    known = registries()["solvers"].entries().get(line["solver"])  # an unknown solver is taken to choose its own steps
    fixed = known is not None and known.tags.get("budget", True) and numbers["nfe"] is not None
    whole = {"n": int(line["n"]), "seed": int(line["seed"]), "budget": round(numbers["nfe"]) if fixed else None}
    words |= {axis: line.get(axis) or "" for axis in VARIED}
    words["terms"] = line.get("terms") or ("" if words["process"] == REAL else "published")
    row = {**words, **numbers, **whole, "entry": owner(words["metric"], config.metric)}
    return row | {"training": training(row, "checkpoint" if config.checkpoint else "")}


def grouped(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Rows of each setting, a row for each seed; those without a number are left out."""
    known = [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]
    return by_setting(known)


@dataclass(frozen=True)
class Difference:
    """One setting in both benches.

    Arguments:
        key: The setting.
        a, b: Its number in each.
        obstacle: Why the two are not compared; "" where they are.
        judgement: The verdict on the two being different, with Holm's correction for all settings in common.
        p: With that correction; NaN where there is no test.
        fact: The facts of its metric.
        tests: How many settings are tested.
    """

    key: Key
    a: Setting
    b: Setting
    obstacle: str
    judgement: Judgement
    p: float
    fact: Number
    tests: int = 1

    @property
    def gap(self) -> Estimate:
        """b − a."""
        return self.b.number - self.a.number

    @property
    def verdict(self) -> str:
        """In words."""
        if self.obstacle:
            return self.obstacle
        if self.key[0] == REAL and self.a.value == self.b.value:
            return "the same"
        return self.judgement.word


def differences(a: Bench, b: Bench, allow_mixed: bool = False) -> list[Difference]:
    """Settings that both benches have, in the first one's order."""
    first, second = grouped(a.rows), grouped(b.rows)
    found = []
    for key in (key for key in first if key in second):
        obstacle = "" if allow_mixed else _obstacle(first[key], second[key])
        one, other = setting(first[key]), setting(second[key])
        tested = not obstacle and key[0] != REAL and facts(first[key][0]).ranked
        found.append((key, one, other, obstacle, _differ(one, other, tested)))
    judged = [one[-1] for one in found]
    family = zip(found, together(judged), holm([one.p for one in judged]), strict=True)
    tests = sum(not math.isnan(one.p) for one in judged)
    return [Difference(*one[:4], judgement, p, facts(first[one[0]][0]), tests) for one, judgement, p in family]


def _differ(a: Setting, b: Setting, tested: bool) -> Judgement:
    """The verdict on two numbers being different, whichever is larger."""
    found = judge(b.number - a.number)
    return Judgement(found.word if found.word != FAILS else HOLDS, found.p if tested else math.nan, HOLDS)


def _obstacle(a: Sequence[Row], b: Sequence[Row]) -> str:
    if {comparable(row["protocol"]) for row in a} != {comparable(row["protocol"]) for row in b}:
        return "protocols differ"
    if {row.get("terms") for row in a} != {row.get("terms") for row in b}:
        return "terms differ"
    return "" if {row["n"] for row in a} == {row["n"] for row in b} else "n differs"


def difference_tables(found: Sequence[Difference], names: Sequence[str]) -> list[Table]:
    """A table for each metric that was measured at budgets, and one for the others."""
    budgeted = dict.fromkeys(one.key[3] for one in found if one.key[2] is not None and one.fact.table == NFE)
    header = ["process", "solver", "NFE", *names, "difference", "p", "least seen", "verdict"]
    tables = []
    for metric in budgeted:
        lines = [_line(one) for one in found if one.key[3] == metric]
        tables.append(Table(metric, header, sorted(lines, key=lambda line: not is_real(line[0])), ""))
    others = [[line[0], one.key[3], *line[1:]] for one in found for line in [_line(one)] if one.key[3] not in budgeted]
    rest = Table("Other measurements", ["process", "metric", *header[1:]], others, "")
    return [*tables, *([rest] if others else [])]


def _line(one: Difference) -> list[str]:
    process, solver, budget, _ = one.key
    gap = one.gap
    calls = str(budget) if budget else "–" if math.isnan(one.a.nfe) else f"{one.a.nfe:.3g}, {one.b.nfe:.3g}"
    return [
        REAL_DATA if process == REAL else process,
        solver or "–",
        calls,
        one.a.text,
        one.b.text,
        "–" if one.obstacle else text(gap.value, gap.error, signed=True),
        chance(one.p),
        "–" if math.isnan(one.p) else short(least_seen(gap, tests=one.tests)),
        one.verdict,
    ]


def setting_table(a: Bench, b: Bench) -> Table:
    """Keys of the configurations and facts of the environments that differ."""
    pairs = []
    for one, other in ((flatten(a.config), flatten(b.config)), (a.record.environment, b.record.environment)):
        for key in dict.fromkeys([*one, *other]):
            values = [_words(side.get(key, "not known")) for side in (one, other)]
            if key != "out" and values[0] != values[1]:
                pairs.append([key, *values])
    return Table("Settings that differ", ["setting", *names_of(a, b)], pairs, "")


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def names_of(a: Bench, b: Bench) -> list[str]:
    """Short names of the two folders, which differ."""
    parts = [run.folder.resolve().parts for run in (a, b)]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-count:]).lstrip("/") for p in parts]
        if names[0] != names[1]:
            return names
    return ["A", "B"]


def lonely_table(a: Bench, b: Bench) -> Table | None:
    """Settings that only one bench has."""
    names, both = names_of(a, b), (grouped(a.rows), grouped(b.rows))
    lines = [
        [REAL_DATA if key[0] == REAL else key[0], key[1] or "–", str(key[2] or "–"), key[3], name]
        for name, own, other in zip(names, both, both[::-1], strict=True)
        for key in own
        if key not in other
    ]
    return Table("Only in one bench", ["process", "solver", "NFE", "metric", "where"], lines, "") if lines else None


def compare(a: Bench, b: Bench, out: Path, allow_mixed: bool, command: str) -> str:
    """Writes report.html, tables.md, tables.tex, differences.csv and plots/ of a comparison; returns a summary.

    Raises:
        ConfigError: They have no setting in common.
    """
    found, names = list(differences(a, b, allow_mixed)), names_of(a, b)
    if not found:
        raise ConfigError(f"'{a.folder}' and '{b.folder}' have no setting in common, so there is nothing to compare")
    metrics = dict.fromkeys(one.key[3] for one in found)
    tables = difference_tables(found, names)
    extra = [table for table in (setting_table(a, b), lonely_table(a, b)) if table and table.rows]
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "tables.md", to_markdown([*extra, *tables], command))
    write_file(out / "tables.tex", to_latex([*extra, *tables], command))
    write_file(out / "differences.csv", _csv(found))
    write_file(out / "report.html", _page(a, b, found, tables, extra, list(metrics), out, command))
    return summary(found, names)


def summary(found: Sequence[Difference], names: Sequence[str]) -> str:
    """In one sentence, how many settings differ."""
    plain = [one for one in found if one.key[0] != REAL]
    counts = {word: sum(one.verdict == word for one in plain) for word in dict.fromkeys(one.verdict for one in plain)}
    words = ", ".join(f"{word} ({count})" for word, count in counts.items())
    return f"{names[1]} against {names[0]}: {len(plain)} settings in common. That they differ: {words}."


def _csv(found: Sequence[Difference]) -> str:
    """differences.csv: every setting in common, numbers in full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("process", "solver", "budget", "metric", "a", "a_stderr", "b", "b_stderr", "difference", "in_stderr")
    writer.writerow([*columns, "p", "verdict"])
    for one in found:
        ends = [v for side in (one.a, one.b) for v in (side.value, side.number.error)]
        in_errors = one.gap.value / one.gap.error if one.gap.error else math.nan
        numbers = [*ends, one.gap.value, in_errors, one.p]
        writer.writerow([*one.key, *("" if math.isnan(v) else v for v in numbers), one.verdict])
    return buffer.getvalue()


def _page(
    a: Bench,
    b: Bench,
    found: Sequence[Difference],
    tables: Sequence[Table],
    extra: Sequence[Table],
    metrics: Sequence[str],
    out: Path,
    command: str,
) -> str:
    from genflow.report.page import render, shown

    colours = palette(dict.fromkeys([*a.config.process, *b.config.process]))
    mixed = sorted({one.verdict for one in found if one.obstacle})
    return render(
        "compare.html",
        colours,
        title=" against ".join(names_of(a, b)[::-1]),
        lead=summary(found, names_of(a, b)),
        sides=[(name, run) for name, run in zip(names_of(a, b), (a, b), strict=True)],
        mixed=mixed,
        extra=extra,
        tables=tables,
        plots=[shown(figure) for figure in _figures(a, b, metrics, out / "plots", colours)],
        command=command,
    )


def _figures(a: Bench, b: Bench, metrics: Sequence[str], folder: Path, colours: Mapping[str, str]) -> Iterator[Figure]:
    """A plot against NFE of every metric that was measured at budgets, in a panel for each solver."""
    from genflow.report.curves import pair_plot

    folder.mkdir(parents=True, exist_ok=True)
    for metric in metrics:
        rows = [[r for r in run.rows if r["metric"] == metric and r["process"] != REAL] for run in (a, b)]
        if all(any(r["budget"] is not None and facts(r).table == NFE for r in own) for own in rows):
            path = folder / f"{slug(metric)}_nfe.png"
            sides = dict(zip(names_of(a, b), rows, strict=True))
            if pair_plot(sides, metric, path, {**dict.fromkeys((r["process"] for r in rows[0]), GREY), **colours}):
                yield Figure(f"{metric} against NFE", path, spread_words(r for own in rows for r in own), "wide")
