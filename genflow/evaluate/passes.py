"""One pass over images or vectors: moments of their features, the first features, and class scores, all mergeable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genflow.evaluate.checks import check_features
from genflow.evaluate.features import Space, Watch
from genflow.evaluate.frechet import Gaussian, RunningStatistics, factor


class Moments:
    """Mean and covariance of a stream of features, in float64; memory does not grow with n.

    Up to `block` rows are buffered, so that the covariance is updated by large products. A stream of no more than d
    rows keeps them: they give the covariance more exactly, and in less memory.

    Arguments:
        dim: Features d.
        block: Rows in the buffer; at least d.
    """

    def __init__(self, dim: int, block: int = 0) -> None:
        self.dim, self.block = dim, max(dim, block)
        self.waiting: list[Tensor] = []
        self.count = 0
        self.folded: RunningStatistics | None = None

    @property
    def n(self) -> int:
        return self.count + (self.folded.n if self.folded else 0)

    def update(self, features: Tensor) -> None:
        """Adds a batch (B, d)."""
        self.waiting.append(features.detach().cpu())
        self.count += len(features)
        if self.count > self.block:
            self._fold()

    def _fold(self) -> None:
        if not self.count:
            return
        self.folded = self.folded or RunningStatistics(self.dim)
        self.folded.update(torch.cat(self.waiting))
        self.waiting, self.count = [], 0

    def merge(self, other: Moments) -> None:
        """Adds the examples of another one."""
        if other.folded is not None:
            self.folded = self.folded or RunningStatistics(self.dim)
            self.folded.merge(other.folded)
        for rows in other.waiting:
            self.update(rows)

    def result(self) -> Gaussian:
        """Mean and covariance, or the rows where there are no more than d; raises ValueError for fewer than two."""
        if self.folded is None and self.n <= self.dim:
            return factor(torch.cat(self.waiting) if self.waiting else torch.zeros(0, self.dim))
        self._fold()
        assert self.folded is not None
        return self.folded.result()


class ScoreSums:
    """Sums of class probabilities and of negative entropies by split, from which the Inception Score follows.

    Arguments:
        splits: Number of splits.
    """

    def __init__(self, splits: int) -> None:
        self.splits = splits
        self.counts = torch.zeros(splits, dtype=torch.float64)
        self.information = torch.zeros(splits, dtype=torch.float64)
        self.probabilities: Tensor | None = None

    def update(self, logits: Tensor, split: Tensor) -> None:
        """Adds logits (B, classes) of samples that belong to the given splits (B,)."""
        logs = logits.detach().cpu().double().log_softmax(1)
        p = logs.exp()
        if self.probabilities is None:
            self.probabilities = torch.zeros(self.splits, p.shape[1], dtype=torch.float64)
        self.counts.index_add_(0, split, torch.ones(len(p), dtype=torch.float64))
        self.information.index_add_(0, split, torch.xlogy(p, p).sum(1))
        self.probabilities.index_add_(0, split, p)

    def merge(self, other: ScoreSums) -> None:
        """Adds the examples of another one."""
        if other.probabilities is not None:
            own = self.probabilities
            self.probabilities = other.probabilities.clone() if own is None else own + other.probabilities
        self.counts, self.information = self.counts + other.counts, self.information + other.information

    def scores(self) -> Tensor:
        """exp of the mean over a split's samples of KL(p(class | x) ‖ p(class)), for every split that has samples."""
        if self.probabilities is None:
            raise ValueError("no sample was classified")
        used = self.counts > 0
        mean = self.probabilities[used] / self.counts[used, None]
        return (self.information[used] / self.counts[used] - torch.xlogy(mean, mean).sum(1)).exp()


