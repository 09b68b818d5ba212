"""`genflow sample`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import say
from genflow.commands.options import config_options, examples, resolve
from genflow.commands.paths import check_out, make_folder
from genflow.config import ConfigError, Options, check_owners, option

LOG = logging.getLogger("genflow")

if TYPE_CHECKING:
    from genflow.distributed import Team
    from genflow.process.base import Process
    from genflow.solver.base import Solution


@dataclass(frozen=True)
class SampleConfig:
    """Samples of one checkpoint."""

    checkpoint: str = option("runs/model", "folder that genflow train or genflow import wrote", place=True)
    n: int = option(64, "samples", least=1)
    solver: str = option("heun", "solver", registry="solvers")
    nfe: int = option(20, "backbone calls per sample (fixed-step solvers)", least=1)
    seed: int = option(0, "seed", least=0)
    label: str = option("none", "class to draw: its number, all (each class in turn), or none")
    guidance: float = option(1.0, "classifier-free guidance towards the class; other than 1 takes two calls", least=0)
    temperature: float = option(1.0, "factor on the prior's draw", above=0)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    sample_batch: int = option(250, "samples at a time; does not change them", least=1)
    device: str = option("cpu", "torch device")
    precision: str = option(
        "float32", "of the network: float32, bfloat16 or float16", among=("float32", "bfloat16", "float16")
    )
    channels_last: bool = option(False, "keep image channels innermost in memory")
    compile: bool = option(False, "compile the network with torch.compile")
    tf32: bool = option(False, "TensorFloat-32 products on a GPU")
    cuda_graphs: bool = option(False, "compile the network to CUDA graphs")
    out: str = option("samples.png", "file to write: .png for a picture, .npz for data units", place=True)


@click.command(
    name="sample",
    help="Draw samples from a checkpoint.\n\n"
    + examples(
        "genflow sample --checkpoint runs/pfgm --n 64 --nfe 20 --out samples.png",
        "genflow sample --checkpoint runs/pfgm --solver rk45 --out samples.npz",
        "genflow sample --checkpoint runs/classes --label 3 --guidance 2 --out threes.png",
    ),
)
@config_options(SampleConfig)
def sample_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(SampleConfig, config_file, given)
    line = run_sampling(config)
    if line:
        say(line)
    return 0


def parse_label(word: str) -> int | str | None:
    """A label of the command line as `genflow.sample` takes it.

    Raises:
        ConfigError: The word is neither a whole number of at least 0, nor all, nor none.
    """
    if word in ("none", "all"):
        return None if word == "none" else word
    if not word.isdecimal():
        raise ConfigError(f"label = '{word}' is not a class; give its number from 0, all, or none")
    return int(word)


def run_sampling(config: SampleConfig) -> str:
    """Draws samples and writes them; returns a line that says what was done, "" on ranks that do not print."""
    import json

    import genflow
    from genflow.checkpoint import CheckpointError, read_folder
    from genflow.commands.loaded import say_solver, stored_scaling, write_arrays
    from genflow.devices import check_device
    from genflow.distributed import open_team
    from genflow.report.pictures import save_samples
    from genflow.sampling import class_labels

    out = check_out(config.out, (".png", ".npz"))
    check_owners("solver_options", config.solver_options, [config.solver])
    check_device(config.device)
    try:
        process, backbone = genflow.load(config.checkpoint)
        about = json.loads(read_folder(Path(config.checkpoint), ("config.json",))["config.json"])
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    labels = class_labels(parse_label(config.label), config.n, getattr(backbone, "classes", 0))
    dataset = about.get("dataset") or about.get("cell", {}).get("spec", {}).get("dataset")
    scaling = stored_scaling(about)
    if out.suffix == ".png" and not (dataset or scaling):
        raise ConfigError(f"{config.checkpoint} does not say its data set, which a picture needs; write a .npz file")
    if dataset and scaling is None:
        data = genflow.get_dataset(dataset["name"], **dataset["options"])
        process, scaling = process.for_data(data.fitting_points()), data.scaling  # a base of data is not in the file
    with open_team(config.device) as team:
        solution = draw(config, team, process, backbone, labels)
        if not team.leads:
            return ""
    make_folder(out.parent)
    if out.suffix == ".npz":
        write_arrays(out, {"x": solution.x, **({} if labels is None else {"labels": labels})})
    elif scaling is not None:
        save_samples(out, scaling.decode(solution.x).numpy(), scaling.levels)
    kind = "" if labels is None else f", class {config.label}, guidance {config.guidance:g}"
    if config.temperature != 1:
        kind += f", temperature {config.temperature:g}"
    short = 0 if solution.stopped is None else int(solution.stopped.sum())
    if short:
        LOG.warning("%d samples were left short of the data's end: the field is stiff there", short)
    said = say_solver(config.solver, config.solver_options)
    return f"{out}: {config.n} samples of {about['process']['name']}{kind}, {said}, NFE {solution.nfe:g}"


def draw(config: SampleConfig, team: Team, process: Process, backbone: Any, labels: Any) -> Solution:
    """The samples, drawn by all ranks, the network run as the configuration says."""
    import genflow
    from genflow.devices import Fast, prepare
    from genflow.sampling import sample_together

    solver = genflow.get_solver(config.solver, **config.solver_options.get(config.solver, {}))
    fast = Fast(config.precision, config.channels_last, config.compile, config.tf32, config.cuda_graphs)
    return sample_together(
        team,
        process,
        prepare(backbone, fast, config.device),
        solver,
        config.n,
        nfe=config.nfe if hasattr(solver, "plan") else None,
        seed=config.seed,
        batch_size=config.sample_batch,
        device=config.device,
        labels=labels,
        guidance=config.guidance,
        temperature=config.temperature,
    )
