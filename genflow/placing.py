"""Host tensors onto a device: those of a step together, in one copy that the host does not wait for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes between whose multiples the tensors begin in the copy."""


def place(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Host tensors on a device, in their dtypes and shapes; themselves where they are there already.

    For CUDA they are staged in page-locked memory, so the copy runs while the host goes on; its allocator does not
    reuse that memory before the copy has ended.
    """
    device = torch.device(device)
    if device.type == "cpu" or not tensors:
        return list(tensors)
    if not all(t.is_cpu for t in tensors):
        placed = iter(place([t for t in tensors if t.is_cpu], device))
        return [next(placed) if t.is_cpu else t for t in tensors]
    bytes_of = [t.numel() * t.element_size() for t in tensors]
    sizes = [math.ceil(count / ALIGNMENT) * ALIGNMENT for count in bytes_of]
    staged = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    views = [(t.dtype, t.shape, count) for t, count in zip(tensors, bytes_of, strict=True)]
    for t, part in zip(tensors, _split(staged, sizes, views), strict=True):
        part.copy_(t)
    return _split(staged.to(device, non_blocking=device.type == "cuda"), sizes, views)


def _split(whole: Tensor, sizes: Sequence[int], views: Sequence[tuple[torch.dtype, torch.Size, int]]) -> list[Tensor]:
    parts = zip(whole.split(list(sizes)), views, strict=True)
    return [part[:count].view(dtype).view(shape) for part, (dtype, shape, count) in parts]
