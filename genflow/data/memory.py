"""Whether images of a size fit in memory, asked before anything is read."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from genflow.data.decoding import MOST_PIXELS

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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
    needed, room = decoded + 2 * held * values, free_bytes()
    if needed > room:
        raise ValueError(
            f"{owner}: images of {height}x{width} pixels need at least {megabytes(needed)} of memory, "
            f"and {megabytes(room)} are free; give a smaller size"
        )


def megabytes(count: float) -> str:
    """A number of bytes in words."""
    return f"{count / 2**20:,.0f} MiB"


def free_bytes() -> float:
    """Bytes that this process can still take at most: by the machine's memory, its container's, and `ulimit -v`."""
    return min(_machine(), _container(), _address_space())


def _machine() -> float:
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf


def _container() -> float:
    for path in CGROUPS:
        with suppress(OSError, ValueError):  # "max" means no limit
            return float(int(Path(path).read_text()))
    return math.inf


def _address_space() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return math.inf
    used = 0
    with suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return float(max(limit - used, 0))
