"""`genflow report`: the outputs of a finished bench again, or two of them side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from genflow.cli import say
from genflow.commands.options import Place, command_line, examples
from genflow.config import ConfigError


@click.command(
    name="report",
    help="Write the tables, plots and HTML page of a finished bench again; of two benches, a comparison.\n\n"
    + examples("genflow report runs/bench", "genflow report runs/a runs/b --out a_against_b"),
)
@click.argument("folder", type=Place())
@click.argument("other", type=Place(), required=False)
@click.option("--out", type=Place(), help="Folder of the comparison's files.  [default: comparison]")
@click.option(
    "--allow-mixed",
    is_flag=True,
    help="Take numbers that were measured by different protocols or at different n into one table, or into a "
    "difference, too.",
)
def report_command(folder: Path, other: Path | None, out: Path | None, allow_mixed: bool) -> int:
    if other is None:
        if out:
            raise ConfigError("--out belongs to a comparison: give a second folder")
        return _again(folder, allow_mixed)
    from genflow.report.compare import compare, open_bench

    target = out or Path("comparison")
    say(compare(open_bench(folder), open_bench(other), target, allow_mixed, command_line()))
    _where(target, ("report.html", "tables.md", "tables.tex", "differences.csv"))
    return 0


def _again(folder: Path, allow_mixed: bool) -> int:
    from genflow.bench.cells import plan
    from genflow.bench.store import Store
    from genflow.report.record import OUTPUTS, read_bench
    from genflow.report.write import write_outputs

    config = read_bench(folder)
    config = replace(config, allow_mixed=config.allow_mixed or allow_mixed)
    store = Store(folder)
    cells = plan(config)
    done = [cell for cell in cells if store.look(cell)[0] in ("cached", "unavailable")]
    if not any(cell.kind == "metric" for cell in done):
        raise ConfigError(f"'{folder}' has no finished cells that belong to this genflow; run the bench again")
    write_outputs(config, store, done, command_line(), again=True)
    say(f"{len(done)} of {len(cells)} cells")
    _where(folder, OUTPUTS)
    return 0


def _where(folder: Path, names: tuple[str, ...]) -> None:
    """Where things are."""
    kinds = {"html": "page", "csv": "numbers", "md": "Markdown", "tex": "LaTeX", "bib": "BibTeX", "yaml": "settings"}
    for name in names:
        if (folder / name).is_file():
            say(f"{kinds[name.rpartition('.')[2]] + ':':10} {folder / name}")
    if (folder / "plots").is_dir():
        say(f"{'plots:':10} {folder / 'plots'}")
