"""What the commands on one checkpoint share: their options, opening it, its classes, and writing arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.commands.paths import make_folder
from genflow.config import ConfigError, Options, check_owners, option
from genflow.shared_options import TrainedNetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened
    from genflow.data.base import Dataset
    from genflow.process.guidance import Guidance
    from genflow.solver.base import Solver


@dataclass(frozen=True)
class ModelOptions(TrainedNetworkConfig):
    """Of every command that solves a checkpoint's equation; a command's own class gives other defaults and more."""

    checkpoint: str = option("runs/model", "folder that genflow train or genflow import wrote", place=True)
    solver: str = option("rk45", "ODE solver", registry="solvers")
    nfe: int = option(100, "backbone calls per example (fixed-step solvers)", least=1)
    solver_options: Options = option({}, "NAME.OPTION=VALUE of the solver", registry="solvers")
    seed: int = option(0, "seed", least=0)
    sample_batch: int = option(250, "samples at a time; does not change them", least=1)


@dataclass(frozen=True)
class ConditionedOptions(ModelOptions):
    """The same for a network that may be conditioned on classes."""

    label: str = option("none", "class to condition on: its name or number, data (each example's own), or none")
    guidance: float = option(1.0, "classifier-free guidance towards the class; other than 1 takes two calls", least=0)


DATASET_OPTIONS_HELP = "NAME.OPTION=VALUE of the data set where it has changed, e.g. images.path=PLACE where it moved"
"""Help of --dataset-options."""


def open_model(config: ModelOptions) -> Opened:
    """The model of a checkpoint folder, its network on the device and ready to be called as the options say.

    Raises:
        CheckpointError: No checkpoint, or a damaged one.
        ValueError: The device is not here, or does not support an option.
    """
    from genflow.checkpoint import open_checkpoint
    from genflow.devices import Execution, check_device, trained_network

    check_device(config.device)
    opened = open_checkpoint(config.checkpoint)
    run = trained_network(opened.backbone, Execution(**config.network), config.device)
    vars(opened)["backbone"] = run  # in the place of the network that it keeps after reading
    return opened


def guidance_of(config: Any, opened: Opened) -> Guidance:
    """The guidance that --guidance, --guidance-interval and --guide ask for.

    Raises:
        CheckpointError: The guide is not a checkpoint, or a damaged one.
        ConfigError: It makes something else, or its path is another one.
    """
    from genflow.checkpoint import open_checkpoint
    from genflow.devices import Execution, trained_network
    from genflow.process.guidance import Guidance, Guide, check_same_path

    interval, guide = config.guidance_interval or None, None
    if config.guide:
        weaker = open_checkpoint(config.guide)
        if weaker.shape != opened.shape:
            raise ConfigError(f"guide: {config.guide} makes {weaker.shape}, {opened.path} {opened.shape}")
        try:
            check_same_path(opened.process, weaker.process)
        except ValueError as error:
            raise ConfigError(f"guide: {config.guide}: {error}") from None
        network = trained_network(weaker.backbone, Execution(**config.network), config.device)
        guide = Guide(weaker.process, network)
    return Guidance(config.guidance, interval, guide)


def open_solver(name: str, options: Options, nfe: int) -> tuple[Solver, int | None]:
    """A solver by name, and the budget: None for one that chooses its own steps."""
    import genflow

    check_owners("solver_options", options, [name])
    solver = genflow.get_solver(name, **options.get(name, {}))
    return solver, nfe if hasattr(solver, "plan") else None


def say_solver(config: ModelOptions) -> str:
    """A solver for the line that a command prints: its name, and how paths end where that is not plainly."""
    from genflow.solver.ending import words_of

    end = words_of(config.solver_options.get(config.solver, {}))
    return f"{config.solver} ({end})" if end else config.solver


def solving(config: Any, budget: int | None) -> dict[str, Any]:
    """What the functions of `genflow.latent` take by name."""
    return {"nfe": budget, "batch_size": config.sample_batch, "guidance": config.guidance}


def open_data(opened: Opened, options: Options) -> Dataset:
    """The data set of a checkpoint, with the options that were given for it.

    Raises:
        CheckpointError: It is not here, or the checkpoint does not say which.
        ConfigError: Options of another data set.
    """
    name = opened.data["name"] if opened.data else None
    check_owners("dataset_options", options, [name] if name else [])
    return opened.dataset(options.get(name or "", {}))


def check_images(opened: Opened, what: str) -> None:
    """Raises ConfigError where `what` needs images and a model makes something else."""
    if len(opened.shape) != 3:
        owner = f"the data set '{opened.data['name']}' of {opened.path}" if opened.data else str(opened.path)
        raise ConfigError(
            f"{what} needs images, and {owner} has examples of shape {opened.shape}; write a .npz file, or take a "
            "model of images"
        )


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """A .npz file of tensors and numbers; raises OSError with its name where it cannot be written."""
    import numpy as np

    make_folder(path.parent)
    try:
        np.savez_compressed(path, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # zip files do not say which they are


def write_samples(path: Path, opened: Opened, x: Tensor, beside: Mapping[str, Any]) -> None:
    """Samples in data units to a .npz file with what is beside them, or as a picture."""
    from genflow.report.pictures import save_samples

    if path.suffix == ".npz":
        write_arrays(path, {"x": x.cpu(), **beside})
        return
    scaling = opened.known_scaling()
    make_folder(path.parent)
    save_samples(path, scaling.decode(x.cpu()).numpy(), scaling.levels)


# ---- classes -------------------------------------------------------------------------------------------------


def class_number(word: str, opened: Opened, *words: str) -> int:
    """The number of a class that --label names.

    Arguments:
        word: A class's name, or its number; where a name is another class's number, it is the name.
        opened: Whose classes.
        words: What else --label takes, for the message.

    Raises:
        ConfigError: Neither, or the network knows no classes.
    """
    names = opened.class_names
    if word in names:
        return names.index(word)
    if word.isdecimal():
        return int(word)
    own = [name for i, name in enumerate(names) if name != str(i)]
    known = f" (classes: {', '.join(own[:20])}{', ...' if len(own) > 20 else ''})" if own else ""
    ways = f"its name or number from 0{known}" if own else "its number from 0"
    raise ConfigError(f"label = '{word}' is not a class; give {ways}, {', '.join(words)}, or none")


def label_numbers(word: str, opened: Opened, n: int, own: Tensor | None, missing: str) -> Tensor | None:
    """The classes (n,) that --label stands for; None for none.

    Arguments:
        word: "none", a class, or "data": each example's own class.
        opened: The model whose network receives them.
        n: Examples.
        own: Classes of the examples, of which the first n count; None where they have none.
        missing: Why they have none.

    Raises:
        ConfigError: Another word, or "data" without classes.
        ValueError: The backbone does not know the class, or knows none.
    """
    from genflow.sampling import class_labels

    if word == "none":
        return None
    if word != "data":
        return class_labels(class_number(word, opened, "data"), n, opened.classes, "--label")
    if opened.classes and own is None:
        raise ConfigError(
            f"label = 'data' takes each example's own class, but {missing}; give a class's name or number, or none"
        )
    return class_labels([0] * n if own is None else own[:n], n, opened.classes, "--label")


def say_labels(label: str, guidance: float | str, opened: Opened) -> str:
    """What a line of output says of --label and --guidance."""
    if label == "none":
        return ""
    kind = {"data": "own classes", "all": "class all"}.get(label, "")
    if not kind:
        number = class_number(label, opened)
        name = opened.class_names[number] if number < opened.classes else label
        kind = f"class {name}" + (f" (number {number})" if name != str(number) else "")
    return f", {kind}, {guidance}" if isinstance(guidance, str) else f", {kind}, guidance {guidance:g}"
