"""Running out of memory: how it shows, and how much is used."""

from __future__ import annotations

import sys

import torch

SIGNS = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch's errors say where an allocation failed."""


class MemoryExhaustedError(RuntimeError):
    """Even the smallest piece of work does not fit; the message says what to make smaller."""

    exit_code = 70


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def peak_megabytes(device: str) -> float:
    """The most memory in use so far, MiB: of this process, or on the GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)
