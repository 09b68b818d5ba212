"""The value of --cluster: a queueing system and what to ask it for. Imports no Dask.

One spelling serves all systems; it is translated into options of each system's class in dask-jobqueue.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from genflow.bench.choose import seconds_of
from genflow.config import BenchConfig, ConfigError
from genflow.registry import unknown

SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",
}
"""Classes of dask-jobqueue by queueing system; `local` starts processes of this machine, for trials."""

PLAIN = ("queue", "account", "project", "interface", "host", "disk", "python", "local_directory")
"""Keys that are options of dask-jobqueue; `host` is where the scheduler listens."""

SLURM = ("qos", "constraint", "exclude", "nodelist", "reservation", "comment")
"""Keys that are options of sbatch."""

KEYS = ("partition", "time", "cpus", "gpus", "mem", "directive", "prologue", *PLAIN)

GPUS = {"slurm": "--gpus-per-node={}", "lsf": "-gpu num={}", "sge": "-l gpu={}", "htcondor": "request_gpus={}"}
"""The line of a job's head that asks for GPUs."""

log = logging.getLogger(__name__)


def request(config: BenchConfig) -> tuple[str, dict[str, Any]]:
    """(system, options of its class in dask-jobqueue) of --cluster, or of --slurm as it was spelled before.

    Raises:
        ConfigError: A part is not of the form KEY=VALUE, or a value is not allowed.
        UnknownNameError: The system or a key is not known.
    """
    if not config.slurm:
        system, _, first = config.cluster[0].partition(":")
        words = [word for word in (first, *config.cluster[1:]) if word]
    else:
        system, words = _former(config.slurm)
    if system not in SYSTEMS:
        raise unknown("system of cluster", system, SYSTEMS)
    known = KEYS + (SLURM if system == "slurm" else ())
    given: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(f"cluster: '{word}' is not of the form KEY=VALUE; known keys: {', '.join(known)}")
        if key not in known:
            raise unknown(f"key of cluster {system}", key, known)
        given.setdefault("queue" if key == "partition" else key, []).append(value)
    for key, values in given.items():
        if len(values) > 1 and key not in ("directive", "prologue"):
            raise ConfigError(f"cluster: {key} is given twice: {', '.join(values)}")
    return system, _options(system, given)


@cache  # called more than once, warns once
def _former(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """--slurm KEY=VALUE,... and --slurm local, which named submitit's cluster of this machine."""
    system = "local" if {"local", "cluster=local"} & set(words) else "slurm"
    kept = [word for word in words if word not in ("local", "cluster=local", "cluster=slurm")]
    log.warning("--slurm is the former spelling of --cluster %s:%s", system, ",".join(kept))
    return system, kept


def _options(system: str, given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Options of a class of dask-jobqueue. A job has one worker, or one for each of its GPUs."""
    cores, gpus = (_whole(given, key, low) for key, low in (("cpus", 1), ("gpus", 0)))
    memory = _memory(given.get("mem", [str(4 * cores)])[0])
    head = [f"--{key}={given[key][0]}" for key in SLURM if key in given] + list(given.get("directive", ()))
    found: dict[str, Any] = {key: given[key][0] for key in PLAIN if key in given}
    found |= {"cores": max(cores, gpus), "memory": f"{memory}GiB", "processes": max(1, gpus), "job_name": "genflow"}
    found["worker_extra_args"] = ["--memory-limit", "0"] + (["--resources", "GPU=1"] if gpus else [])
    if system in ("htcondor", "local"):
        found = {**({"host": "127.0.0.1", "nanny": False} if system == "local" else {"disk": "1GB"}), **found}
    else:
        found["walltime"] = _time(system, given.get("time", ["24h"])[0])
    if gpus and system == "pbs":
        found["resource_spec"] = f"select=1:ncpus={max(cores, gpus)}:mem={memory}gb:ngpus={gpus}"
    elif gpus and system in GPUS:
        head.append(GPUS[system].format(gpus))
    if head:
        found["job_extra_directives"] = dict(h.split("=", 1) for h in head) if system == "htcondor" else head
    if "prologue" in given:
        found["job_script_prologue"] = list(given["prologue"])
    return found


def _time(system: str, text: str) -> str:
    """A time as the system writes it: hours, minutes and, but for LSF, seconds."""
    seconds = max(60, round(seconds_of("cluster: time", text)))
    minutes = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
    return minutes if system == "lsf" else f"{minutes}:{seconds % 60:02d}"


def _whole(given: Mapping[str, Sequence[str]], key: str, least: int) -> int:
    text = given.get(key, [str(least)])[0]
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"cluster: '{key}={text}' is not allowed; give a whole number of at least {least}")
    return int(text)


def _memory(text: str) -> str:
    """A number of gigabytes, which may have its unit; the systems count in powers of two."""
    number = text.upper().removesuffix("GB").removesuffix("G")
    try:
        amount = float(number)
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        raise ConfigError(f"cluster: 'mem={text}' is not allowed; give a number of gigabytes")
    return f"{amount:g}"
