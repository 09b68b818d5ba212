"""`genflow reproduce`: a paper's table or figure, by one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genflow.cli import EXIT_CELLS, say
from genflow.commands.options import Place, command_line, examples
from genflow.commands.paths import check_folder
from genflow.config import ConfigError

if TYPE_CHECKING:
    from genflow.bench.runner import Report
    from genflow.claims.parts import Part, Settings
    from genflow.claims.recipe import Recipe

ROOT = Path("runs/reproduce")


@click.command(
    name="reproduce",
    help="Reproduce a table or figure of a paper: published and measured numbers side by side, and what holds.\n\n"
    + examples(
        "genflow reproduce --list",
        "genflow reproduce pfgm_nfe",
        "genflow reproduce pfgm_nfe --set train.steps=200 --set seed=0,1",
        "genflow reproduce pfgm_cifar10 --scale full --dry-run",
        "genflow reproduce pfgm_cifar10 --scale full --published downloads --set device=cuda",
    )
    + "\nFinished work is kept and shared between recipes: a second run only reads. Exit codes: 3 some cells failed, "
    "75 the folder is in use, 128 + n ended by signal n.",
)
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="List the recipes and stop.")
@click.option(
    "--scale", default="small", show_default=True, metavar="SCALE", help="small: runs here; full: the paper's."
)
@click.option("--out", type=Place(), help="Output folder.  [default: runs/reproduce/NAME]")
@click.option(
    "--cells",
    type=Place(),
    default=ROOT / "shared",
    show_default=True,
    help="Folder of the finished work that all recipes share.",
)
@click.option(
    "--published",
    type=Place(),
    default=ROOT / "published",
    show_default=True,
    help="Folder of the published files that the full scale measures.",
)
@click.option("--train", is_flag=True, help="Full scale: train where published files are missing.")
@click.option(
    "--terms",
    metavar="TERMS",
    help="What the benches hold equal: published (default), controlled, or tuned (with --set terms_file=FILE).",
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the configurations; may be repeated."
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be run, what is missing, and stop.")
def reproduce_command(
    name: str | None,
    listing: bool,
    scale: str,
    out: Path | None,
    cells: Path,
    published: Path,
    train: bool,
    terms: str | None,
    changes: tuple[str, ...],
    dry_run: bool,
) -> int:
    from genflow.claims.papers import get_recipe
    from genflow.claims.parts import Settings

    if listing:
        return _list()
    if name is None:
        raise ConfigError("give the name of a recipe; `genflow reproduce --list` shows them")
    recipe = get_recipe(name)
    changes += (f"terms={terms}",) if terms else ()
    settings = Settings(scale, out or ROOT / name, cells, published, train, changes)
    check_folder(settings.out)
    check_folder(settings.shared)
    if dry_run:
        for line in plan_lines(recipe, settings):
            say(line)
        return 0
    return _run(recipe, settings)


def _list() -> int:
    from genflow.claims.papers import recipes

    known = recipes()
    width = max(map(len, known))
    for name, recipe in known.items():
        say(f"{name:{width}}  {recipe.title} ({recipe.paper.partition(',')[0]})")
    return 0


def plan_lines(recipe: Recipe, settings: Settings) -> list[str]:
    """What --dry-run prints: the paper, the claims, the benches with their commands, and what is missing."""
    from genflow.claims.parts import absences, open_parts

    parts = open_parts(recipe, settings)
    lines = [f"{recipe.name}: {recipe.title}", f"  {recipe.paper}", f"  {recipe.claim}", ""]
    for part in parts:
        lines += _part_lines(part, settings)
    lines += ["a study of its own, beside the benches"] if recipe.study else []
    lines += ["claims to judge:", *(f"  {claim.text}" for claim in recipe.claims)]
    absent = absences(parts, settings) if settings.scale == "full" else []
    lines += ["missing here:", *(f"  {line}" for line in absent)] if absent else []
    return [*lines, f"output: {settings.out}"]


def _part_lines(part: Part, settings: Settings) -> list[str]:
    from genflow.bench.choose import prepare
    from genflow.claims.parts import commands

    imported = part.weights and all(part.folder(one).exists() for one, _ in part.weights)
    config = part.measuring() if imported else part.config
    plan = prepare(config)
    todo = f"{len(plan.todo)} of {len(plan.cells)} cells to do"
    return [f"{part.name}: {todo}; by hand:", *(f"  {line}" for line in commands(part, settings))]


def _run(recipe: Recipe, settings: Settings) -> int:
    from genflow.bench.runner import Interrupted
    from genflow.claims.run import run_recipe
    from genflow.commands.bench import ProgressLine

    with ProgressLine() as line:

        def show(report: Report) -> None:
            """The line of one bench after another: a share that falls is the next one's."""
            if int(report.share * 10) < line.shown:
                line.shown = -1
            line.show(report)

        try:
            done = run_recipe(recipe, settings, show, command=command_line())
        except Interrupted as end:
            line.close()
            click.echo(f"\ngenflow: stopped; finished cells are kept. Go on with:\n  {command_line()}", err=True)
            return 128 + end.number
    say((settings.out / "findings.md").read_text())
    say(f"table: {settings.out / 'table.md'}")
    for name, why in done.failures.items():
        click.echo(f"genflow: {name} failed: {why}", err=True)
    return EXIT_CELLS if done.failures else 0
