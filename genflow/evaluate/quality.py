"""Metrics of samples in a feature space, all from one pass: Fréchet and kernel distances, Inception Score, precision,
recall, density and coverage, memorisation, class balance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genflow.config import BenchConfig
from genflow.data.base import Dataset
from genflow.data.downloads import DataError
from genflow.estimates import next_interval, same_shares, share_interval
from genflow.evaluate.base import Context, Measured, Metric, Result, unmeasured
from genflow.evaluate.checks import NotMeasurable
from genflow.evaluate.features import Space
from genflow.evaluate.frechet import GROUPS, Gaussian, frechet, frechet_limit, moments_of, resplits
from genflow.evaluate.kernels import cubic_kernel, kernel_distance, mmd
from genflow.evaluate.manifold import Manifold, manifold, nearer_share, nearest
from genflow.evaluate.passes import Seen, feature_pass
from genflow.evaluate.protocol import MISSING, bias_note, rank_note
from genflow.evaluate.reference import first_chunks, reference, statistics_of
from genflow.evaluate.spaces import check_features, check_mode, space_for, unfitting
from genflow.evaluate.weight_files import WeightsError
from genflow.places import expand

BESIDE = ("limit", "test", "kid", "nearer", "balance")
"""What the metric `fd` measures beside the Fréchet distance."""
MEASURES = ("fid", "kid", "is", "prdc", "fd", "limit", "test", "nearer", "balance")
PAIRWISE = set(MEASURES) - {"fid", "is"}
"""Measures that need single features of the examples."""
SAMPLES = "generated samples"
SHOWN = 10
"""Samples that are shown above their nearest training examples."""


@dataclass
class Compared:
    """A set of examples beside real data.

    Arguments:
        context, space: Data, settings and seed; where they are compared.
        seen: The pass over the examples.
        what: What they are; SAMPLES, or a split.
        keep: Most features of each set that pairwise numbers compare.
    """

    context: Context
    space: Space
    seen: Seen
    what: str
    keep: int

    @property
    def is_real(self) -> bool:
        return self.what != SAMPLES

    @cached_property
    def own(self) -> Tensor:
        """Features of the examples, (n, d)."""
        return self.seen.features

    @cached_property
    def train(self) -> tuple[Gaussian, Tensor]:
        """Moments and first features of the training split, without the rows that trained the extractor."""
        return reference(self.context.dataset, "train", self.space, keep=self.keep)

    @cached_property
    def against(self) -> tuple[Gaussian, str]:
        """Moments that take the place of the training split's, and their description; see `Context.against`."""
        if self.from_file:
            return self.context.against(self.space)
        return self.train[0], f"the training split (n = {self.train[0].n})"

    @property
    def from_file(self) -> bool:
        """Whether a file of statistics, which holds no single examples, takes the place of the training split."""
        return bool(self.context.config.reference_file)

    @cached_property
    def test(self) -> tuple[Gaussian, Tensor]:
        """The same of the test split."""
        return reference(self.context.dataset, "test", self.space, keep=self.keep)

    def block_distance(self, real: Gaussian, features: Tensor, size: int) -> tuple[float, float, int]:
        """Mean of the Fréchet distances of whole blocks of features, its standard error, and the number of blocks."""
        values = [frechet(real, moments_of(part)) for part in features.split(size) if len(part) == size]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return statistics.fmean(values), error, len(values)

    def resplit(self, n: int, m: int) -> tuple[float, float, str]:
        """Bounds and words of what n real examples get against m others; none for samples."""
        if not self.is_real:
            return math.nan, math.nan, ""
        (_, train), (_, test) = self.train, self.test
        n, m = min(n, len(test)), min(m, len(train) + len(test) - n)
        found = resplits(train, test, n, m, torch.Generator().manual_seed(self.context.seed))
        low, high = next_interval(found)
        words = f"; [ ] holds 95 % of random splits of all these real examples into {n} and {m}, from {len(found)}"
        return max(low, 0.0), high, words

    def without_rows(self, *kinds: str) -> list[Measured]:
        """Rows in place of numbers that need single training examples, with the reason; none for real data."""
        if self.is_real:
            return []
        why = (
            f"{MISSING}it needs single examples of the training split, and --reference gives a file of statistics in "
            "its place; leave the file out"
        )
        return [Measured(self.space.title(kind), math.nan, len(self.own), why) for kind in kinds]


