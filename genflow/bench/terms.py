"""A bench under terms: the options that they come to, what differs between its processes, and what cannot meet them.

`settle` puts the terms into a configuration as options, under those that were given, so that plan, workers and files
see plain options; done twice it changes nothing. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from genflow.config import BenchConfig, ConfigError
from genflow.evaluate.facts import settings
from genflow.process.terms import (
    AXES,
    CONTROLLED,
    CONTROLLED_SAMPLER,
    PUBLISHED,
    REACH,
    SAMPLER,
    described,
    differences,
)
from genflow.registry import Entry, registries, unknown

FORMAT = 1
"""Of files of tuned terms: {terms: 1, search: words, backbone: name, dataset: name, seeds: [those of the search],
processes: {name: {head, target, times, weight, options: {...}, solver, grid, end, solver_frame,
solver_options: {...}}}, chosen: what `genflow.bench.tune` says of each}; all but `processes` may be missing, and all
within a process."""


def settle(config: BenchConfig, origin: Mapping[str, str] | None = None) -> tuple[BenchConfig, dict[str, str]]:
    """The bench with the options of its terms put in, and the origin of its values.

    Raises:
        ConfigError: A process cannot meet the terms, or the file of tuned terms cannot be used.
    """
    origin, source = dict(origin or {}), f"{config.terms} terms"
    if config.checkpoint:
        if origin.get("terms") and config.terms != "published":
            raise ConfigError(
                f"terms = '{config.terms}' was given, but nothing is trained here: each checkpoint has its own; leave "
                "it out"
            )
        return replace(config, terms="published"), origin
    if config.terms == "published":
        return config, origin
    options = {name: dict(given) for name, given in config.process_options.items()}
    for name in config.process:
        family = registries()["processes"].entry(name).family or name
        owner = name if config.terms == "tuned" else family  # modes of a family may be tuned to different terms
        options[owner] = {**_own(config, name), **options.get(family, {}), **options.get(owner, {})}
    settled = replace(config, process_options={k: v for k, v in options.items() if v or k in config.process_options})
    origin.setdefault("process_options", source)
    if config.terms == "tuned":
        tuned = [solver for name in config.process if (solver := tuned_solver(config, name))]
        settled = replace(settled, solver=tuple(dict.fromkeys((*config.solver, *tuned))))
    if config.terms == "controlled":
        solvers = {name: dict(given) for name, given in config.solver_options.items()}
        for name in dict.fromkeys((*config.solver, settings(config, "norm_z").solver)):
            solvers[name] = {**_taken("solvers", name, CONTROLLED_SAMPLER), **solvers.get(name, {})}
        settled = replace(settled, solver_options=solvers)
        origin.setdefault("solver_options", source)
    return settled, origin


def taken(registry: str, name: str, options: Iterable[str]) -> list[str]:
    """Those of some options that a class takes."""
    kinds = registries()[registry].kinds(name) or {}
    return [option for option in options if option in kinds]


def _taken(registry: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in taken(registry, name, options)}


def _own(config: BenchConfig, name: str) -> dict[str, Any]:
    """The options of a process that the terms give it."""
    if config.checkpoint or config.terms == "published":
        return {}
    if config.terms == "tuned":
        return _process_options(_tuned(config, name))
    return _controlled(registries()["processes"].entry(name))


def check_given(config: BenchConfig, axes: Iterable[str]) -> None:
    """Raises ConfigError where an axis is varied that an option has set besides; what the terms set gives way."""
    sampler = CONTROLLED_SAMPLER if config.terms == "controlled" else {}
    entries = map(registries()["processes"].entry, config.process)
    owners = [("process", key, _own(config, e.name)) for e in entries for key in (e.family or e.name, e.name)]
    owners += [("solver", name, sampler) for name in config.solver]
    for axis in axes:
        kind = "solver" if axis in SAMPLER else "process"
        for what, name, own in owners:
            given = getattr(config, f"{kind}_options").get(name, {}).get(AXES[axis]) if what == kind else None
            if given not in (None, own.get(AXES[axis])):
                raise ConfigError(f"{name}.{AXES[axis]} = '{given}' was given beside --{axis}; give one of the two")


def _controlled(entry: Entry) -> dict[str, Any]:
    """Options of a process under controlled terms; none for a plugin that does not take them."""
    if reason := entry.tags.get("missing", {}).get("affine"):
        raise ConfigError(
            f"'{entry.name}' cannot meet controlled terms, which need one noise level σ = b/a for each time: {reason}; "
            "leave it out, or give --terms published"
        )
    return {} if _lacks_spec(entry) else {**CONTROLLED, **REACH.get(entry.family, {})}


def _lacks_spec(entry: Entry) -> bool:
    """Whether a process does not take the options of controlled terms: a plugin that is no affine path."""
    return len(_taken("processes", entry.name, CONTROLLED)) < len(CONTROLLED)


# ---- tuned terms -----------------------------------------------------------------------------------------------------


def _tuned(config: BenchConfig, name: str) -> dict[str, Any]:
    """What the file of tuned terms says of a process."""
    if not config.terms_file:
        raise ConfigError("terms = 'tuned' needs the file that a search has written; give --terms-file FILE")
    facts = read_tuned(config.terms_file)
    for key in ("backbone", "dataset"):
        if facts.get(key, getattr(config, key)) != getattr(config, key):
            raise ConfigError(
                f"{config.terms_file} was tuned for {key} = '{facts[key]}', not '{getattr(config, key)}'; tune again, "
                "or give other terms"
            )
    if again := sorted(set(facts.get("seeds", ())).intersection(config.seed)):
        raise ConfigError(
            f"seed {', '.join(map(str, again))} chose the terms of {config.terms_file}, so a report on it would be too "
            "good; give other seeds with --seed"
        )
    entry, processes = registries()["processes"].entry(name), facts["processes"]
    found = next((processes[key] for key in (name, entry.family) if key in processes), None)
    if found is None:
        raise ConfigError(f"{config.terms_file} has no terms of '{name}', only of {', '.join(processes)}; tune it too")
    return dict(found)


@cache
def read_tuned(path: str) -> dict[str, Any]:
    """A file of tuned terms, checked; see `FORMAT`.

    Raises:
        ConfigError: It cannot be read, or is not such a file.
    """
    import yaml

    try:
        facts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the terms file {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(facts, dict) or facts.get("terms") != FORMAT or not isinstance(facts.get("processes"), dict):
        raise ConfigError(f"{path} is not a file of tuned terms: it needs the keys terms: {FORMAT} and processes")
    allowed = (*(axis for axis in AXES if axis != "frame"), "options", "solver", "solver_options")
    for name, terms in facts["processes"].items():
        if not isinstance(terms, dict):
            raise ConfigError(f"{path}: processes.{name} is not a mapping")
        for key in terms:
            if key not in allowed:
                raise unknown(f"key of processes.{name} in {path}", key, allowed)
    return facts


def _process_options(tuned: Mapping[str, Any]) -> dict[str, Any]:
    named = {option: tuned[axis] for axis, option in AXES.items() if axis in tuned and axis not in SAMPLER}
    return {**named, **tuned.get("options", {})}


def sampler_options(config: BenchConfig, process: str, solver: str) -> dict[str, Any]:
    """Options of a solver when it samples a process: those given, over the tuned ones of that process."""
    given = config.solver_options.get(solver, {})
    if config.terms == "controlled" and _lacks_spec(registries()["processes"].entry(process)):
        return {k: v for k, v in given.items() if k not in CONTROLLED_SAMPLER or CONTROLLED_SAMPLER[k] != v}
    if config.terms != "tuned":
        return given
    tuned = _tuned(config, process)
    own = {**tuned.get("solver_options", {}), **{AXES[axis]: tuned[axis] for axis in SAMPLER if axis in tuned}}
    return {**(_taken("solvers", solver, own) if tuned.get("solver", solver) == solver else {}), **given}


def tuned_solver(config: BenchConfig, process: str) -> str:
    """The solver that a search found for a process; "" where terms do not name one."""
    return str(_tuned(config, process).get("solver", "")) if config.terms == "tuned" else ""


# ---- what is said of them --------------------------------------------------------------------------------------------


def terms_of(config: BenchConfig, process: str) -> str:
    """The terms that a process of a bench has: the bench's, or "published" where it has no spec of controlled ones."""
    entry = registries()["processes"].entry(process)
    return "published" if config.terms == "controlled" and _lacks_spec(entry) else config.terms


