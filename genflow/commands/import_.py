"""`genflow import`: a published PFGM or score-SDE file becomes a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genflow.cli import say
from genflow.commands.options import Place, examples
from genflow.config import ConfigError
from genflow.convert.configs import PRESETS

if TYPE_CHECKING:
    from genflow.convert.importer import Imported

AS_PUBLISHED = "the authors' prior, velocity rule and constant (PFGM), for tables of published numbers"


@click.command(
    name="import",
    help="Make a checkpoint of a published PFGM or score-SDE file (.pth). No code of the file is run.\n\n"
    + examples(
        "genflow import checkpoint_600000.pth --out runs/pfgm_cifar10",
        "genflow import checkpoint_8.pth --preset vp/cifar10_ddpmpp_continuous --out runs/vp_cifar10",
        "genflow import checkpoint_8.pth --config config.json --out runs/own",
        "genflow sample --checkpoint runs/pfgm_cifar10 --solver rk45 --out samples.png",
    )
    + "\nArchitecture and sizes are read from the weights; presets: "
    + ", ".join(PRESETS)
    + ".",
)
@click.argument("checkpoint", type=Place())
@click.option("--preset", metavar="NAME", help="Published configuration that the file is from, where several fit.")
@click.option("--config", type=Place(), metavar="FILE", help="Its own published configuration, .json or .yaml.")
@click.option("--out", type=Place(), help="Checkpoint folder.  [default: runs/NAME-OF-FILE]")
@click.option("--no-ema", is_flag=True, help="Take the weights of the last step, not their average.")
@click.option("--as-published", is_flag=True, help=f"Take {AS_PUBLISHED}.")
@click.option("--sha256", metavar="HEX", help="Refuse the file where this is not its hash.")
def import_command(
    checkpoint: Path,
    preset: str | None,
    config: Path | None,
    out: Path | None,
    no_ema: bool,
    as_published: bool,
    sha256: str | None,
) -> int:
    from genflow.commands.paths import check_parents
    from genflow.convert.importer import import_checkpoint

    out = out or Path("runs") / checkpoint.stem
    check_parents(out, out.parent)
    try:
        done = import_checkpoint(
            checkpoint,
            out,
            preset_name=preset,
            config_file=config,
            ema=not no_ema,
            as_published=as_published,
            sha256=sha256,
        )
    except OSError as error:
        raise ConfigError(f"out = '{out}' cannot be written: {error.strerror}; choose another folder") from None
    for line in report(done, out):
        say(line)
    return 0


def report(done: Imported, out: Path) -> list[str]:
    """What was found and made, in lines."""
    file, plan, average = done.file, done.plan, done.config["imported"]["ema"]
    options = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in plan.process["options"].items()
    )
    count = sum(p.numel() for p in done.backbone.parameters())
    kept = f"average of decay {average['decay']:g} after {average['num_updates']:,} steps" if average else "last step"
    data = plan.dataset["name"] if plan.dataset else "a data set that genflow does not have"
    return [
        f"{file.name}: {file.size:,} bytes, sha256 {file.sha256}",
        f"process: {plan.process['name']}: {options} ({done.source})",
        f"backbone: {plan.backbone['name']}, {count:,} parameters, {'x'.join(map(str, plan.shape))}, of {data}",
        f"weights: {kept}" + ("" if file.step is None else f", of {file.step:,}"),
        *(f"note: {note}" for note in done.notes),
        f"checkpoint: {out}. Draw from it with:",
        f"  genflow sample --checkpoint {out} --solver rk45 --out samples.png",
    ]
