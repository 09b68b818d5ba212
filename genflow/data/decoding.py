"""From the bytes of an image file to whole grey levels, by a declared recipe."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from genflow.data.archives import BadImageError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**26
"""Largest image that is decoded (64 million pixels, 8192 x 8192)."""
PLAIN = {"1": 1, "L": 1, "RGB": 3}
"""Pillow's modes that have their channels without conversion."""
DEEP = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits a channel, which it would clip."""


@dataclass(frozen=True)
class Recipe:
    """What is done to an image.

    Arguments:
        channels: 1 converts to grey (0.299 R + 0.587 G + 0.114 B), 3 to RGB (transparency is dropped); None converts
            nothing and takes only grey and RGB images.
        size: (height, width) after resizing; None keeps the image's own.
        crop: First the centred square of so many pixels.
        resample: Pillow's filter of the resizing, which averages over all source pixels where it shrinks.

    Resizing first takes the largest centred box of the wanted proportions.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    crop: int | None = None
    resample: str = "bicubic"

    def describe(self) -> str:
        """In words, for `Dataset.declared`."""
        steps = []
        if self.crop:
            steps.append(f"centred square of {self.crop}x{self.crop} pixels")
        if self.size:
            steps.append(
                f"largest centred box, resized to {self.size[0]}x{self.size[1]} ({self.resample}, antialiased)"
            )
        if self.channels:
            steps.append("grey" if self.channels == 1 else "RGB")
        return ", ".join(steps) or "none"

    def measure(self, data: bytes) -> tuple[int, int, int]:
        """(channels, height, width) after the recipe, from the file's header alone."""
        image = _opened(data)
        height, width = self.size or (image.height, image.width)
        if self.size is None and self.crop:
            height = width = self.crop
        return self._channels(image), height, width

    def decode(self, data: bytes) -> np.ndarray:
        """Whole levels 0 to 255, (channels, height, width), uint8.

        Raises:
            BadImageError: The file is damaged, too large, or not of a kind that the recipe takes.
        """
        image = _opened(data)
        channels = self._channels(image)
        try:
            pixels = np.asarray(self._placed(image.convert("L" if channels == 1 else "RGB")))
        except BadImageError:
            raise
        except Exception as error:  # Pillow's decoders raise many types on damaged files
            raise BadImageError(f"is damaged: {error}") from error
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

    def _channels(self, image: Image) -> int:
        if image.mode.startswith(DEEP):
            raise BadImageError(f"has more than 8 bits a channel (mode {image.mode}); convert it first")
        if self.channels is None and image.mode not in PLAIN:
            raise BadImageError(
                f"is neither grey nor RGB (mode {image.mode}, {len(image.getbands())} channels); "
                "channels=1 or channels=3 converts"
            )
        return self.channels or PLAIN[image.mode]

    def _placed(self, image: Image) -> Image:
        """Cropped and resized."""
        from PIL.Image import Resampling

        if self.crop:
            image = _centre(image, self.crop, self.crop)
        if self.size is None or (image.height, image.width) == self.size:
            return image
        height, width = self.size
        if image.height * width <= image.width * height:
            box = image.height, max(1, image.height * width // height)
        else:
            box = max(1, image.width * height // width), image.width
        return _centre(image, *box).resize((width, height), Resampling[self.resample.upper()])


def _centre(image: Image, height: int, width: int) -> Image:
    """The centred box of so many pixels."""
    if image.height < height or image.width < width:
        raise BadImageError(f"is {image.height}x{image.width}, smaller than the crop of {height}x{width}")
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _opened(data: bytes) -> Image:
    """An image whose header was read and whose pixels were not."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadImageError(f"is too large: {error}") from error
    except Exception as error:
        raise BadImageError("is damaged, or no image") from error
    if image.width * image.height > MOST_PIXELS:
        raise BadImageError(f"is too large: {image.height}x{image.width} pixels, at most {MOST_PIXELS} are decoded")
    return image