@dataclass
class Seen:
    """Results of a pass.

    Arguments:
        moments: Mean and covariance of all features.
        keep: Most features that are kept: those of the first examples.
        kept: Their batches, each with the place of its first example, (rank that brought it, row).
        scores: Class scores, where they were asked for.
        watch: The check of the examples, where the space has one.
    """

    moments: Moments
    keep: int = 0
    kept: list[tuple[tuple[int, int], Tensor]] = field(default_factory=list)
    scores: ScoreSums | None = None
    watch: Watch | None = None

    @property
    def features(self) -> Tensor:
        """The kept features (m, d), float32, in the order of the examples."""
        rows = [rows for _, rows in sorted(self.kept, key=lambda part: part[0])]
        return torch.cat(rows)[: self.keep] if rows else torch.zeros(0, self.moments.dim)

    def hold(self, features: Tensor, place: tuple[int, int]) -> None:
        """Keeps what of a batch belongs to the first `keep` examples."""
        room = self.keep - place[1]
        if room > 0:
            self.kept.append((place, features[:room].detach().cpu().float().clone()))

    def merge(self, other: Seen) -> None:
        """Adds the results of a pass over other examples."""
        self.moments.merge(other.moments)
        self.kept += other.kept
        if self.scores is not None and other.scores is not None:
            self.scores.merge(other.scores)
        if self.watch is not None and other.watch is not None:
            self.watch.merge(other.watch)


def feature_pass(
    chunks: Iterable[Tensor],
    space: Space,
    *,
    keep: int = 0,
    split_of: Tensor | None = None,
    shared: bool = True,
    tick: Callable[[int], None] = lambda n: None,
) -> Seen:
    """One pass over raw examples; in a torch.distributed run each rank takes its part, and all get the whole.

    Arguments:
        chunks: Batches of raw examples (B, *shape).
        space: Where they are compared.
        keep: How many features to keep, those of the first examples.
        split_of: Split of every example, shape (n,), int64, where class scores are wanted; the space needs classes.
        shared: Every rank is given the same chunks, which they share out; False where each brings its own.
        tick: Called with the examples done.

    Raises:
        ValueError: Fewer than two examples, or examples or features that are not what they should be; on every rank.
    """
    rank, world = _place()
    own = _Pass(space, keep, split_of, rank if not shared else 0)
    failure: ValueError | None = None
    try:
        for i, chunk in enumerate(chunks):
            if shared and i % world != rank:
                own.row += len(chunk)
                continue
            own.add(chunk)
            tick(own.row)
    except ValueError as error:
        failure = error
    parts = [part for part in _gathered(failure or own.seen, world) if part is not None]
    for part in parts:
        if isinstance(part, ValueError):
            raise part
    seen: Seen | None = parts[0] if parts else None
    for other in parts[1:]:
        parts[0].merge(other)
    if seen is None or seen.moments.n < 2:
        raise ValueError(f"a comparison needs at least 2 examples, got {seen.moments.n if seen else 0}")
    if seen.watch is not None:
        seen.watch.finish()
    return seen


class _Pass:
    """A rank's part of a pass."""

    def __init__(self, space: Space, keep: int, split_of: Tensor | None, order: int) -> None:
        self.space, self.keep, self.split_of, self.order = space, keep, split_of, order
        self.watch = space.watch() if space.watch else None
        self.seen: Seen | None = None
        self.row = 0

    def add(self, chunk: Tensor) -> None:
        """Takes the next examples."""
        for raw in chunk.split(self.space.batch):
            ready = self.space.prepare(raw)
            if self.watch is not None:
                self.watch.update(ready)
            features = self.space.features(ready)
            check_features(features, "examples")
            if self.seen is None:
                scores = None if self.split_of is None else ScoreSums(int(self.split_of.max()) + 1)
                self.seen = Seen(Moments(features.shape[1]), self.keep, [], scores, self.watch)
            self._take(self.seen, features)

    def _take(self, seen: Seen, features: Tensor) -> None:
        if seen.scores is not None and self.split_of is not None:
            assert self.space.logits is not None
            seen.scores.update(self.space.logits(features), self.split_of[self.row : self.row + len(features)])
        seen.moments.update(features)
        seen.hold(features, (self.order, self.row))
        self.row += len(features)


def _place() -> tuple[int, int]:
    """Rank and number of ranks."""
    import torch.distributed as dist

    running = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if running else (0, 1)


def _gathered(own: Any, world: int) -> list[Any]:
    """The objects of all ranks, in their order."""
    if world == 1:
        return [own]
    import torch.distributed as dist

    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, own)
    return parts