def specs(config: BenchConfig) -> dict[str, dict[str, str]]:
    """Every axis of every process of a settled bench, in words, by process."""
    found = {}
    for name in config.process:
        entry = registries()["processes"].entry(name)
        own = config.process_options
        options = {**own.get(entry.family, {}), **own.get(name, {})}
        solvers = map(registries()["solvers"].entry, config.solver)
        fitting = [s for s in solvers if s.tags.get("mode", "ode") == entry.tags.get("mode", "ode")]
        stepping = [s for s in fitting if s.tags.get("budget", True)] or fitting  # adaptive ones have no grid
        samplers = [sampler_options(config, name, solver.name) for solver in stepping] or [{}]
        described_each = [described(entry.family, options, sampler) for sampler in samplers]
        found[name] = described_each[0] | {axis: _each(one[axis] for one in described_each) for axis in SAMPLER}
        found[name] |= {axis: _each(given) for axis in AXES if (given := getattr(config, axis, ()))}
    return found


def _each(values: Any) -> str:
    return " or ".join(dict.fromkeys(values))


def words_of_differences(found: Mapping[str, Mapping[str, str]]) -> str:
    """What differs between processes besides path and base, as a sentence."""
    parts = []
    for axis, values in differences(found).items():
        each = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
        parts.append(f"{axis} ({each})")
    if parts:
        return f"Besides the process, these differ: {', '.join(parts)}."
    return "Nothing but path and base differs between the processes." if len(found) > 1 else ""


def cautions(config: BenchConfig) -> list[str]:
    """Sentences on processes that do not have the terms of the bench, or have options besides."""
    if config.checkpoint or config.terms == "published":
        return []
    entries = [registries()["processes"].entry(name) for name in config.process]
    lacking = [entry.name for entry in entries if terms_of(config, entry.name) != config.terms]
    alone = [
        f"{name} has no spec of {config.terms} terms: it has its own, called published, and is not ranked with the "
        "others."
        for name in lacking
    ]
    found = differences({name: spec for name, spec in specs(config).items() if name not in lacking})
    if config.terms == "controlled" and found:
        alone.append(
            f"Options that were given change the controlled terms of some processes: {', '.join(found)} differ; the "
            "table of terms has the values."
        )
    return alone


__all__ = ["PUBLISHED", "cautions", "read_tuned", "sampler_options", "settle", "specs", "terms_of"]
