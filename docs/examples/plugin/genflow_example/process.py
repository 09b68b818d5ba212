"""A process: the variance-exploding path with its noise exponential in time."""

from __future__ import annotations

from torch import Tensor

from genflow.process import AffineProcess, Coefficients


class ExponentialVE(AffineProcess):
    """x_t = X + exp(t) N for t in [log 0.001, log 500].

    Time runs from `t_data` to `t_prior`. Sampling, training targets, likelihood and score follow from the coefficients
    of x_t = a X + b N and their derivatives. The noise levels b/a must reach over those of a bench's controlled terms,
    0.003 to 100 of the data's standard deviations, unless the bench has --terms published.
    """

    t_data, t_prior = -6.9, 6.2

    def coefficients(self, t: Tensor) -> Coefficients:
        b = t.exp()
        return Coefficients(a=1.0, b=b, da=0.0, db=b)
