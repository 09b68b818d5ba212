"""The posterior mean X̂ = E[X | x_t] over a finite set of data points, the only routine for it.

    X̂ = Σ_j w_j y_j,   w_j ∝ k((x − a y_j)/b)

with k the density of the base: a softmax of −|x − a y_j|²/(2b²) for a Gaussian, of
−(ν + N)/2 · log(ν b² + |x − a y_j|²) for a Student-t with ν degrees of freedom (Cauchy, ν = 1, for Poisson flow). It is
the large-batch target of Poisson flow (Xu et al. 2022, arXiv:2209.11178), the stable target of score models (Xu et
al. 2023, arXiv:2302.00670) and the exact field of a finite data set, the oracle. By matrix products in chunks, whose
softmaxes are merged: the B x M x N differences of the formula never exist, and no one needs to hold all y_j. Several
ranks with a part each merge in the same way (`Shard`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genflow.process.bases import Base
from genflow.process.shapes import dimension

CHUNK = 4096
"""References per matrix product: the extra memory is a few B x CHUNK numbers."""

NEGLIGIBLE = -60.0
"""Log weights this far below the row's largest count as none: their products would be denormal, and slow."""


class Weighing(Protocol):
    """What the posterior needs of a process: a(t), b(t) and the density of its base."""

    @property
    def base(self) -> Base: ...
    def at(self, t: Tensor, x: Tensor) -> Any: ...


