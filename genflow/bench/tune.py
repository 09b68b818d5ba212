"""The search behind tuned terms: a bench over one space of settings for all processes, and each process's best.

The settings are compared on seeds that no report uses. The best of many is too good on the seeds that chose it, so it
is measured again on those of the report. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genflow import estimates as es
from genflow.bench.axes import SAMPLED, TRAINED, VARIED, as_bench, differing, variant
from genflow.bench.cells import REAL
from genflow.bench.rows import Row
from genflow.bench.tables import Table, estimate
from genflow.bench.terms import FORMAT, read_tuned, settle
from genflow.checkpoint import write_file
from genflow.config import BenchConfig, ConfigError, option
from genflow.evaluate.facts import NFE, facts
from genflow.process.terms import AXES
from genflow.registry import registries

FIRST_SEED = 10_000
"""Of the seeds of a search; benches begin at 0."""

UNREAD = ("checkpoint", "nfe", "terms_file", "allow_mixed", "slurm")
"""Keys of a bench that a search does not read."""

BASES = ("controlled", "published")


@dataclass(frozen=True)
class TuneConfig(BenchConfig):
    """A search. Axes that are not given stay as the terms have them."""

    solver: tuple[str, ...] = option(
        ("euler", "heun", "dpmpp_2m", "unipc"),
        "solvers to try; each process takes those of its mode",
        registry="solvers",
    )
    grid: tuple[str, ...] = option(("edm", "snr"), "grids to try, for solvers that have the option")
    end: tuple[str, ...] = option(("none", "mean"), "ends of sampling to try")
    metric: tuple[str, ...] = option(("fd",), "what to measure; the first one chooses", registry="metrics")
    terms: str = option("controlled", "what holds for all that is not tried: controlled or published", among=BASES)
    calls: int = option(10, "backbone calls per sample at which settings are compared", least=1)
    seeds: int = option(
        3, f"training seeds of the search, from {FIRST_SEED} on; the report uses those of --seed", least=1
    )
    out: str = option("runs/tune", "output folder", place=True)


def search_of(config: TuneConfig) -> BenchConfig:
    """The bench that tries every setting, in a folder of its own.

    Raises:
        ConfigError: A solver that cannot be given so many calls, or seeds of the report that the search uses.
    """
    for name in config.solver:
        if not registries()["solvers"].entry(name).tags.get("budget", True):
            raise ConfigError(
                f"solver {name} chooses its own steps, so it cannot be compared at {config.calls} calls; leave it out"
            )
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + config.seeds))
    if again := sorted(set(seeds).intersection(config.seed)):
        raise ConfigError(f"seed {', '.join(map(str, again))} is for the search; give the report others with --seed")
    out = str(Path(config.out) / "search")
    return as_bench(config, nfe=(config.calls,), seed=seeds, metric=config.metric[:1], out=out)


def report_of(config: TuneConfig, file: Path) -> BenchConfig:
    """The bench that measures the winners on the seeds of the report."""
    plain: dict[str, Any] = dict.fromkeys(VARIED, ())
    return as_bench(config, **plain, nfe=(config.calls,), terms="tuned", terms_file=str(file), solver=_winners(file))


def _winners(file: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(terms["solver"] for terms in read_tuned(str(file))["processes"].values()))


# ---- the choice ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The best setting of a process, and how clearly it is the best.

    Arguments:
        setting: Its solver and axes.
        words: Those of them that the search varies.
        number: On the seeds of the search.
        settings: How many were compared.
        second: The next one, in words; "" where there is none.
        margin: By how much the best is better than the next.
        ties: Settings that are not significantly worse than the best, in words.
    """

    setting: Mapping[str, str]
    words: str
    number: es.Estimate
    settings: int
    second: str
    margin: es.Estimate
    ties: list[str]


def deciding(rows: Sequence[Row]) -> str:
    """The number that settings are chosen by: the first of samples with a table and a better direction.

    Raises:
        ConfigError: There is none.
    """
    own = (row for row in rows if row["process"] != REAL)
    metric = next((row["metric"] for row in own if facts(row).sign and facts(row).table == NFE), None)
    if metric is None:
        raise ConfigError("no metric of samples was measured that has a better direction; give one, e.g. --metric fd")
    return str(metric)


def choose(rows: Sequence[Row]) -> dict[str, Choice]:
    """The best setting of each process on the first metric that has a better direction.

    Raises:
        ConfigError: Nothing can be chosen by: no such metric, or no number of a process.
    """
    own, metric = [row for row in rows if row["process"] != REAL], deciding(rows)
    found, axes = {}, differing(own)
    for process in dict.fromkeys(row["process"] for row in own):
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in own:
            if (row["process"], row["metric"]) == (process, metric):
                groups.setdefault(tuple(row[key] for key in ("solver", *VARIED)), []).append(row)
        sign = facts(next(row for row in own if row["metric"] == metric)).sign
        found[process] = _best(process, {key: estimate(group) for key, group in groups.items()}, sign, axes)
    return found


