"""Numbers per sample, shaped to multiply states (B, *)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def over(value: Tensor | float, x: Tensor) -> Tensor:
    """A coefficient () or (B,) in x's dtype and on its device, shaped to multiply x (B, *)."""
    check_floating(x)
    found = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if found.numel() not in (1, len(x)):
        raise ValueError(f"got {found.numel()} times for {len(x)} samples; give one time, or one for each sample")
    return like_rows(found.to(x.device, x.dtype), x)


def check_floating(x: Tensor) -> None:
    """Raises ValueError for states in whole numbers, in which every coefficient below one would be zero."""
    if not x.is_floating_point():
        raise ValueError(f"states have dtype {x.dtype}; give floating-point numbers, as from scaling.encode(...)")


def in_float64(x: Tensor) -> Tensor:
    """x in float64: on its own device, or on the host where that has no float64 (Apple's MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def like_rows(value: Tensor, x: Tensor) -> Tensor:
    """One number per sample, or one for all, shaped to multiply x (B, *)."""
    return value.reshape(-1, *(1,) * (x.ndim - 1))


def quick_on_host(*tensors: Tensor) -> bool:
    """Whether numpy may read these and do short work on them: it takes a third of the time of torch's operations."""
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not graph and all(x.is_cpu and x.dtype in (torch.float32, torch.float64) for x in tensors)


def dimension(x: Tensor) -> int:
    """Number of entries N of one sample."""
    return math.prod(x.shape[1:])
