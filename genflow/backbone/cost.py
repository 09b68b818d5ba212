"""The cost of a backbone: its parameters, and the arithmetic of one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from genflow.registry import registries


class Cost(NamedTuple):
    """Trained parameters, and floating-point operations of one call on one sample."""

    parameters: int
    flops: int


def cost(name: str, shape: tuple[int, ...], **options: Any) -> Cost:
    """Cost of a registered backbone for samples of a shape, found without running it.

    Only matrix products and convolutions count, a multiplication with its addition as two operations. A gradient step
    takes about three times as many. Fixed frequencies are not parameters.

    Raises:
        ValueError: The backbone refuses the shape or an option.
    """
    with torch.device("meta"):
        network = registries()["backbones"].get(name, shape=shape, **options).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.empty(1, *shape), torch.empty(1))
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops())
