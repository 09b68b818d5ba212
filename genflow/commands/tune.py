"""`genflow tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genflow.bench.tune import UNREAD, TuneConfig
from genflow.cli import say
from genflow.commands.bench import Flags, run_bench
from genflow.commands.options import config_options, examples, resolve


@click.command(
    name="tune",
    help="Search each process's best settings in one space for all, and measure the winners on other seeds.\n\n"
    + examples(
        "genflow tune --process pfgm,vp_ode --out runs/tune",
        "genflow tune --head edm_rms,data --grid edm,snr --solver heun,dpmpp_2m --calls 10 --seeds 3",
        "genflow bench --terms tuned --terms-file runs/tune/tuned.yaml --process pfgm,vp_ode --nfe 5,10,20",
    )
    + "\nThe space is solver x grid x end, and head x target x times x weight where they are given. The folder gets "
    "search/ (the bench of all settings, with results.csv as the log), tuned.yaml with the winners, and the report on "
    "the winners. Finished work is kept, as by genflow bench, with the same exit codes.",
)
@config_options(TuneConfig, skip=UNREAD)
@click.option("-n", "--dry-run", is_flag=True, help="Print the settings of the search and an estimate, and stop.")
@click.option("--keep-going", is_flag=True, help="Do the other cells after one has failed.")
@click.option("--time-limit", metavar="TIME", help="Stop as by a signal after this time: 90s, 30m, 1h30m, 2d.")
def tune_command(
    config_file: Path | None, dry_run: bool, keep_going: bool, time_limit: str | None, **given: Any
) -> int:
    from genflow.bench.cells import plan
    from genflow.bench.rows import collect
    from genflow.bench.store import Store
    from genflow.bench.tune import report_of, search_of, write_tuned

    config, origin = resolve(TuneConfig, config_file, given)
    flags = Flags(dry_run, False, (), False, keep_going, time_limit)
    search = search_of(config)
    if code := run_bench(search, dict(origin), flags):
        return code
    file = Path(config.out) / "tuned.yaml"
    if dry_run:
        say(f"\nthen the winners, written to {file}, are measured on seed {', '.join(map(str, config.seed))}")
        return 0
    write_tuned(file, search, collect(Store(Path(search.out)), plan(search)))
    say(f"\nwinners: {file}; they are measured again on other seeds\n")
    return run_bench(report_of(config, file), {}, flags)
