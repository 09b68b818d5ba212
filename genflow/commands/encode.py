"""`genflow encode`: data to the prior's end of a checkpoint's ODE, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genflow.commands.given import IMAGE_HELP, beginning
from genflow.commands.loaded import (
    DATASET_OPTIONS_HELP,
    ConditionedOptions,
    label_numbers,
    open_model,
    open_solver,
    say_labels,
    solving,
    write_arrays,
)
from genflow.commands.options import config_command
from genflow.commands.paths import check_out, make_folder
from genflow.config import Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened


@dataclass(frozen=True)
class EncodeConfig(ConditionedOptions):
    """Latents of held-out or given data."""

    n: int = option(64, "examples (all where there are fewer)", least=1)
    image: str = option("", IMAGE_HELP, place=True)
    nfe: int = option(100, "backbone calls per example and direction (fixed-step solvers)", least=1)
    seed: int = option(0, "seed of dequantisation", least=0)
    dataset_options: Options = option({}, DATASET_OPTIONS_HELP, registry="datasets")
    out: str = option(
        "latents.npz", "file to write: .npz with latent, x, back and labels, or .png for a picture", place=True
    )


def run_encode(config: EncodeConfig) -> str:
    """Encodes, decodes again, writes, and returns what to print."""
    from genflow.latent import round_trip

    out = check_out(config.out, (".npz", ".png"))
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    opened = open_model(config)
    begin = beginning(opened, config.image, config.dataset_options, config.n, config.seed)
    x = begin.x
    labels = label_numbers(config.label, opened, len(x), begin.labels, begin.missing)
    found = round_trip(opened.process, opened.backbone, x, solver, labels=labels, **solving(config, budget))
    norms = found.latent.flatten(1).cpu().double().norm(dim=1)
    if out.suffix == ".npz":
        arrays = {"latent": found.latent, "x": x, "back": found.x, "rms": found.rms, "largest": found.largest}
        arrays |= {} if labels is None else {"labels": labels}
        write_arrays(out, {k: v.cpu() for k, v in arrays.items()})
    else:
        _draw_norms(out, opened, norms, config.seed)
    return (
        f"{out}: {len(x)} latents of {opened.name}{say_labels(config.label, config.guidance, opened)}, "
        f"{config.solver}, NFE {found.nfe:g} there and back; median |latent| "
        f"{float(norms.median()):.4g}; round trip: rms {float(found.rms.mean()):.2g}, largest "
        f"{float(found.largest.max()):.2g} data units"
    )


def _draw_norms(out: Path, opened: Opened, norms: Tensor, seed: int) -> None:
    """A picture of the norms of latents (n,) against those of 4,000 draws of the prior."""
    import torch

    from genflow.report.pictures import norms_plot
    from genflow.sampling import draw_prior

    make_folder(out.parent)
    prior, _ = draw_prior(opened.sampler(), opened.shape, seed, range(4000), torch.float32)
    norms_plot(out, norms.numpy(), prior.flatten(1).double().norm(dim=1).numpy(), opened.name)


encode_command = config_command(
    "encode",
    EncodeConfig,
    run_encode,
    "Carry test examples, or given ones, to the prior's end, and back to see what is lost.",
    "genflow encode --checkpoint runs/pfgm --n 64 --out latents.npz",
    "genflow encode --checkpoint runs/pfgm --n 500 --out norms.png",
    "genflow encode --checkpoint runs/pfgm --image face.png --out latents.npz",
)
