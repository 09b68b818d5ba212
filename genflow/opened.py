"""The one way to open a checkpoint: what it says is checked when it is opened, and a file is read when it is asked for.

`open_checkpoint` reads the manifest and config.json, and imports no torch. The weights are read and hashed by the first
look at `backbone`, the optimiser's state by `state()`, the data set by `dataset()`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.checkpoint import (
    CONFIG,
    FACTS,
    MANIFEST,
    PAIR,
    STATE,
    STATS,
    WEIGHTS,
    CheckpointError,
    _read_checked,
    fingerprint,
    pair_text,
    read_manifest,
    whole_folder,
)
from genflow.registry import registries

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.backbone.base import Backbone
    from genflow.data.base import Dataset, Scaling
    from genflow.process.base import Process

LOG = logging.getLogger("genflow")


@dataclass(frozen=True)
class Opened:
    """A checkpoint.

    Arguments:
        path: As it was given: its folder or that of a run.
        folder: Its own folder.
        about: What config.json says.
        hashes: Hash of each file by name.
        verify: Whether files are checked against their hashes, and weights for being finite.
        held: Files that have been read already.
    """

    path: Path
    folder: Path
    about: Mapping[str, Any]
    hashes: Mapping[str, str] = field(repr=False)
    verify: bool = True
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    # ---- what it says --------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The process's registered name."""
        return str(self.about["process"]["name"])

    @property
    def content(self) -> str:
        """Hash of what the model consists of, wherever its folder lies; whatever is beside it does not count."""
        known = json.dumps({name: self.hashes[name] for name in (CONFIG, WEIGHTS)}, sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()[:20]

    @property
    def data(self) -> dict[str, Any] | None:
        """Name and options of the data set it was trained on; None where it does not say."""
        found = self.about.get("dataset") or self.about.get("cell", {}).get("spec", {}).get("dataset")
        return {"name": found["name"], "options": dict(found.get("options") or {})} if found else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.about["backbone"]["options"]["shape"])

    @property
    def classes(self) -> int:
        """How many classes its network is told; 0 for none."""
        return int(self.about["backbone"]["options"].get("classes", 0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that its network is told, numbers where it has none."""
        known = tuple(self.about.get("classes") or ())[: self.classes]
        return known + tuple(map(str, range(len(known), self.classes)))

    @property
    def scaling(self) -> Scaling | None:
        """How raw values become data units, as the checkpoint says; None where its data set has to be asked."""
        from genflow.data.base import Scaling

        return Scaling(**self.about["scaling"]) if self.about.get("scaling") else None

    # ---- the model -----------------------------------------------------------------------------------------

    @cached_property
    def process(self) -> Process:
        """As it was trained, fitted numbers included; a base that is data is named, not stored: see `sampler`."""
        import genflow
        from genflow.data.downloads import DataError

        made = self.about["process"]
        try:
            process: Process = genflow.get_process(made["name"], **made["options"])
        except DataError as error:
            raise self.wrong(f"the base of '{self.name}' is a data set, which is named, not stored: {error}") from error
        except Exception as error:  # a constructor may raise anything on options that were not written for it
            raise self.wrong(f"it describes no process of this genflow: {_line(error)}") from error
        return process

    @cached_property
    def backbone(self) -> Backbone:
        """Its network (EMA weights, eval mode), on the host."""
        import genflow

        made, weights = self.about["backbone"], self.tensors(WEIGHTS)
        try:
            backbone: Backbone = genflow.get_backbone(made["name"], **made["options"])
        except Exception as error:
            raise self.wrong(f"it describes no network of this genflow: {_line(error)}") from error
        self._check_weights(weights, backbone.state_dict())
        backbone.load_state_dict(weights)
        self._check_pair(backbone)
        return backbone.eval().requires_grad_(False)

    def sampler(self, dataset: Dataset | None = None) -> Process:
        """The process as samples are drawn from it.

        Arguments:
            dataset: What it was trained on, where it is open already.

        Raises:
            CheckpointError: Its base is the data themselves, which are not here.
        """
        fitted = bool(self.about.get("scaling"))  # those written before that was kept may come unfitted
        if fitted and not self.process.base_is_data:
            return self.process
        if dataset is None and self.data is None and not self.process.base_is_data:
            return self.process
        try:
            return self.process.for_data((dataset or self.dataset()).fitting_points())
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.name} cannot be sampled without the data it was trained on: {error}"
            ) from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file.

        Raises:
            CheckpointError: It is damaged, not a safetensors file, or of another process or network than config.json.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load as from_bytes

        content = self.read(name)
        try:
            found = from_bytes(content)
            note = _note(content)
        except (SafetensorError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder / name} is not a safetensors file: {_line(error)}") from error
        if note is not None and note != pair_text(self.about):
            raise CheckpointError(
                f"{self.folder / CONFIG} is not the one that {name} was written with: {self._gap(note)}"
            )
        return found

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """What a run goes on from: facts, weights and the rest, as `training.run.state_files` wrote them."""
        return _object(self.folder / FACTS, self.read(FACTS)), self.tensors(WEIGHTS), self.tensors(STATE)

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises CheckpointError where it is not there or does not match its hash."""
        if name in self.held:
            return self.held[name]
        if name not in self.hashes:
            what = "it is not the checkpoint of a run" if name in (FACTS, STATE) else "it is not a model"
            raise CheckpointError(f"{self.folder} has no {name}: {what}")
        return _read_checked(self.folder / name, self.hashes[name] if self.verify else None)

    # ---- the data ------------------------------------------------------------------------------------------

    def dataset(self, moved: Mapping[str, Any] | None = None) -> Dataset:
        """The data set it was trained on.

        Arguments:
            moved: Options that have changed since, such as its place.

        Raises:
            CheckpointError: The checkpoint does not say which, or it is not here or no longer fits; with what to do.
        """
        import genflow

        if self.data is None:
            raise CheckpointError(f"{self.path} does not say its data set, which this command needs")
        name, options = self.data["name"], {**self.data["options"], **(moved or {})}
        try:
            found = genflow.get_dataset(name, **options)
        except ValueError as error:
            raise CheckpointError(self._not_here(str(error))) from error
        if tuple(found.shape) != self.shape:
            raise CheckpointError(
                f"examples of '{name}' have shape {tuple(found.shape)}, and {self.path} is a model of {self.shape}; "
                + self._elsewhere()
            )
        self._compare(found)
        return found

    def known_scaling(self) -> Scaling:
        """How raw values become data units: as the checkpoint says, or its data set, or the catalogue of data sets.

        Raises:
            CheckpointError: None of them says.
        """
        if self.scaling is not None:
            return self.scaling
        try:
            return self.dataset().scaling
        except CheckpointError:
            if self.data is None or not (found := catalogue_scaling(self.data["name"])):
                raise
            return found

    def _not_here(self, reason: str) -> str:
        text = f"{self.path} was trained on '{self.data['name']}': {reason}"  # type: ignore[index]  # asked before
        return text if "--dataset-options" in text else f"{text}; {self._elsewhere()}"

    def _elsewhere(self) -> str:
        assert self.data is not None
        keys = [key for key in PLACES if key in self.data["options"]] or ["OPTION"]
        return f"where the data have moved, give --dataset-options {self.data['name']}.{keys[0]}=PLACE"

    def _compare(self, found: Dataset) -> None:
        """Warns where data are not those of the training, as far as that is known without reading them."""
        was: dict[str, Any] = {"scaling": self.scaling, "classes": tuple(self.about.get("classes") or ())}
        now = {"scaling": found.scaling, "classes": tuple(found.class_names)}
        for key, value in was.items():
            if key in self.about and value != now[key]:
                LOG.warning("'%s' is not as %s was trained on it: %s was %s and is %s", found.name, self.path, key,
                            value, now[key])  # fmt: skip

    def warn_of_other(self, found: Dataset) -> None:
        """Warns where the training examples are not those of the training: their number, and a few of them."""
        was = self.about.get("examples")
        if was and was != fingerprint(found):
            count = f"{was.get('count')} training examples, and has {found.count('train')}"
            LOG.warning("'%s' has changed since %s was trained on it: it had %s", found.name, self.path, count)

    # ---- checks --------------------------------------------------------------------------------------------

    def wrong(self, what: str) -> CheckpointError:
        """An error of config.json."""
        return CheckpointError(f"{self.folder / CONFIG} does not describe a model of this genflow: {what}")

    def _gap(self, note: str) -> str:
        try:
            was = json.loads(note)
            pairs = {key: (was[key], self.about[key]) for key in ("process", "backbone")}
            told = [f"{key} was {_told(a)} and is {_told(b)}" for key, (a, b) in pairs.items() if a != b]
        except (ValueError, KeyError, TypeError):
            told = []
        return "; ".join(told) or "its process or backbone differs"

    def _check_weights(self, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        owner = f"{self.folder / WEIGHTS} does not fit the backbone '{self.about['backbone']['name']}' of {CONFIG}"
        check_tensors(owner, found, wanted, self.verify)

    def _check_pair(self, backbone: Backbone) -> None:
        """Raises CheckpointError where the process cannot read what the network answers."""
        import torch

        process, shape = self.process, self.shape
        if process.extra_channels != backbone.extra_channels:
            process = process.for_data(torch.zeros(2, *shape))  # one that was stored before it was fitted
        wanted, came = process.extra_channels, backbone.extra_channels
        if wanted != came:
            raise self.wrong(f"'{self.name}' needs a network with extra_channels = {wanted}, and its own has {came}")


PLACES = ("path", "test_path", "root")
"""Options of data sets that are places on a disk."""


def catalogue_scaling(name: str) -> Scaling | None:
    """The scaling that the catalogue tells of, for data that are not here; None where it does not."""
    from genflow.data.base import Scaling

    entry = registries()["datasets"].entries().get(name)
    levels = entry.tags.get("levels") if entry else None
    return Scaling.grey(levels) if levels else None


def with_places(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a data set with its places absolute, so that they are found from any folder."""
    return {
        key: str(Path(value).expanduser().absolute()) if key in PLACES and value and isinstance(value, str) else value
        for key, value in options.items()
    }


def open_checkpoint(path: Path | str, verify: bool = True) -> Opened:
    """Opens a checkpoint folder, or that of a run, which stands for its newest.

    Arguments:
        path: The folder.
        verify: False takes files whose hash differs, for a look at a damaged checkpoint.

    Raises:
        CheckpointError: The folder is no checkpoint, or what it says of itself is damaged or not of this version.
    """
    folder = whole_folder(Path(path))
    hashes = read_manifest(folder)
    for name in (CONFIG, WEIGHTS):
        if name not in hashes:
            raise CheckpointError(f"{folder} has no {name}: it is no model")
    gone = [name for name in hashes if name not in BESIDE and not (folder / name).is_file()]
    if gone:
        raise CheckpointError(f"{folder / gone[0]} is not there, and {MANIFEST} lists it")
    return _described(Opened(Path(path), folder, {}, hashes, verify))


BESIDE = (STATE, FACTS, STATS)
"""What a checkpoint that is given away may lack."""


def open_state(folder: Path, files: Mapping[str, bytes], verify: bool = True) -> Opened:
    """A checkpoint whose files have been read, as a run goes on from it; one without config.json is a state only."""
    opened = Opened(folder, folder, {}, {}, verify, files)
    return _described(opened) if CONFIG in files else opened


def _described(opened: Opened) -> Opened:
    """The same with what its config.json says; raises CheckpointError where that is not as `describe` wrote it."""
    opened = replace(opened, about=_object(opened.folder / CONFIG, opened.read(CONFIG)))
    for key, plural in (("process", "processes"), ("backbone", "backbones")):
        if not _is_named(opened.about.get(key), False):
            raise _wrong_fact(opened, key, "a mapping of 'name' and 'options'")
        try:
            registries()[plural].entry(opened.about[key]["name"])
        except ValueError as error:
            raise opened.wrong(f"{error}; a plugin that it was trained with may be missing") from error
    for key, fits, allowed in _facts(opened.about):
        if not fits:
            raise _wrong_fact(opened, key, allowed)
    return opened


def _wrong_fact(opened: Opened, key: str, allowed: str) -> CheckpointError:
    came = repr(opened.about.get(key, "nothing"))[:80]
    return opened.wrong(f"its '{key}' is {came}; want {allowed}")


def _facts(about: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    """What config.json has to be: (key, whether it is, what is allowed)."""
    named = "a mapping of 'name' and 'options'"
    options = about["backbone"].get("options")
    sizes = {"shape": None, **(options if isinstance(options, dict) else {})}
    cell = about.get("cell")
    return [
        ("process", _is_named(about["process"]), named),
        ("backbone", _is_named(about["backbone"]) and _is_shape(sizes.get("shape")), f"{named}, with a 'shape'"),
        ("backbone", _is_count(sizes.get("classes", 0)) and _is_count(sizes.get("extra_channels", 0)), "whole numbers"),
        ("dataset", about.get("dataset") is None or _is_named(about["dataset"], False), named),
        ("cell", cell is None or _is_cell(cell), "a mapping with a 'spec'"),
        ("shape", about.get("shape", sizes["shape"]) == sizes["shape"], "that of its network"),
        ("scaling", not about.get("scaling") or _is_scaling(about["scaling"]), "scale and shift, numbers, and levels"),
        ("examples", about.get("examples") is None or isinstance(about["examples"], dict), "a mapping"),
        ("classes", about.get("classes") is None or _is_words(about["classes"]), "a list of names"),
    ]


def _is_named(value: Any, whole: bool = True) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return isinstance(value.get("options"), dict) or (not whole and value.get("options") is None)


def _is_cell(value: Any) -> bool:
    spec = value.get("spec", {}) if isinstance(value, dict) else None
    return isinstance(spec, dict) and (spec.get("dataset") is None or _is_named(spec["dataset"], False))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_count(n, 1) for n in value)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


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


def _object(path: Path, content: bytes) -> dict[str, Any]:
    """The mapping that a JSON file holds; raises CheckpointError for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({_line(error)})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds {type(found).__name__}, not a mapping")
    return found


def _note(content: bytes) -> str | None:
    """What a safetensors file says it is of; None where it does not."""
    size = int.from_bytes(content[:8], "little")
    note = (json.loads(content[8 : 8 + size]).get("__metadata__") or {}).get(PAIR)
    return note if isinstance(note, str) else None


def _told(part: Mapping[str, Any]) -> str:
    """A name with its options, briefly."""
    text = f"'{part['name']}' {json.dumps(part['options'], sort_keys=True)}"
    return text if len(text) < 300 else f"{text[:300]}..."


def _line(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())[:400] or type(error).__name__
