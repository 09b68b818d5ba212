"""Published weights into a network of the same names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def load_published(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Takes the weights of a published network, as its checkpoint's "model" holds them.

    Names may begin with "module."; the table "sigmas" is left out, since the caller tells the noise level.

    Raises:
        ValueError: The weights belong to another design; the first difference is named.
    """
    names = {name.removeprefix("module."): value for name, value in weights.items()}
    names.pop("sigmas", None)
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in names.items()}
    for name in [*own, *given]:
        if own.get(name) != given.get(name):
            raise ValueError(
                f"the weights do not fit this {type(network).__name__}: {name} is {given.get(name, 'missing')} in "
                f"them and {own.get(name, 'missing')} here. Build it with the options of the published "
                "configuration (`published_options`)"
            )
    network.load_state_dict(names)
