"""The process, network and data that genflow builds for a configuration and the weights of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genflow.backbone.unet_design import NCSNPP, SHARED, published_options
from genflow.convert.configs import PRESETS, Config
from genflow.convert.recognise import Seen
from genflow.registry import unknown

SIZES = ("nf", "ch_mult", "num_res_blocks", "num_scales", "sigma_min", "sigma_max", "ema_rate")
"""Facts in which a file may differ from a preset: the file decides. In all others they must agree."""


@dataclass(frozen=True)
class Plan:
    """What an import builds.

    Arguments:
        process: Registered name and options of the process.
        backbone: The same of the network.
        shape: (C, H, W).
        dataset: Name and options of its training data; None where genflow does not have them.
        scaling: Grey levels to data units, as options of `genflow.data.base.Scaling`.
    """

    process: dict[str, Any]
    backbone: dict[str, Any]
    shape: tuple[int, ...]
    dataset: dict[str, Any] | None
    scaling: dict[str, Any]


# ---- a file compared with a configuration ----------------------------------------------------------------------------


def differences(seen: Seen, config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """Where a file differs from a configuration, in kind and in size: path -> both values, in words."""
    kinds: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for path, found in seen.facts.items():
        section, key = path.split(".")
        said = {**config[section], **_implied(config)}.get(key)
        if not _same(found, said):
            (sizes if key in SIZES else kinds)[path] = f"{_word(found)} in the file, {_word(said)} there"
    head = HEADS.get(config["training"]["sde"], 0)
    if seen.extra != head:
        channels = "one output channel more than x" if seen.extra else "as many output channels as x"
        kinds["training.sde"] = f"the file has {channels}, unlike {config['training']['sde']}"
    if seen.attends is not None:
        side, at = config["data"]["image_size"], config["model"].get("attn_resolutions", ())
        wanted = tuple(side // 2**level in at for level in range(len(seen.attends)))
        if wanted != seen.attends:
            levels = [level for level, attends in enumerate(seen.attends) if attends]
            text = f"attention at the levels {levels} in the file, at {_word(at)} of {side} pixels there"
            kinds["model.attn_resolutions"] = text
    return kinds, sizes


def merged(seen: Seen, config: Config) -> Config:
    """The configuration, with the sizes of the file."""
    result = {name: dict(section) for name, section in config.items()}
    for path, found in seen.facts.items():
        section, key = path.split(".")
        if key in SIZES and not _same(found, config[section].get(key)):
            result[section][key] = found
    return result


def candidates(seen: Seen) -> dict[str, Plan]:
    """Presets that the file may belong to: those that agree in size as well, else those that agree in kind."""
    kind: dict[str, Plan] = {}
    size: dict[str, Plan] = {}
    for name, config in PRESETS.items():
        kinds, sizes = differences(seen, config)
        if not kinds:
            kind[name] = make_plan(merged(seen, config))
            size |= {} if sizes else {name: kind[name]}
    return size or kind


def _implied(config: Config) -> dict[str, Any]:
    """Facts of every DDPM, whatever its configuration says: some call its positional embedding "fourier"."""
    if config["model"]["name"] == UNET_NAMES[1]:
        return {
            "resblock_type": "ddpm",
            "fir": False,
            "embedding_type": "positional",
            "progressive": "none",
            "progressive_input": "none",
        }
    return {}


def _same(found: Any, said: Any) -> bool:
    """Equal; numbers to seven digits, since tables of noise levels are rounded."""
    if isinstance(found, float) and isinstance(said, int | float):
        return math.isclose(found, said, rel_tol=1e-7)
    return found == (tuple(said) if isinstance(said, list) else said)


def _word(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- what it stands for ----------------------------------------------------------------------------------------------

UNET_NAMES = ("ncsnpp", "ddpm")
REFINENET_SIZES = {"ncsnv2_64": "small", "ncsnv2_128": "deeper", "ncsnv2_256": "deepest"}
"""Networks by "model.name", and the sizes of NCSNv2 in genflow."""

DATASETS: dict[tuple[str | None, str | None], tuple[str, int | None]] = {
    ("CIFAR10", None): ("cifar10", 32),
    ("SVHN", None): ("svhn", 32),
    ("CELEBA", None): ("celeba64", 64),
    ("LSUN", "bedroom"): ("lsun_bedroom", None),
    ("FFHQ", None): ("ffhq", None),
}
"""Data sets of genflow with their side in pixels (None: the option `size`), by "data.dataset" and "data.category"."""

HEADS = {"poisson": 1}
"""Extra output channels, by "training.sde"."""

DOUBLED = ("vesde",)
"""Processes whose images lie on [0, 1] in the authors' code, by "training.sde". A path x_t = X + σ N is the same in any
unit, so here their images lie on [−1, 1] like all others, and their noise levels are doubled."""

AUTHORS = {"poisson": {"prior": "published", "inverse": "published", "constant": "published"}}
"""Options that reproduce the authors' sampler and likelihood, for tables of published numbers."""


def make_plan(config: Config, as_published: bool = False) -> Plan:
    """What genflow builds for a published configuration.

    Arguments:
        config: Complete; see `complete`.
        as_published: Use the authors' prior, velocity rule and constant, where they differ from genflow's.
    """
    data, sde = config["data"], config["training"]["sde"]
    shape = (data["num_channels"], data["image_size"], data["image_size"])
    name, options = PROCESSES[sde](config, math.prod(shape))
    more = AUTHORS.get(sde, {}) if as_published else {}
    extra, centred = HEADS.get(sde, 0), data["centered"] or unit(config) == 2.0
    network = "ncsnv2" if config["model"]["name"] in REFINENET_SIZES else config["model"]["name"]
    # 256 grey levels, dequantised as for the published bits/dim, (k + u)/256 with u ~ U[0, 1)
    scaling = {"scale": 2 / 256, "shift": -1.0, "levels": 256} if centred else {"scale": 1 / 256, "levels": 256}
    return Plan(
        {"name": name, "options": {**options, **more}},
        {"name": network, "options": {"shape": shape, "extra_channels": extra, **_backbone(config)}},
        shape,
        _dataset(data) if centred else None,
        scaling,
    )


