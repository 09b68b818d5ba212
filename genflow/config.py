"""Configuration: dataclasses that command-line options, YAML files and defaults all go through. Imports no torch.

Every leaf field is one option (`train.steps` is `--train-steps`) and one YAML key; its help, its range and its
default stand here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from genflow.kinds import ANY, Kind, read, structure
from genflow.metric_options import LikelihoodConfig as LikelihoodConfig
from genflow.metric_options import NormConfig as NormConfig
from genflow.places import home, shorten
from genflow.registry import registries, unknown
from genflow.scalars import Scalar, decimal, spelling, switch, whole, word_of
from genflow.shared_options import NetworkConfig, TrainedNetworkConfig, check_interval, interval_option, option


class ConfigError(ValueError):
    """A configuration that cannot be used: where it stands, what came, what is allowed."""


TERMS = ("controlled", "published", "tuned")  # what a comparison may hold equal; see genflow.process.terms
Options = dict[str, dict[str, Any]]
"""Constructor options by registered name."""


@dataclass(frozen=True)
class TrainConfig(NetworkConfig):
    """Numbers of the training loop; the same for every process of a bench."""

    steps: int = option(1600, "gradient steps", least=1)
    batch_size: int = option(64, "examples a step", least=1)
    lr: float = option(5e-3, "learning rate of Adam", above=0)
    schedule: str = option(
        "cosine", "learning rate after warm-up: cosine (to zero) or constant", among=("cosine", "constant")
    )
    warmup: int = option(50, "steps of linear warm-up", least=0)
    grad_clip: float = option(1.0, "largest gradient norm; 0 for no clipping", least=0)
    beta2: float = option(0.99, "Adam's second-moment decay", above=0, below=1)
    ema: float = option(0.995, "decay of the weights' moving average, which samples and measures", least=0, below=1)
    label_dropout: float = option(
        0.1, "share of labels hidden from a class-conditional backbone, as guidance needs", least=0, below=1
    )
    more_ema: tuple[float, ...] = option(
        (), "further decays whose averages are kept beside, for genflow average", least=0, below=1
    )
    posthoc: tuple[float, ...] = option(
        (), "relative widths of power-function averages (0.05,0.1) that post-hoc EMA is made from", above=0, below=0.28
    )
    posthoc_every: int = option(100, "steps between their snapshots", least=1)
    accumulate: int = option(1, "parts that a batch is worked through in, for less memory", least=1)
    on_nan: str = option("stop", "a loss that is not finite: stop, or skip:N to pass over up to N such steps")
    log_every: int = option(10, "steps between lines of stats.jsonl", least=1, bookkeeping=True)
    save_seconds: float = option(30.0, "seconds between resumable states", above=0, bookkeeping=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.may_skip()
        for name in ("more_ema", "posthoc"):
            values = [f"{value:g}" for value in getattr(self, name)]
            if len(set(values)) != len(values):
                raise ConfigError(f"train.{name} lists a value twice: {', '.join(values)}")

    def may_skip(self) -> int:
        """How many steps may be passed over because their loss is not finite.

        Raises:
            ConfigError: `on_nan` is neither stop nor skip:N.
        """
        word, _, number = self.on_nan.partition(":")
        if self.on_nan == "stop":
            return 0
        if word != "skip" or not number.isdecimal():
            raise ConfigError(f"train.on_nan = '{self.on_nan}' is not allowed; give stop, or skip:N, e.g. skip:10")
        return int(number)


@dataclass(frozen=True)
class BenchConfig(TrainedNetworkConfig):
    """A bench: the matrix process x solver x NFE x seed on one backbone and data set."""

    checkpoint: tuple[str, ...] = option(
        (),
        "folders of finished checkpoints to measure instead of training; they bring process, backbone and dataset",
        place=True,
    )
    process: tuple[str, ...] = option(("pfgm", "vp_ode"), "processes to compare", registry="processes")
    backbone: str = option("ncsnv2", "network that all processes share", registry="backbones")
    dataset: str = option("digits", "data to train on and to compare with", registry="datasets")
    solver: tuple[str, ...] = option(
        ("euler", "heun", "dpmpp_2m", "rk45", "euler_maruyama"),
        "solvers; each process takes those of its mode",
        registry="solvers",
    )
    nfe: tuple[int, ...] = option(
        (5, 10, 20, 35), "budgets of the fixed-step solvers, backbone calls per sample", least=1
    )
    seed: tuple[int, ...] = option((0,), "seeds; each trains and samples anew", least=0)
    samples: int = option(1000, "samples of a cell; distances are means over blocks of the test split's size", least=2)
    metric: tuple[str, ...] = option(("fd", "norm_z", "bpd"), "what to measure", registry="metrics")
    process_options: Options = option({}, "NAME.OPTION=VALUE of a process; may be repeated", registry="processes")
    backbone_options: Options = option({}, "NAME.OPTION=VALUE of the backbone", registry="backbones")
    solver_options: Options = option({}, "NAME.OPTION=VALUE of a solver", registry="solvers")
    dataset_options: Options = option({}, "NAME.OPTION=VALUE of the data set", registry="datasets")
    metric_options: Options = option({}, "NAME.OPTION=VALUE of a metric", registry="metrics")
    samples_from: tuple[str, ...] = option(
        (), "NAME=PLACE or NAME=PLACE:nfe=N of samples that others drew, measured beside the models'"
    )
    reference: str = option("", "file of reference statistics in place of the training split's", place=True)
    terms: str = option(
        "controlled",
        "what is equal: controlled (all but path and base), published (each as its paper), tuned (as a search found)",
        among=TERMS,
    )
    terms_file: str = option("", "file of tuned terms", place=True)
    head: tuple[str, ...] = option((), "heads to vary; each process is trained with every one")
    target: tuple[str, ...] = option((), "training targets to vary: own, stable; each is trained")
    times: tuple[str, ...] = option((), "densities of training times to vary: clock, log_uniform, ...; each is trained")
    weight: tuple[str, ...] = option((), "loss weights to vary: unit, likelihood, ...; each is trained")
    grid: tuple[str, ...] = option((), "grids to vary, for solvers that have the option: edm, snr, ...")
    end: tuple[str, ...] = option((), "ends of sampling to vary: none, mean, ...")
    inception: str = option(
        "", "file of Inception's weights; else $GENFLOW_WEIGHTS_DIR and the cache are searched", place=True
    )
    allow_mixed: bool = option(False, "put numbers that were made in different ways into one table")
    train: TrainConfig = field(default_factory=TrainConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    bpd: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    guidance: float = option(1.0, "guidance of the samples; other than 1 takes two calls where it acts", least=0)
    guidance_interval: tuple[float, ...] = interval_option()
    guide: tuple[str, ...] = option((), "weaker checkpoints to guide away from, each for its path", place=True)
    sample_batch: int = option(
        250, "samples at a time; changes them only under options like rk45.control=batch and pc.norms=batch", least=1
    )
    shard: int = option(2, "sample batches that are saved together while a cell is drawn; does not change it", least=1)
    jobs: int = option(
        0, "worker processes; 0: one per CPU core, or per card on cuda, at most one per trained model", least=0
    )
    scheduler: str = option("", "address of a running Dask scheduler whose workers do the work, e.g. tcp://host:8786")
    cluster: tuple[str, ...] = option(
        (), "SYSTEM:KEY=VALUE,... of jobs to work in, e.g. slurm:queue=gpu,time=4h,gpus=1; see docs/bench.md"
    )
    slurm: tuple[str, ...] = option((), "former spelling of --cluster slurm:KEY=VALUE,...")
    out: str = option("runs/bench", "output folder", place=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for f in dataclasses.fields(self):
            if getattr(self, f.name) == () and f.default:
                raise ConfigError(f"{f.name} is empty; give at least one value")
        check_interval(self.guidance, self.guidance_interval, self.guide)

    @property
    def reference_file(self) -> str:
        """The file whose statistics take the place of the training split's; "" for none."""
        return self.reference


