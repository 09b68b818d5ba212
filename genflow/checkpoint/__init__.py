"""Checkpoints: folders of safetensors and plain JSON, written whole, hashed, and opened without running code of theirs.

`save` and `open_checkpoint` (or `load`, for the pair of process and network) are what most callers need.
"""

from genflow.checkpoint.checks import check_tensors
from genflow.checkpoint.folder import (
    FORMAT,
    LATEST,
    MANIFEST,
    STATS,
    CheckpointError,
    Checkpoints,
    SaveError,
    holds_run,
    read_folder,
    read_manifest,
    resolve,
    whole_folder,
    write_file,
    write_folder,
)
from genflow.checkpoint.model import (
    CONFIG,
    FACTS,
    PAIR,
    STATE,
    WEIGHTS,
    config_bytes,
    describe,
    fingerprint,
    model_bytes,
    pair_text,
    save,
)
from genflow.checkpoint.opened import Opened, catalogue_scaling, load, open_checkpoint, open_state, with_places

__all__ = [
    "CONFIG",
    "FACTS",
    "FORMAT",
    "LATEST",
    "MANIFEST",
    "PAIR",
    "STATE",
    "STATS",
    "WEIGHTS",
    "CheckpointError",
    "Checkpoints",
    "Opened",
    "SaveError",
    "catalogue_scaling",
    "check_tensors",
    "config_bytes",
    "describe",
    "fingerprint",
    "holds_run",
    "load",
    "model_bytes",
    "open_checkpoint",
    "open_state",
    "pair_text",
    "read_folder",
    "read_manifest",
    "resolve",
    "save",
    "whole_folder",
    "with_places",
    "write_file",
    "write_folder",
]
