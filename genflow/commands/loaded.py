"""What the commands on one checkpoint share: opening it, and writing arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.commands.paths import make_folder
from genflow.config import ConfigError, Options, check_owners

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.backbone.base import Backbone
    from genflow.data.base import Dataset, Scaling
    from genflow.process.base import Process
    from genflow.solver.base import Solver


@dataclass(frozen=True)
class Model:
    """A trained pair with the names it was trained under.

    Arguments:
        path: Its folder.
        process: What was trained.
        backbone: Its network, on the device that was asked for.
        about: The checkpoint's config.json.
    """

    path: str
    process: Process
    backbone: Backbone
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The process's registered name."""
        return str(self.about["process"]["name"])

    @property
    def data(self) -> dict[str, Any]:
        """Name and options of the data set it was trained on.

        Raises:
            ConfigError: The checkpoint does not say, as those of the Python interface.
        """
        found = self.about.get("dataset") or self.about.get("cell", {}).get("spec", {}).get("dataset")
        if not found:
            raise ConfigError(f"{self.path} does not say its data set, which this command needs")
        return {"name": found["name"], "options": found.get("options", {})}

    def dataset(self) -> Dataset:
        """The data set it was trained on."""
        import genflow

        return genflow.get_dataset(self.data["name"], **self.data["options"])

    def images(self, what: str) -> Dataset:
        """The same, refused where it has no images and `what` needs them."""
        data = self.dataset()
        if len(data.shape) != 3:
            raise ConfigError(
                f"{what} needs images, and the data set '{self.data['name']}' of {self.path} has examples of shape "
                f"{tuple(data.shape)}; write a .npz file, or take a model of images"
            )
        return data


def stored_scaling(about: Mapping[str, Any]) -> Scaling | None:
    """The scaling that a checkpoint brings itself, as imported ones do; None where its data set has it."""
    from genflow.data.base import Scaling

    return Scaling(**about["scaling"]) if about.get("scaling") else None


def open_model(checkpoint: str, device: str) -> Model:
    """The model of a checkpoint folder, on a device.

    Raises:
        ConfigError: No checkpoint, or a damaged one.
        ValueError: The device is not here.
    """
    import torch

    import genflow
    from genflow.checkpoint import CheckpointError, read_folder
    from genflow.devices import check_device

    check_device(device)
    try:
        process, backbone = genflow.load(checkpoint)
        about = json.loads(read_folder(Path(checkpoint))["config.json"])
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    return Model(checkpoint, process, backbone.to(torch.device(device)), about)


def open_solver(name: str, options: Options, nfe: int) -> tuple[Solver, int | None]:
    """A solver by name, and the budget: None for one that chooses its own steps."""
    import genflow

    check_owners("solver_options", options, [name])
    solver = genflow.get_solver(name, **options.get(name, {}))
    return solver, nfe if hasattr(solver, "plan") else None


def say_solver(name: str, options: Options) -> str:
    """A solver for the line that a command prints: its name, and how paths end where that is not plainly."""
    from genflow.solver.ending import words_of

    end = words_of(options.get(name, {}))
    return f"{name} ({end})" if end else name


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """A .npz file of tensors and numbers; raises OSError with its name where it can not be written."""
    import numpy as np

    make_folder(path.parent)
    try:
        np.savez_compressed(path, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # zip files do not say which they are


GUIDANCE_HELP = "classifier-free guidance towards the class; other than 1 takes two calls"
"""Help of --guidance."""


def told(word: str, model: Model, n: int, own: Tensor | None, missing: str) -> Tensor | None:
    """The classes (n,) that --label stands for; None for none.

    Arguments:
        word: "none", a class's number, or "data": each example's own class.
        model: Whose backbone is told.
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
    if word != "data" and not word.isdecimal():
        raise ConfigError(f"label = '{word}' is not a class; give its number from 0, data, or none")
    known = model.backbone.classes
    if word == "data" and known and own is None:
        raise ConfigError(f"label = 'data' takes each example's own class, but {missing}; give a number, or none")
    labels = int(word) if word != "data" else [0] * n if own is None else own[:n]
    return class_labels(labels, n, known, "--label")


def own_classes(data: Dataset) -> tuple[Tensor | None, str]:
    """Classes of the test split, and what to say where there are none."""
    return data.labels("test"), f"the data set '{data.name}' has no classes"


def say_told(label: str, guidance: float) -> str:
    """What a line of output says of --label and --guidance."""
    if label == "none":
        return ""
    return f", {'own classes' if label == 'data' else f'class {label}'}, guidance {guidance:g}"


def held_out(data: Dataset, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The first `count` test examples (all where there are fewer), raw and in data units, dequantised by the seed."""
    import torch

    raw = data.examples("test", torch.arange(min(count, data.count("test"))))
    return raw, data.scaling.encode(raw, torch.Generator().manual_seed(seed))
