"""The identity of a run: a saved state is resumed only by a run that shares these facts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from genflow.backbone.base import Backbone
from genflow.checkpoint import FACTS, CheckpointError
from genflow.config import TrainConfig, deciding
from genflow.data.base import Dataset
from genflow.process.base import Process

EXAMPLES = "dataset.examples"
"""Key that a state has had since it records its data; the rows of older states may be numbered in another way."""


FORMER = {"backbone.told": "backbone.conditioning"}
"""Keys of older states, and what they are called now."""


class RefusedError(CheckpointError):
    """A saved state that this run may not resume from; nothing was changed."""

    exit_code = 2


def run_facts(process: Process, backbone: Backbone, dataset: Dataset, config: TrainConfig, seed: int) -> dict[str, Any]:
    """What must not change between a stop and its resumption, by dotted key: plain data."""
    facts = {f"train.{k}": v for k, v in deciding(config).items()}
    facts |= {"seed": seed, "dataset": dataset.name, "process": type(process).__name__}
    facts |= {f"backbone.{k}": v for k, v in backbone.config().items()}
    facts |= {f"process.{k}": v for k, v in process.config().items()}
    facts |= data_facts(dataset, labelled=bool(getattr(backbone, "classes", 0)))
    return json.loads(json.dumps(facts))


def data_facts(dataset: Dataset, labelled: bool) -> dict[str, Any]:
    """What shows other training data, or the same in another order, from a few rows.

    Arguments:
        dataset: Its training split is looked at.
        labelled: Whether the backbone is conditioned on its labels.
    """
    count, scaling = dataset.count("train"), dataset.scaling
    rows = torch.arange(min(count, 8)) * count // min(count, 8)
    facts: dict[str, Any] = {
        "dataset.count": count,
        "dataset.scaling": [scaling.scale, scaling.shift, scaling.levels],
        "dataset.flip": dataset.flip,
        EXAMPLES: marks(dataset.examples("train", rows)),
    }
    labels = dataset.labels("train") if labelled else None
    if labels is not None:
        facts["dataset.labels"] = hashlib.sha256(labels.cpu().long().numpy().tobytes()).hexdigest()[:16]
    if dataset.partners is not None:
        facts["dataset.partners"] = marks(dataset.partners[rows])
    return facts


def marks(rows: Tensor) -> list[float]:
    """One number per row (n, *): its entries' mean, weighted by 1/N ... 1 so that their order counts.

    Numbers and no hash, since data that are computed may differ in the last bit between machines.
    """
    flat = rows.flatten(1).double()
    return (flat * torch.arange(1, flat.shape[1] + 1) / flat.shape[1]).mean(1).tolist()


def alike(before: Any, now: Any) -> bool:
    """Equal; lists of numbers up to rounding, NaN equal to NaN."""
    if not (_are_numbers(before) and _are_numbers(now)):
        return before == now
    pairs = zip(before, now, strict=False)
    close = (math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5) or (math.isnan(a) and math.isnan(b)) for a, b in pairs)
    return len(before) == len(now) and all(close)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | float) for v in value)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], allow: Collection[str]) -> None:
    """Raises RefusedError where a run differs from the one that saved a state, in a key that may not change.

    Arguments:
        before: Facts that the state was saved with.
        now: Those of the run that is to resume from it.
        allow: Keys that may differ; "train" stands for all that begin with it.
    """
    before, missing = {FORMER.get(key, key): value for key, value in before.items()}, object()
    changed = [k for k in {**before, **now} if not alike(before.get(k, missing), now.get(k, missing))]
    if EXAMPLES not in before:
        changed = [k for k in changed if not k.startswith("dataset.") or k == EXAMPLES]
    refused = [k for k in changed if not any(k == key or k.startswith(f"{key}.") for key in allow)]
    if refused:
        each = "; ".join(_difference(k, before, now) for k in refused)
        raise RefusedError(
            f"this run was begun with another configuration: {each}. Restore the old values, choose another folder, or "
            f"accept the change: --allow-config-change {','.join(refused)}"
        )


def _difference(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What has changed, in words."""
    if key == EXAMPLES and key not in before:
        return (
            f"{key} was not recorded by the version of genflow that saved it, which may number the training rows in "
            "another order, so that an epoch would repeat some examples and leave others out"
        )
    if key in (EXAMPLES, "dataset.labels", "dataset.partners"):
        return f"{key}: the training data are others than before, or are in another order"
    return f"{key} was {before.get(key, 'not there')} and is {now.get(key, 'not there')}"


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the numbers of a state are not as `Trainer.facts` gave them."""
    counts = {name: type(facts.get(name)) is int and facts[name] >= 0 for name in ("step", "images", "skipped")}
    mappings = {name: isinstance(facts.get(name), dict) for name in ("scaler", "config")}
    for name, fits in {**counts, **mappings, "smooth": isinstance(facts.get("smooth"), int | float)}.items():
        if not fits:
            came = repr(facts.get(name, "nothing"))[:80]
            want = "a mapping" if name in mappings else "a number" if name == "smooth" else "a whole number"
            raise CheckpointError(f"{FACTS} of the run is damaged: its '{name}' is {came}; want {want}")
