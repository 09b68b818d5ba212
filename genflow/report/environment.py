"""The machine and the versions of packages behind the numbers; imports none of them."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from genflow import __version__
from genflow.bench.pool import usable_cores

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "torchdiffeq", "torchsde", "clean-fid", "matplotlib",
    "safetensors",
)  # fmt: skip


def environment(device: str = "cpu") -> dict[str, str]:
    """Name -> value, for people; packages that are not installed are left out.

    Arguments:
        device: The torch device of the bench.
    """
    found = {"genflow": __version__, "Python": platform.python_version(), "platform": platform.platform()}
    found |= {"CPU": _cpu(), "cores this process may use": str(usable_cores())}
    found |= {"threads (OMP_NUM_THREADS)": os.environ.get("OMP_NUM_THREADS", "not set"), "device": _device(device)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _device(device: str) -> str:
    """The device, with its name where torch is imported already."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return device
    return f"{device} ({torch.cuda.get_device_name(device)})"
