"""The former place of `Backbone.load_published`; it goes with the next version."""

import warnings
from collections.abc import Mapping

from torch import Tensor

from genflow.backbone.base import Backbone


def load_published(network: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Loads published weights by `Backbone.load_published`, with a warning."""
    warnings.warn("load_published is now a method of Backbone; the next version removes the function", FutureWarning, 2)
    network.load_published(weights)
