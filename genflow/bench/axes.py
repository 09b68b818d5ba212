"""Axes of a bench besides process and solver: the settings they come to, and the names of rows that differ in them.

Heads, targets, times and weights need a training each; grids and ends share one. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any, TypeVar

from genflow.bench.pairs import Pair
from genflow.bench.terms import check_given, sampler_options, taken
from genflow.config import BenchConfig, ConfigError
from genflow.process.terms import AXES, PUBLISHED
from genflow.registry import Entry, registries

TRAINED = ("head", "target", "times", "weight")
"""Axes that are options of the process."""

SAMPLED = ("grid", "end")
"""Axes that are options of the solver."""

VARIED = (*TRAINED, *SAMPLED)
"""All of them: keys of a bench's configuration, and columns of results.csv."""

Labels = Mapping[str, Any]
SomeLabels = TypeVar("SomeLabels", bound=dict[str, Any])


def varied(config: BenchConfig) -> tuple[str, ...]:
    """The axes that were given."""
    return tuple(axis for axis in VARIED if getattr(config, axis))


def check_axes(config: BenchConfig, fitting: Iterable[Pair]) -> None:
    """Raises ConfigError where an axis cannot be varied: nothing takes it, or an option sets it already."""
    fitting = list(fitting)
    for axis in (a for a in TRAINED if getattr(config, a)):
        if config.checkpoint:
            raise ConfigError(
                f"{axis} was given, but nothing is trained here: each checkpoint has its own; leave it out"
            )
        for name in config.process:
            if not taken("processes", name, (AXES[axis],)):
                raise ConfigError(
                    f"'{name}' has no option '{AXES[axis]}', which --{axis} varies; leave out one of the two"
                )
    for axis in (a for a in SAMPLED if getattr(config, a)):
        if not any(taken("solvers", solver.name, (axis,)) for _, solver in fitting):
            names = ", ".join(dict.fromkeys(solver.name for _, solver in fitting))
            raise ConfigError(f"--{axis} varies nothing: none of the solvers {names} has the option '{axis}'")
    check_given(config, varied(config))


def trained_variants(config: BenchConfig) -> Iterator[BenchConfig]:
    """A settled bench with one value of each axis of training, as options of its processes."""
    axes = [axis for axis in TRAINED if getattr(config, axis)]
    processes = registries()["processes"]
    owners = dict.fromkeys(processes.entry(name).family or name for name in config.process)
    for values in product(*(getattr(config, axis) for axis in axes)):
        chosen = {AXES[axis]: value for axis, value in zip(axes, values, strict=True)}
        options = {owner: {**config.process_options.get(owner, {}), **chosen} for owner in owners} if chosen else {}
        yield replace(config, process_options={**config.process_options, **options})


def sampled_variants(config: BenchConfig, solver: str) -> Iterator[BenchConfig]:
    """A bench with one value of each axis of sampling that a solver takes, as options of that solver."""
    axes = [axis for axis in taken("solvers", solver, SAMPLED) if getattr(config, axis)]
    for values in product(*(getattr(config, axis) for axis in axes)):
        options = {**config.solver_options.get(solver, {}), **dict(zip(axes, values, strict=True))}
        yield replace(config, solver_options={**config.solver_options, **({solver: options} if axes else {})})


def solver_variants(config: BenchConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every solver with every set of options that it samples with."""
    for name in config.solver:
        for variant in sampled_variants(config, name):
            yield name, dict(variant.solver_options.get(name, {}))


def as_bench(config: BenchConfig, **changes: Any) -> BenchConfig:
    """The bench of a configuration that has more than a bench, with fields changed."""
    given = {f.name: getattr(config, f.name) for f in fields(BenchConfig)}
    return BenchConfig(**{**given, "reference": config.reference_file, **changes})


# ---- labels ----------------------------------------------------------------------------------------------------------


def labels_of(config: BenchConfig, process: Entry) -> dict[str, str]:
    """The axes of training of a process in a settled bench; "" where neither an option nor its class says."""
    if config.checkpoint:
        return dict.fromkeys(TRAINED, "")
    known = PUBLISHED.get(process.family, {})
    options = {**config.process_options.get(process.family, {}), **config.process_options.get(process.name, {})}
    return {axis: str(options.get(AXES[axis], known.get(axis, ""))) for axis in TRAINED}


def sampler_labels(config: BenchConfig, process: Entry, solver: Entry) -> dict[str, str]:
    """The axes of sampling; "" where the solver lacks the option."""
    options, defaults = sampler_options(config, process.name, solver.name), {"grid": "process", "end": "none"}
    has = taken("solvers", solver.name, SAMPLED)
    return {axis: str(options.get(axis, defaults[axis])) if axis in has else "" for axis in SAMPLED}


def differing(found: Iterable[Labels]) -> tuple[str, ...]:
    """Axes with several values for one process: those that its name leaves open."""
    values: dict[tuple[Any, str], set[Any]] = {}
    for labels in found:
        for axis in VARIED:
            values.setdefault((labels["process"], axis), set()).add(labels.get(axis))
    return tuple(
        axis for axis in VARIED if any(a == axis and len(own - {None, ""}) > 1 for (_, a), own in values.items())
    )


def variant(labels: Labels, axes: Iterable[str]) -> str:
    """Words for some axes of labels: "head=noise grid=snr"."""
    return " ".join(f"{axis}={labels[axis]}" for axis in axes if labels.get(axis))


def named(labels: SomeLabels, axes: tuple[str, ...]) -> SomeLabels:
    """Labels with the axes' values put into the names of process and solver, so that no two settings share a name."""
    trained = variant(labels, [axis for axis in axes if axis in TRAINED])
    sampled = variant(labels, [axis for axis in axes if axis in SAMPLED])
    names = {"process": f"{labels['process']} {trained}".rstrip(), "variant": trained}
    names |= {"solver": f"{labels['solver']} {sampled}".rstrip()} if labels.get("solver") else {}
    return labels | names if axes else labels  # type: ignore[return-value]


def named_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as tables and plots show them."""
    found = list(rows)
    axes = differing(found)
    return [named(row, axes) for row in found]


def words_of_rows(rows: Sequence[Labels]) -> str:
    """On which axes the rows of a table differ, as a sentence; "" where on none."""
    values = {axis: dict.fromkeys(str(row[axis]) for row in rows if row.get(axis)) for axis in VARIED}
    each = [f"{axis} ({', '.join(own)})" for axis, own in values.items() if len(own) > 1]
    return f"Besides the process, rows differ in {', '.join(each)}." if each else ""
