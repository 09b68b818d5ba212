"""Checks before features are computed, and how images become what an extractor expects."""

from __future__ import annotations

import inspect
import logging

import torch
from torch import Tensor

from genflow.config import BenchConfig, ConfigError
from genflow.data.base import Dataset
from genflow.data.downloads import DataError
from genflow.registry import registries

LOG = logging.getLogger("genflow")


class NotMeasurable(ValueError):
    """A metric has no meaning for this data or cannot be measured here; the bench goes on and says why."""


class ImageCheck:
    """Checks batches of images for an extractor that takes grey levels 0 to 255 and three channels.

    Arguments:
        what: What the images are, for messages.
    """

    EARLY = 64
    """After so many images, a set that never exceeds 1 is taken to be in [0, 1]."""

    def __init__(self, what: str = "images") -> None:
        self.what, self.seen, self.top = what, 0, 0.0

    def update(self, images: Tensor) -> None:
        """Checks a batch (B, 3, height, width).

        Raises:
            ValueError: Another shape, values that are not finite or outside [0, 255], or all of the first images
                within [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the {self.what} have shape {tuple(images.shape)}; expected (n, 3, height, width)")
        low, high = (float(v) for v in images.aminmax()) if images.numel() else (0.0, 0.0)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN compares false
            rows = (~images.flatten(1).isfinite().all(1)).nonzero().flatten() + self.seen
            raise ValueError(f"the {self.what} are not all finite: first at row {int(rows[0])}; look at the samples")
        if low < 0 or high > 255:
            raise ValueError(f"the {self.what} have values from {low:.4g} to {high:.4g}; expected grey levels 0 to 255")
        self.seen, self.top = self.seen + len(images), max(self.top, high)
        if self.seen >= self.EARLY:
            self._scale()

    def merge(self, other: ImageCheck) -> None:
        """Adds what another check has seen."""
        self.seen, self.top = self.seen + other.seen, max(self.top, other.top)

    def finish(self) -> None:
        """Raises ValueError for fewer than two images, or a set that lies within [0, 1]."""
        if self.seen < 2:
            raise ValueError(f"{self.seen} of the {self.what}: at least 2 are needed")
        self._scale()

    def _scale(self) -> None:
        if self.top <= 1:
            raise ValueError(
                f"the {self.what} lie within [0, 1] (largest value {self.top:.4g}) where grey levels 0 to 255 are "
                "expected; multiply them by 255"
            )


def to_grey(raw: Tensor, levels: int | None, channels: int) -> Tensor:
    """Raw images of `levels` grey levels as 0 to 255 in `channels` channels; one channel is shown in all.

    Raises:
        NotMeasurable: The data are not images, declare no levels, or have a number of channels that cannot be shown.
    """
    if raw.ndim != 4:
        raise NotMeasurable(f"Inception takes images; these data have shape {tuple(raw.shape[1:])}")
    if levels is None:
        raise NotMeasurable("the data set declares no grey levels, so its images have no scale from 0 to 255")
    if raw.shape[1] not in (1, channels):
        raise NotMeasurable(
            f"the images have {raw.shape[1]} channels; expected {channels}, or 1, which is shown in all"
        )
    grey = raw if levels == 256 else raw * (255 / (levels - 1))
    return grey.expand(-1, channels, -1, -1)


def conversion(dataset: Dataset) -> str:
    """What `to_grey` does to a data set, in words for the protocol; "" for nothing."""
    done = []
    if dataset.scaling.levels not in (None, 256):
        done.append(f"{dataset.scaling.levels} grey levels stretched to 0..255")
    if dataset.shape[:1] == (1,):
        done.append("one channel shown in all three")
    return f" ({', '.join(done)})" if done else ""


def check_features(features: Tensor, what: str) -> None:
    """Raises ValueError for features that are not a finite (n, d)."""
    if features.ndim != 2:
        raise ValueError(f"the features of the {what} have shape {tuple(features.shape)}; expected (n, d)")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"the features of the {what} are not all finite; look at the samples")


# ---- before any work -------------------------------------------------------------------------------------------------


def check_metrics(config: BenchConfig, dataset: Dataset) -> None:
    """Checks, before anything is trained, that a bench's metrics can be measured on its data.

    A metric that has no meaning for the data is named and left out while there are others.

    Raises:
        ConfigError: Too few examples or samples, or no metric has a meaning for the data; with the option that helps.
    """
    reasons = {}
    for name in config.metric:
        metric = registries()["metrics"].get(name, **config.metric_options.get(name, {}))
        try:
            reason = metric.why_not_data(config, dataset)
            if reason:
                reasons[name] = f"{name}: {reason}"
            else:
                _check_least(name, metric.least(), config.samples, dataset)
        except DataError as error:  # they are not here: the bench's rows say so, and why
            LOG.debug("%s: %s", name, error)
    if len(reasons) == len(config.metric):
        raise ConfigError(f"nothing to measure: {'; '.join(reasons.values())}")
    for reason in reasons.values():
        LOG.warning("%s; the other metrics are measured", reason)


def _check_least(name: str, least: dict[str, int], samples: int, dataset: Dataset) -> None:
    if samples < least.get("samples", 0):
        raise ConfigError(f"samples = {samples} is too few: {name} needs at least {least['samples']}")
    for split in ("train", "test"):
        wanted = least.get(split, 0)
        found = dataset.count(split) if wanted else 0
        if found < wanted:
            raise ConfigError(
                f"{name} needs at least {wanted} examples in the {split} split of '{dataset.name}', which has {found}"
                + more_examples(dataset.name, split)
            )


def more_examples(name: str, split: str) -> str:
    """The options of a data set that give a split more examples, for a message; "" where there are none."""
    registry = registries()["datasets"]
    try:
        entry, known = registry.entry(name), inspect.signature(registry.load(name)).parameters
    except ValueError:  # not registered: made in a program
        return ""
    ways = {
        "test_share": f"test_share=SHARE (the share that is held out; {'more' if split == 'test' else 'less'} of it)",
        "test_path": "test_path=PLACE (of other held-out examples)",
        "size": "size=N" if entry.tags.get("kind") == "toy" else "",  # of images it is that of each
    }
    found = [f"{name}.{text}" for key, text in ways.items() if key in known and text]
    return f"; give --dataset-options {' or '.join(found)}" if found else ""
