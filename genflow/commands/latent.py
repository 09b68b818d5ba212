"""`genflow encode`, `decode` and `interpolate`: a checkpoint's ODE, run both ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import say
from genflow.commands.loaded import (
    GUIDANCE_HELP,
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


@dataclass(frozen=True)
class EncodeConfig:
    """Latents of held-out data."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote", place=True)
    n: int = option(64, "test examples (all where there are fewer)", least=1)
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(100, "backbone calls per example and direction (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    label: str = option("none", "class that is told: its number, data (each example's own), or none")
    guidance: float = option(1.0, GUIDANCE_HELP, least=0)
    seed: int = option(0, "seed of dequantisation", least=0)
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option(
        "latents.npz", "file to write: .npz with latent, x, back and labels, or .png for a picture", place=True
    )


@dataclass(frozen=True)
class DecodeConfig:
    """Examples of latents."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote", place=True)
    latents: str = option("latents.npz", ".npz file with an array 'latent', as genflow encode writes it", place=True)
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(20, "backbone calls per example (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    label: str = option("none", "class that is told: its number, data (the file's array 'labels'), or none")
    guidance: float = option(1.0, GUIDANCE_HELP, least=0)
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("decoded.png", "file to write: .png for a picture, .npz for data units", place=True)


@dataclass(frozen=True)
class InterpolateConfig:
    """Paths between pairs of held-out examples."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote", place=True)
    pairs: int = option(6, "pairs of test examples: 1st and 2nd, 3rd and 4th, ...", least=1)
    count: int = option(9, "examples on each path, both ends among them", least=2)
    kind: str = option(
        "prior", "path between latents: prior, spherical or linear", among=("prior", "spherical", "linear")
    )
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(100, "backbone calls per example and direction (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    label: str = option("none", "class that is told of both ends and the path between them: its number, or none")
    guidance: float = option(1.0, GUIDANCE_HELP, least=0)
    seed: int = option(0, "seed of dequantisation", least=0)
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("interpolation.png", "file to write: .png for a picture, .npz for data units", place=True)


@click.command(
    name="encode",
    help="Carry test examples to the prior's end, and back to see what is lost.\n\n"
    + examples(
        "genflow encode --checkpoint runs/pfgm --n 64 --out latents.npz",
        "genflow encode --checkpoint runs/pfgm --n 500 --out norms.png",
    ),
)
@config_options(EncodeConfig)
def encode_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(EncodeConfig, config_file, given)
    say(run_encode(config))
    return 0


@click.command(
    name="decode",
    help="Carry latents to the data's end.\n\n"
    + examples("genflow decode --checkpoint runs/pfgm --latents latents.npz --out decoded.png"),
)
@config_options(DecodeConfig)
def decode_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(DecodeConfig, config_file, given)
    say(run_decode(config))
    return 0


@click.command(
    name="interpolate",
    help="Paths between test examples: encoded, joined in latent space, decoded.\n\n"
    + examples(
        "genflow interpolate --checkpoint runs/pfgm --out interpolation.png",
        "genflow interpolate --checkpoint runs/pfgm --kind linear --pairs 3 --count 12 --out linear.png",
    ),
)
@config_options(InterpolateConfig)
def interpolate_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(InterpolateConfig, config_file, given)
    say(run_interpolate(config))
    return 0


# ---- encode, decode, interpolate -------------------------------------------------------------------------


def run_encode(config: EncodeConfig) -> str:
    """Encodes, decodes again, writes, and returns what to print."""
    from genflow.latent import round_trip
    from genflow.sampling import draw_prior

    out = check_out(config.out, (".npz", ".png"))
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    model = open_model(config.checkpoint, config.device)
    data = model.dataset()
    _, x = held_out(data, config.n, config.seed)
    x, labels = x.to(config.device), told(config.label, model, len(x), *own_classes(data))
    how: dict[str, Any] = {"nfe": budget, "batch_size": config.sample_batch, "guidance": config.guidance}
    found = round_trip(model.process, model.backbone, x, solver, labels=labels, **how)
    norms = found.latent.flatten(1).double().norm(dim=1).cpu()
    if out.suffix == ".npz":
        arrays = {"latent": found.latent, "x": x, "back": found.x, "rms": found.rms, "largest": found.largest}
        arrays |= {} if labels is None else {"labels": labels}
        write_arrays(out, {k: v.cpu() for k, v in arrays.items()})
    else:
        from genflow.report.pictures import norms_plot

        make_folder(out.parent)
        prior, _ = draw_prior(model.process, data.shape, config.seed, range(4000), x.dtype)
        norms_plot(out, norms.numpy(), prior.flatten(1).double().norm(dim=1).numpy(), model.name)
    return (
        f"{out}: {len(x)} latents of {model.name}{say_told(config.label, config.guidance)}, {config.solver}, "
        f"NFE {found.nfe:g} there and back; median |latent| "
        f"{float(norms.median()):.4g}; round trip: rms {float(found.rms.mean()):.2g}, largest "
        f"{float(found.largest.max()):.2g} data units"
    )


def run_decode(config: DecodeConfig) -> str:
    """Decodes, writes, and returns what to print."""
    from genflow.latent import decode
    from genflow.report.pictures import save_samples

    out = check_out(config.out, (".png", ".npz"))
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    model = open_model(config.checkpoint, config.device)
    latents, own = _read_latents(Path(config.latents), tuple(model.backbone.shape))
    labels = told(config.label, model, len(latents), own, f"{config.latents} has no array 'labels'")
    data = model.dataset() if out.suffix == ".png" else None
    how: dict[str, Any] = {"nfe": budget, "batch_size": config.sample_batch, "guidance": config.guidance}
    found = decode(model.process, model.backbone, latents.to(config.device), solver, labels=labels, **how)
    if data is None:
        write_arrays(out, {"x": found.x.cpu()})
    else:
        make_folder(out.parent)
        save_samples(out, data.scaling.decode(found.x.cpu()).numpy(), data.scaling.levels)
    kind = f"{say_told(config.label, config.guidance)}, {say_solver(config.solver, config.solver_options)}"
    return f"{out}: {len(latents)} examples of {model.name}{kind}, NFE {found.nfe:g}"


def _read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a .npz file; raises ConfigError where it is damaged or another kind of file."""
    import zlib
    from zipfile import BadZipFile, is_zipfile

    import numpy as np

    if path.is_file() and not is_zipfile(path) and path.suffix != ".npy":
        raise ConfigError(
            f"the latents {path} are no .npz file, or one that was cut off; give what genflow encode wrote"
        )

    damaged = (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile, zlib.error)
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                return dict(found)
    except damaged as error:
        raise ConfigError(f"the latents {path} can not be read: {error}") from None
    raise ConfigError(f"the latents {path} are one array; give a .npz file with an array 'latent'")


def _read_latents(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """The array 'latent' of a .npz file, float32, in a model's shape; and its array 'labels', where it has one."""
    import numpy as np
    import torch

    arrays = _read_arrays(path)
    if "latent" not in arrays:
        raise ConfigError(f"{path} has no array 'latent'; it has: {', '.join(arrays) or 'none'}")
    found = arrays["latent"]
    if found.shape[1:] != shape or not len(found) or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise ConfigError(f"'latent' of {path} has shape {found.shape}; want finite numbers of shape (n, *{shape})")
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != (len(found),) or labels.dtype.kind not in "iu"):
        raise ConfigError(f"'labels' of {path} has shape {labels.shape}; want {len(found)} whole numbers")
    own = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return torch.from_numpy(found.astype(np.float32)), own


def run_interpolate(config: InterpolateConfig) -> str:
    """Interpolates, writes, and returns what to print."""
    from genflow.latent import interpolate
    from genflow.report.pictures import save_rows

    out = check_out(config.out, (".png", ".npz"))
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    model = open_model(config.checkpoint, config.device)
    data = model.images("a picture of an interpolation") if out.suffix == ".png" else model.dataset()
    raw, x = held_out(data, 2 * config.pairs, config.seed)
    if len(x) < 2 * config.pairs:
        raise ConfigError(f"pairs = {config.pairs} needs {2 * config.pairs} test examples; there are {len(x)}")
    labels = told(config.label, model, config.pairs, None, "the two ends of a path share one class")
    first, second = (x[k::2].to(config.device) for k in (0, 1))
    found = interpolate(
        model.process,
        model.backbone,
        first,
        second,
        config.count,
        config.kind,
        solver,
        nfe=budget,
        batch_size=config.sample_batch,
        labels=labels,
        guidance=config.guidance,
    )
    path = found.x.cpu()
    if out.suffix == ".npz":
        write_arrays(out, {"x": path, "first": first.cpu(), "second": second.cpu()})
    else:
        make_folder(out.parent)
        shown = {"from": raw[0::2, None], "path from s = 0 to 1": data.scaling.decode(path), "to": raw[1::2, None]}
        save_rows(out, {k: v.numpy() for k, v in shown.items()}, data.scaling.levels)
    return (
        f"{out}: {config.pairs} paths of {config.count} by {model.name}"
        f"{say_told(config.label, config.guidance)}, {config.kind}, "
        f"{say_solver(config.solver, config.solver_options)}, NFE {found.nfe:.1f} per example shown, encoding included"
    )
