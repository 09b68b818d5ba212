"""Facts about metrics' numbers: label, unit, table, and whether lower or higher is better. Bench, tables and report ask
here.

The facts of a built-in metric are in the catalogue (`genflow.evaluate`), so this imports no torch; a plugin's class is
imported where its catalogue entry has no facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from genflow.config import BenchConfig, build, flatten
from genflow.registry import Entry, UnknownNameError, registries

NFE, MODEL, SHARED, LIST = "nfe", "model", "shared", "list"
"""Kinds of tables: a metric of samples by process and solver against NFE; a metric of a model with a line for each
process and seed; numbers of a model that share a table, a column each; and a list of all others."""


@dataclass(frozen=True)
class Number:
    """One kind of number that a metric gives.

    Arguments:
        kind: Its name without what stands in brackets or after a star: "FD" for FD[digits], "FD@push" for
            FD[digits]@push*2; "" for all numbers of the metric that have no entry of their own.
        label: What titles and axes call it; its name by default.
        better: "lower" or "higher", whichever is better; "" where neither is.
        unit: E.g. "nats"; "" where it has none.
        table: NFE, MODEL, SHARED or LIST; by default NFE for metrics of samples, MODEL for those of a model.
        group: Title of the shared table (SHARED); {metric} is the name before an @.
        column: Head of its column there; {star} is what follows the star.
        error: Whether `stderr` is a standard error; else it is another spread, which ± does not show.
        bias: Whether it is biased upwards at small n, as Fréchet distances are.
        order: The number of least order for which a direction is better is the headline of a report.
        ranked: Whether summaries judge who is ahead in it; not those that stand beside another.
    """

    kind: str = ""
    label: str = ""
    better: str = ""
    unit: str = ""
    table: str = ""
    group: str = ""
    column: str = ""
    error: bool = True
    bias: bool = False
    order: int = 9
    ranked: bool = True

    @property
    def sign(self) -> int:
        """1 where lower is better, −1 where higher is better, 0 where neither."""
        return {"lower": 1, "higher": -1}.get(self.better, 0)


OWN_NFE = 80
"""Calls that an adaptive solver is assumed to spend, for estimates of cost."""

FACTS = ("label", "better", "unit", "table")
"""Facts that a metric of one kind of number gives as tags of its entry or as attributes of its class."""


def settings(config: BenchConfig, metric: str) -> Any:
    """A built-in metric's settings: --metric-options over the bench's section of older names.

    Raises:
        ConfigError: A value out of its range, or no such option.
        KeyError: The metric has no such section.
    """
    section = getattr(config, registries()["metrics"].entry(metric).tags["section"])
    given = {k: v for k, v in config.metric_options.get(metric, {}).items() if k in vars(section)}
    return build(type(section), {**flatten(section), **given})


def cost(config: BenchConfig, metric: Entry) -> float:
    """Rough number of network evaluations of a measurement of a model; for a plugin without that fact, one sampling of
    the bench's samples."""
    known = metric.tags.get("cost")
    return known(config, settings(config, metric.name)) if known else float(config.samples * OWN_NFE)


def kind_of(metric: str) -> str:
    """The kind of a number from its name: FD[digits]@norm*2 is FD@norm."""
    return re.sub(r"\[[^\]]*\]", "", metric).partition("*")[0]


def numbers(entry: Entry) -> tuple[Number, ...]:
    """The kinds of number that a metric gives, from its catalogue entry or its class; the last is for all others."""
    known = {name: _fact(entry, name) for name in ("numbers", *FACTS)}
    own: dict[str, Any] = {name: str(known[name]) for name in FACTS if known[name]}
    table = NFE if needs(entry) == "samples" else MODEL
    found = [*(known["numbers"] or ()), Number(**own)]
    return tuple(one if one.table else replace(one, table=table) for one in found)


def needs(entry: Entry) -> str:
    """What a metric is measured on: "samples" or "model"."""
    return str(_fact(entry, "needs") or "samples")


def _fact(entry: Entry, name: str) -> Any:
    """A tag of the entry; of a plugin's entry without tags, the attribute of its class."""
    if name in entry.tags or entry.origin == "genflow":
        return entry.tags.get(name)
    try:
        return getattr(registries()["metrics"].load(entry.name), name, None)
    except UnknownNameError:
        return None


def number_of(metric: str, entry: str = "") -> Number:
    """The facts of a number.

    Arguments:
        metric: Its name, as rows have it.
        entry: The catalogue name of the metric that gave it; "" takes any built-in metric with numbers of that kind.
    """
    return _number_of(metric, entry, registries()["metrics"].changes)


@cache
def _number_of(metric: str, entry: str, changes: int) -> Number:
    entries = registries()["metrics"].entries()
    kind = kind_of(metric).casefold()
    asked = [entries[entry]] if entry in entries else [e for e in entries.values() if e.origin == "genflow"]
    for one in asked:
        for number in numbers(one):
            if kind == number.kind.casefold() and kind:
                return number
    return numbers(entries[entry])[-1] if entry in entries else Number()


def owner(metric: str, names: Iterable[str]) -> str:
    """Which of several metrics gave a number, for rows without that fact: one that names its kind, else the only one
    that names no kinds; "" where there is none."""
    entries = registries()["metrics"].entries()
    asked = [entries[name] for name in names if name in entries]
    named = [one for one in asked if any(kind_of(metric) == number.kind for number in numbers(one))]
    free = [one for one in asked if len(numbers(one)) == 1]
    return named[0].name if named else free[0].name if len(free) == 1 else ""


def facts(row: Mapping[str, Any]) -> Number:
    """The facts of a row's number; that of an unknown metric has an NFE table where it was measured at a budget."""
    found = number_of(row["metric"], row.get("entry", ""))
    return found if found.table else replace(found, table=LIST if row.get("budget") is None else NFE)


def direction(rows: Iterable[Mapping[str, Any]], metric: str) -> int:
    """1 where lower is better, −1 where higher is better, 0 where it is not known."""
    return next((facts(row).sign for row in rows if row["metric"] == metric), 0)


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric at the top of a report: of those with a better direction, the one of least order; "" for none."""
    known = {row["metric"]: facts(row) for row in rows}
    return min((m for m, fact in known.items() if fact.sign), key=lambda m: known[m].order, default="")


def title(metric: str, fact: Number) -> str:
    """The name of a number in titles: its label in place of its kind."""
    return metric.replace(fact.kind, fact.label, 1) if fact.kind and fact.label else fact.label or metric


def axis(metric: str, fact: Number) -> str:
    """The name of a number on an axis: its title with its unit."""
    name = title(metric, fact)
    return name if not fact.unit or fact.unit in name else f"{name}, {fact.unit}"


def words(fact: Number) -> str:
    """The beginning of a caption: "In dB; higher is better. "; "" where neither unit nor direction is known."""
    parts = ([f"in {fact.unit}"] if fact.unit else []) + ([f"{fact.better} is better"] if fact.better else [])
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. " if text else ""