def _dataset(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The data set of genflow, with images on [−1, 1]."""
    name, side = DATASETS.get((data.get("dataset"), data.get("category")), ("", None))
    if not name or side not in (None, data["image_size"]):
        return None
    return {"name": name, "options": {} if side else {"size": data["image_size"]}}


def unit(config: Config) -> float:
    """genflow's data units per unit of the configuration: 2 where images on [0, 1] are mapped to [−1, 1]."""
    scores = config["model"].get("scale_by_sigma", config["model"]["name"] in REFINENET_SIZES)
    doubled = scores and config["training"]["sde"] in DOUBLED and not config["data"]["centered"]
    return 2.0 if doubled else 1.0


def _backbone(config: Config) -> dict[str, Any]:
    """Options of the network.

    One that is conditioned on σ and divides its output by σ gives the score in any unit: at x' = 2x − 1 and σ' = 2σ the
    score is half, and so is 1/σ'. It remains to give it x' instead of 2x − 1, and log σ' − log 2 instead of log σ.
    """
    model, factor = config["model"], unit(config)
    centre = not config["data"]["centered"] and factor == 1.0
    if model["name"] in REFINENET_SIZES:
        size = REFINENET_SIZES[model["name"]]
        return {"features": model["nf"], "size": size, "noise_level": "scale", "normalise": False, "centre": centre}
    options = published_options(config)
    shift = options.get("time_shift", 0.0) - options["time_scale"] * math.log(factor)
    return {**options, "centre": centre, "time_shift": shift}


def _poisson_flow(config: Config, dim: int) -> tuple[str, dict[str, Any]]:
    """Each entry of the data lies within [−1, 1], which bounds their norm."""
    training, sampling = config["training"], config["sampling"]
    return "pfgm", {
        "dim": dim,
        "radius": math.sqrt(dim),
        "sigma_end": config["model"]["sigma_end"],
        "tau": training["tau"],
        "m_max": training["M"],
        "gamma": float(training["gamma"]),
        **{name: float(sampling[name]) for name in ("z_min", "z_max", "z_exp", "upper_norm")},
    }


def _score_sde(name: str, head: str, keys: tuple[str, ...]) -> Callable[[Config, int], tuple[str, dict[str, Any]]]:
    """Options of a process from the named entries of the model; noise levels are in genflow's data units."""

    def options(config: Config, dim: int) -> tuple[str, dict[str, Any]]:
        levels = {} if config["training"]["continuous"] else {"levels": config["model"]["num_scales"]}
        return name, {"head": head, **{key: float(unit(config) * config["model"][key]) for key in keys}, **levels}

    return options


PROCESSES: dict[str, Callable[[Config, int], tuple[str, dict[str, Any]]]] = {
    "poisson": _poisson_flow,
    "vpsde": _score_sde("vp_ode", "noise", ("beta_min", "beta_max")),
    "subvpsde": _score_sde("subvp_ode", "noise", ("beta_min", "beta_max")),
    "vesde": _score_sde("ve_ode", "score", ("sigma_min", "sigma_max")),
}
"""Process and options, by "training.sde". The output of VP's networks is the noise N̂, so the score is −N̂/b; that of
VE's is the score, and that of PFGM's the field."""

NEEDED = {
    "poisson": (
        *("model.sigma_end", "training.tau", "training.M", "training.gamma"),
        *("sampling.z_min", "sampling.z_max", "sampling.z_exp", "sampling.upper_norm"),
    ),
    "vpsde": ("model.beta_min", "model.beta_max"),
    "subvpsde": ("model.beta_min", "model.beta_max"),
    "vesde": ("model.sigma_min", "model.sigma_max", "model.num_scales"),
}
ALWAYS = ("model.name", "data.image_size", "data.num_channels", "data.centered", "training.sde", "training.continuous")


def complete(given: Mapping[str, Any], owner: str) -> Config:
    """The sections of a user's configuration, checked.

    Raises:
        ValueError: A key that the import needs is missing, or the network or process is unknown; it is named.
    """
    found = {name: given.get(name) or {} for name in ("model", "data", "training", "sampling")}
    sections: Config = {name: dict(v) if isinstance(v, Mapping) else {} for name, v in found.items()}
    _need(sections, ALWAYS, owner)
    sde, name = sections["training"]["sde"], sections["model"]["name"]
    if sde not in PROCESSES:
        raise unknown("training.sde", sde, PROCESSES)
    if name not in (*UNET_NAMES, *REFINENET_SIZES):
        raise unknown("model.name", name, (*UNET_NAMES, *REFINENET_SIZES))
    layers = ("nf",) if name in REFINENET_SIZES else SHARED if name == UNET_NAMES[1] else (*SHARED, *NCSNPP)
    _need(sections, (*NEEDED[sde], *(f"model.{key}" for key in layers)), owner)
    return sections


def _need(sections: Config, paths: tuple[str, ...], owner: str) -> None:
    missing = [path for path in paths if path.split(".")[1] not in sections[path.split(".")[0]]]
    if missing:
        raise ValueError(f"{owner} lacks {', '.join(missing)}; a published configuration has them")
