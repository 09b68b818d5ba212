"""Configuration of a study: that of a bench, and what the studies vary. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from genflow.bench.axes import VARIED, as_bench
from genflow.bench.checkpoints import settle
from genflow.bench.pairs import check_names
from genflow.bench.terms import settle as settle_terms
from genflow.claims.studies import entry
from genflow.config import TERMS, BenchConfig, ConfigError, build, flatten, option
from genflow.registry import registries, unknown

UNREAD = (
    *("metric", "metric_options", "allow_mixed", "bpd.examples", "bpd.rtol", "bpd.atol", "norm.nfe", "slurm"),
    *VARIED,
)
"""Keys of a bench that no study reads; `nfe` is also the budget of the pushed paths of norm_z."""

MOST_BITS = 24
"""Bits of a float32's significand."""

KINDS, CARRIERS = ("fresh", "held"), ("drift", "mean")
"""How injected noise is drawn, and what carries it."""


@dataclass(frozen=True)
class StudyConfig(BenchConfig):
    """A study. The first process is the one that a claim is about."""

    solver: tuple[str, ...] = option(
        ("euler", "heun", "rk45", "euler_maruyama"), "solvers; each process takes those of its mode", registry="solvers"
    )
    samples: int = option(2000, "samples of a point; distances are means over blocks of the test split's size", least=2)
    terms: str = option(
        "published",
        "what a comparison holds equal: controlled (all but path and base), published (each process as its paper), or "
        "tuned (each as a search found it)",
        among=TERMS,
    )
    models: str = option(
        "runs/bench", "folder of the bench whose trained models are used; what it lacks is trained in it", place=True
    )
    oracle: bool = option(False, "take the exact field of the training data for the network: only the solver errs")
    features: str = option(
        "own", "space of the Fréchet distance: own, inception, digits, mnist, tiny, identity, or a file", place=True
    )
    drift_noise: tuple[float, ...] = option(
        (0.1, 0.2, 0.5, 1.0), "noise: root mean square of the injected noise, in units of what carries it", above=0
    )
    noise_in: tuple[str, ...] = option(
        ("drift", "mean"), "noise: what carries it, the drift itself or the posterior mean that the drift is made of"
    )
    noise_kind: tuple[str, ...] = option(
        ("fresh", "held"), "noise: drawn anew at every call (fresh), or once for a whole path (held)"
    )
    bits: tuple[int, ...] = option((8, 7, 6, 5, 4, 3), "quantise: bits of a weight", least=2)
    per: tuple[str, ...] = option(("tensor", "channel"), "quantise: what shares a step size, tensor or channel")
    stages: tuple[float, ...] = option(
        (0.125, 0.25, 0.5),
        "quantise: shares of the training steps at which models are measured; 0 for none",
        least=0,
        below=1,
    )
    backbones: tuple[str, ...] = option(
        ("ncsnv2", "ddpmpp"), "backbone: networks to compare, the weak one first", registry="backbones"
    )
    dims: tuple[float, ...] = option(
        (1, 8, 128, 1e6), "dimension: values of D; a large one stands for the limit", above=0
    )
    reference: str = option("rk45", "split: solver that takes a field to its end", registry="solvers")
    out: str = option("", "output folder  [default: runs/studies/NAME]", place=True)

    @property
    def reference_file(self) -> str:
        """None: a study's `reference` names a solver, and its distances are to the training split."""
        return ""


def settled(name: str, config: StudyConfig, origin: Mapping[str, str]) -> StudyConfig:
    """A study's configuration with its own defaults where nothing was given, and what checkpoints bring.

    Arguments:
        name: Of the study.
        config: As given.
        origin: Where each value that was given is from, by dotted key.

    Raises:
        ConfigError: Values that do not go together.
    """
    for path in UNREAD:
        if path in origin:
            raise ConfigError(f"{origin[path]}: no study reads the key '{path}' of a bench; leave it out")
    given = {path: value for path, value in flatten(config).items() if path in origin}
    own = build(StudyConfig, {"out": f"runs/studies/{name}", **entry(name).defaults, **given})
    if own.oracle and own.checkpoint:
        raise ConfigError("oracle and checkpoint were both given: the exact field stands for a network; choose one")
    for key, allowed in (("noise_kind", KINDS), ("noise_in", CARRIERS), ("per", ("tensor", "channel"))):
        for value in getattr(own, key):
            if value not in allowed:
                raise unknown(key, value, allowed)
    if registries()["solvers"].entry(own.reference).tags.get("budget", True):
        raise ConfigError(
            f"reference = '{own.reference}' takes fixed steps; give a solver that chooses its own, such as rk45"
        )
    if any(bits > MOST_BITS for bits in own.bits):
        raise ConfigError(f"bits = {','.join(map(str, own.bits))}: at most {MOST_BITS}, a float32 has no more")
    for key in ("nfe", "seed", "bits", "dims", "drift_noise", "stages"):
        values = getattr(own, key)
        if len(set(values)) != len(values):
            raise ConfigError(f"{key} lists a value twice: {', '.join(map(str, values))}")
    settled_bench, _ = settle_terms(*settle(bench_of(own), origin))
    kept = ("process", "backbone", "dataset", "dataset_options", "terms", "process_options", "solver_options")
    brought = {f: getattr(settled_bench, f) for f in kept}
    own = replace(own, **brought)
    check_names(bench_of(own))
    return own


def bench_of(config: StudyConfig, **changes: Any) -> BenchConfig:
    """The bench whose models and samples a study uses, in its own folder; with fields changed."""
    return as_bench(config, **{"metric": ("fd",), "metric_options": {}, "out": config.models, **changes})
