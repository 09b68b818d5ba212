"""Which of a bench's names go together, checked before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from genflow.bench.terms import tuned_solver
from genflow.config import BenchConfig, ConfigError, check_owners
from genflow.evaluate.facts import settings
from genflow.registry import Entry, registries

Pair = tuple[Entry, Entry]
"""A process and a solver that samples it."""


def check_names(config: BenchConfig) -> None:
    """Raises ConfigError or UnknownNameError for a name, a list or an option that cannot be used."""
    registries()["backbones"].entry(config.backbone), registries()["datasets"].entry(config.dataset)
    for plural in ("process", "solver", "metric"):
        values = getattr(config, plural)
        if len(set(values)) != len(values):
            raise ConfigError(f"{plural} lists a name twice: {', '.join(values)}")
    for key, used in _option_owners(config):
        check_owners(key, getattr(config, key), used)
    _check_norm_solver(config)


def _option_owners(config: BenchConfig) -> Iterator[tuple[str, list[str]]]:
    processes = registries()["processes"]
    yield "process_options", [*config.process, *(processes.entry(p).family for p in config.process)]
    yield "backbone_options", [config.backbone]
    yield "solver_options", [*config.solver, settings(config, "norm_z").solver]
    yield "dataset_options", [config.dataset]
    yield "metric_options", list(config.metric)


def _check_norm_solver(config: BenchConfig) -> None:
    """The pushed paths need an ODE solver with a given number of steps."""
    registry, solver = registries()["solvers"], settings(config, "norm_z").solver
    tags = registry.entry(solver).tags
    if tags.get("mode", "ode") != "ode" or not tags.get("budget", True):
        fitting = [n for n, e in registry.entries().items() if e.tags.get("mode") == "ode" and e.tags.get("budget")]
        raise ConfigError(
            f"norm.solver = '{solver}' does not fit; the pushed paths need a fixed-step ODE solver: "
            + ", ".join(fitting)
        )


def pairs(config: BenchConfig) -> Iterator[Pair]:
    """Every (process, solver) that runs: same mode, nothing missing; under tuned terms the solver that was found. A
    process that none of the solvers fits is an error."""
    registry = registries()
    for name in config.process:
        process = registry["processes"].entry(name)
        mode = process.tags.get("mode", "ode")
        fitting = [s for s in map(registry["solvers"].entry, config.solver) if s.tags.get("mode", "ode") == mode]
        if not fitting:
            raise ConfigError(
                f"process '{name}' is sampled as an {mode.upper()}, which none of the solvers "
                f"{', '.join(config.solver)} can do; known for {mode.upper()}: "
                + ", ".join(n for n, e in registry["solvers"].entries().items() if e.tags.get("mode") == mode)
            )
        able = [solver for solver in fitting if not lacking(process, solver)]
        able = [solver for solver in able if solver.name == tuned_solver(config, name)] or able
        if not able:
            raise ConfigError(f"process '{name}' cannot be sampled by {lacking(process, fitting[0])}")
        yield from ((process, solver) for solver in able)


def lacking(process: Entry, solver: Entry) -> str:
    """The first thing that a solver needs and a process lacks, with the reason, else ""."""
    missing = process.tags.get("missing", {})
    found = next((need for need in solver.tags.get("needs", ()) if need in missing), None)
    return f"{solver.name}, which needs '{found}': {missing[found]}" if found else ""
