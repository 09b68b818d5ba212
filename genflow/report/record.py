"""Facts about the run that filled a folder and that no cell holds: report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from genflow.checkpoint import holds_run, write_file
from genflow.config import BenchConfig, ConfigError, build
from genflow.config_file import read_yaml

STAMP = "report.json"
OUTPUTS = ("results.csv", "tables.md", "tables.tex", "citations.bib", "config.yaml", "report.html")
"""Files beside the cells, in the order of the page's list."""


@dataclass(frozen=True)
class Record:
    """Facts that a report needs and no cell holds; kept in report.json, so that the report can be written again.

    Commands are those that filled the folder, oldest first; `origin` has each value that is not a default, by dotted
    path; `environment` is that of the machine that ran the bench.
    """

    commands: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_bench(folder: Path) -> BenchConfig:
    """The configuration of a bench's folder.

    Raises:
        ConfigError: It is not the folder of a bench.
    """
    if holds_run(folder):
        raise ConfigError(
            f"'{folder}' holds a training run, not a bench; measure it with `genflow bench --checkpoint {folder}`"
        )
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"'{folder}' holds no bench: it has no config.yaml; give the --out folder of a bench")
    values, _ = read_yaml(folder / "config.yaml", BenchConfig)
    return cast(BenchConfig, build(BenchConfig, {"terms": "published", **values, "out": str(folder)}))


def read_record(root: Path) -> tuple[Record, str]:
    """The record of a folder and the digest of its outputs; both empty where the file is missing or damaged."""
    try:
        facts = json.loads((root / STAMP).read_text(encoding="utf-8"))
        commands, notes = (tuple(map(str, facts[name])) for name in ("commands", "notes"))
        return Record(commands, dict(facts["origin"]), dict(facts["environment"]), notes), str(facts["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return Record(), ""


def write_record(root: Path, record: Record, digest: str) -> None:
    """Writes a record with the digest of the outputs."""
    write_file(root / STAMP, json.dumps({"digest": digest, **vars(record)}, indent=1))


def joined(
    old: Record, config: BenchConfig, command: str, origin: Mapping[str, str] | None, notes: Sequence[str]
) -> Record:
    """The record with a run added."""
    from genflow.report.environment import environment

    commands = (*(c for c in old.commands if c != command), command)
    known = old.origin if origin is None else origin
    return Record(commands, known, environment(config.device), tuple(dict.fromkeys([*old.notes, *notes])))


def late(config: BenchConfig, command: str) -> Record:
    """The record of a folder that has none: of this report, not of the run."""
    from genflow.report.environment import environment

    here = {"of": "the machine that wrote this report; the folder does not record where the bench ran"}
    return Record((command,), {}, here | environment(config.device), ())
