"""`genflow bench`."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import EXIT_BUSY, EXIT_CELLS, EXIT_TIME, say, say_device
from genflow.commands.options import command_line, config_options, examples, resolve
from genflow.config import BenchConfig, ConfigError

if TYPE_CHECKING:
    from genflow.bench.choose import BenchPlan
    from genflow.bench.runner import Report


@click.command(
    name="bench",
    help="Train, sample and measure a matrix of processes, and write tables, plots and a report.\n\n"
    + examples(
        "genflow bench --process pfgm,vp_ode --backbone ncsnv2",
        "genflow bench --config configs/digits.yaml --out runs/mine",
        "genflow bench --train-steps 200 --samples 100 --nfe 5,10 --dry-run --calibrate",
        "genflow bench --checkpoint runs/pfgm,runs/vp --out runs/measured",
        "genflow bench --head edm_rms,data --grid edm,snr --seed 0,1,2",
        "genflow bench --only 'pfgm:*:35' --force",
        "genflow bench --scheduler tcp://host:8786 --device cuda",
        "genflow bench --cluster slurm:queue=gpu,time=4h,gpus=1 --device cuda --jobs 8",
    )
    + "\nFinished cells are kept: an interrupted bench goes on with the same command, and a second run only reads. "
    "Exit codes: 3 some cells failed, 75 the folder is in use, 124 the time limit is up, 128 + n ended by signal n.",
)
@config_options(BenchConfig)
@click.option("-n", "--dry-run", is_flag=True, help="Print the configuration, the cells and an estimate, and stop.")
@click.option("--calibrate", is_flag=True, help="Measure the network's cost for the estimate of --dry-run.")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Do only these cells and what they build on: PROCESS:SOLVER:NFE with wildcards (pfgm:*:35), or a metric, a "
    "kind (train, sample, metric) or a process; may be repeated.",
)
@click.option("--force", is_flag=True, help="Compute the cells (of --only, or all) and what builds on them again.")
@click.option("--keep-going", is_flag=True, help="Do the other cells after one has failed; else the bench stops.")
@click.option("--time-limit", metavar="TIME", help="Stop as by a signal after this time: 90s, 30m, 1h30m, 2d.")
def bench_command(config_file: Path | None, **given: Any) -> int:
    from genflow.bench.checkpoints import settle

    flags = Flags(*(given.pop(name) for name in FLAGS))
    return run_bench(*settle(*resolve(BenchConfig, config_file, given)), flags)


def run_bench(config: BenchConfig, origin: dict[str, str], flags: Flags) -> int:
    """Plans a bench, runs what is missing of it and writes its outputs, or prints the plan; the exit code."""
    from genflow.bench.choose import prepare
    from genflow.bench.start import check_place
    from genflow.bench.store import BusyError
    from genflow.bench.terms import settle as settle_terms

    config, origin = settle_terms(config, origin)
    check_place(config)
    plan = prepare(config, flags.only, flags.force)
    plan.store.check_place()
    if flags.dry_run:
        calls = math.inf if flags.calibrate else 0.0
        costs = _check(config, plan, calls) if plan.todo and (calls or _given(config, origin)) else None
        _print_plan(config, origin, plan, costs)
        return 0
    calls = sum(cell.cost for cell in plan.todo if cell.model)
    costs = _check(config, plan, calls) if plan.todo else None
    plan.store.prepare()
    try:
        with plan.store.lock():
            if plan.todo:  # another bench may have held the folder meanwhile
                plan = prepare(config, flags.only, flags.force)
            return _bench(config, origin, plan, flags, costs)
    except BusyError as error:
        click.echo(f"genflow: {error}", err=True)
        return EXIT_BUSY


@dataclass(frozen=True)
class Flags:
    """What of the command line is about this run alone, and no part of the bench."""

    dry_run: bool
    calibrate: bool
    only: tuple[str, ...]
    force: bool
    keep_going: bool
    time_limit: str | None
    ends: float = field(default=math.inf, init=False)
    """When the time limit is up, on the monotonic clock."""

    def __post_init__(self) -> None:
        from genflow.bench.choose import seconds_of

        if self.time_limit is not None:
            object.__setattr__(self, "ends", time.monotonic() + seconds_of("time-limit", self.time_limit))


FLAGS = ("dry_run", "calibrate", "only", "force", "keep_going", "time_limit")


def _given(config: BenchConfig, origin: dict[str, str]) -> bool:
    """Whether a part of the bench has options that it may refuse; those of controlled terms are known to be allowed."""
    from genflow.bench.axes import varied

    keys = [f"{part}_options" for part in ("process", "backbone", "solver", "dataset", "metric")]
    return bool(varied(config)) or any(getattr(config, key) and origin.get(key) != "controlled terms" for key in keys)


def _check(config: BenchConfig, plan: BenchPlan, calls: float) -> Any:
    """What the network costs, where there are calls; raises ConfigError where a part refuses its options."""
    from genflow.bench.local import check
    from genflow.bench.pool import job_count, usable_cores

    reason, costs = check(config, max(1, usable_cores() // job_count(config, plan.todo)), calls)
    if reason:
        raise ConfigError(reason)
    return costs


def _bench(config: BenchConfig, origin: dict[str, str], plan: BenchPlan, flags: Flags, costs: Any) -> int:
    """The bench itself, the folder held."""
    from genflow.bench.runner import CellError, Interrupted, Runner
    from genflow.bench.start import start_workers
    from genflow.report.write import write_outputs

    for note in plan.notes:
        click.echo(f"genflow: {note}", err=True)
    if plan.todo:
        plan.store.sweep(plan.again)
        say_device()
        say(f"{len(plan.todo)} of {len(plan.cells)} cells to do in {config.out}")
        say(_estimate(config, plan, costs))
    failed = ""
    with ProgressLine(disable=not plan.todo) as line:
        runner = Runner(config, plan.store, start_workers, line.show, flags.keep_going, flags.ends - time.monotonic())
        try:
            runner.run(plan.cells, plan.todo)
        except CellError as error:
            failed = str(error)
        except Interrupted as end:
            line.close()
            why = "stopped" if end.number else f"the time limit of {flags.time_limit} is up"
            click.echo(f"\ngenflow: {why}; finished cells are kept. Go on with:\n  {command_line()}", err=True)
            return 128 + end.number if end.number else EXIT_TIME
    plan.store.write_failures(runner.failures)
    done = plan.store.finished(plan.cells) if plan.todo or plan.left else plan.cells
    notes = [*plan.notes, *(f"{name} failed: {why}" for name, why in runner.failures.items())]
    outcome = write_outputs(config, plan.store, done, command_line(), origin=origin, notes=notes)
    say(outcome.text)
    say(f"\nreport: {plan.store.root / 'report.html'}")
    missing = len(plan.cells) - len(done)
    if failed:
        click.echo(f"genflow: {missing} cells are missing:\n{failed}", err=True)
        return EXIT_CELLS
    if missing:
        click.echo(f"genflow: {missing} cells were not chosen and are not there", err=True)
    return 0


def _estimate(config: BenchConfig, plan: BenchPlan, costs: Any) -> str:
    from genflow.bench.cost import estimate_cost
    from genflow.bench.pool import job_count

    jobs = job_count(config, plan.todo)
    return estimate_cost(config, plan.store, plan.cells, plan.todo, jobs, costs).line(jobs)


class ProgressLine:
    """A progress line: share, time left and what runs; without a terminal, plain lines now and then."""

    def __init__(self, disable: bool = False) -> None:
        from tqdm import tqdm

        self.plain = not (sys.stderr and sys.stderr.isatty())
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


def _print_plan(config: BenchConfig, origin: dict[str, str], plan: BenchPlan, costs: Any) -> None:
    from genflow.bench import shards
    from genflow.bench.tables import terms_table
    from genflow.config import flatten

    say("configuration (value, where it is from):")
    for path, value in flatten(config).items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        say(f"  {path:18} {shown!s:40} {origin.get(path, 'default')}")
    if table := terms_table(config):
        say(f"\n{table.markdown()}".rstrip())
    missing = {cell.key for cell in plan.todo}
    there = {cell.key for cell in plan.store.finished(plan.cells)}
    say(f"\n{len(plan.cells)} cells, {len(there - plan.again)} cached:")
    for cell in plan.cells:
        state = "to do " if cell.key in missing else "cached" if cell.key in there else "left  "
        begun = len(shards.saved(plan.store, cell, config)) if cell.key in missing else 0
        parts = f" ({begun} of {shards.number(cell, config)} shards saved)" if begun else ""
        say(f"  {state} {cell.key} {cell.name}{parts}")
    for note in plan.notes:
        say(f"  note: {note}")
    say("\n" + _estimate(config, plan, costs))
