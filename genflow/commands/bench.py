"""`genflow bench` and `genflow report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import EXIT_BUSY, EXIT_CELLS, EXIT_STOPPED, say
from genflow.commands.options import command_line, config_options, examples, resolve
from genflow.config import BenchConfig, ConfigError, build, read_yaml

if TYPE_CHECKING:
    from genflow.bench.cells import Cell
    from genflow.bench.runner import Report
    from genflow.bench.store import Store


@click.command(
    name="bench",
    help="Train, sample and measure a matrix of processes, and write tables, plots and a report.\n\n"
    + examples(
        "genflow bench --process pfgm,vp_ode --backbone ncsnv2",
        "genflow bench --config configs/digits.yaml --out runs/mine",
        "genflow bench --train-steps 200 --samples 100 --nfe 5,10 --dry-run",
        "genflow bench --process-options pfgm.gamma=0.5 --out runs/gamma",
    )
    + "\nFinished cells are kept: an interrupted bench goes on with the same command, and a second run only reads.",
)
@config_options(BenchConfig)
@click.option("-n", "--dry-run", is_flag=True, help="Print the configuration, the cells and an estimate, and stop.")
def bench_command(config_file: Path | None, dry_run: bool, **given: Any) -> int:
    from genflow.bench.runner import prepare, refusal
    from genflow.bench.store import BusyError

    config, origin = resolve(BenchConfig, config_file, given)
    store, cells, todo, notes = prepare(config)
    given_options = (config.process_options, config.backbone_options, config.solver_options, config.dataset_options)
    if todo and (any(given_options) or not dry_run) and (reason := refusal(config)):
        raise ConfigError(reason)
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


def _bench(config: BenchConfig, store: Store) -> int:
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


def _print_plan(
    config: BenchConfig,
    origin: dict[str, str],
    store: Store,
    cells: list[Cell],
    todo: list[Cell],
    notes: list[str],
) -> None:
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


@click.command(
    name="report",
    help="Write the tables, plots and HTML page of a finished bench again.\n\n" + examples("genflow report runs/bench"),
)
@click.argument("folder", type=click.Path(path_type=Path))
def report_command(folder: Path) -> int:
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
