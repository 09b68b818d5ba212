"""`genflow decode`: latents to the data's end of a checkpoint's ODE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genflow.commands.given import array_of
from genflow.commands.loaded import (
    ConditionedOptions,
    label_numbers,
    open_model,
    open_solver,
    say_labels,
    say_solver,
    solving,
    write_samples,
)
from genflow.commands.options import config_command
from genflow.commands.paths import check_out
from genflow.commands.sample import check_picture
from genflow.config import option


@dataclass(frozen=True)
class DecodeConfig(ConditionedOptions):
    """Examples of latents."""

    latents: str = option("latents.npz", ".npz file with an array 'latent', as genflow encode writes it", place=True)
    nfe: int = option(20, "backbone calls per example (fixed-step solvers)", least=1)
    label: str = option("none", "class to condition on: its name or number, data (the file's array 'labels'), or none")
    out: str = option("decoded.png", "file to write: .png for a picture, .npz for data units", place=True)


def run_decode(config: DecodeConfig) -> str:
    """Decodes, writes, and returns what to print."""
    from genflow.latent import decode

    out = check_out(config.out, (".png", ".npz"))
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    opened = open_model(config)
    latents, own = array_of(Path(config.latents), "latent", opened.shape, "latents")
    labels = label_numbers(config.label, opened, len(latents), own, f"{config.latents} has no array 'labels'")
    if out.suffix == ".png":
        check_picture(opened)
    found = decode(opened.process, opened.backbone, latents, solver, labels=labels, **solving(config, budget))
    write_samples(out, opened, found.x, {})
    kind = say_labels(config.label, config.guidance, opened)
    return f"{out}: {len(latents)} examples of {opened.name}{kind}, {say_solver(config)}, NFE {found.nfe:g}"


decode_command = config_command(
    "decode",
    DecodeConfig,
    run_decode,
    "Carry latents to the data's end.",
    "genflow decode --checkpoint runs/pfgm --latents latents.npz --out decoded.png",
)
