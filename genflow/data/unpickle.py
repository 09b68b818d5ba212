"""Pickles of published data sets without running anything from them: plain types and arrays of numbers only.

Arrays and their types are read into stand-ins of this module and made by numpy afterwards, so a pickle reaches no
constructor but those below.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from genflow.data.downloads import DataError

_NUMBERS = re.compile(r"[|<>=]?[biuf]\d{0,2}")
"""Type codes of numbers; objects and records are refused."""


def load(data: bytes, name: str) -> Any:
    """What a pickle holds: None, numbers, text, bytes, lists, tuples, dicts, sets and arrays of numbers.

    Text of Python 2 comes as bytes, as `encoding="bytes"` gives it.

    Arguments:
        data: The pickle.
        name: Its file, for messages.

    Raises:
        DataError: It asks for anything else, whose name is given, or is damaged. Nothing of it was run.
    """
    try:
        return _finished(_Restricted(io.BytesIO(data), encoding="bytes").load())
    except _RefusedError as error:
        raise DataError(f"{name} is refused: {error}; only plain types and arrays of numbers are read") from None
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{name} is damaged: {type(error).__name__}: {error}; fetch it again") from error


def load_fields(data: bytes, name: str) -> dict[str, Any]:
    """The entries of a pickled dictionary by names that are text; none of anything else. Raises as `load` does."""
    found = load(data, name)
    if not isinstance(found, dict):
        return {}
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}


class _RefusedError(pickle.UnpicklingError):
    pass


class _Type:
    """A stand-in for numpy's dtype: its code, and the byte order that its state adds."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(self.code, str) or not _NUMBERS.fullmatch(self.code):
            raise _RefusedError(f"it asks for the array type {self.code!r}")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.code = order + self.code.lstrip("|<>=")

    def make(self) -> np.dtype:
        return np.dtype(self.code)


class _Array:
    """A stand-in for an array: filled by its state, or at once by the newer protocol."""

    def __init__(self, data: Any = b"", dtype: Any = None, shape: Any = (0,), order: Any = "C") -> None:
        self.data, self.dtype, self.shape, self.order = data, dtype, shape, order

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, fortran, self.data = state
        self.order = "F" if fortran else "C"

    def make(self) -> np.ndarray:
        data = self.data.encode("latin1") if isinstance(self.data, str) else bytes(self.data)
        return np.frombuffer(data, self.dtype.make()).reshape(self.shape, order=self.order).copy()


class _Maker:
    """A function that a pickle may call; its state cannot be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("it sets the state of a function")


def _number(dtype: _Type, data: Any) -> Any:
    return _Array(data, dtype, ())


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Bytes that Python 3 wrote in an old protocol."""
    if encoding not in ("latin1", b"latin1"):
        raise _RefusedError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _finished(value: Any) -> Any:
    """Stand-ins replaced by what they stand for."""
    if isinstance(value, _Array | _Type):
        return value.make()
    if isinstance(value, dict):
        return {_finished(key): _finished(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(map(_finished, value))
    return value


_ARRAY_CLASS = "numpy.ndarray"
"""What stands for the class itself, which `_reconstruct` is given."""

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY_CLASS,
    ("numpy", "dtype"): _Maker(_Type),
    ("_codecs", "encode"): _Maker(_encoded),
    **{(module, kind.__name__): _Maker(kind) for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **{(module, "bytes"): _Maker(lambda: b"") for module in ("builtins", "__builtin__")},
    **{
        (f"numpy.{core}.{module}", name): _Maker(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", lambda kind, shape, code: _Array()),
            ("multiarray", "scalar", _number),
            ("numeric", "_frombuffer", lambda data, dtype, shape, order, *rest: _Array(data, dtype, shape, order)),
        )
    },
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"it asks for {module}.{name}") from None
