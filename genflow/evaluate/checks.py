"""What is refused before features are made, and how images become what an extractor expects."""

from __future__ import annotations

import torch
from torch import Tensor

from genflow.data.base import Dataset


class NotMeasurable(ValueError):
    """A metric that means nothing for this data or can not be had here; the bench goes on and says why."""


class ImageCheck:
    """Watches batches of images on their way to an extractor that wants grey levels 0 to 255 and three channels.

    Arguments:
        what: What the images are, for messages.
    """

    EARLY = 64
    """Images after which a set that never exceeds 1 is taken for one in [0, 1]."""

    def __init__(self, what: str = "images") -> None:
        self.what, self.seen, self.top = what, 0, 0.0

    def update(self, images: Tensor) -> None:
        """Looks at a batch (B, 3, height, width).

        Raises:
            ValueError: Another shape, values that are not finite or outside [0, 255], or all of the first images
                within [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the {self.what} have shape {tuple(images.shape)}; want (n, 3, height, width)")
        low, high = (float(v) for v in images.aminmax()) if images.numel() else (0.0, 0.0)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN compares false
            rows = (~images.flatten(1).isfinite().all(1)).nonzero().flatten() + self.seen
            raise ValueError(f"the {self.what} are not all finite: first at row {int(rows[0])}; look at the samples")
        if low < 0 or high > 255:
            raise ValueError(f"the {self.what} have values from {low:.4g} to {high:.4g}; want grey levels 0 to 255")
        self.seen, self.top = self.seen + len(images), max(self.top, high)
        if self.seen >= self.EARLY:
            self._scale()

    def merge(self, other: ImageCheck) -> None:
        """Adds what another one has seen."""
        self.seen, self.top = self.seen + other.seen, max(self.top, other.top)

    def finish(self) -> None:
        """Raises ValueError for fewer than two images, or a set that lies within [0, 1]."""
        if self.seen < 2:
            raise ValueError(f"{self.seen} of the {self.what}: want at least 2")
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
        NotMeasurable: No images, no declared levels, or a number of channels that can not be shown.
    """
    if raw.ndim != 4:
        raise NotMeasurable(f"Inception looks at images; this data has shape {tuple(raw.shape[1:])}")
    if levels is None:
        raise NotMeasurable("the data set declares no grey levels, so its images have no scale from 0 to 255")
    if raw.shape[1] not in (1, channels):
        raise NotMeasurable(f"images of {raw.shape[1]} channels; want {channels}, or 1 that is shown in all")
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
        raise ValueError(f"the features of the {what} have shape {tuple(features.shape)}; want (n, d)")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"the features of the {what} are not all finite; look at the samples")
