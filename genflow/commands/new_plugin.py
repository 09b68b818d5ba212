"""`genflow new-plugin`: an installable package with a process, a solver and a metric, to begin a plugin with."""

from __future__ import annotations

import keyword
import re
from importlib import resources, util
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from genflow.cli import say
from genflow.commands.options import Place, examples
from genflow.config import ConfigError

EXAMPLE = "genflow_example"
"""What the template's package is called; docs/examples/plugin is the template as it is."""
SUFFIX = ".txt"
"""Of the template's files, so that no tool takes them for code of genflow."""


def plugin_files(name: str) -> dict[str, str]:
    """The files of a plugin's package, by their path below its folder.

    Arguments:
        name: Of the package, an identifier.
    """
    found = {}
    for path, text in _template(resources.files("genflow") / "plugin_template"):
        for old, new in ((EXAMPLE, name), (EXAMPLE.replace("_", "-"), name.replace("_", "-"))):
            path, text = path.replace(old, new), text.replace(old, new)
        found[path] = text
    return dict(sorted(found.items()))


def _template(folder: Traversable, below: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _template(item, f"{below}{item.name}/")
        elif item.name.endswith(SUFFIX):
            found.append((below + item.name.removesuffix(SUFFIX), item.read_text(encoding="utf-8")))
    return found


def check_name(name: str) -> None:
    """Raises ConfigError for a name that no package can have, or that another one has."""
    if not (name.isidentifier() and name.isascii() and name == name.lower()) or keyword.iskeyword(name):
        close = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")
        close = f"plugin_{close}" if keyword.iskeyword(close) or close[:1].isdigit() else close
        hint = f", e.g. {close}" if close.isidentifier() else ""
        raise ConfigError(f"'{name}' is not a name for a Python package; give lower-case letters, digits and _{hint}")
    if util.find_spec(name) is not None:
        raise ConfigError(f"'{name}' is the name of a package that is here already; give another one")


@click.command(
    name="new-plugin",
    help="Write an installable package with one process, one solver, one metric and their tests, to change as you "
    "like.\n\n"
    + examples("genflow new-plugin my_flow", "genflow new-plugin my_flow --out ~/code/my_flow")
    + "\nThen: pip install -e FOLDER, pytest FOLDER, genflow list processes.",
)
@click.argument("name")
@click.option("--out", type=Place(), help="Folder to write, new or empty; NAME by default.")
def new_plugin_command(name: str, out: Path | None) -> int:
    check_name(name)
    folder = out or Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; give another --out, or remove it")
    for path, text in plugin_files(name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        say(str(folder / path))
    say(f"next: pip install -e {folder} && genflow list processes")
    return 0
