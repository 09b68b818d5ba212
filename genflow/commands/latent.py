"""`genflow likelihood`, `encode`, `decode` and `interpolate`: a checkpoint's ODE, run both ways."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import say
from genflow.commands.loaded import Model, check_out, held_out, open_model, open_solver, write_arrays
from genflow.commands.model import make_folder
from genflow.commands.options import config_options, examples, resolve
from genflow.config import ConfigError, Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.likelihood import Likelihood


@dataclass(frozen=True)
class DensityConfig:
    """The likelihood of held-out data."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote")
    examples: int = option(500, "test examples (all where there are fewer)", least=2)
    trace: str = option("hutchinson", "divergence: hutchinson or exact", among=("hutchinson", "exact"))
    probe: str = option("rademacher", "Hutchinson's probe: rademacher or gaussian", among=("rademacher", "gaussian"))
    probes: int = option(1, "probes per example", least=1)
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(100, "backbone calls per example (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    seed: int = option(0, "seed of dequantisation and probes", least=0)
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("", "file to write: .csv or .npz for every example, .png for a picture")


@dataclass(frozen=True)
class EncodeConfig:
    """Latents of held-out data."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote")
    n: int = option(64, "test examples (all where there are fewer)", least=1)
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(100, "backbone calls per example and direction (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    seed: int = option(0, "seed of dequantisation", least=0)
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("latents.npz", "file to write: .npz with latent, x and back, or .png for a picture")


@dataclass(frozen=True)
class DecodeConfig:
    """Examples of latents."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote")
    latents: str = option("latents.npz", ".npz file with an array 'latent', as genflow encode writes it")
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(20, "backbone calls per example (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("decoded.png", "file to write: .png for a picture, .npz for data units")


@dataclass(frozen=True)
class InterpolateConfig:
    """Paths between pairs of held-out examples."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote")
    pairs: int = option(6, "pairs of test examples: 1st and 2nd, 3rd and 4th, ...", least=1)
    count: int = option(9, "examples on each path, both ends among them", least=2)
    kind: str = option(
        "prior", "path between latents: prior, spherical or linear", among=("prior", "spherical", "linear")
    )
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(100, "backbone calls per example and direction (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    seed: int = option(0, "seed of dequantisation", least=0)
    sample_batch: int = option(250, "examples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    out: str = option("interpolation.png", "file to write: .png for a picture, .npz for data units")


@click.command(
    name="likelihood",
    help="Bits per dimension and nats of the test split, by the ODE.\n\n"
    + examples(
        "genflow likelihood --checkpoint runs/pfgm",
        "genflow likelihood --checkpoint runs/pfgm --probes 4 --out likelihood.csv",
        "genflow likelihood --checkpoint runs/pfgm --trace exact --examples 20 --out likelihood.png",
    ),
)
@config_options(DensityConfig)
def likelihood_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(DensityConfig, config_file, given)
    say(run_likelihood(config))
    return 0


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


# ---- likelihood ------------------------------------------------------------------------------------------


def run_likelihood(config: DensityConfig) -> str:
    """Measures, writes the file where one is asked for, and returns what to print."""
    import torch

    from genflow.likelihood import check_likelihood, log_likelihood

    out = check_out(config.out, (".csv", ".npz", ".png")) if config.out else None
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    model = open_model(config.checkpoint, config.device)
    check_likelihood(model.process)
    raw, x = held_out(model.dataset(), config.examples, config.seed)
    parts = [
        log_likelihood(
            model.process,
            model.backbone,
            chunk.to(config.device),
            solver=solver,
            nfe=budget,
            trace=config.trace,
            probe=config.probe,
            probes=config.probes,
            seed=config.seed,
            first_index=i * config.sample_batch,
        )
        for i, chunk in enumerate(x.split(config.sample_batch))
    ]
    log_prob, stderr = (torch.cat([getattr(p, name).cpu() for p in parts]) for name in ("log_prob", "stderr"))
    if out:
        _write_likelihood(config, model, out, raw, log_prob, stderr)
    return _likelihood_text(config, model, parts, log_prob, out)


def _likelihood_text(
    config: DensityConfig, model: Model, parts: list[Likelihood], log_prob: Tensor, out: Path | None
) -> str:
    from genflow.likelihood import BPD_FORMULA, bits_per_dim

    data = model.dataset()
    count, dim = len(log_prob), math.prod(data.shape)
    nfe = sum(p.nfe * len(p.log_prob) for p in parts) / count
    error = float(log_prob.std()) / math.sqrt(count)
    lines = [f"nats: {-float(log_prob.mean()):.4f} ± {error:.4f} (mean −log p(x) in data units)"]
    formula = ""
    if data.scaling.levels is not None:
        bits, bits_error = bits_per_dim(log_prob, dim, data.scaling)
        lines.insert(0, f"bits/dim: {bits:.4f} ± {bits_error:.4f}")
        formula = f"\n{BPD_FORMULA}, s = 2/{data.scaling.levels}, N = {dim}"
    probes = f"{config.probes} {config.probe} probe{'s' * (config.probes > 1)} per example, drawn once"
    lines.append(
        f"{model.name} on the test split of {model.data['name']}, n = {count}: ODE from t = {parts[0].t:g} by "
        f"{config.solver}, NFE {nfe:.1f}; {'exact trace' if config.trace == 'exact' else probes}; seed {config.seed}; "
        f"± is one standard error over examples{formula}"
    )
    return "\n".join([*lines, *([str(out)] if out else [])])


def _write_likelihood(
    config: DensityConfig, model: Model, out: Path, raw: Tensor, log_prob: Tensor, stderr: Tensor
) -> None:
    data = model.dataset()
    dim = math.prod(data.shape)
    nats = -log_prob
    values = {"nats": nats, "stderr_of_probes": stderr}
    if data.scaling.levels is not None:
        values = {"bits_per_dim": (nats - data.scaling.log_det(dim)) / (dim * math.log(2)), **values}
    if out.suffix == ".npz":
        write_arrays(out, {**values, "raw": raw})
        return
    make_folder(out.parent)
    if out.suffix == ".csv":
        from genflow.checkpoint import write_file

        rows = [",".join(["example", *values])]
        rows += [",".join([str(i), *(repr(float(v[i])) for v in values.values())]) for i in range(len(nats))]
        write_file(out, "\n".join(rows) + "\n")
        return
    from genflow.report.pictures import likelihood_plot

    unit, worth = next(iter(values.items()))
    likelihood_plot(out, worth.numpy(), unit.replace("bits_per_dim", "bits/dim"), raw.numpy(), data.scaling.levels)


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
    x = x.to(config.device)
    found = round_trip(model.process, model.backbone, x, solver, nfe=budget, batch_size=config.sample_batch)
    norms = found.latent.flatten(1).double().norm(dim=1).cpu()
    if out.suffix == ".npz":
        arrays = {"latent": found.latent, "x": x, "back": found.x, "rms": found.rms, "largest": found.largest}
        write_arrays(out, {k: v.cpu() for k, v in arrays.items()})
    else:
        from genflow.report.pictures import norms_plot

        make_folder(out.parent)
        prior, _ = draw_prior(model.process, data.shape, config.seed, range(4000), x.dtype)
        norms_plot(out, norms.numpy(), prior.flatten(1).double().norm(dim=1).numpy(), model.name)
    return (
        f"{out}: {len(x)} latents of {model.name}, {config.solver}, NFE {found.nfe:g} there and back; median |latent| "
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
    latents = _read_latents(Path(config.latents), tuple(model.backbone.shape)).to(config.device)
    data = model.dataset() if out.suffix == ".png" else None
    found = decode(model.process, model.backbone, latents, solver, nfe=budget, batch_size=config.sample_batch)
    if data is None:
        write_arrays(out, {"x": found.x.cpu()})
    else:
        make_folder(out.parent)
        save_samples(out, data.scaling.decode(found.x.cpu()).numpy(), data.scaling.levels)
    return f"{out}: {len(latents)} examples of {model.name}, {config.solver}, NFE {found.nfe:g}"


def _read_latents(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The array 'latent' of a .npz file, float32, in a model's shape."""
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file) if hasattr(file, "files") else {}
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"the latents {path} can not be read: {error}") from None
    if "latent" not in arrays:
        raise ConfigError(f"{path} has no array 'latent'; it has: {', '.join(arrays) or 'none'}")
    found = arrays["latent"]
    if found.shape[1:] != shape or not len(found) or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise ConfigError(f"'latent' of {path} has shape {found.shape}; want finite numbers of shape (n, *{shape})")
    return torch.from_numpy(found.astype(np.float32))


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
    )
    path = found.x.cpu()
    if out.suffix == ".npz":
        write_arrays(out, {"x": path, "first": first.cpu(), "second": second.cpu()})
    else:
        make_folder(out.parent)
        shown = {"from": raw[0::2, None], "path from s = 0 to 1": data.scaling.decode(path), "to": raw[1::2, None]}
        save_rows(out, {k: v.numpy() for k, v in shown.items()}, data.scaling.levels)
    return (
        f"{out}: {config.pairs} paths of {config.count} by {model.name}, {config.kind}, {config.solver}, "
        f"NFE {found.nfe:.1f} per example shown, encoding included"
    )
