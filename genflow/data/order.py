"""The order of rows: a fixed random one in every split of every data set, whatever its source.

Data lie sorted by class, by name or by time. The first n rows of such a split, or blocks of it, would hold a few
classes: floors, previews, kept features and likelihoods would be of another distribution. So the base of all data
sets permutes each split once, by a rule that knows only which split it is and how many rows it has.

A subclass of `Dataset` gives what it has as it is stored, and within its own methods sees its rows as they are stored.
Everybody else sees them in order: what crosses the border between the two is permuted here. `order_rows` puts the
border around a class when it is defined, so no data set, built in or plugged in, has to think of it. Threads that such
a method starts are outside: they must not ask the data set for its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, lru_cache, partial, update_wrapper
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genflow.checks import require


class Ordered(Protocol):
    """What the order needs of a data set."""

    def count(self, split: str) -> int: ...
    def order(self, split: str) -> Tensor: ...


SEEDS = {"train": 7919, "test": 7927}
"""Seeds of the permutations. Any other two would do; these never change, since every recorded number is of them."""
_ROWS = {"train": "train", "test": "test", "partners": "train"}
"""Attributes with an entry for each row, and the split whose rows they are."""
METHODS = ("labels", "examples")
_FINAL = ("chunks", "order", "split", "sweep")
_NOTHING = object()
_INSIDE: ContextVar[frozenset[int]] = ContextVar("genflow_data_as_stored", default=frozenset())
"""Data sets (by id) one of whose own methods is running in this thread."""


@lru_cache(maxsize=8)
def permutation(split: str, count: int) -> Tensor:
    """Stored row of each of `count` rows, shape (count,), int64; shared, so never written to."""
    return torch.from_numpy(np.random.RandomState(SEEDS[split]).permutation(count).astype(np.int64))


def is_inside(data: Ordered) -> bool:
    """Whether the data set itself is asking, which sees its rows as they are stored."""
    return id(data) in _INSIDE.get()


@contextmanager
def as_stored(data: Ordered) -> Iterator[None]:
    """Within it the data set's rows are as they are stored."""
    before = _INSIDE.set(_INSIDE.get() | {id(data)})
    try:
        yield
    finally:
        _INSIDE.reset(before)


def check_split(name: str) -> None:
    """Raises ValueError for a split that no data set has."""
    require("dataset", {"split": (name, name in SEEDS, "'train' or 'test'")})


def _tensor(found: Any) -> Any:
    """What a class gives of its rows as a tensor: an array or a list becomes float32; None stays None."""
    return found if found is None or isinstance(found, Tensor) else torch.as_tensor(found).float()


def _permuted(split: str, found: Tensor | None, back: bool = False) -> Tensor | None:
    """Rows as they are stored (n, *) to rows in order, or back."""
    if found is None:
        return None
    order = permutation(split, len(found))
    return found.index_select(0, (order.argsort() if back else order).to(found.device))  # contiguous, as `examples`


class Rows:
    """An attribute with one entry for each row: given as stored, by a class or by assignment, and read in order.

    Arguments:
        name: The attribute's.
        owner: The class that gives it.
        given: A value, property or cached property of rows as they are stored.
        either: Whether `given` is made of what answers in the asker's order, so that nothing is left to permute.
    """

    def __init__(self, name: str, owner: type, given: Any, either: bool = False) -> None:
        self.name, self.split, self.given, self.either = name, _ROWS[name], given, either
        self.key = f"{owner.__module__}.{owner.__qualname__}.{name}"
        self.__doc__ = getattr(given, "__doc__", None)

    def __get__(self, data: Any, owner: type | None = None) -> Any:
        if data is None:
            return self
        kept, inside = self._kept(data), is_inside(data)
        if inside not in kept:
            if (not inside) in kept:
                kept[inside] = _permuted(self.split, _tensor(kept[not inside]), back=inside)
            elif self.either:
                kept[inside] = self._value(data)
            else:
                with as_stored(data):
                    found = self._value(data)
                kept[inside] = found if inside else _permuted(self.split, _tensor(found))
        return kept[inside]

    def __set__(self, data: Any, value: Any) -> None:
        kept = self._kept(data)
        kept.clear()
        kept[False] = _permuted(self.split, _tensor(value))  # the one form that is asked for again and again

    def _kept(self, data: Any) -> dict[bool, Any]:
        """What is known of an instance's rows: as stored (True), in order (False)."""
        return data.__dict__.setdefault("_rows_kept", {}).setdefault(self.key, {})

    def _value(self, data: Any) -> Any:
        if isinstance(self.given, cached_property):
            return self.given.func(data)  # kept here, not there
        return self.given.__get__(data, type(data)) if hasattr(self.given, "__get__") else self.given


