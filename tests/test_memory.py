"""Memory that ends: every way in which it shows is exit code 70 and a line that names what to make smaller."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch

import genflow
from genflow import cli
from genflow.memory import MemoryExhaustedError, check_room, is_out_of_memory, room, to_bytes

Panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


def caused(error, cause):
    error.__cause__ = cause
    return error


FAILED = [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(float)) if hasattr(np, "_core") else MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("can't start new thread"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("Storage size calculation overflowed with sizes=[9223372036854775807, 2]"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    Panic("PyObject pointer is null"),
    caused(RuntimeError("a checkpoint that cannot be read"), MemoryError()),
    MemoryExhaustedError("one sample at a time does not fit"),
]


@pytest.mark.parametrize("error", FAILED, ids=lambda e: f"{type(e).__name__} {str(e)[:30]}")
@pytest.mark.parametrize("command", ["train", "sample", "bench", "doctor"])
def test_every_sign_is_exit_code_70_and_one_line(error, command, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["genflow", command])
    assert cli.run() == 70
    said = capsys.readouterr().err
    assert said.startswith("genflow: ")
    assert said.count("\n") == 1
    if not isinstance(error, MemoryExhaustedError):
        assert said.endswith(f"; {cli.SMALLER.get(command, 'take a smaller network, data set or batch')}\n")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), OSError(errno.ENOENT, "gone"), Panic("index out of bounds"), ValueError("x")],
)
def test_other_errors_are_no_lack_of_memory(error):
    assert not is_out_of_memory(error)


def test_every_option_that_help_names_exists():
    import click

    for command, text in cli.SMALLER.items():
        found = cli.cli.get_command(click.Context(cli.cli), command)
        known = {word for option in found.params for word in option.opts}
        named = {word.strip("(),") for word in text.split() if word.strip("(),").startswith("--")}
        assert named <= known, (command, named - known)


def test_numbers_that_do_not_fit_are_refused_with_the_largest_that_does(monkeypatch):
    monkeypatch.setattr("genflow.memory.room", lambda: 7_000_500)
    check_room("n", 7000, 1000)
    with pytest.raises(ValueError, match=r"n = 7001 is not allowed.*give at most 7,000"):
        check_room("n", 7001, 1000)


def test_room_is_what_is_free_here():
    import os

    assert 0 < room() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"width": 10**6}),
        ("mlp", {"classes": 10**10}),
        ("ncsnv2", {"features": 10**6}),
        ("ncsnpp", {"nf": 10**6}),
        ("ddpmpp", {"ch_mult": [10**5]}),
        ("ddpm", {"nf": 10**9}),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_they_are_built(name, options):
    """In less time than it would take to fill the memory, with the option that made them so large."""
    said = (
        rf"'{name}' with {next(iter(options))} = .*(parameters, which take .* GiB of memory|too large for any machine)"
    )
    with pytest.raises(ValueError, match=said):
        genflow.get_backbone(name, shape=(1, 8, 8), extra_channels=0, **options)


def test_a_limit_that_leaves_too_little_is_told_before_libraries_abort(monkeypatch):
    from genflow.devices import check_device

    monkeypatch.setattr("genflow.memory.limit_left", lambda: 100.0 * 2**20)
    with pytest.raises(MemoryError, match=r"leaves 100 MiB beside its libraries, and it needs 512: raise it"):
        check_device("cpu")


def test_errors_are_explained_without_importing_anything():
    """Where memory has ended, an import would end too."""
    code = """
import sys
from genflow import cli
before = set(sys.modules)
for error in (MemoryError(), ValueError("x"), OSError(28, "full", "a"), RuntimeError("bad_alloc"), KeyError("x")):
    cli._explain(error)
assert set(sys.modules) == before, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SAVE = """
import resource, sys
import torch
from genflow.memory import is_out_of_memory, to_bytes
import safetensors.torch
tensors = {"a": torch.zeros(25_000_000)}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
try:
    to_bytes(tensors)
except BaseException as error:
    sys.exit(70 if is_out_of_memory(error) else 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
@pytest.mark.parametrize("room", [20, 60, 110, 150, 210, 250, 290, 310])
def test_memory_that_ends_while_a_state_is_saved_is_an_error_and_no_abort(room):
    done = subprocess.run([sys.executable, "-c", SAVE, str(room)], capture_output=True, text=True, timeout=60)
    assert done.returncode == (70 if room < 300 else done.returncode), done.stderr
    assert done.returncode in (0, 70), done.stderr


def test_saved_bytes_are_those_of_safetensors():
    from safetensors.torch import save

    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    assert to_bytes({"a": tensors["a"].T.contiguous().T, "b": tensors["b"]}) == save(tensors)
