"""Guidance by a classifier's gradient: the score of an unconditional model plus that of the class,

    ∇ log p_t(x | c) = ∇ log p_t(x) + w ∇ log p_t(c | x),   w = 1 for Bayes' rule.

Velocity and posterior mean follow from the score where the base is Gaussian: X̂ moves by w (b²/a) ∇ log p_t(c | x), and
dx/dt = a' X̂ + b' N̂ with it.

Source: Song et al. 2021, arXiv:2011.13456; w: Dhariwal & Nichol 2021, arXiv:2105.05233.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genflow.checks import is_number, require
from genflow.process.field import BackboneLike, Field


class ClassifierField(Field):
    """A field that is guided towards classes by a classifier of noisy states.

    Arguments:
        process: A process with a score.
        backbone: Its network, without classes.
        classifier: Logits (B, classes) at x (B, *) and native time t (); differentiable in x.
        towards: Class of each row, (B,), int64.
        weight: w; 0 is the field itself.

    Raises:
        ValueError: The process has no score, with the reason.
    """

    def __init__(
        self,
        process: Any,
        backbone: BackboneLike,
        classifier: Callable[[Tensor, Tensor], Tensor],
        towards: Tensor,
        weight: float = 1.0,
    ) -> None:
        require("ClassifierField", {"weight": (weight, is_number(weight) and weight >= 0, "a number of at least 0")})
        if process.why_not("score"):
            raise ValueError(process.why_not("score"))
        super().__init__(process, backbone)
        self.affine = process
        self.classifier, self.towards, self.weight = classifier, towards, float(weight)

    def gradient(self, x: Tensor, t: Tensor) -> Tensor:
        """w ∇ log p_t(class | x), shape (B, *)."""
        if self.weight == 0:
            return torch.zeros_like(x)
        with torch.enable_grad():
            inner = x.detach().clone().requires_grad_()
            logs = self.classifier(inner, t).log_softmax(1)
            (found,) = torch.autograd.grad(logs.gather(1, self.towards[:, None]).sum(), inner)
        return self.weight * found

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (velocity, score), pull, c = super().velocity_and_score(x, t), self.gradient(x, t), self.affine.at(t, x)
        return velocity + (c.da * c.b / c.a - c.db) * c.b * pull, score + pull

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.velocity_and_score(x, t)[0]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return self.velocity_and_score(x, t)[1]

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        c = self.affine.at(t, x)
        return super().data(x, t) + c.b**2 / c.a * self.gradient(x, t)

    def ddim_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        c, end, data = self.affine.at(t, x), self.affine.at(s, x), self.data(x, t)
        return end.a * data + end.b * (x - c.a * data) / c.b

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.towards = self.towards[rows.to(self.towards.device)]