class Method:
    """A method that answers by rows: given as stored, by a class or an instance, and called in order.

    `name` is "labels" or "examples"; the others are as of `Rows`.
    """

    def __init__(self, name: str, given: Any, either: bool = False) -> None:
        self.given, self.either, self.key = given, either, f"_given_{name}"
        self.answer: Callable[..., Any] = _labels if name == "labels" else _examples
        update_wrapper(self, given)  # type: ignore[arg-type]  # for its name and docstring

    def __get__(self, data: Any, owner: type | None = None) -> Any:
        if data is None:
            return self
        own = data.__dict__.get(self.key)
        given = own or self.given.__get__(data, type(data))
        return partial(self.answer, data, given, self.either and not own)

    def __set__(self, data: Any, value: Callable[..., Any]) -> None:
        data.__dict__[self.key] = value


def _labels(data: Ordered, given: Callable[..., Any], either: bool, split: str) -> Any:
    if is_inside(data):
        return given(split)
    check_split(split)
    with as_stored(data):
        found, total = given(split), data.count(split)
    if found is None:
        return None
    found = torch.as_tensor(found).long()
    _check_count(data, f"labels of shape {tuple(found.shape)}", found.shape == (total,), split, total)
    return _permuted(split, found)


def _examples(data: Ordered, given: Callable[..., Any], either: bool, split: str, rows: Any) -> Any:
    if is_inside(data):
        return given(split, rows)
    check_split(split)
    total = data.count(split)
    rows = row_numbers(rows, total)
    if either:
        return given(split, rows)
    places, back = permutation(split, total)[rows].sort()  # a disk is read from front to back
    with as_stored(data):
        found = _tensor(given(split, places))
    _check_count(data, f"rows of shape {tuple(found.shape)}", found.shape[:1] == (len(rows),), split, len(rows))
    return torch.empty_like(found).index_copy_(0, back.to(found.device), found)


def row_numbers(rows: Any, total: int) -> Tensor:
    """Rows from 0, shape (k,), int64, on the CPU: of whole numbers, negative ones counted from the end, or a mask.

    Raises:
        ValueError: They are something else, or there are no such rows.
    """
    try:
        found = torch.as_tensor(rows).cpu()
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(1)
    if found.dtype == torch.bool and found.shape == (total,):
        return found.nonzero()[:, 0]
    whole = found.ndim == 1 and (not len(found) or not (found.is_floating_point() or found.dtype == torch.bool))
    found = found.long() if whole else found
    passed = whole and bool(((found >= -total) & (found < total)).all())
    require("dataset", {"rows": (rows, passed, f"a list or vector of whole numbers from 0 to {total - 1}")})
    return torch.where(found < 0, found + total, found)


def _check_count(data: Ordered, what: str, passed: bool, split: str, wanted: int) -> None:
    """Raises ValueError where a data set gives too many or too few of its rows."""
    if not passed:
        raise ValueError(f"{type(data).__name__} gives {what} for {wanted} examples of its {split} split")


def order_rows(cls: type, base: type) -> None:
    """Puts the border around what a new subclass of the base gives of its rows.

    Raises:
        TypeError: It overrides a method that is the base's own.
    """
    given = {name: value for name in (*_FINAL, *_ROWS, *METHODS) if (value := _given(cls, base, name)) is not _NOTHING}
    for name in _FINAL:
        if name in given:
            raise TypeError(
                f"{cls.__name__} overrides {name}, which gives rows in their order and is the base's own; "
                "give rows as they are stored: train and test, or count(split) and examples(split, rows)"
            )
    for name in _ROWS.keys() & given.keys():
        setattr(cls, name, Rows(name, cls, given[name]))
    for name in set(METHODS) & given.keys():
        setattr(cls, name, Method(name, given[name]))


def _given(cls: type, base: type, name: str) -> Any:
    """What a class gives under a name, itself or by a parent that is no data set."""
    giver = next((k for k in cls.__mro__ if name in k.__dict__), base)
    return _NOTHING if giver is not cls and issubclass(giver, base) else giver.__dict__[name]
