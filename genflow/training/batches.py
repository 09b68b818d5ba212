"""The data order: which examples each step sees, from seeds instead of random state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from genflow.backbone.base import check_labels
from genflow.data.base import Dataset
from genflow.data.notes import note
from genflow.distributed import ALONE, Team
from genflow.placing import place
from genflow.process.base import Process
from genflow.process.guidance import NO_CLASS
from genflow.process.posterior import CHUNK
from genflow.random import Stream, uniform

STREAMS = ("order", "dequantise", "noise", "references", "labels", "path", "dropout", "flip")
"""Independent random streams of a training. A number depends on the step or epoch and on its row in the whole batch, so
a resumed run needs no random state, and all processes see the same data whatever else they draw."""

WHOLE = 4 * CHUNK
"""More references than these are made in parts of `CHUNK`."""
Draws = tuple[Tensor, torch.Generator, torch.Generator]
"""Row numbers (k,), and the generators that mirror and dequantise their examples."""
KEPT_BYTES = 8 * 2**30
"""Most bytes of a training split that are kept on a device: CIFAR-10 takes 0.15 GB, ImageNet at 32x32 4 GB."""


def stream(seed: int, name: str, index: int, rows: range | None = None) -> Stream:
    """One step or epoch of a stream, of all rows of its batch or of some; made on the host, ahead of the device."""
    return Stream(seed, f"training {name}", index, rows=rows)


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
        device: Where examples are wanted. Data in memory that fit are kept there whole, as bytes where they are grey
            levels, so a step sends row numbers instead of images.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        team: Team = ALONE,
        start: tuple[int, int] = (0, 0),
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
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
        """Raw training examples by row, on the device; each rank reads its share where they are not kept there."""
        return self._raw(rows, *place([rows], self.device))

    def _raw(self, rows: Tensor, placed: Tensor) -> Tensor:
        """`raw` of rows on the host that are also `placed` on the device."""
        if self._kept is not None:
            return self._kept.index_select(0, placed)
        return self.team.gather(self.own(self._own(rows)))

    def own(self, rows: Tensor) -> Tensor:
        """Raw training examples by row, on the device, read by this rank alone."""
        if self._kept is not None:
            return self._kept.index_select(0, *place([rows], self.device))
        waiting = self._waiting.pop(_key(rows), None)
        read = waiting.result() if waiting else self.dataset.examples("train", rows)
        return read if self.device.type == "cpu" else place([as_bytes(read, self.scaling.levels)], self.device)[0]

    def part(self, rows: Tensor) -> Tensor:
        """`own` for rows of this rank's part of all the data outside a batch, which is read once."""
        if self._kept is not None or self.dataset.held:
            return self.own(rows)
        first, kept = self._part
        if kept.is_cpu:
            return place([kept[rows - first]], self.device)[0]
        return kept.index_select(0, *place([rows - first], self.device))

    @cached_property
    def _part(self) -> tuple[int, Tensor]:
        """The first row of this rank's part of the training split, and the part, on the device where it fits."""
        share = self.team.share(self.count - self.batch_size)
        rows = torch.arange(share.start, share.stop + self.batch_size)
        kept = torch.empty(len(rows), *self.dataset.shape, dtype=torch.uint8)
        for which, raw in self.dataset.sweep("train", rows):
            small = as_bytes(raw, self.scaling.levels)
            kept = kept.to(torch.promote_types(kept.dtype, small.dtype))
            kept[which - share.start] = small.to(kept.dtype)
        return share.start, self._where_it_fits(kept)

    def _where_it_fits(self, kept: Tensor) -> Tensor:
        return kept.to(self.device) if kept.numel() * kept.element_size() <= KEPT_BYTES else kept

    @cached_property
    def _kept(self) -> Tensor | None:
        """The whole training split, on the device, or on the host as bytes; None where it is not kept so."""
        if not self.dataset.held or self.count * math.prod(self.dataset.shape) > KEPT_BYTES:
            return None
        kept = as_bytes(self.dataset.train, self.scaling.levels)
        if self.device.type == "cpu":
            return kept if kept.dtype == torch.uint8 else None
        kept = self._where_it_fits(kept)
        return None if kept.is_cpu else kept

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
        """The batch in data units, flipped and dequantised, on the device."""
        return self.shown(self._batch_draws(step))

    def _batch_draws(self, step: int) -> Draws:
        return self.indices(step), stream(self.seed, "flip", step), stream(self.seed, "dequantise", step)

    def shown(self, *parts: Draws, read: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Examples in data units, (sum of k, *), in one piece: gathered, mirrored and dequantised on the device.

        Arguments:
            parts: Which examples, and what is drawn for them.
            read: Gives raw examples by row. None: `raw`, to which every rank gives its share.
        """
        rows = parts[0][0] if len(parts) == 1 else torch.cat([part[0] for part in parts])
        given, flip, levels = [rows], self.dataset.flip, self.scaling.levels is not None
        if flip:  # half of the images are mirrored left to right
            given.append(torch.cat([uniform((len(k),), generator=flips) < 0.5 for k, flips, _ in parts]))
        if levels:
            draws = [self.scaling.draw((len(k), *self.dataset.shape), g) for k, _, g in parts]
            given.append(draws[0] if len(draws) == 1 else torch.cat(draws))
        placed = iter(place(given, self.device))
        on_device = next(placed)
        raw = self._raw(rows, on_device) if read is None else read(rows)
        raw = torch.where(next(placed)[:, None, None, None], raw.flip(-1), raw) if flip else raw
        return self.scaling.encode(raw, u=next(placed) if levels else None)

    def labels(self, step: int, dropout: float) -> Tensor:
        """The labels of the batch (B,), a share `dropout` of them replaced by `NO_CLASS`, on the device."""
        labels = self._classes[self.indices(step)]
        hidden = uniform((len(labels),), generator=stream(self.seed, "labels", step)) < dropout
        return place([torch.where(hidden, NO_CLASS, labels)], self.device)[0]

    @cached_property
    def _classes(self) -> Tensor:
        labels = self.dataset.labels("train")
        assert labels is not None
        return labels

    def partners(self, step: int) -> Tensor | None:
        """The draws of the base that are paired with the batch, (B, *shape); None where the data are not paired."""
        if self.dataset.partners is None:
            return None
        return place([self.dataset.partners[self.indices(step)]], self.device)[0]

    def references(self, step: int, count: int) -> Tensor | None:
        """Up to `count` further examples, none of them in the batch; None if there are none."""
        rows, generator = self._reference_rows(step, count)
        return self.shown((rows, generator, generator)) if len(rows) else None

    def points(self, step: int, count: int, parts: bool = False) -> tuple[Tensor, Tensor | References | None]:
        """The batch (B, *) and up to `count` references (M, *) beside it, or None.

        Arguments:
            step, count: As for `references`.
            parts: Whether the process can average over references of which each rank holds a part. They are also
                made a part at a time where they are many.
        """
        rows, generator = self._reference_rows(step, count)
        if not len(rows):
            return self.batch(step), None
        if parts and (self.team.size > 1 or len(rows) > WHOLE):
            whole = len(rows) == self.count - self.batch_size
            return self.batch(step), References(self, rows, step, whole)
        if self.device.type == "cpu":
            return self.batch(step), self.shown((rows, generator, generator))
        both = self.shown(self._batch_draws(step), (rows, generator, generator))
        return both[: self.batch_size], both[self.batch_size :]

    def pool(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """The batch with `count` references, (M, *), and the labels of both (M,)."""
        rows, generator = self._reference_rows(step, min(count, self.count))
        parts = [self._batch_draws(step), *([(rows, generator, generator)] if len(rows) else [])]
        labels = self._classes[torch.cat([self.indices(step), rows])]
        return self.shown(*parts), place([labels], self.device)[0]

    def _reference_rows(self, step: int, count: int) -> tuple[Tensor, torch.Generator]:
        """Rows of up to `count` examples outside the batch, all of them in order, and the stream that drew them."""
        generator = stream(self.seed, "references", step)
        if not count:
            return torch.empty(0, dtype=torch.int64), generator
        others = torch.ones(self.count, dtype=torch.bool)
        others[self.indices(step)] = False
        rows = others.nonzero().flatten()
        if count >= len(rows):
            return rows, generator
        return rows[torch.randperm(len(rows), generator=generator)[:count]], generator


class References:
    """References of a step of which this rank makes a part, in chunks: no rank ever holds all of them.

    See `genflow.process.posterior.Shard`.

    Arguments:
        batches: Reads and shows the examples.
        rows: Numbers of all references of the step, shape (M,).
        step: The training step.
        whole: They are all examples outside the batch, in order. Then a rank's part is the same in every step but for
            a few rows at its ends, and is read once and kept.
    """

    def __init__(self, batches: Batches, rows: Tensor, step: int, whole: bool) -> None:
        self.batches, self.rows, self.step, self.whole = batches, rows, step, whole
        self.largest, self.total = batches.team.largest, batches.team.total

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        batches, own = self.batches, self.batches.team.share(len(self.rows))
        for start in range(own.start, own.stop, CHUNK):
            places = range(start, min(start + CHUNK, own.stop))
            drawn = stream(batches.seed, "references", self.step, places)
            read = batches.part if self.whole else batches.own
            yield batches.shown((self.rows[start : places.stop], drawn, drawn), read=read)


def as_bytes(raw: Tensor, levels: int | None) -> Tensor:
    """Raw values as bytes where they are whole grey levels that fit, else as they are."""
    if levels is None or levels > 256:
        return raw
    small = raw.to(torch.uint8)
    return small if torch.equal(small.to(raw.dtype), raw) else raw


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
