"""Torch devices: which are there."""

from __future__ import annotations

import torch


def check_device(name: str) -> None:
    """Raises ValueError for a torch device that is not there, with those that are."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device = '{name}' is not here; found: {', '.join(found)}") from None
