"""Configuration: dataclasses that command-line options, YAML files and defaults all go through. Imports no torch.

Every leaf field is one option (`train.steps` is `--train-steps`) and one YAML key; its help, its range and its
default stand here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genflow.registry import unknown


class ConfigError(ValueError):
    """A configuration that can not be used: where it stands, what came, what is allowed."""


def option(default: Any, help: str, *, above: float | None = None, least: float | None = None, **more: Any) -> Any:
    """A field with its help text and range (`above` is exclusive, `least` inclusive; for lists, of each entry)."""
    metadata = {"help": help, "above": above, "least": least, **more}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


Options = dict[str, dict[str, Any]]
"""Constructor options by registered name."""


@dataclass(frozen=True)
class TrainConfig:
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
        0.1, "share of labels that a class-conditional backbone is not told, as guidance needs", least=0, below=1
    )
    log_every: int = option(10, "steps between lines of stats.jsonl", least=1)
    save_seconds: float = option(30.0, "seconds between resumable states", above=0)


@dataclass(frozen=True)
class NormConfig:
    """The norm–z study."""

    factors: tuple[float, ...] = option(
        (0.5, 0.8, 1.0, 1.25, 2.0), "factors by which |x| is pushed off mid-way", above=0
    )
    level: float = option(1.0, "mid-way: noise to signal ratio at which the norm is pushed", above=0)
    nfe: int = option(20, "backbone calls per sample of the pushed paths", least=2)
    solver: str = option("heun", "fixed-step solver of the pushed paths")


@dataclass(frozen=True)
class LikelihoodConfig:
    """bits/dim."""

    examples: int = option(500, "test examples (all where there are fewer)", least=2)
    rtol: float = option(1e-3, "relative tolerance of rk45", above=0, below=1)
    atol: float = option(1e-3, "absolute tolerance of rk45, data units", above=0)


@dataclass(frozen=True)
class BenchConfig:
    """A bench: the matrix process x solver x NFE x seed on one backbone and data set."""

    process: tuple[str, ...] = option(("pfgm", "vp_ode"), "processes to compare", registry="processes")
    backbone: str = option("ncsnv2", "network that all processes share", registry="backbones")
    dataset: str = option("digits", "data to train on and to compare with", registry="datasets")
    solver: tuple[str, ...] = option(
        ("euler", "heun", "rk45", "euler_maruyama"), "solvers; each process takes those of its mode", registry="solvers"
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
    train: TrainConfig = field(default_factory=TrainConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    bpd: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    sample_batch: int = option(250, "samples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    jobs: int = option(0, "worker processes; 0: one per CPU core, at most one per trained model", least=0)
    out: str = option("runs/bench", "output folder")


# ---- leaves ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """One option: dotted path, type, default and metadata."""

    path: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]


def leaves(config: type, prefix: str = "") -> Iterator[Leaf]:
    """All leaf options of a configuration class, nested ones by dotted path."""
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        kind, path = hints[f.name], f"{prefix}{f.name}"
        if dataclasses.is_dataclass(kind):
            yield from leaves(typing.cast(type, kind), f"{path}.")
        else:
            default = f.default_factory() if callable(f.default_factory) else f.default
            yield Leaf(path, kind, default, f.metadata)


def coerce(leaf: Leaf, value: Any) -> Any:
    """A value from YAML or the command line in the type of its option, checked against its range.

    Raises:
        ConfigError: What came and what is allowed.
    """
    if leaf.type == Options:
        return _options(leaf, value)
    if typing.get_origin(leaf.type) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        items = list(items) if isinstance(items, Sequence) else [items]
        kind = typing.get_args(leaf.type)[0]
        if not items and leaf.default:
            raise ConfigError(f"{leaf.path} is empty; give at least one value")
        return tuple(_scalar(leaf, kind, item) for item in items)
    return _scalar(leaf, leaf.type, value)


def _scalar(leaf: Leaf, kind: type, value: Any) -> Any:
    wanted = {int: "a whole number", float: "a number", str: "a word"}[kind]
    try:
        if isinstance(value, bool) or value is None or isinstance(value, list | dict):
            raise ValueError
        result = _whole(value) if kind is int else kind(value.strip() if isinstance(value, str) else value)
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{leaf.path} = {value!r} is not {wanted}{_range(leaf)}") from None
    _check_range(leaf, result)
    return result


def _whole(value: Any) -> int:
    """A whole number, also written as 1e3."""
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else _whole_float(value)
    except ValueError:
        return _whole_float(float(value))


def _whole_float(value: float) -> int:
    if not value.is_integer():
        raise ValueError
    return int(value)


def _check_range(leaf: Leaf, value: Any) -> None:
    limits = leaf.metadata
    if isinstance(value, int | float):
        low, least, high = limits.get("above"), limits.get("least"), limits.get("below")
        inside = (low is None or value > low) and (least is None or value >= least) and (high is None or value < high)
        if not inside or not math.isfinite(value):
            raise ConfigError(f"{leaf.path} = {value!r} is not allowed; give a finite number{_range(leaf)}")
    elif limits.get("among") and value not in limits["among"]:
        raise unknown(leaf.path, value, limits["among"])
    elif value == "":
        raise ConfigError(f"{leaf.path} has an empty entry")


def _range(leaf: Leaf) -> str:
    words = {"above": "above", "least": "of at least", "below": "below"}
    parts = [f"{words[k]} {leaf.metadata[k]:g}" for k in words if leaf.metadata.get(k) is not None]
    return f" {' and '.join(parts)}" if parts else ""


def _options(leaf: Leaf, value: Any) -> Options:
    """Options by name from a mapping, or from words NAME.OPTION=VALUE."""
    import yaml

    if value is None:
        raise ConfigError(f"{leaf.path} is empty; give a mapping of names to options, or leave it out")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{leaf.path}.{name} = {inner!r} is not a mapping of options to values")
        return {str(name): {str(k): number(v) for k, v in inner.items()} for name, inner in value.items()}
    result: Options = {}
    for word in [value] if not isinstance(value, list | tuple) else value:
        if not isinstance(word, str):
            raise ConfigError(f"{leaf.path} = {word!r} is not a mapping, nor a word NAME.OPTION=VALUE")
        key, equals, text = word.partition("=")
        name, dot, inner_key = key.partition(".")
        if not (equals and dot and name and inner_key):
            raise ConfigError(f"{leaf.path}: '{word}' is not of the form NAME.OPTION=VALUE")
        try:
            result.setdefault(name, {})[inner_key] = number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise ConfigError(f"{leaf.path}: '{text}' in '{word}' is not a value; quote it as YAML would") from None
    return result


def number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a word; words that are numbers become numbers here, also inside lists."""
    if isinstance(value, list):
        return [number(v) for v in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


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


def read_yaml(path: Path, config: type) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by dotted path from a YAML file, and where each one stands ("file:line").

    Raises:
        ConfigError: The file can not be read, is not YAML, is no mapping, or has an unknown key or a bad value.
    """
    import yaml

    try:
        text = path.read_text()
        node, data = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"the config {path} can not be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"the config {path} is {_kind(data)}, not a mapping of keys to values")
    known = {leaf.path: leaf for leaf in leaves(config)}
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    for key, value, line in _pairs(path, node, known):
        where = f"{path}:{line}"
        try:
            if key not in known:
                raise unknown("config key", key, known)
            values[key], lines[key] = coerce(known[key], value), where
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
    return values, lines


def _pairs(path: Path, node: Any, known: Mapping[str, Leaf]) -> Iterator[tuple[str, Any, int]]:
    try:
        yield from _walk(node, known, "")
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from None


def _kind(data: Any) -> str:
    return "empty" if data is None else f"a {type(data).__name__}"


def _walk(node: Any, known: Mapping[str, Leaf], prefix: str) -> Iterator[tuple[str, Any, int]]:
    """(dotted path, value, line) of every key below a mapping node; nested sections are entered."""
    import yaml

    seen: set[str] = set()
    for key_node, value_node in node.value:
        path, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if path in seen:
            raise ConfigError(f"line {line}: the key {path} stands twice")
        seen.add(path)
        if isinstance(value_node, yaml.MappingNode) and any(k.startswith(f"{path}.") for k in known):
            yield from _walk(value_node, known, f"{path}.")
        else:
            loader = yaml.SafeLoader("")
            yield path, loader.construct_object(value_node, deep=True), line


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested data of a configuration, as it is written to config.yaml."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def flatten(config: Any) -> dict[str, Any]:
    """Plain values by dotted path, as `build` takes them."""

    def read(path: str) -> Any:
        value = config
        for name in path.split("."):
            value = getattr(value, name)
        return _plain(value)

    return {leaf.path: read(leaf.path) for leaf in leaves(type(config))}


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
    "flatten",
    "leaves",
    "read_yaml",
    "to_dict",
]
