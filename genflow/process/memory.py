"""Values that are computed once for each key and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from genflow.placing import place


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


class RowNumbers:
    """Numbers per sample that follow from one batch of times on the host, on the device of its states.

    All of them go there in one copy, the first time one is asked for, and those of the last batch are kept: pairs,
    targets, network and loss ask for the same.
    """

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._kept: dict[str, Tensor] = {}

    def get(self, t: Tensor, x: Tensor, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Tensor]:
        """By name, each of shape (B,), in x's dtype and on its device; `make` gives them as numbers or (B,) float64."""
        of = (t, t._version, x.dtype, x.device)
        if not self._of or self._of[0] is not t or self._of[1:] != of[1:]:
            found = {n: torch.as_tensor(v, dtype=torch.float64).expand(t.shape) for n, v in make().items()}
            if any(v.requires_grad for v in found.values()):  # learnt coefficients: their graph serves one pass
                return {n: v.to(x.device, x.dtype) for n, v in found.items()}
            table = place([torch.stack([*found.values()]).to(x.dtype)], x.device)[0]
            self._of, self._kept = of, dict(zip(found, table.unbind(), strict=True))
        return self._kept


def crosses(t: Tensor, x: Tensor) -> bool:
    """Whether a batch of times on the host belongs to states on a device."""
    return t.ndim == 1 and len(t) == len(x) and t.is_cpu and not x.is_cpu and not torch.is_inference_mode_enabled()