# ---- leaves ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """One option: dotted path, type, default and metadata."""

    path: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]


MOST = {
    **dict.fromkeys(("nfe", "snapshot_nfe"), 1_000_000),
    **dict.fromkeys(("n", "samples", "images", "examples", "pairs", "sample_batch", "batch_size"), 100_000_000),
    "snapshot_n": 10_000,
    **dict.fromkeys(("jobs", "accumulate", "shard", "keep"), 1_000_000),
}
"""Largest values by the last word of the key, the same for every command: a grid of so many times still fits in memory,
and so many samples are the most that anybody measures. What a machine holds may be less: see `memory.check_room`."""


def leaves(config: type, prefix: str = "") -> Iterator[Leaf]:
    """All leaf options of a configuration class, nested ones by dotted path."""
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        kind, path = hints[f.name], f"{prefix}{f.name}"
        if dataclasses.is_dataclass(kind):
            yield from leaves(typing.cast(type, kind), f"{path}.")
        else:
            default = f.default_factory() if callable(f.default_factory) else f.default
            yield Leaf(path, kind, default, {"most": MOST.get(f.name), **f.metadata})


def coerce(leaf: Leaf, value: Any) -> Any:
    """A value (a Scalar, a list or mapping of such, or plain) in the type of its option, checked against its range.

    Raises:
        ConfigError: What came and what is allowed.
    """
    if leaf.type == Options:
        return _options(leaf, value)
    if typing.get_origin(leaf.type) is tuple:
        return _list(leaf, value)
    return _scalar(leaf, leaf.type, value)


