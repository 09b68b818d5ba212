"""Classifier-free guidance: what is read of a network under class c is moved by the difference that the class makes,

    f(x, t) + w (f(x, t | c) − f(x, t)),   f the velocity, the score or the posterior mean.

The network is called twice, with the class and without; w = 1 is the plain conditional field and w = 0 the
unconditional one, of one call each. The three f are affine in one another, so w means the same for every head and
solver, which it would not if raw outputs were combined.

Source: Ho & Salimans 2022, arXiv:2207.12598, whose w is this one less 1.
"""

from __future__ import annotations

from torch import Tensor

from genflow.checks import is_number, require

NO_CLASS = -1
"""The label that stands for "no class", in training and in the second call of guidance."""


def check_guidance(guidance: float, labels: Tensor | None, classes: int) -> None:
    """Raises ValueError for a w below 0, labels for a backbone without classes, or a w that nothing steers.

    Arguments:
        guidance: w.
        labels: Class of each row, or None.
        classes: How many classes the backbone knows.
    """
    require("field", {"guidance": (guidance, is_number(guidance) and guidance >= 0, "a number of at least 0")})
    if labels is not None and not classes:
        raise ValueError("labels were given, but this backbone knows no classes; train one with classes=K")
    if labels is None and guidance != 1.0:
        raise ValueError(f"guidance = {guidance:g} needs labels: say which class to guide towards")


def guided(without: Tensor, given: Tensor, guidance: float) -> Tensor:
    """f + w (f_c − f) from f without a class and f_c with it."""
    return without + guidance * (given - without)
