"""The command line. Nothing here imports torch before a command needs it.

Exit codes: 0 done, 1 failed, 2 bad input, 3 some cells failed, 75 the folder is in use, 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow import __version__
from genflow.config import BenchConfig, ConfigError, Leaf, Options, build, leaves, read_yaml
from genflow.registry import registries

if TYPE_CHECKING:
    from genflow.bench.runner import Report

EXIT_INPUT, EXIT_CELLS, EXIT_BUSY, EXIT_STOPPED = 2, 3, 75, 130


class Suggesting(click.Group):
    """A group whose unknown commands name the nearest one, with examples before the options."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from genflow.registry import unknown

        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise click.UsageError(str(unknown("command", args[0], self.commands)), ctx)
        return super().resolve_command(ctx, args)


def examples(*lines: str) -> str:
    """Help that begins with examples, as click keeps it."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n"


def config_options(config: type, skip: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Adds --config and one option for every leaf of a configuration class; the values arrive as `given`."""

    def add(command: Any) -> Any:
        for leaf in reversed([leaf for leaf in leaves(config) if leaf.path not in skip]):
            command = _click_option(leaf)(command)
        return click.option(
            "--config", "config_file", type=click.Path(path_type=Path), help="YAML file with any of these keys."
        )(command)

    return add


def flag(path: str) -> str:
    """The option of a config key: train.batch_size -> --train-batch-size."""
    return "--" + path.replace(".", "-").replace("_", "-")


def _click_option(leaf: Leaf) -> Callable[[Any], Any]:
    default = leaf.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    known = leaf.metadata.get("registry")
    text = leaf.metadata["help"] + (f" [{', '.join(registries()[known].entries())}]" if known and leaf.type != Options else "")
    shown = "" if default in ("", {}) else f"  [default: {default}]"
    many = leaf.type == Options
    return click.option(
        flag(leaf.path), leaf.path.replace(".", "__"), multiple=many, default=None, metavar=_metavar(leaf), help=text + shown
    )


def _metavar(leaf: Leaf) -> str:
    if leaf.type == Options:
        return "NAME.OPTION=VALUE"
    name = {int: "INT", float: "NUMBER", str: "NAME"}
    return name.get(leaf.type) or f"{name[leaf.type.__args__[0]]},..."


