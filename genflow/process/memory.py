"""Values that are computed once for each key and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class Memory:
    """What was computed for a key, for as many keys as a solver's grid has times; then it starts afresh."""

    LIMIT = 4096

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it is not known yet."""
        if key not in self._kept:
            if len(self._kept) > self.LIMIT:
                self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]

    def put(self, key: Hashable, value: Any) -> None:
        """Keeps a value that was made elsewhere."""
        self.get(key, lambda: value)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def clear(self) -> None:
        """Forgets all, as when what the values come from has changed."""
        self._kept.clear()