def _best(process: str, numbers: Mapping[tuple[str, ...], es.Estimate], sign: int, axes: Sequence[str]) -> Choice:
    known = {key: one for key, one in numbers.items() if math.isfinite(one.value)}
    if not known:
        raise ConfigError(f"no setting of '{process}' has a finite number; choose another space or train longer")
    first, *others = sorted(known, key=lambda key: sign * known[key].value)
    gaps = {key: known[key] - known[first] if sign > 0 else known[first] - known[key] for key in others}
    judged = es.together([es.judge(gap) for gap in gaps.values()])
    words = {key: f"{key[0]} {variant(dict(zip(VARIED, key[1:], strict=True)), axes)}".rstrip() for key in known}
    ties = [words[key] for key, one in zip(gaps, judged, strict=True) if one.word != es.HOLDS]
    margin = gaps[others[0]] if others else es.Estimate(math.nan)
    setting = dict(zip(("solver", *VARIED), first, strict=True))
    return Choice(setting, words[first], known[first], len(known), words[others[0]] if others else "", margin, ties)


# ---- the file --------------------------------------------------------------------------------------------------------


def write_tuned(file: Path, search: BenchConfig, rows: Sequence[Row]) -> None:
    """Writes the winners as a file of tuned terms; see `genflow.bench.terms.FORMAT`.

    Arguments:
        file: To write.
        search: The bench that tried the settings.
        rows: What it measured.
    """
    config, choices, metric = settle(search)[0], choose(rows), deciding(rows)
    content = {
        "terms": FORMAT,
        "search": _space(config, choices, metric),
        "backbone": config.backbone,
        "dataset": config.dataset,
        "seeds": list(config.seed),
        "metric": metric,
        "calls": config.nfe[0],
        "processes": {name: _terms(config, name, choice.setting) for name, choice in choices.items()},
        "chosen": {name: _account(choice) for name, choice in choices.items()},
    }
    write_file(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    read_tuned.cache_clear()


def _terms(config: BenchConfig, process: str, setting: Mapping[str, str]) -> dict[str, Any]:
    entry, solver = registries()["processes"].entry(process), setting["solver"]
    options = {**config.process_options.get(entry.family, {}), **config.process_options.get(process, {})}
    found: dict[str, Any] = {axis: setting[axis] for axis in TRAINED if setting[axis]}
    found["options"] = {k: v for k, v in options.items() if k not in {AXES[axis] for axis in TRAINED}}
    rest = {k: v for k, v in config.solver_options.get(solver, {}).items() if k not in SAMPLED}
    found |= {"solver": solver, **{axis: setting[axis] for axis in SAMPLED if setting[axis]}}
    return found | ({"solver_options": rest} if rest else {})


def _account(choice: Choice) -> dict[str, Any]:
    shown = {"value": choice.number.value, "error": choice.number.error, "margin": choice.margin.value}
    shown |= {"margin_error": choice.margin.error}
    numbers = {name: float(value) if math.isfinite(value) else None for name, value in shown.items()}
    return {
        "setting": choice.words,
        "settings": choice.settings,
        **numbers,
        "second": choice.second,
        "ties": choice.ties,
    }


def _space(config: BenchConfig, choices: Mapping[str, Choice], metric: str) -> str:
    """The space and the budget of a search, as a sentence."""
    axes = {"solver": config.solver, **{axis: getattr(config, axis) for axis in VARIED if getattr(config, axis)}}
    space = " × ".join(f"{axis} ({', '.join(values)})" for axis, values in axes.items())
    counts = {name: choice.settings for name, choice in choices.items()}
    same = len(set(counts.values())) == 1
    each = f"{next(iter(counts.values()))} for each" if same else ", ".join(f"{n} for {k}" for k, n in counts.items())
    uneven = "" if same else "; not the same number for all, since solvers and options do not go with every process"
    return (
        f"Settings: {space}; {each}{uneven}. Chosen by {metric} at {config.nfe[0]} calls, {config.samples} samples, "
        f"{len(config.seed)} training seed{'s' * (len(config.seed) > 1)} from {config.seed[0]} on"
    )


def search_table(config: BenchConfig) -> Table | None:
    """What the search behind tuned terms found for each process; None for other terms or a file without it."""
    if config.terms != "tuned" or config.checkpoint or not config.terms_file:
        return None
    content = read_tuned(config.terms_file)
    lines = []
    for name, one in (content.get("chosen") or {}).items():
        numbers = {key: math.nan if value is None else value for key, value in one.items()}
        value = es.text(numbers["value"], numbers["error"])
        margin = es.text(numbers["margin"], numbers["margin_error"])
        lines.append(
            [name, one["setting"], value, one["second"] or "–", margin, str(one["settings"]), str(len(one["ties"]))]
        )
    if not lines:
        return None
    caption = (
        f"{content.get('search', '')}. The number is that of the search's own seeds: the best of so many is too good "
        "by chance, so the tables above measure it on other seeds. Ties are settings that are not significantly worse "
        "than the best, by Student's t with Holm's correction; with one seed all are."
    )
    columns = ["process", "best setting", "on the search's seeds", "next", "margin", "settings", "ties"]
    return Table("Search", columns, lines, caption)