def resolve(config: type, config_file: Path | None, given: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Configuration from defaults, then the YAML file, then the command line; and where each value is from."""
    values, origin = read_yaml(config_file, config) if config_file else ({}, {})
    for name, value in given.items():
        path = name.replace("__", ".")
        if value is not None and value != ():
            values[path] = list(value) if isinstance(value, tuple) else value
            origin[path] = "command line"
    return build(config, values), origin


def say(text: str = "") -> None:
    """A line on standard output; characters that the terminal can not show are replaced."""
    encoding = sys.stdout.encoding or "ascii"
    click.echo(text.encode(encoding, "replace").decode(encoding))


@click.group(cls=Suggesting, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="genflow")
def cli() -> None:
    """Compare Poisson flow, score SDEs and stochastic interpolants on equal terms.

    \b
    Examples:
      genflow bench --process pfgm,vp_ode --backbone ncsnv2
      genflow bench --dry-run
      genflow list processes
      genflow train --process pfgm --out runs/pfgm
      genflow sample --checkpoint runs/pfgm --n 64 --nfe 20 --out samples.png
      genflow doctor
    """


@cli.command(
    help="Train, sample and measure a matrix of processes, and write tables, plots and a report.\n\n"
    + examples(
        "genflow bench --process pfgm,vp_ode --backbone ncsnv2",
        "genflow bench --config configs/digits.yaml --out runs/mine",
        "genflow bench --train-steps 200 --samples 100 --nfe 5,10 --dry-run",
        "genflow bench --process-options pfgm.gamma=0.5 --out runs/gamma",
    )
    + "\nFinished cells are kept: an interrupted bench goes on with the same command, and a second run only reads."
)
@config_options(BenchConfig)
@click.option("-n", "--dry-run", is_flag=True, help="Print the configuration, the cells and an estimate, and stop.")
def bench(config_file: Path | None, dry_run: bool, **given: Any) -> int:
    from genflow.bench.runner import prepare
    from genflow.bench.store import BusyError

    config, origin = resolve(BenchConfig, config_file, given)
    store, cells, todo, notes = prepare(config)
    if dry_run:
        _print_plan(config, origin, store, cells, todo, notes)
        return 0
    store.prepare()
    try:
        with store.lock():
            return _bench(config, store)
    except BusyError as error:
        click.echo(f"genflow: {error}", err=True)
        return EXIT_BUSY


def _bench(config: BenchConfig, store: Any) -> int:
    """The bench itself, the folder held."""
    from genflow.bench.runner import CellError, Interrupted, Runner, prepare
    from genflow.report.write import write_outputs

    store, cells, todo, notes = prepare(config)
    for note in notes:
        click.echo(f"genflow: {note}", err=True)
    if todo:
        say(f"{len(todo)} of {len(cells)} cells to do in {config.out}")
    failed = ""
    with ProgressLine(disable=not todo) as line:
        try:
            Runner(config, store, line.show).run(cells, todo)
        except CellError as error:
            failed = str(error)
        except Interrupted:
            line.close()
            click.echo(f"\ngenflow: stopped; finished cells are kept. Go on with:\n  {command_line()}", err=True)
            return EXIT_STOPPED
    done = [c for c in cells if store.look(c)[0] == "cached"] if failed else cells
    outcome = write_outputs(config, store, done, command_line())
    say(outcome.text)
    say(f"\nreport: {store.root / 'report.html'}")
    if failed:
        click.echo(f"genflow: {len(cells) - len(done)} cells are missing:\n{failed}", err=True)
        return EXIT_CELLS
    return 0


def command_line() -> str:
    """The command as it was typed."""
    return " ".join(["genflow", *map(shlex.quote, sys.argv[1:])])


class ProgressLine:
    """One line that tells share, time left and what runs; plain lines now and then where there is no terminal."""

    def __init__(self, disable: bool = False) -> None:
        from tqdm import tqdm

        self.plain = not sys.stderr.isatty()
        layout = "{percentage:3.0f}%|{bar:20}| {elapsed} {postfix}"
        self.bar = tqdm(total=1.0, bar_format=layout, disable=disable or self.plain, leave=False)
        self.disable, self.shown = disable, -1

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.bar.close()

    def show(self, report: Report) -> None:
        """Updates the line; without a terminal, prints one at every tenth."""
        left = "" if report.left != report.left else f"about {report.left:.0f} s left"
        text = f"{report.done}/{report.total} cells, {left} | {' | '.join(report.running)}"
        self.bar.n = min(1.0, report.share)
        self.bar.set_postfix_str(text[:140])
        tenth = int(report.share * 10)
        if self.plain and not self.disable and tenth > self.shown:
            self.shown = tenth
            click.echo(f"{report.share:4.0%} {text}", err=True)


def _print_plan(config: BenchConfig, origin: dict[str, str], store: Any, cells: Any, todo: Any, notes: list[str]) -> None:
    from genflow.bench.runner import estimate_seconds, job_count
    from genflow.config import flatten

    say("configuration (value, where it is from):")
    for path, value in flatten(config).items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        say(f"  {path:18} {shown!s:40} {origin.get(path, 'default')}")
    missing = {cell.key for cell in todo}
    say(f"\n{len(cells)} cells, {len(cells) - len(todo)} cached:")
    for cell in cells:
        say(f"  {'to do ' if cell.key in missing else 'cached'} {cell.key} {cell.name}")
    for note in notes:
        say(f"  note: {note}")
    seconds, basis = estimate_seconds(config, store, cells, todo)
    say(f"\nestimated time: {seconds / 60:.1f} min with {job_count(config, todo)} jobs (from {basis})")


@cli.command(
    name="list",
    help="List what is registered: built in and from plugins.\n\n"
    + examples("genflow list", "genflow list processes", "genflow list solvers"),
)
@click.argument("kind", required=False)
def list_names(kind: str | None) -> int:
    from genflow.registry import unknown

    if kind is not None and kind not in registries():
        raise unknown("kind", kind, registries())
    for plural, registry in registries().items():
        if kind in (None, plural):
            say(f"{plural}:")
            _list_entries(registry)
            say()
    return 0


def _list_entries(registry: Any) -> None:
    entries = registry.entries()
    width = max(map(len, entries), default=0)
    for entry in entries.values():
        origin = "" if entry.origin == "genflow" else f"  [plugin of {entry.origin}]"
        say(f"  {entry.name:{width}}  {entry.summary}{f'; {entry.source}' if entry.source else ''}{origin}")
        for capability, reason in entry.tags.get("missing", {}).items():
            say(f"  {'':{width}}  no {capability}: {reason}")
    for name, reason in registry.broken.items():
        say(f"  {name}: BROKEN, {reason}")


@cli.command(
    help="Write the tables, plots and HTML page of a finished bench again.\n\n" + examples("genflow report runs/bench")
)
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> int:
    from genflow.bench.cells import plan
    from genflow.bench.store import Store
    from genflow.report.write import write_outputs

    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"'{folder}' holds no bench: it has no config.yaml; give the --out folder of a bench")
    values, _ = read_yaml(folder / "config.yaml", BenchConfig)
    config = build(BenchConfig, {**values, "out": str(folder)})
    store = Store(folder)
    cells = plan(config)
    done = [cell for cell in cells if store.look(cell)[0] == "cached"]
    if not any(cell.kind == "metric" for cell in done):
        raise ConfigError(f"'{folder}' has no finished cells that belong to this genflow; run the bench again")
    write_outputs(config, store, done, f"genflow report {folder}", again=True)
    say(f"{len(done)} of {len(cells)} cells\nreport: {folder / 'report.html'}")
    return 0


@cli.command(help="Say what this installation has: versions, device, plugins, folders.\n\n" + examples("genflow doctor"))
def doctor() -> int:
    from genflow.doctor import findings

    lines, healthy = findings()
    for line in lines:
        say(line)
    return 0 if healthy else 1


from genflow.commands import add_model_commands  # noqa: E402

add_model_commands(cli)


def run() -> int:
    """Runs the command line and turns errors of the caller into one line and an exit code."""
    try:
        return int(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return EXIT_STOPPED
    except click.ClickException as error:
        error.show()
        return EXIT_INPUT
    except ValueError as error:
        click.echo(f"genflow: {error}", err=True)
        return EXIT_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_STOPPED
