"""The data order: which examples each step sees, from seeds instead of random state."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from genflow.backbone.base import check_labels
from genflow.data.base import Dataset
from genflow.data.notes import note
from genflow.distributed import ALONE, Team
from genflow.process.base import Process
from genflow.process.guidance import NO_CLASS
from genflow.random import Stream, uniform

STREAMS = ("order", "dequantise", "noise", "references", "labels", "path", "dropout", "flip")
"""Independent random streams of a training. A number depends on the step or epoch and on its row in the whole batch, so
a resumed run needs no random state, and all processes see the same data whatever else they draw."""


def stream(seed: int, name: str, index: int, device: str = "cpu") -> Stream:
    """One step or epoch of a stream, whose numbers are made on the device."""
    return Stream(seed, f"training {name}", index, device=device)


class Batches:
    """The data order: a new permutation each epoch, new flips and dequantisation, the same for every process.

    Of several ranks each reads its share of a batch and of the references; the parts are gathered, so every rank has
    the whole that a single process would have read.

    Arguments:
        dataset: Where the training split comes from.
        batch_size: Examples per step.
        seed: The run's seed.
        team: The ranks that read.
        start: (step, images): the images seen before `step`, where the batch size has changed.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, seed: int, team: Team = ALONE, start: tuple[int, int] = (0, 0)
    ) -> None:
        self.dataset, self.scaling, self.count = dataset, dataset.scaling, dataset.count("train")
        self.batch_size, self.seed, self.team, self.start = min(batch_size, self.count), seed, team, start
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)
        self._waiting: dict[bytes, Future[Tensor]] = {}

    def images(self, step: int) -> int:
        """Examples seen before a step."""
        first, seen = self.start
        return seen + (step - first) * self.batch_size

    def indices(self, step: int) -> Tensor:
        """Rows of the training split at a step; the incomplete last batch of an epoch is left out."""
        usable = self.count - self.count % self.batch_size
        epoch, place = divmod(self.images(step), usable)
        rows = self._permutation(epoch)[place : min(place + self.batch_size, usable)]
        missing = self.batch_size - len(rows)
        return torch.cat([rows, self._permutation(epoch + 1)[:missing]]) if missing else rows

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            order = torch.randperm(self.count, generator=stream(self.seed, "order", epoch))
            self._epoch, self._order = epoch, order
        return self._order

    def raw(self, rows: Tensor) -> Tensor:
        """Raw training examples by row; each rank reads its share."""
        own = self._own(rows)
        waiting = self._waiting.pop(_key(own), None)
        return self.team.gather(waiting.result() if waiting else self.dataset.examples("train", own))

    def _own(self, rows: Tensor) -> Tensor:
        share = self.team.share(len(rows))
        return rows[share.start : share.stop]

    def read_ahead(self, step: int, references: int) -> None:
        """Starts to read a later step's examples from disk; does nothing for data in memory.

        A thread reads, so no second process is needed; its errors are raised when the step asks for the examples.
        """
        if self.dataset.held:
            return
        self._waiting.clear()  # reads whose step never came
        for rows in (self.indices(step), self._reference_rows(step, references)[0]):
            own = self._own(rows)
            if len(own):
                self._waiting[_key(own)] = self._reader.submit(self.dataset.examples, "train", own)

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="genflow-read")

    def batch(self, step: int) -> Tensor:
        """The batch in data units, flipped and dequantised."""
        raw = self._flipped(self.raw(self.indices(step)), stream(self.seed, "flip", step))
        return self.scaling.encode(raw, stream(self.seed, "dequantise", step))

    def _flipped(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """The images, half of them mirrored left to right where the data set declares it."""
        if not self.dataset.flip:
            return raw
        mirrored = uniform((len(raw),), generator=generator, device=raw.device) < 0.5
        return torch.where(mirrored[:, None, None, None], raw.flip(-1), raw)

    def labels(self, step: int, dropout: float) -> Tensor:
        """The labels of the batch (B,), a share `dropout` of them replaced by `NO_CLASS`."""
        labels = self._classes[self.indices(step)]
        hidden = uniform((len(labels),), generator=stream(self.seed, "labels", step)) < dropout
        return torch.where(hidden, NO_CLASS, labels)

    @cached_property
    def _classes(self) -> Tensor:
        labels = self.dataset.labels("train")
        assert labels is not None
        return labels

    def partners(self, step: int) -> Tensor | None:
        """The draws of the base that are paired with the batch, (B, *shape); None where the data are not paired."""
        return None if self.dataset.partners is None else self.dataset.partners[self.indices(step)]

    def references(self, step: int, count: int) -> Tensor | None:
        """Up to `count` further examples, none of them in the batch; None if there are none."""
        return self._references(step, count)[0] if count else None

    def pool(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """The batch with `count` references, (M, *), and the labels of both (M,)."""
        more, rows = self._references(step, min(count, self.count))
        batch = self.batch(step)
        points = batch if more is None else torch.cat([batch, more])
        return points, self._classes[torch.cat([self.indices(step), rows])]

    def _references(self, step: int, count: int) -> tuple[Tensor | None, Tensor]:
        """Up to `count` examples outside the batch, None for none, and their rows."""
        rows, generator = self._reference_rows(step, count)
        if not len(rows):
            return None, rows
        return self.scaling.encode(self._flipped(self.raw(rows), generator), generator), rows

    def _reference_rows(self, step: int, count: int) -> tuple[Tensor, torch.Generator]:
        """Rows of up to `count` examples outside the batch, and the generator that drew them."""
        generator = stream(self.seed, "references", step)
        if not count:
            return torch.empty(0, dtype=torch.int64), generator
        others = torch.ones(self.count, dtype=torch.bool)
        others[self.indices(step)] = False
        rows = others.nonzero().flatten()
        return rows[torch.randperm(len(rows), generator=generator)[:count]], generator


def _key(rows: Tensor) -> bytes:
    return rows.numpy().tobytes()


def check_pairs(process: Process, dataset: Dataset) -> None:
    """Raises ValueError where training pairs cannot be drawn, or a network that answers 0 has no finite loss on them.

    A base may have another shape, partners may be missing, and options may leave the range of float32.
    """
    batches = Batches(dataset, 16, seed=0)
    with in_range(process, dataset):
        pairs = process.training_pairs(batches.batch(0), generator=stream(0, "noise", 0), partner=batches.partners(0))
        losses = pairs.weight * process.loss_terms(torch.zeros_like(pairs.target), pairs)
        if not (pairs.x_t.flatten(1).square().sum(1).isfinite().all() and losses.isfinite().all()):
            raise OverflowError("float32")


@contextmanager
def in_range(process: Process, dataset: Dataset) -> Iterator[None]:
    """Within it, a division by zero or an overflow is a ValueError that names the process's extreme options."""
    try:
        yield
    except (ZeroDivisionError, OverflowError) as error:
        options = process.config().items()
        numbers = {k: v for k, v in options if isinstance(v, int | float) and not isinstance(v, bool) and v}
        extreme = [f"{k} = {v:g}" for k, v in numbers.items() if not 1e-9 < abs(v) < 1e9]
        have = ", ".join(extreme) or ", ".join(f"{k} = {v:g}" for k, v in numbers.items())
        raise ValueError(
            f"{type(process).__name__} has no finite training pairs on '{dataset.name}': its options ({have}) leave "
            "the range of float32; give it values nearer to 1, or data of smaller numbers"
        ) from error


def check_data(dataset: Dataset, classes: int) -> None:
    """Raises ValueError where the labels do not fit a backbone of `classes` classes, or partners do not fit the rows.

    A note points out classes that the user asked for and the backbone does not use.
    """
    name, labels = dataset.name, dataset.labels("train") if classes else None
    if dataset.classes_asked and not classes:
        note(
            f"the {dataset.classes} classes of '{name}' are not used, since the backbone takes none; "
            f"give it classes = {dataset.classes}, or leave the data's classes out"
        )
    if classes and labels is None:
        raise ValueError(f"the backbone has classes = {classes}, but '{name}' has no labels; give it classes = 0")
    if classes and dataset.classes > classes:
        raise ValueError(
            f"the data set '{name}' has {dataset.classes} classes, the backbone {classes}; "
            f"give it classes = {dataset.classes}"
        )
    wanted = (dataset.count("train"), *dataset.shape)
    if labels is not None:
        check_labels(labels, classes, f"labels of the data set '{name}'")
    if dataset.partners is not None and tuple(dataset.partners.shape) != wanted:
        came = tuple(dataset.partners.shape)
        raise ValueError(f"the data set '{name}' has partners of shape {came} for examples of shape {wanted}")