class QualityMetric(Metric):
    """Distances and scores of generated images in a feature space, Inception's unless said otherwise.

    Arguments:
        measures: Which of "fid", "kid", "is", "prdc"; "fd" (the Fréchet distance as a mean over blocks of the test
            split's size), "limit" (at infinitely many samples), "test" (to the test split), "nearer" (the share of
            samples nearer to training than to test examples) and "balance" (shares of classes). All are from one pass.
        features: A name of `spaces.NAMES` or a TorchScript file. Outside Inception's space the names are FD, KD and CS
            (class score) of that space.
        mode: Inception's protocol: clean, legacy_tensorflow or legacy_pytorch.
        reference: Published statistics (.npz) instead of the training split, for the Fréchet distance.
        keep: Most features of each set that the pairwise numbers compare.
        subsets, subset_size: Of the kernel distance.
        splits: Of the class score.
        neighbours: k of precision, recall, density and coverage.

    Outside Inception's space the kernel distance is the U-statistic of all kept features, with its standard error; in
    it, the mean over subsets and their deviation, as is usual for KID.
    """

    def __init__(
        self,
        measures: Sequence[str] = ("fid",),
        features: str = "inception",
        mode: str = "clean",
        reference: str = "",
        keep: int = 10_000,
        subsets: int = 100,
        subset_size: int = 1000,
        splits: int = 10,
        neighbours: int = 5,
    ) -> None:
        self.measures = (measures,) if isinstance(measures, str) else tuple(measures)
        unknown = [m for m in self.measures if m not in MEASURES]
        if unknown or not self.measures:
            raise ValueError(f"measures = {', '.join(unknown) or 'nothing'}; allowed are {', '.join(MEASURES)}")
        for name, value in (("keep", keep), ("subsets", subsets), ("subset_size", subset_size), ("splits", splits)):
            if int(value) != value or value < 1:
                raise ValueError(f"{name} = {value} is not a whole number above 0")
        check_features(features)
        check_mode(mode)
        if reference and not expand(reference).is_file():
            raise ValueError(f"reference = '{reference}' is not a file; give published statistics (.npz)")
        self.features, self.mode, self.published = features, mode, reference
        self.keep, self.subsets, self.subset_size = int(keep), int(subsets), int(subset_size)
        self.splits, self.neighbours = int(splits), int(neighbours)

    def least(self) -> dict[str, int]:
        count = self.neighbours + 1 if "prdc" in self.measures else 2  # no point is its own neighbour
        real = count if PAIRWISE & set(self.measures) or not self.published else 0
        return {"train": real, "test": count, "samples": count}

    def why_not_data(self, config: BenchConfig, dataset: Dataset) -> str | None:
        reason = unfitting(self.features, dataset)
        if config.reference_file and not reason and {"fid", "fd", "limit"} & set(self.measures) and not self.published:
            with suppress(WeightsError, NotMeasurable):  # the row says so in place of a number
                statistics_of(config.reference_file, self._space(config, dataset))
        return reason

    def _space(self, config: BenchConfig, dataset: Dataset) -> Space:
        return space_for(self.features, dataset, mode=self.mode, inception=config.inception, device=config.device)

    def measure(self, context: Context) -> Result:
        assert context.samples is not None
        samples = context.samples
        return self._result(context, lambda: iter(samples.split(1000)), len(samples), SAMPLES)

    def real(self, context: Context) -> Result:
        data, n = context.dataset, context.real_size
        n = data.count("test") if "fd" in self.measures and data.held else n  # as many blocks as there are
        what = "the test split" + (f" (first {n})" if n < data.count("test") else "")
        return self._result(context, lambda: first_chunks(data, "test", n), n, what)

    def _result(self, context: Context, chunks: Callable[[], Iterator[Tensor]], n: int, what: str) -> Result:
        """Rows, or for each measure a row with the reason why there is no number."""
        try:
            space = self._space(context.config, context.dataset)
            if "is" in self.measures and space.logits is None:
                raise NotMeasurable(f"the features '{space.name}' have no classes, so there is no class score")
        except (WeightsError, NotMeasurable) as error:
            return unmeasured(error, dict.fromkeys(map(self._label, self.measures)), n)
        split_of = self._splits(n, context.seed) if "is" in self.measures else None
        keep = n if {"fd", "test"} & set(self.measures) else self.keep if PAIRWISE & set(self.measures) else 0
        seen = feature_pass(chunks(), space, keep=keep, split_of=split_of, tick=lambda k: context.tick(k / n))
        compared, result = Compared(context, space, seen, what, self.keep), Result([])
        for measure in self.measures:
            result.rows += getattr(self, f"_{measure}")(compared)
        if "nearer" in self.measures and not compared.is_real:
            result.arrays |= self._pictures(compared)
        return result

    def _label(self, measure: str) -> str:
        """The name of the number that stands for a measure where there is none."""
        kind = {"kid": "KD", "is": "CS", "prdc": "precision"}.get(measure, "FD")
        return Space(Path(self.features).stem, "", "", lambda x: x).title("FD" if "fd" in self.measures else kind)

    def _splits(self, n: int, seed: int) -> Tensor:
        """Split of every sample: equal parts of a shuffled order, as data sets may be sorted by class."""
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return order * min(self.splits, n) // n

    def _fd(self, of: Compared) -> list[Measured]:
        """The mean over blocks of one size for samples and real data, so that the distance's bias is the same."""
        size, (real, source) = self._block(of), of.against
        value, error, blocks = of.block_distance(real, of.own, size)
        low, high, words = (math.nan, math.nan, "") if of.from_file else of.resplit(size, real.n)
        protocol = (
            f"Fréchet distance in float64 between {of.what} and {source}, {of.space.about}, "
            f"samples decoded to the data's own units; mean and standard error over {blocks} "
            f"block{'s' * (blocks > 1)} of n" + rank_note(size, len(real.mean)) + bias_note(size) + words
        )
        return [Measured(of.space.title("FD"), value, size, protocol, error, low=low, high=high)]

    def _block(self, of: Compared) -> int:
        return of.context.real_size if of.is_real else min(len(of.own), of.context.dataset.count("test"))

    def _test(self, of: Compared) -> list[Measured]:
        """The same to the test split; for real data, of training examples."""
        own, what = (of.train[1], "training examples") if of.is_real else (of.own, of.what)
        size, real = min(self._block(of), len(own)), of.test[0]
        value, error, blocks = of.block_distance(real, own, size)
        low, high, words = of.resplit(size, real.n)
        protocol = (
            f"Fréchet distance of {what} to the test split (n = {real.n}), {blocks} block{'s' * (blocks > 1)} of n"
            + words
        )
        return [Measured(of.space.title("FD_test"), value, size, protocol, error, low=low, high=high)]

    def _limit(self, of: Compared) -> list[Measured]:
        """To both splits; nothing where there are too few examples for the line in 1/n."""
        own, found = of.own[: self.keep], []
        train: tuple[str, Tensor | Gaussian] = ("the training split", of.train[1])
        if of.from_file:
            train = (of.against[1], of.against[0])
        for kind, (source, real) in (("FD∞", train), ("FD∞_test", ("the test split", of.test[1]))):
            sides = [len(own), len(real)] if isinstance(real, Tensor) else [len(own)]
            if min(sides) < max(2 * own.shape[1], 2 * GROUPS):
                continue
            other = of.train[1] if of.is_real and kind == "FD∞_test" else own
            limit = frechet_limit(other, real)
            both = "on both sides by lines in 1/n: {} and {}" if isinstance(real, Tensor) else "by a line in 1/n: {}"
            protocol = (
                f"Fréchet distance to {source}, extrapolated to infinitely many examples "
                f"{both.format(len(other), *sides[1:])}, and all but one {GROUPS}th of them; error by jackknife"
            )
            found.append(Measured(of.space.title(kind), limit.value, len(other), protocol, limit.error))
        return found

    def _nearer(self, of: Compared) -> list[Measured]:
        """Real data are the second half of the test split beside the first, and as many training examples."""
        if of.from_file:
            return of.without_rows("nearer_train")
        train, test, own = of.train[1], of.test[1], of.own[: self.keep]
        if of.is_real:
            half = len(test) // 2
            own, test = test[half:], test[:half]
        count = min(len(train), len(test))
        if not count or not len(own):
            return []
        share, alike = nearer_share(own, train[:count], test[:count])
        low, high = share_interval(share, alike)
        protocol = (
            f"share of examples whose nearest of {count} training and {count} test examples is a training example, 1/2 "
            "where nothing is memorised; [ ] at 95 %, binomial with fewer examples, since several share a neighbour"
        )
        error = (high - low) / 3.92
        return [Measured(of.space.title("nearer_train"), share, len(own), protocol, error, low=low, high=high)]

    def _pictures(self, of: Compared) -> dict[str, np.ndarray]:
        """The first samples and their nearest training examples, (2, k, *shape), raw; none of vectors."""
        data, raw = of.context.dataset, of.context.samples
        if len(data.shape) != 3 or raw is None or of.from_file:
            return {}
        every = reference(data, "train", of.space, keep=self.keep, every=True)[1]
        rows = nearest(of.own[:SHOWN], every)[1]
        return {"nearest": torch.stack([raw[:SHOWN].float(), data.examples("train", rows)]).numpy()}

    def _balance(self, of: Compared) -> list[Measured]:
        """Shares of the classes that the extractor sees, and a test of their being those of real data."""
        logits, classes = of.space.logits, of.context.dataset.classes
        if logits is None or not classes:
            return []
        if of.from_file:
            return of.without_rows("balance_p")
        own, real = (logits(f.float()).argmax(1).bincount(minlength=classes).tolist() for f in (of.own, of.train[1]))
        if len(own) != classes:  # another data set's
            return []
        n, kind = sum(own), of.space.title("share")
        how = "share of examples that the extractor takes for a class"
        shares = [Measured(f"{kind}*{k}", c / n, n, how, math.sqrt(c * (n - c) / n) / n) for k, c in enumerate(own)]
        test = f"p of the shares being those of the training split (n = {sum(real)}), χ² test of both counts"
        return [*shares, Measured(of.space.title("balance_p"), same_shares(own, real), n, test)]

    def _fid(self, of: Compared) -> list[Measured]:
        real, source = self._reference(of)
        n, dim = of.seen.moments.n, of.seen.moments.dim
        from_file = self.published or of.from_file
        low, high, words = (math.nan, math.nan, "") if from_file else of.resplit(n, real.n)
        protocol = (
            f"Fréchet distance in float64 between {of.what} and {source}, {of.space.about}"
            + rank_note(n, dim)
            + self._bias(of, real, n)
            + words
        )
        value = frechet(real, of.seen.moments.result())
        return [Measured(of.space.title("FD"), value, n, protocol, low=low, high=high)]

    def _reference(self, of: Compared) -> tuple[Gaussian, str]:
        """The moments of the reference, and its description; the metric's own file goes before the bench's."""
        return statistics_of(self.published, of.space) if self.published else of.against

    def _bias(self, of: Compared, real: Gaussian, n: int) -> str:
        """The note on small n, with the distance of as many real examples, or of all where there are fewer."""
        if not bias_note(n) or of.is_real:
            return bias_note(n)
        try:
            count = min(n, of.context.dataset.count("test"))
            held, _ = reference(of.context.dataset, "test", of.space, count=count)
        except DataError:  # published statistics stand in for the training split, and for nothing else
            return bias_note(n)
        return bias_note(n, frechet(real, held), count)

    def _kid(self, of: Compared) -> list[Measured]:
        if of.from_file:
            return of.without_rows("KD")
        real, own = of.train[1], of.own[: self.keep]
        between = (
            f"unbiased MMD² with the kernel (x·y/d + 1)³ between {of.what} and the training split "
            f"(first {len(real)}), {of.space.about}; "
        )
        if of.space.name == "inception":
            size = min(self.subset_size, len(real), len(own))
            draws = torch.Generator().manual_seed(of.context.seed)
            found = kernel_distance(real, own, generator=draws, subsets=self.subsets, size=size)
            how = f"mean and standard deviation over {self.subsets} subsets of {size}"
        else:
            found, how = mmd(real, own, cubic_kernel), "U-statistic of all, with its standard error"
        return [Measured(of.space.title("KD"), found.value, len(own), between + how, found.error)]

    def _is(self, of: Compared) -> list[Measured]:
        assert of.seen.scores is not None
        scores, bias = of.seen.scores.scores(), ", without the output layer's bias" * (of.space.name == "inception")
        protocol = (
            f"exp E KL(p(class | x) ‖ p(class)) of {of.what}, {of.space.about}{bias}; "
            f"mean and standard deviation over {len(scores)} splits of a shuffled order"
        )
        spread = float(scores.std(correction=0))
        return [Measured(of.space.title("CS"), float(scores.mean()), of.seen.moments.n, protocol, spread)]

    def _prdc(self, of: Compared) -> list[Measured]:
        if of.from_file:
            return of.without_rows(*Manifold._fields)
        real, own = of.train[1], of.own[: self.keep]
        found = manifold(real, own, self.neighbours)
        protocol = (
            f"{of.what} against the training split (first {len(real)}), {of.space.about}, balls to the "
            f"{self.neighbours} nearest neighbours; depends on both numbers of points"
        )
        return [Measured(of.space.title(name), value, len(own), protocol) for name, value in found._asdict().items()]
