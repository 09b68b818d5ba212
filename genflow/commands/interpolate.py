"""`genflow interpolate`: paths between latents, decoded by a checkpoint's ODE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genflow.commands.given import IMAGE_HELP, Given, array_of, beginning
from genflow.commands.loaded import (
    DATASET_OPTIONS_HELP,
    ConditionedOptions,
    check_images,
    label_numbers,
    open_model,
    open_solver,
    say_labels,
    say_solver,
    solving,
    write_arrays,
)
from genflow.commands.options import config_command
from genflow.commands.paths import check_out, make_folder
from genflow.commands.sample import check_picture
from genflow.config import ConfigError, Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened


@dataclass(frozen=True)
class InterpolateConfig(ConditionedOptions):
    """Paths between pairs of held-out or given examples, or of latents."""

    pairs: int = option(6, "pairs of examples or latents: 1st and 2nd, 3rd and 4th, ...", least=1)
    image: str = option("", IMAGE_HELP, place=True)
    latents: str = option(
        "",
        "join these instead of encoded examples, without the data set: a .npz file as genflow encode writes it, or "
        "prior for draws of the prior by --seed",
        place=True,
    )
    count: int = option(9, "examples on each path, both ends among them", least=2)
    kind: str = option(
        "prior", "path between latents: prior, spherical or linear", among=("prior", "spherical", "linear")
    )
    nfe: int = option(100, "backbone calls per example and direction (fixed-step solvers)", least=1)
    label: str = option("none", "class of both ends and of the path between them: its name or number, or none")
    seed: int = option(0, "seed of dequantisation, or of the prior's draws", least=0)
    dataset_options: Options = option({}, DATASET_OPTIONS_HELP, registry="datasets")
    out: str = option("interpolation.png", "file to write: .png for a picture, .npz for data units", place=True)


def run_interpolate(config: InterpolateConfig) -> str:
    """Interpolates, writes, and returns what to print."""
    from genflow.latent import interpolate, interpolate_latents

    out = check_out(config.out, (".png", ".npz"))
    if config.image and config.latents:
        raise ConfigError("image and latents were both given; give one of them")
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    opened = open_model(config)
    if out.suffix == ".png":
        check_images(opened, "a picture of an interpolation")
        check_picture(opened)
    begin, count = None, 2 * config.pairs
    if config.latents:
        ends = _latents(config, opened)
    else:
        begin = beginning(opened, config.image, config.dataset_options, count, config.seed)
        ends = begin.x
        _check_enough(config, len(ends), f"examples in {config.image}" if config.image else "test examples")
    labels = label_numbers(config.label, opened, config.pairs, None, "the two ends of a path share one class")
    how = {"labels": labels, **solving(config, budget)}
    first, second = (ends[k::2] for k in (0, 1))
    join = interpolate if begin else interpolate_latents
    found = join(opened.process, opened.backbone, first, second, config.count, config.kind, solver, **how)
    if out.suffix == ".npz":
        write_arrays(out, {"x": found.x.cpu(), "first": first.cpu(), "second": second.cpu()})
    else:
        _draw(out, opened, found.x.cpu(), begin)
    kind = say_labels(config.label, config.guidance, opened)
    tail = ", encoding included" if begin else f" between latents of {config.latents}"
    return (
        f"{out}: {config.pairs} paths of {config.count} by {opened.name}{kind}, {config.kind}, {say_solver(config)}, "
        f"NFE {found.nfe:.1f} per example shown{tail}"
    )


def _latents(config: InterpolateConfig, opened: Opened) -> Tensor:
    """Two latents for each pair, of a file or drawn by the seed."""
    import torch

    from genflow.sampling import draw_prior

    count = 2 * config.pairs
    if config.latents == "prior":
        return draw_prior(opened.sampler(), opened.shape, config.seed, range(count), torch.float32)[0]
    found, _ = array_of(Path(config.latents), "latent", opened.shape, "latents")
    _check_enough(config, len(found), f"latents in {config.latents}")
    return found[:count]


def _check_enough(config: InterpolateConfig, count: int, what: str) -> None:
    if count < 2 * config.pairs:
        less = f"; give pairs = {count // 2}" if count >= 2 else ""
        raise ConfigError(f"pairs = {config.pairs} needs {2 * config.pairs} {what}; there are {count}{less}")


def _draw(out: Path, opened: Opened, path: Tensor, begin: Given | None) -> None:
    """Rows of both ends, where they are examples, and the path."""
    from genflow.report.pictures import save_rows

    scaling = opened.known_scaling()
    make_folder(out.parent)
    shown = {"path from s = 0 to 1": scaling.decode(path)}
    if begin is not None:
        shown = {"from": begin.raw[0::2, None], **shown, "to": begin.raw[1::2, None]}
    save_rows(out, {k: v.numpy() for k, v in shown.items()}, scaling.levels)


interpolate_command = config_command(
    "interpolate",
    InterpolateConfig,
    run_interpolate,
    "Paths between examples: encoded, joined in latent space, decoded; or between latents.",
    "genflow interpolate --checkpoint runs/pfgm --out interpolation.png",
    "genflow interpolate --checkpoint runs/pfgm --kind linear --pairs 3 --count 12 --out linear.png",
    "genflow interpolate --checkpoint runs/pfgm --latents prior --seed 3 --out drawn.png",
    "genflow interpolate --checkpoint runs/pfgm --image faces/ --pairs 1 --out faces.png",
)
