"""Command-line options made from configuration classes, so that every key is an option and every option a key."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from genflow.accelerators import AUTO
from genflow.cli import say
from genflow.config import Leaf, Options, build, leaves
from genflow.config_file import read_yaml
from genflow.places import expand
from genflow.registry import registries
from genflow.scalars import Scalar


class Place(click.ParamType):
    """A path of the command line, its home folder put in."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("'' is not a path; give a file or a folder", param, ctx)
        return expand(value)


def examples(*lines: str) -> str:
    """Help that begins with examples, as click keeps it."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n"


def config_options(config: type, skip: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Adds --config and one option for every leaf of a configuration class; the values arrive as `given`."""

    def add(command: Any) -> Any:
        for leaf in reversed([leaf for leaf in leaves(config) if leaf.path not in skip]):
            command = _click_option(leaf)(command)
        return click.option("--config", "config_file", type=Place(), help="YAML file with any of these keys.")(command)

    return add


def config_command(
    name: str, config: type, run: Callable[[Any], str], about: str, *lines: str, after: str = ""
) -> click.Command:
    """A command whose options are the keys of a configuration class.

    Arguments:
        name: The command's name.
        config: The configuration class.
        run: The work itself; returns what to print, "" for nothing.
        about: What it does, for its help.
        lines: Examples.
        after: Help that follows the examples.
    """

    def command(config_file: Path | None, **given: Any) -> int:
        if text := run(resolve(config, config_file, given)[0]):
            say(text)
        return 0

    help = f"{about}\n\n{examples(*lines)}" + (f"\n{after}" if after else "")
    return click.command(name=name, help=help)(config_options(config)(command))


def flag(path: str) -> str:
    """The option of a config key: train.batch_size -> --train-batch-size."""
    return "--" + path.replace(".", "-").replace("_", "-")


METAVARS = {int: "INT", float: "NUMBER", str: "NAME"}


def _click_option(leaf: Leaf) -> Callable[[Any], Any]:
    default, many = leaf.default, leaf.type == Options
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    known = leaf.metadata.get("registry")
    text = leaf.metadata["help"] + (f" [{', '.join(registries()[known].entries())}]" if known and not many else "")
    text += "" if default in ("", {}) else f"  [default: {default}]"
    name, key = flag(leaf.path), leaf.path.replace(".", "__")
    if leaf.type is bool:
        return click.option(f"{name}/--no-{name.removeprefix('--')}", key, default=None, help=text)
    metavar = METAVARS.get(leaf.type) or f"{METAVARS[leaf.type.__args__[0]]},..." if not many else "NAME.OPTION=VALUE"
    return click.option(name, key, multiple=many, default=None, metavar=metavar, help=text)


def resolve(config: type, config_file: Path | None, given: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Configuration from defaults, then the YAML file, then the command line; and where each value is from."""
    values, origin = read_yaml(config_file, config) if config_file else ({}, {})
    for name, value in given.items():
        path = name.replace("__", ".")
        if value is not None and value != ():
            typed = Scalar(value) if isinstance(value, str) else value  # switches stay as they are
            values[path] = [Scalar(v) for v in value] if isinstance(value, tuple) else typed
            origin[path] = "command line"
    found = build(config, values)
    asked, here = values.get("device", AUTO), click.get_current_context(silent=True)
    if here and hasattr(found, "device") and getattr(asked, "text", asked) == AUTO:
        here.meta[AUTO] = found.device  # `cli.say_device` prints it, so that a refusal stays one line
    return found, origin


def command_line(ranks: int = 1) -> str:
    """The command as it was typed, under torchrun where it ran on several ranks."""
    start = ["genflow"] if ranks == 1 else ["torchrun", "--nproc-per-node", str(ranks), "-m", "--", "genflow"]
    return " ".join([*start, *map(shlex.quote, sys.argv[1:])])
