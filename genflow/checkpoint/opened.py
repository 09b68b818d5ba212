"""The one way to open a checkpoint: what it says is checked when it is opened, and a file is read when it is asked for.

`open_checkpoint` reads the manifest and config.json, and imports no torch. The weights are read and hashed by the first
look at `backbone`, the optimiser's state by `state()`, the data set by `dataset()`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.catalogue import get_backbone, get_dataset, get_process
from genflow.checkpoint.checks import check_tensors, facts, is_named, json_object, one_line
from genflow.checkpoint.folder import MANIFEST, STATS, CheckpointError, read_checked, read_manifest, whole_folder
from genflow.checkpoint.model import CONFIG, FACTS, PAIR, STATE, WEIGHTS, fingerprint, pair_text
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
        """How many classes its network takes; 0 for none."""
        return int(self.about["backbone"]["options"].get("classes", 0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that its network takes, numbers where they have none."""
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
        from genflow.data.downloads import DataError

        try:
            return self._made("process", get_process)
        except DataError as error:
            raise self.wrong(f"the base of '{self.name}' is a data set, which is named, not stored: {error}") from error

    @cached_property
    def backbone(self) -> Backbone:
        """Its network (EMA weights, eval mode), on the host."""
        weights = self.tensors(WEIGHTS)
        backbone: Backbone = self._made("backbone", get_backbone)
        owner = f"{self.folder / WEIGHTS} does not fit the backbone '{self.about['backbone']['name']}' of {CONFIG}"
        check_tensors(owner, weights, backbone.state_dict(), self.verify)
        backbone.load_state_dict(weights)
        self._check_pair(backbone)
        return backbone.eval().requires_grad_(False)

    def _made(self, part: str, get: Callable[..., Any]) -> Any:
        """Its process or backbone; a constructor may raise anything on options that were not written for it."""
        from genflow.data.downloads import DataError

        try:
            return get(self.about[part]["name"], **self.about[part]["options"])
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise self.wrong(f"it describes no {part} of this genflow: {one_line(error)}") from error

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
            raise CheckpointError(f"{self.folder / name} is not a safetensors file: {one_line(error)}") from error
        if note is not None and note != pair_text(self.about):
            raise CheckpointError(
                f"{self.folder / CONFIG} is not the one that {name} was written with: {self._gap(note)}"
            )
        return found

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """What a run goes on from: facts, weights and the rest, as `training.run.state_files` wrote them."""
        return json_object(self.folder / FACTS, self.read(FACTS)), self.tensors(WEIGHTS), self.tensors(STATE)

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises CheckpointError where it is not there or does not match its hash."""
        if name in self.held:
            return self.held[name]
        if name not in self.hashes:
            what = "it is not the checkpoint of a run" if name in (FACTS, STATE) else "it is not a model"
            raise CheckpointError(f"{self.folder} has no {name}: {what}")
        return read_checked(self.folder / name, self.hashes[name] if self.verify else None)

    # ---- the data ------------------------------------------------------------------------------------------

    def dataset(self, moved: Mapping[str, Any] | None = None) -> Dataset:
        """The data set it was trained on.

        Arguments:
            moved: Options that have changed since, such as its place.

        Raises:
            CheckpointError: The checkpoint does not say which, or it is not here or no longer fits; with what to do.
        """
        if self.data is None:
            raise CheckpointError(f"{self.path} does not say its data set, which this command needs")
        name, options = self.data["name"], {**self.data["options"], **(moved or {})}
        try:
            found = get_dataset(name, **options)
        except ValueError as error:
            text = f"{self.path} was trained on '{name}': {error}"
            moving = "" if "--dataset-options" in text else f"; {self._elsewhere()}"
            raise CheckpointError(text + moving) from error
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

    def _elsewhere(self) -> str:
        assert self.data is not None
        keys = [key for key in PLACES if key in self.data["options"]] or ["OPTION"]
        return f"where the data have moved, give --dataset-options {self.data['name']}.{keys[0]}=PLACE"

    def _compare(self, found: Dataset) -> None:
        """Warns where data are not those of the training, as far as that is known without reading them."""
        names = tuple(self.about.get("classes") or ())
        pairs = {"scaling": (self.scaling, found.scaling), "classes": (names, tuple(found.class_names))}
        for key, (was, now) in pairs.items():
            if key in self.about and was != now:
                changed = f"{key} was {was} and is {now}"
                LOG.warning("'%s' is not as %s was trained on it: %s", found.name, self.path, changed)

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
            changes = [f"{key} was {_shown(a)} and is {_shown(b)}" for key, (a, b) in pairs.items() if a != b]
        except (ValueError, KeyError, TypeError):
            changes = []
        return "; ".join(changes) or "its process or backbone differs"

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
    """The scaling by the catalogue, for data that are not here; None where it gives none."""
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
        CheckpointError: The folder is not a checkpoint, is damaged, or is of another version.
    """
    folder = whole_folder(Path(path))
    hashes = read_manifest(folder)
    for name in (CONFIG, WEIGHTS):
        if name not in hashes:
            raise CheckpointError(f"{folder} has no {name}: it is not a model")
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
    opened = replace(opened, about=json_object(opened.folder / CONFIG, opened.read(CONFIG)))
    for key, plural in (("process", "processes"), ("backbone", "backbones")):
        if not is_named(opened.about.get(key), False):
            raise _wrong_fact(opened, key, "a mapping of 'name' and 'options'")
        try:
            registries()[plural].entry(opened.about[key]["name"])
        except ValueError as error:
            raise opened.wrong(f"{error}; a plugin that it was trained with may be missing") from error
    for key, fits, allowed in facts(opened.about):
        if not fits:
            raise _wrong_fact(opened, key, allowed)
    return opened


def _wrong_fact(opened: Opened, key: str, allowed: str) -> CheckpointError:
    came = repr(opened.about.get(key, "nothing"))[:80]
    return opened.wrong(f"its '{key}' is {came}; want {allowed}")


def _note(content: bytes) -> str | None:
    """What a safetensors file says it is of; None where it does not."""
    size = int.from_bytes(content[:8], "little")
    note = (json.loads(content[8 : 8 + size]).get("__metadata__") or {}).get(PAIR)
    return note if isinstance(note, str) else None


def _shown(part: Mapping[str, Any]) -> str:
    """A name with its options, briefly."""
    text = f"'{part['name']}' {json.dumps(part['options'], sort_keys=True)}"
    return text if len(text) < 300 else f"{text[:300]}..."


def load(path: Path | str, verify: bool = True) -> tuple[Process, Backbone]:
    """The process and the trained backbone (EMA weights, eval mode) of a checkpoint folder or a run's folder.

    Arguments and errors are those of `open_checkpoint`.
    """
    opened = open_checkpoint(path, verify)
    return opened.process, opened.backbone