def _list(leaf: Leaf, value: Any) -> tuple[Any, ...]:
    """Entries of a list, each once; text that was not quoted is cut at its commas."""
    inner = structure(value) if isinstance(value, Scalar) and not leaf.metadata.get("place") else None
    if isinstance(inner, list):
        value = inner
    elif isinstance(value, str | Scalar):
        value = _cut(value)
    items = list(value) if isinstance(value, Sequence) else [value]
    if not items and leaf.default:
        raise ConfigError(f"{leaf.path} is empty; give at least one value")
    found = tuple(_scalar(leaf, typing.get_args(leaf.type)[0], item) for item in items)
    if len(set(found)) != len(found):
        shown = ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in found)
        raise ConfigError(f"{leaf.path} lists a {'name' if isinstance(found[0], str) else 'value'} twice: {shown}")
    return found


def _cut(value: str | Scalar) -> list[Scalar]:
    """The entries of "a, b"; spaces beside a comma do not count, those at the two ends do."""
    text, style = (value, "typed") if isinstance(value, str) else (value.text, value.style)
    if isinstance(value, Scalar) and value.is_nothing:
        return [value]
    return [Scalar(part, typing.cast(Any, style)) for part in re.split(r"\s*,\s*", text)]


def _scalar(leaf: Leaf, kind: type, value: Any) -> Any:
    wanted = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}[kind]
    readers: dict[type, Any] = {int: whole, float: decimal, str: word_of, bool: switch}
    try:
        result = readers[kind](value)
    except (ValueError, OverflowError):
        hint = spelling(value) if kind in (int, float) else ""
        raise ConfigError(f"{leaf.path} = {shorten(repr(value))} is not {wanted}{_range(leaf)}{hint}") from None
    if kind is str and leaf.metadata.get("registry"):
        result = result.strip()
    _check_range(leaf, result)
    return home(leaf.path, result) if leaf.metadata.get("place") else result


def _check_range(leaf: Leaf, value: Any) -> None:
    limits = leaf.metadata
    if isinstance(value, int | float):
        low, least, high, most = (limits.get(name) for name in ("above", "least", "below", "most"))
        inside = (low is None or value > low) and (least is None or value >= least)
        inside = inside and (high is None or value < high) and (most is None or value <= most)
        if not inside or not math.isfinite(value):
            raise ConfigError(f"{leaf.path} = {value!r} is not allowed; give a finite number{_range(leaf)}")
    elif limits.get("among") and value not in limits["among"]:
        raise unknown(leaf.path, value, limits["among"])
    elif value == "" and leaf.default != "":
        raise ConfigError(f"{leaf.path} has an empty entry")


