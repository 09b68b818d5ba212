"""Which devices this machine has, in the order of `--device auto`, and why others are missing.

Imports torch only where the machine may have an accelerator: a command that computes nothing starts without it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

AUTO = "auto"
"""The device that stands for the first of CUDA, MPS and CPU that is here."""

NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")
"""Files by which Linux shows a card of NVIDIA or AMD, or one of Windows beneath it."""


def chosen(device: str) -> str:
    """The device that a name stands for: the name itself, but for "auto"."""
    if device != AUTO:
        return device
    if not _torch_matters():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def cards(device: str) -> int:
    """How many cards a device without a number stands for: all of CUDA's for "cuda", else one."""
    if device != "cuda" or not _torch_matters():
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def _torch_matters() -> bool:
    """Whether torch could find an accelerator, as far as the system shows without it."""
    return "torch" in sys.modules or not sys.platform.startswith("linux") or any(map(os.path.exists, NODES))


def found() -> list[str]:
    """Every device that is here, by its name and model."""
    import torch

    here = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        here += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return here + (["mps"] if torch.backends.mps.is_available() else [])


def missing() -> list[str]:
    """Why there is no CUDA or no MPS device, one phrase for each that is not here."""
    import torch

    reasons = {"cuda": _no_cuda(torch), "mps": _no_mps(torch)}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def _no_cuda(torch: Any) -> str:
    if torch.cuda.is_available():
        return ""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA; install a build with it (pytorch.org/get-started)"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (not hidden.strip() or hidden.strip().startswith("-1")):
        return f"CUDA_VISIBLE_DEVICES = '{hidden}' hides every card; unset it"
    runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    if sys.platform.startswith("linux") and not any(map(os.path.exists, NODES)):
        return f"torch is built for {runtime}, but no card or driver is visible (try nvidia-smi)"
    return f"torch is built for {runtime}, but its driver does not answer; it may be too old (try nvidia-smi)"


def _no_mps(torch: Any) -> str:
    if torch.backends.mps.is_available():
        return ""
    if sys.platform != "darwin":
        return "only Macs have it"
    if not torch.backends.mps.is_built():
        return f"torch {torch.__version__} is built without MPS; install a build for Apple silicon"
    return "it needs Apple silicon and macOS 14 or later"
