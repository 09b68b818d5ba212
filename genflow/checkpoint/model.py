"""What a checkpoint of a model consists of: config.json that describes it, and weights that say what they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.checkpoint.folder import write_folder
from genflow.memory import to_bytes

if TYPE_CHECKING:
    from genflow.backbone.base import Backbone
    from genflow.data.base import Dataset
    from genflow.process.base import Process

CONFIG, WEIGHTS, STATE, FACTS = "config.json", "model.safetensors", "state.safetensors", "state.json"
"""What a model consists of, and what a run goes on from."""


def describe(
    process_name: str, process: Process, backbone_name: str, backbone: Backbone, dataset: Dataset | None = None
) -> dict[str, Any]:
    """What rebuilds the pair, and what its samples need: plain data.

    Arguments:
        process_name: Registered name.
        process: Fitted to the data.
        backbone_name: Registered name.
        backbone: Its network.
        dataset: What it is trained on; its shape, scaling and classes go with the model, its examples do not.
    """
    about: dict[str, Any] = {
        "process": {"name": process_name, "options": process.config()},
        "backbone": {"name": backbone_name, "options": backbone.config()},
    }
    if dataset is not None:
        scaling = dataset.scaling
        about["shape"] = list(dataset.shape)
        about["scaling"] = {"scale": scaling.scale, "shift": scaling.shift, "levels": scaling.levels}
        about["classes"] = list(dataset.class_names)
        about["examples"] = fingerprint(dataset)
    return about


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """How many training examples there are, and a hash of a few: a cheap way to notice other data."""
    import torch

    count = dataset.count("train")
    rows = torch.arange(min(count, 8)) * count // max(min(count, 8), 1)
    content = dataset.examples("train", rows).contiguous().numpy().tobytes()
    return {"count": count, "digest": hashlib.sha256(content).hexdigest()[:16]}


def model_bytes(weights: Mapping[str, Any], about: Mapping[str, Any] | None) -> bytes:
    """Tensors as a safetensors file, which says what process and network they are of."""
    return to_bytes(weights, None if about is None else {PAIR: pair_text(about)})


PAIR = "genflow"
"""Key of the note in the file of weights that says what they are of."""


def pair_text(about: Mapping[str, Any]) -> str:
    """Process and network of a config.json, as the weights repeat them."""
    return json.dumps({key: about.get(key) for key in ("process", "backbone")}, sort_keys=True)


def config_bytes(about: Mapping[str, Any]) -> bytes:
    """The bytes of config.json."""
    return json.dumps(about, indent=1, sort_keys=True).encode()


def save(
    path: Path | str, config: Mapping[str, Any], weights: Mapping[str, Any], beside: Mapping[str, bytes] | None = None
) -> None:
    """Writes config.json and model.safetensors as one checkpoint folder.

    Arguments:
        path: The folder.
        config: From `describe`, with anything else plain beside it.
        weights: Tensors by name.
        beside: More files.
    """
    write_folder(Path(path), {CONFIG: config_bytes(config), WEIGHTS: model_bytes(weights, config), **(beside or {})})
