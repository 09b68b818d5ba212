"""From the bytes of an image file to whole grey levels, by declared steps."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from genflow.data.image_formats import channel_bits
from genflow.data.sources import BadImageError
from genflow.former import moved

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**26
"""Largest image that is decoded (64 million pixels, 8192 x 8192)."""
PLAIN = {"1": 1, "L": 1, "RGB": 3}
"""Pillow's modes that have their channels without conversion."""
DEEP = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits a channel, which it would clip."""
BETWEEN = {"LAB": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes that Pillow converts to grey and RGB by way of another."""
SEQUENCES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO", "FLI", "DCX", "IM", "SPIDER")
"""Formats whose files are pages or a film; the other frames that Pillow knows are layers or sizes of one image."""


@dataclass(frozen=True)
class Decoder:
    """Reads images, and converts, crops and resizes them.

    Arguments:
        channels: 1 converts to grey (0.299 R + 0.587 G + 0.114 B), 3 to RGB (transparency is dropped); None converts
            nothing and takes only grey and RGB images.
        size: (height, width) after resizing; None keeps the image's own.
        crop: First the centred square of so many pixels.
        resample: Pillow's filter of the resizing, which averages over all source pixels where it shrinks.
        background: The level, 0 to 255, that is put behind transparent pixels; None drops the transparency and keeps
            the colours that are stored under it.

    Resizing first takes the largest centred box of the wanted proportions.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    crop: int | None = None
    resample: str = "bicubic"
    background: int | None = None

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
        if self.background is not None:
            steps.append(f"transparency on level {self.background}")
        return ", ".join(steps) or "none"

    def measure(self, data: bytes, frame: int = 0) -> tuple[int, int, int]:
        """(channels, height, width) of what `decode` gives, for the first frame from the file's header alone."""
        image = _at(_opened(data), frame)
        height, width = self.size or (image.height, image.width)
        if self.size is None and self.crop:
            height = width = self.crop
        return self._channels(image), height, width

    def decode(self, data: bytes, frame: int = 0, tell: Callable[[Image], None] = lambda image: None) -> np.ndarray:
        """Whole levels 0 to 255, (channels, height, width), uint8.

        Arguments:
            data: The image file.
            frame: Which of its frames.
            tell: Sees the image before its pixels are read.

        Raises:
            BadImageError: The file is damaged, too large, or of a kind that this decoder does not take.
        """
        image = _at(_opened(data), frame)
        tell(image)
        channels = self._channels(image)
        with _damage_named():
            image.load()
        with _damage_named("cannot be converted"):
            pixels = np.asarray(self._placed(self._converted(image, "L" if channels == 1 else "RGB")))
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

    def _converted(self, image: Image, mode: str) -> Image:
        from PIL import Image as images

        if self.background is None or not image.has_transparency_data:
            between = "RGBA" if "transparency" in image.info and image.mode == "P" else BETWEEN.get(image.mode)
            return (image.convert(between) if between else image).convert(mode)
        canvas = images.new("RGBA", image.size, (self.background,) * 3 + (255,))
        return images.alpha_composite(canvas, image.convert("RGBA")).convert(mode)

    def _channels(self, image: Image) -> int:
        if deep := _deep_kind(image):
            raise _too_deep(deep)
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


def frames(data: bytes) -> int:
    """How many pages or frames an image file holds.

    Raises:
        BadImageError: It is damaged.
    """
    return frame_count(_opened(data))


def frame_count(image: Image) -> int:
    """How many pages or frames an opened image has; layers and sizes of one image do not count."""
    with _damage_named():
        return int(getattr(image, "n_frames", 1)) if image.format in SEQUENCES else 1


def orientation(image: Image) -> int:
    """The EXIF orientation that a photograph is to be shown in, 1 to 8; 1 where it is stored upright.

    TIFF images count as upright: Pillow turns them as it reads them.
    """
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    with _damage_named():
        found = image.getexif().get(0x0112, 1)
    return found if found in range(1, 9) else 1


def _at(image: Image, frame: int) -> Image:
    if frame:
        with _damage_named():
            image.seek(frame)
    return image


def _opened(data: bytes) -> Image:
    """An image whose header was read and whose pixels were not."""
    from PIL import Image

    if (bits := channel_bits(data)) > 8:
        raise _too_deep(f"{bits} bits")
    try:
        with _damage_named():
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadImageError(f"is too large: {error}") from error
    if image.width * image.height > MOST_PIXELS:
        raise BadImageError(f"is too large: {image.height}x{image.width} pixels, at most {MOST_PIXELS} are decoded")
    return image


def _deep_kind(image: Image) -> str:
    """How an opened image has more than 8 bits a channel: by its mode, or by what Pillow will read into one of 8 bits.

    The header may hide the depth in another place than the usual one; what Pillow passes to its decoder is right.
    """
    if image.mode.startswith(DEEP):
        return f"mode {image.mode}"
    for tile in getattr(image, "tile", ()):
        raw, *more = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if re.search(r"^(?!BGR).*;(12|16|32)", str(raw)):  # BGR;16 has 5 or 6 bits a channel
            return f"stored as {raw}"
        if tile.codec_name.startswith("ppm") and max(more, default=0) > 255:
            return f"levels up to {more[0]}"
    return ""


def _too_deep(found: str) -> BadImageError:
    return BadImageError(
        f"has more than 8 bits a channel ({found}), which would be cut; convert it to 8 bits, "
        "or store floats in an array file with range=[low, high]"
    )


@contextmanager
def _damage_named(problem: str = "is damaged") -> Iterator[None]:
    """Pillow's decoders raise many types on damaged files; memory that ends is no damage."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (MemoryError, BadImageError, Image.DecompressionBombError):
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("is damaged, or no image that Pillow reads") from error
    except Exception as error:
        if "out of memory" in str(error):
            raise MemoryError(str(error)) from error
        raise BadImageError(f"{problem}: {error}") from error


__getattr__ = moved(__name__)
