"""`genflow train` and `genflow sample`: one model at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import EXIT_STOPPED, say
from genflow.commands.options import command_line, config_options, examples, resolve
from genflow.config import ConfigError, Options, TrainConfig, check_owners, option

if TYPE_CHECKING:
    from genflow.training import TrainResult


@dataclass(frozen=True)
class ModelConfig:
    """One training run."""

    process: str = option("pfgm", "process to train", registry="processes")
    backbone: str = option("ncsnv2", "network", registry="backbones")
    dataset: str = option("digits", "data to train on", registry="datasets")
    seed: int = option(0, "seed of weights, data order and draws", least=0)
    process_options: Options = option({}, "NAME.OPTION=VALUE of the process", registry="processes")
    backbone_options: Options = option({}, "NAME.OPTION=VALUE of the backbone", registry="backbones")
    dataset_options: Options = option({}, "NAME.OPTION=VALUE of the data set", registry="datasets")
    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = option("cpu", "torch device")
    out: str = option("runs/model", "checkpoint folder")


@dataclass(frozen=True)
class SampleConfig:
    """Samples of one checkpoint."""

    checkpoint: str = option("runs/model", "folder that genflow train wrote")
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
    out: str = option("samples.png", "file to write: .png for a picture, .npz for data units")


@click.command(
    name="train",
    help="Train one process and write a checkpoint.\n\n"
    + examples(
        "genflow train --process pfgm --out runs/pfgm",
        "genflow train --process vp_ode --backbone mlp --dataset checkerboard --train-steps 2000 --out runs/board",
        "genflow train --process pfgm --backbone-options ncsnv2.classes=10 --out runs/classes",
    )
    + "\nThe same command goes on where an interrupted one stopped.",
)
@config_options(ModelConfig)
def train_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(ModelConfig, config_file, given)
    result = run_training(config)
    if not result.finished:
        click.echo(f"\ngenflow: stopped at step {result.steps}. Go on with:\n  {command_line()}", err=True)
        return EXIT_STOPPED
    say(f"checkpoint: {config.out} (loss {result.losses[-1]['smoothed_loss']:.4f})")
    return 0


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
    say(run_sampling(config))
    return 0


def run_training(config: ModelConfig) -> TrainResult:
    """Trains, with a progress bar, and writes the checkpoint; a signal stops after the step."""
    import json

    import genflow
    from genflow.checkpoint import describe, save
    from genflow.devices import check_device
    from genflow.signals import StopFlag
    from genflow.training import train

    out = Path(config.out)
    check_owners("process_options", config.process_options, [config.process])
    check_owners("backbone_options", config.backbone_options, [config.backbone])
    check_owners("dataset_options", config.dataset_options, [config.dataset])
    check_device(config.device)
    check_folder(out)
    dataset = genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))
    process = genflow.get_process(config.process, **config.process_options.get(config.process, {}))
    process = process.for_data(dataset.scaling.encode(dataset.train))
    options = config.backbone_options.get(config.backbone, {})
    backbone = genflow.get_backbone(
        config.backbone, shape=dataset.shape, extra_channels=process.extra_channels, **options
    )
    make_folder(out.parent)
    with StopFlag() as stop, _bar(config.train.steps) as bar:

        def progress(step: int, steps: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

        result = train(
            process,
            backbone,
            dataset,
            config.train,
            seed=config.seed,
            device=config.device,
            state=out.with_name(f"{out.name}.state"),
            progress=progress,
            should_stop=stop.is_set,
        )
    if result.finished:
        about = describe(config.process, result.process, config.backbone, result.backbone)
        about |= {"dataset": {"name": config.dataset, "options": config.dataset_options.get(config.dataset, {})}}
        lines = "".join(json.dumps(line) + "\n" for line in result.losses)
        save(out, about, result.backbone.state_dict(), {"stats.jsonl": lines.encode()})
        import shutil

        shutil.rmtree(out.with_name(f"{out.name}.state"), ignore_errors=True)
    return result


def check_folder(path: Path) -> None:
    """Raises ConfigError where a folder stands on a file, before hours are spent."""
    check_parents(path, path)


def check_parents(path: Path, first: Path) -> None:
    """Raises ConfigError naming `path` where `first` or a folder above it is a file."""
    for part in (first, *first.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"out = '{path}': {part} is a file, not a folder; choose another folder")


def make_folder(path: Path) -> None:
    """Makes a folder, or raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out = '{path}' can not be written: {error.strerror}; choose another folder") from None


def _bar(steps: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, unit="step", disable=None, dynamic_ncols=True)


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
    """Draws samples and writes them; returns a line that says what was done."""
    import json

    import numpy as np
    import torch

    import genflow
    from genflow.checkpoint import CheckpointError, read_folder
    from genflow.devices import check_device
    from genflow.report.pictures import save_samples
    from genflow.sampling import class_labels

    out = Path(config.out)
    if out.suffix not in (".png", ".npz"):
        raise ConfigError(f"out = '{out}': the ending says what to write; give a .png or .npz file")
    if out.is_dir():
        raise ConfigError(f"out = '{out}' is a folder; give a file")
    check_parents(out, out.parent)
    check_owners("solver_options", config.solver_options, [config.solver])
    check_device(config.device)
    try:
        process, backbone = genflow.load(config.checkpoint)
        about = json.loads(read_folder(Path(config.checkpoint))["config.json"])
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    labels = class_labels(parse_label(config.label), config.n, getattr(backbone, "classes", 0))
    dataset = about.get("dataset") or about.get("cell", {}).get("spec", {}).get("dataset")
    if out.suffix == ".png" and not dataset:
        raise ConfigError(f"{config.checkpoint} does not say its data set, which a picture needs; write a .npz file")
    data = genflow.get_dataset(dataset["name"], **dataset["options"]) if dataset else None
    if data is not None:
        process = process.for_data(data.scaling.encode(data.train))  # a base of data is not in the file
    solver = genflow.get_solver(config.solver, **config.solver_options.get(config.solver, {}))
    budget = config.nfe if hasattr(solver, "plan") else None
    solution = genflow.sample(
        process,
        backbone.to(torch.device(config.device)),
        solver,
        config.n,
        nfe=budget,
        seed=config.seed,
        batch_size=config.sample_batch,
        device=config.device,
        labels=labels,
        guidance=config.guidance,
        temperature=config.temperature,
    )
    make_folder(out.parent)
    if out.suffix == ".npz":
        arrays = {"x": solution.x, **({} if labels is None else {"labels": labels})}
        np.savez_compressed(out, **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
    elif data is not None:
        save_samples(out, data.scaling.decode(solution.x).numpy(), data.scaling.levels)
    kind = "" if labels is None else f", class {config.label}, guidance {config.guidance:g}"
    if config.temperature != 1:
        kind += f", temperature {config.temperature:g}"
    return f"{out}: {config.n} samples of {about['process']['name']}{kind}, {config.solver}, NFE {solution.nfe:g}"
