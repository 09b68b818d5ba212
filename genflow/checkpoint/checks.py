"""Whether what a checkpoint says is what this package writes: the entries of config.json, and the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.checkpoint.folder import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def facts(about: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    """What config.json has to be: (key, whether it is, what is allowed)."""
    named = "a mapping of 'name' and 'options'"
    options = about["backbone"].get("options")
    sizes = {"shape": None, **(options if isinstance(options, dict) else {})}
    cell = about.get("cell")
    return [
        ("process", is_named(about["process"]), named),
        ("backbone", is_named(about["backbone"]) and _is_shape(sizes.get("shape")), f"{named}, with a 'shape'"),
        ("backbone", _is_count(sizes.get("classes", 0)) and _is_count(sizes.get("extra_channels", 0)), "whole numbers"),
        ("dataset", about.get("dataset") is None or is_named(about["dataset"], False), named),
        ("cell", cell is None or _is_cell(cell), "a mapping with a 'spec'"),
        ("shape", about.get("shape", sizes["shape"]) == sizes["shape"], "that of its network"),
        ("scaling", not about.get("scaling") or _is_scaling(about["scaling"]), "scale and shift, numbers, and levels"),
        ("examples", about.get("examples") is None or isinstance(about["examples"], dict), "a mapping"),
        ("classes", about.get("classes") is None or _is_list(about["classes"], str), "a list of names"),
    ]


def is_named(value: Any, whole: bool = True) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return isinstance(value.get("options"), dict) or (not whole and value.get("options") is None)


def _is_cell(value: Any) -> bool:
    spec = value.get("spec", {}) if isinstance(value, dict) else None
    return isinstance(spec, dict) and (spec.get("dataset") is None or is_named(spec["dataset"], False))


def _is_shape(value: Any) -> bool:
    return _is_list(value, int) and bool(value) and all(_is_count(n, 1) for n in value)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _is_scaling(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"scale", "shift", "levels"}:
        return False
    numbers = [value.get("scale", 1.0), value.get("shift", 0.0)]
    finite = all(type(n) in (int, float) and abs(n) < float("inf") for n in numbers) and numbers[0] != 0
    return finite and (value.get("levels") is None or _is_count(value["levels"], 1))


def check_tensors(owner: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], finite: bool = True) -> None:
    """Raises CheckpointError naming a tensor that is missing, not known, of another shape or type, or not finite.

    Arguments:
        owner: What does not fit what, for the message.
        found, wanted: By name.
        finite: Whether all numbers must be.
    """
    for what, names in (("no tensor", set(wanted) - set(found)), ("the unknown tensor", set(found) - set(wanted))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{owner}: it has {what} '{min(names)}'{more}")
    for name, value in found.items():
        like = wanted[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            came, want = (f"{tuple(v.shape)} of {str(v.dtype).removeprefix('torch.')}" for v in (value, like))
            raise CheckpointError(f"{owner}: '{name}' is {came}; want {want}")
        if finite and value.is_floating_point() and not bool(value.isfinite().all()):
            count = int((~value.isfinite()).sum())
            raise CheckpointError(f"{owner}: {count} of {value.numel()} entries of '{name}' are not finite")


def json_object(path: Path, content: bytes) -> dict[str, Any]:
    """The mapping that a JSON file holds; raises CheckpointError for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds {type(found).__name__}, not a mapping")
    return found


def one_line(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())[:400] or type(error).__name__