class Shard(Protocol):
    """A set of references of which each rank holds a part; every rank asks for the mean over all of them at once."""

    def __iter__(self) -> Iterator[Tensor]:
        """The points of this rank's part, (m, *) at a time."""

    def largest(self, numbers: Tensor) -> Tensor:
        """The largest over the ranks, entry by entry."""

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over the ranks."""


class _Mean(NamedTuple):
    """A mean over some of the references: the largest log weight and the sum of weights relative to it, both (B, 1),
    and the mean, (B, N)."""

    best: Tensor
    total: Tensor
    mean: Tensor

    @classmethod
    def of(cls, logits: Tensor, rows: Tensor) -> _Mean:
        """Over rows (m, N) with log weights (B, m)."""
        weights = _softmax(logits)
        return cls(logits.amax(1, keepdim=True), 1 / weights.amax(1, keepdim=True), weights @ rows)

    def joined(self, other: _Mean) -> _Mean:
        """The mean over both."""
        best = torch.maximum(self.best, other.best)
        own, its = self.total * (self.best - best).exp(), other.total * (other.best - best).exp()
        total = own + its
        return _Mean(best, total, self.mean * (own / total) + other.mean * (its / total))

    def over_ranks(self, shard: Shard) -> _Mean:
        """The mean over the parts of all ranks."""
        best = shard.largest(self.best)
        own = self.total * (self.best - best).exp()
        sums = shard.total(torch.cat([own, own * self.mean], dim=1))
        return _Mean(best, sums[:, :1], sums[:, 1:] / sums[:, :1].clamp_min(torch.finfo(sums.dtype).tiny))


def posterior_mean(
    x: Tensor,
    t: Tensor,
    refs: Tensor | Sequence[Tensor | Shard],
    process: Weighing,
    classes: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """E[X | x_t = x] for X uniform over refs.

    X̂ = Σ_j w_j y_j, w = softmax_j log k((x − a y_j)/b), k the density of the process's base. Of |x − a y_j|² only the
    part that differs between references enters the weights, and data far from the origin is centred first, so
    rounding stays small both far from the data and at large N. Exact duplicates simply share their weight.

    Arguments:
        x: States, shape (B, *), data units.
        t: Native time, shape () or (B,), not t_data itself (there b = 0).
        refs: Data points, shape (M, *), M >= 1, or several such tensors, which are not joined in memory; with them,
            sets of which each rank holds a part.
        process: Gives a(t), b(t) and the base.
        classes: Labels of the rows (B,) and of the references (M,), a single tensor: each row averages over its class.

    Returns:
        Shape (B, *), x's dtype.
    """
    given = [refs] if isinstance(refs, Tensor) else list(refs)
    parts = [part.flatten(1) for part in given if isinstance(part, Tensor) and len(part)]
    shards = [part for part in given if not isinstance(part, Tensor)]
    if not parts and not shards:
        raise ValueError("posterior_mean needs at least one reference point, got 0")
    if not x.is_cpu and len(parts) > 1 and sum(map(len, parts)) <= CHUNK:
        parts = [torch.cat(parts)]  # a copy costs a device less than a second round of its kernels
    c, centre = process.at(t, x), _centre(parts[0]) if parts else None
    states = _States(x.flatten(1), c.a.reshape(-1, 1), c.b.reshape(-1, 1), process.base, centre)
    chunks = [chunk for part in parts for chunk in part.split(CHUNK)]
    hidden: Sequence[Tensor | None] = [None] * len(chunks)
    if classes is not None:
        hidden = (classes[0][:, None] != classes[1]).split([len(chunk) for chunk in chunks], dim=1)
    if len(chunks) == 1 and not shards:
        logits, rows = states.weigh(chunks[0], hidden[0])
        mean = _softmax(logits) @ rows
    else:
        means = [states.over(zip(chunks, hidden, strict=True))] if chunks else []
        own = [states.over((c, None) for part in shard for c in part.flatten(1).split(CHUNK)) for shard in shards]
        means += [mean.over_ranks(shard) for mean, shard in zip(own, shards, strict=True)]
        mean = reduce(_Mean.joined, means).mean
    return (mean if centre is None else mean + centre).reshape(x.shape)


def _softmax(logits: Tensor) -> Tensor:
    """Weights (B, m) of log weights; on a host none so small that arithmetic with it is slow."""
    if logits.is_cpu:
        logits = torch.nn.functional.threshold(logits - logits.amax(1, keepdim=True), NEGLIGIBLE, -torch.inf)
    return logits.softmax(1)


class _States:
    """States x (B, N) with their coefficients (B, 1), from which the weights of references follow."""

    def __init__(self, x: Tensor, a: Tensor, b: Tensor, base: Base, centre: Tensor | None) -> None:
        self.x = x if centre is None else torch.addcmul(x, a, centre, value=-1)
        self.a, self.b, self.base, self.centre = a, b, base, centre
        self.norm2 = torch.linalg.vector_norm(self.x, dim=1, keepdim=True).square()
        self.lowest = torch.finfo(x.dtype).min

    def weigh(self, chunk: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log weights (B, m) of references (m, N), as good as none where `hidden` (B, m), and the centred rows."""
        rows = chunk if self.centre is None else chunk - self.centre
        reach = self.a * torch.linalg.vector_norm(rows, dim=1)
        cross = torch.addcmul(reach.square(), self.a, self.x @ rows.T, value=-2)
        logits = self.base.log_weights(cross, self.norm2, self.b, dimension(self.x))
        return logits if hidden is None else logits.masked_fill(hidden, self.lowest), rows

    def over(self, chunks: Iterable[tuple[Tensor, Tensor | None]]) -> _Mean:
        """The mean over chunks of references, or over none."""
        means = (_Mean.of(*self.weigh(chunk, hidden)) for chunk, hidden in chunks)
        none = torch.zeros_like(self.norm2)
        return reduce(_Mean.joined, means, _Mean(none + self.lowest, none, torch.zeros_like(self.x)))


def _centre(points: Tensor) -> Tensor | None:
    """The mean of some of the points where they lie far from the origin for their spread, else None.

    On a device always the mean: the host would have to wait for the answer, and it does no harm.
    """
    some = points[:: max(1, len(points) // 64)]
    centre = some.mean(0)
    if not points.is_cpu:
        return centre
    spread = (some - centre).square().sum(1).mean()
    return centre if bool(centre.square().sum() > 4 * spread) else None
