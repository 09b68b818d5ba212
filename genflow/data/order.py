"""The order of rows: a fixed random one in every split of every data set, whatever its source.

Data lie sorted by class, by name or by time. Whoever took the first n rows of such a split, or blocks of it, would see
a few classes: floors, previews, kept features and likelihoods would be of another distribution. So the base of all data
sets permutes each split once, by a rule that knows only which split it is and how many rows it has.

A subclass of `Dataset` gives what it has as it is stored, and within its own methods sees its rows as they are stored.
Everybody else sees them in order: what crosses the border between the two is permuted here. `order_rows` puts the
border around a class when it is defined, so no data set, built in or plugged in, has to think of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, lru_cache, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from genflow.data.base import Dataset

SEEDS = {"train": 7919, "test": 7927}
"""Seeds of the permutations. Any other two would do; these never change, since every recorded number is of them."""
_ROWS = {"train": "train", "test": "test", "partners": "train"}
"""Attributes with an entry for each row, and the split whose rows they are."""
_FINAL = ("chunks", "order", "split", "sweep")
_NOTHING = object()
_INSIDE: ContextVar[frozenset[int]] = ContextVar("genflow_data_as_stored", default=frozenset())
"""Data sets (by id) one of whose own methods is running in this thread."""


@lru_cache(maxsize=8)
def permutation(split: str, count: int) -> Tensor:
    """Stored row of each of `count` rows, shape (count,), int64; shared, so never written to."""
    return torch.from_numpy(np.random.RandomState(SEEDS[split]).permutation(count).astype(np.int64))


def is_inside(data: Dataset) -> bool:
    """Whether the data set itself is asking, which sees its rows as they are stored."""
    return id(data) in _INSIDE.get()


@contextmanager
def as_stored(data: Dataset) -> Iterator[None]:
    """Within it the data set's rows are as they are stored."""
    before = _INSIDE.set(_INSIDE.get() | {id(data)})
    try:
        yield
    finally:
        _INSIDE.reset(before)


def _permuted(split: str, found: Any, back: bool = False) -> Any:
    """Rows as they are stored (n, *) to rows in order, or back; what has no rows is left as it came."""
    if not isinstance(found, Tensor) or not found.ndim:
        return found
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
                kept[inside] = _permuted(self.split, kept[not inside], back=inside)
            elif self.either:
                kept[inside] = self._value(data)
            else:
                with as_stored(data):
                    found = self._value(data)
                kept[inside] = found if inside else _permuted(self.split, found)
        return kept[inside]

    def __set__(self, data: Any, value: Any) -> None:
        kept = self._kept(data)
        kept.clear()
        kept[False] = _permuted(self.split, value)  # the one form that is asked for again and again

    def _kept(self, data: Any) -> dict[bool, Any]:
        """What is known of an instance's rows: as stored (True), in order (False)."""
        return data.__dict__.setdefault("_rows_kept", {}).setdefault(self.key, {})

    def _value(self, data: Any) -> Any:
        if isinstance(self.given, cached_property):
            return self.given.func(data)  # kept here, not there
        return self.given.__get__(data, type(data)) if hasattr(self.given, "__get__") else self.given


def _labels_in_order(given: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(given)
    def labels(self: Any, split: str) -> Any:
        if is_inside(self):
            return given(self, split)
        with as_stored(self):
            found = given(self, split)
        return _permuted(split, found)

    return labels


def _examples_in_order(given: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(given)
    def examples(self: Any, split: str, rows: Any) -> Any:
        if is_inside(self):
            return given(self, split, rows)
        places, back = self.order(split)[torch.as_tensor(rows).cpu()].sort()  # a disk is read from front to back
        with as_stored(self):
            found = given(self, split, places)
        return torch.empty_like(found).index_copy_(0, back.to(found.device), found)

    return examples


_METHODS = {"labels": _labels_in_order, "examples": _examples_in_order}


def order_rows(cls: type, base: type) -> None:
    """Puts the border around what a new subclass of the base gives of its rows.

    Raises:
        TypeError: It overrides a method that is the base's own.
    """
    given = {name: value for name in (*_FINAL, *_ROWS, *_METHODS) if (value := _given(cls, base, name)) is not _NOTHING}
    for name in _FINAL:
        if name in given:
            raise TypeError(
                f"{cls.__name__} overrides {name}, which gives rows in their order and is the base's own; "
                "give rows as they are stored: train and test, or count(split) and examples(split, rows)"
            )
    for name in _ROWS.keys() & given.keys():
        setattr(cls, name, Rows(name, cls, given[name]))
    for name in _METHODS.keys() & given.keys():
        setattr(cls, name, _METHODS[name](given[name]))


def _given(cls: type, base: type, name: str) -> Any:
    """What a class gives under a name, itself or by a parent that is no data set."""
    giver = next((k for k in cls.__mro__ if name in k.__dict__), base)
    return _NOTHING if giver is not cls and issubclass(giver, base) else giver.__dict__[name]
