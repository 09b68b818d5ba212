"""`genflow inpaint` and `genflow colourise`: samples of a checkpoint that agree with a part of given examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import say
from genflow.commands.loaded import (
    GUIDANCE_HELP,
    Model,
    held_out,
    open_model,
    open_solver,
    own_classes,
    say_solver,
    say_told,
    told,
    write_arrays,
)
from genflow.commands.options import config_options, examples, resolve
from genflow.commands.paths import check_out, make_folder
from genflow.config import ConfigError, Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.control import Replacement
    from genflow.solver.base import Solution

MASKS = ("right", "left", "top", "bottom", "centre", "pixels")
"""What is taken away: a half, the middle quarter, or every second pixel as on a chessboard."""


@dataclass(frozen=True)
class ColouriseConfig:
    """Samples that agree with a part of held-out images."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote; its process needs a score", place=True)
    images: int = option(8, "test images (all where there are fewer)", least=1)
    n: int = option(6, "samples of each image", least=1)
    nfe: int = option(200, "backbone calls per sample, a multiple of 1 + correctors", least=1)
    correctors: int = option(1, "Langevin moves a step: more of them, less bias", least=0)
    corrector_step: float = option(0.2, "length of a move over the square of the noise", above=0, below=1)
    solver: str = option("euler_maruyama", "fixed-step SDE solver", registry="solvers")
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    label: str = option("none", "class that is told: its number, data (each image's own), or none")
    guidance: float = option(1.0, GUIDANCE_HELP, least=0)
    seed: int = option(0, "seed", least=0)
    sample_batch: int = option(250, "samples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("colourised.png", "file to write: .png for a picture, .npz for data units", place=True)


@dataclass(frozen=True)
class InpaintConfig(ColouriseConfig):
    """The same with a mask."""

    mask: str = option("right", f"what is taken away: {', '.join(MASKS)}", among=MASKS)
    out: str = option("inpainted.png", "file to write: .png for a picture, .npz for data units", place=True)


@click.command(
    name="inpaint",
    help="Take away a part of test images and draw it again.\n\n"
    + examples(
        "genflow inpaint --checkpoint runs/vp --mask right --out inpainted.png",
        "genflow inpaint --checkpoint runs/vp --mask centre --correctors 9 --nfe 1000 --out centre.png",
    )
    + "\nNeeds a process with a score; genflow list says which have none.",
)
@config_options(InpaintConfig)
def inpaint_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(InpaintConfig, config_file, given)
    say(run_inpaint(config))
    return 0


@click.command(
    name="colourise",
    help="Colour the grey versions of test images.\n\n"
    + examples("genflow colourise --checkpoint runs/vp_colour --out colourised.png")
    + "\nNeeds data of three channels, and a process with a score; genflow list says which have none.",
)
@config_options(ColouriseConfig)
def colourise_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(ColouriseConfig, config_file, given)
    say(run_colourise(config))
    return 0


def run_inpaint(config: InpaintConfig) -> str:
    """Draws, writes, and returns what to print."""
    import torch

    from genflow.control import inpaint

    out, how, model = _open(config)
    data = model.images("inpainting")
    raw, x = held_out(data, config.images, config.seed)
    keep = kept(config.mask, data.shape)
    labels = told(config.label, model, len(x), *own_classes(data))
    found = inpaint(model.process, model.backbone, x, keep, config.n, how, labels=labels, guidance=config.guidance)
    if out.suffix == ".npz":
        write_arrays(out, {"x": found.x, "given": x, "mask": keep})
    else:
        given = torch.where(keep, raw, torch.nan)
        _picture(out, model, raw, given, found)
    return _line(config, model, found, len(x), f"{config.mask} taken away")


def run_colourise(config: ColouriseConfig) -> str:
    """Draws, writes, and returns what to print."""
    from genflow.control import colourise

    out, how, model = _open(config)
    data = model.images("colourising")
    if data.shape[0] != 3:
        raise ConfigError(
            f"colourising needs images of 3 channels, and those of the data set '{model.data['name']}' have "
            f"{data.shape[0]}; take a model of colour images"
        )
    raw, x = held_out(data, config.images, config.seed)
    grey = x.mean(1, keepdim=True)
    labels = told(config.label, model, len(x), *own_classes(data))
    found = colourise(model.process, model.backbone, grey, config.n, how, labels=labels, guidance=config.guidance)
    if out.suffix == ".npz":
        write_arrays(out, {"x": found.x, "given": grey})
    else:
        _picture(out, model, raw, raw.mean(1, keepdim=True).expand_as(raw), found)
    return _line(config, model, found, len(x), "from the mean of the channels")


def _open(config: ColouriseConfig) -> tuple[Path, Replacement, Model]:
    """Where to write, how to draw, and the model; whatever does not fit is refused before anything is drawn."""
    from genflow.control import Replacement, check_control

    out = check_out(config.out, (".png", ".npz"))
    solver, _ = open_solver(config.solver, config.solver_options, config.nfe)
    how = Replacement(
        nfe=config.nfe,
        correctors=config.correctors,
        corrector_step=config.corrector_step,
        solver=solver,  # type: ignore[arg-type]  # Replacement refuses any other
        seed=config.seed,
        batch_size=config.sample_batch,
        device=config.device,
    )
    how.plan(cost=1 if config.label == "none" or config.guidance in (0.0, 1.0) else 2)
    model = open_model(config.checkpoint, config.device)
    check_control(model.process)
    return out, how, model


def kept(mask: str, shape: tuple[int, ...]) -> Tensor:
    """True where a pixel stays, in the shape (C, H, W) of an image."""
    import torch

    height, width = shape[1:]
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    middle = ((row >= height // 4) & (row < height - height // 4)) & (
        (column >= width // 4) & (column < width - width // 4)
    )
    gone = {
        "right": column >= width // 2,
        "left": column < width - width // 2,
        "top": row < height - height // 2,
        "bottom": row >= height // 2,
        "centre": middle,
        "pixels": (row + column) % 2 == 1,
    }[mask]
    return (~gone).expand(shape)


def _picture(out: Path, model: Model, raw: Tensor, given: Tensor, found: Solution) -> None:
    """Rows of original, what was given, and the samples."""
    from genflow.report.pictures import save_rows

    scaling = model.dataset().scaling
    make_folder(out.parent)
    groups = {"original": raw[:, None], "given": given[:, None], "samples": scaling.decode(found.x)}
    save_rows(out, {k: v.numpy() for k, v in groups.items()}, scaling.levels)


def _line(config: ColouriseConfig, model: Model, found: Solution, images: int, what: str) -> str:
    return (
        f"{config.out}: {config.n} samples of each of {images} images, {what}; "
        f"{model.name}{say_told(config.label, config.guidance)}, "
        f"{say_solver(config.solver, config.solver_options)}, {config.correctors} correctors a step, NFE {found.nfe:g}"
    )