def _range(leaf: Leaf) -> str:
    words = {"above": "above", "least": "of at least", "below": "below", "most": "up to"}
    parts = [f"{words[k]} {_number(leaf.metadata[k])}" for k in words if leaf.metadata.get(k) is not None]
    return f" {' and '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _options(leaf: Leaf, value: Any) -> Options:
    """Options by name from a mapping, or from words NAME.OPTION=VALUE, each read as its constructor declares it; those
    that are the program's are refused."""
    result: Options = {}
    registry = registries().get(leaf.metadata.get("registry", ""))
    kinds: dict[str, Mapping[str, Kind]] = {}
    for word, name, key, raw in _given_options(leaf, value):
        if registry and key in registry.reserved:
            raise ConfigError(f"{leaf.path}: {name}.{key} follows from the data and the process; leave it out")
        if name not in kinds:
            kinds[name] = (registry.kinds(name) if registry else None) or {}
        kind = kinds[name].get(key, ANY)
        try:
            result.setdefault(name, {})[key] = read(kind, raw)
        except (ValueError, OverflowError):
            start = f"{leaf.path}: '{shorten(word)}' cannot be used" if word else leaf.path
            hint = spelling(raw) if kind.names & {"int", "float"} else ""
            raise ConfigError(
                f"{start}: {name}.{key} = {shorten(repr(raw))} is not allowed; give {kind}{hint}"
            ) from None
    for name in value if isinstance(value, Mapping) else ():
        result.setdefault(str(name), {})
    return result


def _given_options(leaf: Leaf, value: Any) -> Iterator[tuple[str, str, str, Any]]:
    """(word it came in or "", name, option, what was written)."""
    if isinstance(value, Scalar) and value.style == "typed":
        value = structure(value) or [value.text]
    if value is None or (isinstance(value, Scalar) and value.is_nothing):
        raise ConfigError(f"{leaf.path} is empty; give a mapping of names to options, or leave it out")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{leaf.path}.{name} = {shorten(repr(inner))} is not a mapping of options to values")
            yield from (("", str(name), str(key), raw) for key, raw in inner.items())
        return
    for word in value if isinstance(value, list | tuple) else [value]:
        text = word.text if isinstance(word, Scalar) else word
        if not isinstance(text, str):
            raise ConfigError(f"{leaf.path} = {shorten(repr(word))} is not a mapping, nor a word NAME.OPTION=VALUE")
        key, equals, given = text.partition("=")
        name, dot, inner_key = key.partition(".")
        if not (equals and dot and name and inner_key):
            raise ConfigError(f"{leaf.path}: '{shorten(text)}' is not of the form NAME.OPTION=VALUE")
        yield text, name, inner_key, Scalar(given)


def check_owners(key: str, given: Mapping[str, Any], used: Sequence[str]) -> None:
    """Refuses options for a name that is not used, naming the nearest that is."""
    for name in given:
        if name not in used:
            raise unknown(f"name in {key}", name, used)


# ---- building --------------------------------------------------------------------------------------------


def build(config: type, given: Mapping[str, Any]) -> Any:
    """A configuration from values by dotted path, each coerced; the rest are defaults."""
    known = {leaf.path: leaf for leaf in leaves(config)}
    for path in given:
        if path not in known:
            raise unknown("config key", path, known)
    return _build(config, {path: coerce(known[path], value) for path, value in given.items()}, "")


def _build(config: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints, arguments = typing.get_type_hints(config), {}
    for f in dataclasses.fields(config):
        path = f"{prefix}{f.name}"
        if dataclasses.is_dataclass(hints[f.name]):
            arguments[f.name] = _build(hints[f.name], values, f"{path}.")
        elif path in values:
            arguments[f.name] = values[path]
    return config(**arguments)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested data of a configuration, as it is written to config.yaml."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def deciding(config: Any) -> dict[str, Any]:
    """Plain values of the fields that a result depends on: all but those marked as bookkeeping."""
    kept = [f.name for f in dataclasses.fields(config) if not f.metadata.get("bookkeeping")]
    return {name: _plain(getattr(config, name)) for name in kept}


def flatten(config: Any) -> dict[str, Any]:
    """Plain values by dotted path, as `build` takes them."""
    return {leaf.path: _plain(attrgetter(leaf.path)(config)) for leaf in leaves(type(config))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


__all__ = [
    "BenchConfig",
    "ConfigError",
    "TrainConfig",
    "build",
    "check_owners",
    "deciding",
    "flatten",
    "leaves",
    "to_dict",
]
