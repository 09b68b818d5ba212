"""`genflow study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genflow.claims.studies import STUDIES, entry
from genflow.claims.studies.config import UNREAD, StudyConfig, settled
from genflow.cli import EXIT_BUSY, EXIT_CELLS, say
from genflow.commands.options import command_line, config_options, examples, resolve
from genflow.commands.paths import check_folder

_NAMES = "\n".join(f"  {name:10} {one.summary}" for name, one in STUDIES.items())


@click.command(
    name="study",
    help="Measure how robust processes are, and say what of a paper's claim holds.\n\n\b\nStudies:\n"
    + _NAMES
    + "\n\n"
    + examples(
        "genflow study step_size --process pfgm,vp_ode",
        "genflow study noise --oracle",
        "genflow study norm_z --process pfgm,vp_ode,ve_ode --models runs/bench --out runs/studies/norm_z",
        "genflow study quantise --checkpoint runs/pfgm,runs/vp",
    )
    + "\nThe folder gets results.csv, table.md, pictures, and README.md with what is claimed and what was found. "
    "Models are those of the bench in --models, which trains what it lacks; points that are measured are kept.",
)
@click.argument("name", metavar="STUDY")
@config_options(StudyConfig, skip=UNREAD)
def study_command(name: str, config_file: Path | None, **given: Any) -> int:
    from genflow.bench.runner import CellError, Interrupted
    from genflow.bench.store import BusyError
    from genflow.claims.claim import family, summary
    from genflow.claims.run import run_study
    from genflow.commands.bench import ProgressLine

    known = entry(name)
    config = settled(name, *resolve(StudyConfig, config_file, given))
    check_folder(Path(config.out))
    check_folder(Path(config.models))
    with ProgressLine() as line:
        try:
            found = run_study(name, config, command_line(), line.show)
        except Interrupted as end:
            line.close()
            click.echo(f"\ngenflow: stopped; what is finished is kept. Go on with:\n  {command_line()}", err=True)
            return 128 + end.number
        except BusyError as error:
            click.echo(f"genflow: {error}", err=True)
            return EXIT_BUSY
        except CellError as error:
            click.echo(f"genflow: models are missing:\n{error}", err=True)
            return EXIT_CELLS
    say("\n".join(table.markdown() for table in found.tables))
    verdicts = family(found.verdicts)
    say(f"Claimed: {known.claimed}\n\nFound: {summary(verdicts)}".rstrip())
    for sentence in (*found.remarks, *(f"{one.claim} {one.word}; {one.evidence}" for one in verdicts)):
        say(f"* {sentence}")
    say(f"\n{Path(config.out) / 'README.md'}")
    return 0
