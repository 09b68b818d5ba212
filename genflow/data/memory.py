"""Whether images of a size fit in memory, asked before anything is read."""

from __future__ import annotations

import math

from genflow.data.decoding import MOST_PIXELS
from genflow.memory import room


def check_size(owner: str, size: tuple[int, int]) -> None:
    """Raises ValueError for a size of more pixels than are decoded of a file."""
    if math.prod(size) > MOST_PIXELS:
        raise ValueError(
            f"{owner}: size = {list(size)} is too large: an image would have {math.prod(size):,} pixels; "
            f"give a size of at most {MOST_PIXELS:,} pixels ({math.isqrt(MOST_PIXELS)}x{math.isqrt(MOST_PIXELS)})"
        )


def check_room(owner: str, shape: tuple[int, int, int], held: int) -> None:
    """Raises ValueError where one image being decoded, and the images that are held, do not fit in memory.

    Arguments:
        owner: The data set's name.
        shape: (channels, height, width) of an image.
        held: Images that are held as bytes; they are collected first and then put together, which takes twice that.
    """
    channels, height, width = shape
    pixels, values = height * width, channels * height * width
    decoded = 8 * pixels + 9 * values  # Pillow's 4 bytes a pixel twice; bytes, raw and scaled float32 values
    needed, free = decoded + 2 * held * values, room()
    if needed > free:
        raise ValueError(
            f"{owner}: images of {height}x{width} pixels need at least {megabytes(needed)} of memory, "
            f"and {megabytes(free)} are free; give a smaller size"
        )


def megabytes(count: float) -> str:
    """A number of bytes in words."""
    return f"{count / 2**20:,.0f} MiB"
