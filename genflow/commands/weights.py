"""`genflow weights`: the weight files that distances need and that do not ship with genflow."""

from __future__ import annotations

from pathlib import Path

import click

from genflow.cli import say
from genflow.commands.options import Place, examples


@click.group(
    name="weights",
    help="Weight files that do not ship with genflow: where they are looked for, whether they are the right ones.\n\n"
    + examples(
        "genflow weights list",
        "genflow weights download inception",
        "genflow weights add ~/inception-2015-12-05.pt",
        "genflow weights verify",
    ),
)
def weights_command() -> None:
    """Sub-commands."""


@weights_command.command(name="list", help="Known files, and whether they are here.")
def list_weights() -> int:
    from genflow.evaluate.weight_files import KNOWN, folders, trusted

    for name, known in KNOWN.items():
        say(f"{name}: {known.file}, {known.size / 1e6:.0f} MB; {known.use}")
        say(f"  sha256 {known.sha256}")
        say(f"  {known.url}")
        say(f"  {_state(name)}")
    say("looked for in " + ", then ".join(f"{words} ({place or 'not set'})" for words, place in folders()))
    for digest, about in trusted().items():
        say(f"trusted by you on {about.get('added', '?')}: {about.get('file', '?')}, sha256 {digest}")
    return 0


def _state(name: str) -> str:
    from genflow.evaluate.weight_files import WeightsError, candidates, check

    path = next(candidates((name,)), None)
    if path is None:
        return f"not here; genflow weights download {name}"
    try:
        return f"here: {path}, {check(path).trust}"
    except WeightsError as error:
        return f"here but refused: {error}"


@weights_command.command(name="path", help="Print the path of the file that would be used.")
@click.argument("name", default="inception")
def path_of_weights(name: str) -> int:
    from genflow.evaluate.weight_files import KNOWN, find
    from genflow.registry import unknown

    if name not in KNOWN:
        raise unknown("weight file", name, KNOWN)
    say(str(find((name,)).path))
    return 0


@weights_command.command(
    name="add",
    help="Copy a file into the cache and record its hash.\n\nA published file is known by its hash. Any other is "
    "trusted from now on as it is; a TorchScript file (.pt) is code that will run.",
)
@click.argument("path", type=Place())
@click.option("--name", default="", help="known file that it stands for (see genflow weights list)")
def add_weights(path: Path, name: str) -> int:
    from genflow.evaluate.weight_files import add

    found = add(path, name)
    say(f"{found.path}\nsha256 {found.sha256}, {found.trust}")
    return 0


@weights_command.command(name="download", help="Fetch a known file into the cache; its hash is checked.")
@click.argument("name", default="inception")
def download_weights(name: str) -> int:
    from genflow.evaluate.weight_files import download

    found = download(name)
    say(f"{found.path}\nsha256 {found.sha256}, {found.trust}")
    return 0


@weights_command.command(name="verify", help="Check the files that are here against their hashes; exit code 1 if bad.")
def verify_weights() -> int:
    from genflow.evaluate.weight_files import KNOWN, WeightsError, candidates, check

    good = True
    for path in candidates(tuple(KNOWN)):
        try:
            say(f"{path}: {check(path).trust}")
        except WeightsError as error:
            good = False
            say(str(error))
    if not any(True for _ in candidates(tuple(KNOWN))):
        say("no weight file is here; genflow weights list says where they are looked for")
    return 0 if good else 1
