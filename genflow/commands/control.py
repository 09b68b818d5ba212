"""What `genflow inpaint` and `genflow colourise` share: samples that agree with a part of given examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genflow.commands.given import IMAGE_HELP, Given, beginning
from genflow.commands.loaded import (
    DATASET_OPTIONS_HELP,
    ConditionedOptions,
    check_images,
    open_model,
    open_solver,
    say_labels,
    say_solver,
)
from genflow.commands.paths import check_out, make_folder
from genflow.config import Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened
    from genflow.inpainting import Replacement
    from genflow.solver.fields import Solution


@dataclass(frozen=True)
class ControlConfig(ConditionedOptions):
    """Samples that agree with a part of held-out or given images."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote; its process needs a score", place=True)
    image: str = option("", IMAGE_HELP, place=True)
    images: int = option(8, "images (all where there are fewer)", least=1)
    n: int = option(6, "samples of each image", least=1)
    nfe: int = option(200, "backbone calls per sample, a multiple of 1 + correctors", least=1)
    correctors: int = option(1, "Langevin moves a step: more of them, less bias", least=0)
    corrector_step: float = option(0.2, "length of a move over the square of the noise", above=0, below=1)
    solver: str = option("euler_maruyama", "fixed-step SDE solver", registry="solvers")
    dataset_options: Options = option({}, DATASET_OPTIONS_HELP, registry="datasets")


def open_control(config: ControlConfig, out: str, what: str) -> tuple[Path, Replacement, Opened]:
    """Where to write, how to draw, and the model; whatever does not fit is refused before anything is drawn.

    Arguments:
        config: The command's.
        out: Its file.
        what: What is done, for messages.
    """
    from genflow.inpainting import Replacement, check_control

    place = check_out(out, (".png", ".npz"))
    solver, _ = open_solver(config.solver, config.solver_options, config.nfe)
    how = Replacement(
        nfe=config.nfe,
        correctors=config.correctors,
        corrector_step=config.corrector_step,
        solver=solver,  # type: ignore[arg-type]  # Replacement refuses any other
        seed=config.seed,
        batch_size=config.sample_batch,
    )
    how.plan(cost=1 if config.label == "none" or config.guidance in (0.0, 1.0) else 2)
    opened = open_model(config)
    check_control(opened.process)
    check_images(opened, what)
    return place, how, opened


def given_images(config: ControlConfig, opened: Opened) -> Given:
    """The images that samples are to agree with."""
    return beginning(opened, config.image, config.dataset_options, config.images, config.seed)


def draw_rows(out: Path, opened: Opened, raw: Tensor, given: Tensor, found: Solution) -> None:
    """Rows of original, what was given, and the samples."""
    from genflow.report.pictures import save_rows

    scaling = opened.known_scaling()
    make_folder(out.parent)
    groups = {"original": raw[:, None], "given": given[:, None], "samples": scaling.decode(found.x)}
    save_rows(out, {k: v.numpy() for k, v in groups.items()}, scaling.levels)


def line(config: ControlConfig, out: str, opened: Opened, found: Solution, images: int, what: str) -> str:
    """What to print."""
    return (
        f"{out}: {config.n} samples of each of {images} images, {what}; "
        f"{opened.name}{say_labels(config.label, config.guidance, opened)}, {say_solver(config)}, "
        f"{config.correctors} correctors a step, NFE {found.nfe:g}"
    )
