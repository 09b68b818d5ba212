"""Running out of memory: how it shows, and how much is used. Imports torch only where it is asked about a GPU."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "failed to allocate",
    "memory allocation of",
    "bad_alloc",
    "alloc_failed",
    "allocation_failed",
    "cublascreate",
    "cublasltcreate",
    "cudnncreate",
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "can't start new thread",
    "failed to map segment",
    "storage size calculation overflowed",
    "cannot be represented as a symint",
    "memoryerror",
    "error return without exception set",
)
"""What errors say where an allocation failed: torch's, numpy's, those of C++, CUDA, Metal, threads and the loader.

cuBLAS and cuDNN say that they are not initialised where no memory is left for their handles and workspaces."""

PANICS = (*SIGNS, "pointer is null")
"""The same of libraries in Rust, whose panics are not an `Exception`."""


class MemoryExhaustedError(RuntimeError):
    """Even the smallest piece of work does not fit; the message says what to make smaller."""

    exit_code = 70


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error is a failed allocation, on a GPU or on the host, or was caused by one."""
    return any(_failed_allocation(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it stands for."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _failed_allocation(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError | MemoryExhaustedError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    ):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    panic = type(error).__name__ == "PanicException"
    if not panic and not isinstance(error, RuntimeError | ImportError | OSError | SystemError):
        return False
    text = str(error).lower()
    return any(sign in text for sign in (PANICS if panic else SIGNS))


def to_bytes(tensors: Mapping[str, Tensor], notes: dict[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file, with notes in its head.

    The library ends the process where its own allocation fails, so room is asked for here first: for one copy of the
    tensors, the file, and one copy of that.

    Raises:
        MemoryError: There is no room.
    """
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    size = sum(value.numel() * value.element_size() for value in plain.values())
    try:
        bytearray(3 * size + 2**24)
    except MemoryError:
        raise MemoryError(f"unable to allocate {3 * size / 2**20:.0f} MiB to save {size / 2**20:.0f} MiB") from None
    return save(plain, metadata=notes)


def peak_megabytes(device: str) -> float:
    """The most memory in use so far, MiB: of this process, or on the GPU."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if torch.device(device).type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def room() -> float:
    """Bytes that this process may still take: of the machine, its control group, or its own limit; inf if unknown."""
    found = [_words_in("/proc/meminfo").get("MemAvailable", float("inf")) * 1024]
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        folder = "/sys/fs/cgroup" if limit == "memory.max" else "/sys/fs/cgroup/memory"
        found.append(_number_in(f"{folder}/{limit}", float("inf")) - _number_in(f"{folder}/{used}", 0.0))
    with suppress(OSError, ValueError, AttributeError):
        found.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    return max(0.0, min(*found, limit_left()))


TO_WORK = 512 * 2**20
"""Bytes of address space below which libraries abort instead of saying that their allocation failed."""


def check_limit() -> None:
    """Raises MemoryError where a limit of this process (ulimit -v) leaves too little beside the libraries."""
    if limit_left() < TO_WORK:
        raise MemoryError(
            f"the limit of this process's memory leaves {limit_left() / 2**20:.0f} MiB beside its libraries, and it "
            f"needs {TO_WORK / 2**20:.0f}: raise it (ulimit -v)"
        )


def limit_left() -> float:
    """Bytes of address space that this process's own limit leaves; inf where there is none."""
    with suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            return limit - 1024 * _words_in("/proc/self/status").get("VmSize", 0.0)
    return float("inf")


def check_room(option: str, count: int, each: float) -> None:
    """Refuses a number of things that this machine cannot hold at once, before any work.

    Arguments:
        option: What was given, for the message.
        count: How many.
        each: Bytes of one.

    Raises:
        ValueError: They do not fit; the largest number that may is said.
    """
    here = room()
    if count * each > here:
        raise ValueError(
            f"{option} = {count} is not allowed: it takes {count * each / 2**30:,.1f} GiB of memory, and this machine "
            f"has {here / 2**30:,.1f} GiB free; give at most {int(here // each):,}"
        )


def check_weights(what: str, count: int, each: float) -> None:
    """Refuses a network that this machine cannot hold, before it is built.

    Arguments:
        what: The network with its options, for the message.
        count: Its parameters.
        each: Bytes that one of them takes.

    Raises:
        ValueError: They do not fit.
    """
    here = room()
    if count * each > here:
        raise ValueError(
            f"{what} has {count:,} parameters, which take {count * each / 2**30:,.1f} GiB of memory, and this machine "
            f"has {here / 2**30:,.1f} GiB free; take a smaller one"
        )


def _number_in(path: str, default: float) -> float:
    """The number that a file of the system holds; the default where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return default


def _words_in(path: str) -> dict[str, float]:
    """Numbers by name, as "Name:  123 kB" stands in files of the system."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            pairs = [line.partition(":")[::2] for line in file]
    except OSError:
        return {}
    return {name: float(text.split()[0]) for name, text in pairs if text.split()[1:] == ["kB"]}
