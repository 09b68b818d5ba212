"""FID, KID, Inception Score and precision/recall/density/coverage, from one pass over the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from genflow.config import BenchConfig
from genflow.data.base import Dataset
from genflow.data.downloads import DataError
from genflow.evaluate.base import Context, Measured, Metric, Result, unmeasured
from genflow.evaluate.checks import NotMeasurable
from genflow.evaluate.features import Space
from genflow.evaluate.frechet import Gaussian, frechet
from genflow.evaluate.kernels import kernel_distance
from genflow.evaluate.manifold import manifold
from genflow.evaluate.passes import Seen, feature_pass
from genflow.evaluate.protocol import bias_note, rank_note
from genflow.evaluate.reference import first_chunks, reference, statistics_of
from genflow.evaluate.spaces import check_features, check_mode, space_for, unfitting
from genflow.evaluate.weight_files import WeightsError
from genflow.places import expand

MEASURES = ("fid", "kid", "is", "prdc")
SAMPLES = "generated samples"


class QualityMetric(Metric):
    """Distances and scores of generated images in a feature space, Inception's unless said otherwise.

    Arguments:
        measures: Which of "fid", "kid", "is", "prdc"; all come from one pass.
        features: A name of `spaces.NAMES` or a TorchScript file. Outside Inception's space the names are FD, KD and CS
            (class score) of that space.
        mode: Inception's protocol: clean, legacy_tensorflow or legacy_pytorch.
        reference: Published statistics (.npz) instead of the training split, for the Fréchet distance.
        keep: Most features of each set that the pairwise numbers compare.
        subsets, subset_size: Of the kernel distance.
        splits: Of the class score.
        neighbours: k of precision, recall, density and coverage.
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
        real = count if "prdc" in self.measures or "kid" in self.measures or not self.published else 0
        return {"train": real, "test": count, "samples": count}

    def why_not_data(self, config: BenchConfig, dataset: Dataset) -> str | None:
        return unfitting(self.features, dataset)

    def measure(self, context: Context) -> Result:
        assert context.samples is not None
        samples = context.samples
        return self._result(context, lambda: iter(samples.split(1000)), len(samples), SAMPLES)

    def floor(self, context: Context) -> Result:
        data, n = context.dataset, context.floor_size
        what = "the test split" + (f" (first {n})" if n < data.count("test") else "")
        return self._result(context, lambda: first_chunks(data, "test", n), n, what)

    def _result(self, context: Context, chunks: Callable[[], Iterator[Tensor]], n: int, what: str) -> Result:
        """Rows, or for each measure a row with the reason why there is no number."""
        config = context.config
        try:
            space = space_for(
                self.features, context.dataset, mode=self.mode, inception=config.inception, device=config.device
            )
            if "is" in self.measures and space.logits is None:
                raise NotMeasurable(f"the features '{space.name}' have no classes, so there is no class score")
        except (WeightsError, NotMeasurable) as error:
            return unmeasured(error, map(self._label, self.measures), n)
        split_of = self._splits(n, context.seed) if "is" in self.measures else None
        seen = feature_pass(chunks(), space, keep=self._kept, split_of=split_of, tick=lambda k: context.tick(k / n))
        rows: list[Measured] = []
        for measure in self.measures:
            rows += getattr(self, f"_{measure}")(context, space, seen, what)
        return Result(rows)

    def _label(self, measure: str) -> str:
        kind = {"fid": "FD", "kid": "KD", "is": "CS", "prdc": "precision"}[measure]
        return Space(self.features, "", "", lambda x: x).title(kind)

    def _splits(self, n: int, seed: int) -> Tensor:
        """Split of every sample: equal parts of a shuffled order, as data sets may be sorted by class."""
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return order * min(self.splits, n) // n

    def _fid(self, context: Context, space: Space, seen: Seen, what: str) -> list[Measured]:
        real, source = self._real(context, space)
        value = frechet(real, seen.moments.result())
        n, dim = seen.moments.n, seen.moments.dim
        protocol = (
            f"Fréchet distance in float64 between {what} and {source}, {space.about}"
            + rank_note(n, dim)
            + self._bias(context, space, real, n, what)
        )
        return [Measured(space.title("FD"), value, n, protocol)]

    def _real(self, context: Context, space: Space) -> tuple[Gaussian, str]:
        """The moments of the reference, and its description."""
        if place := self.published or context.config.reference:
            return statistics_of(place, space)
        moments, _ = reference(context.dataset, "train", space, keep=self._kept)
        return moments, f"the training split (n = {moments.n})"

    @property
    def _kept(self) -> int:
        return self.keep if {"kid", "prdc"} & set(self.measures) else 0

    def _bias(self, context: Context, space: Space, real: Gaussian, n: int, what: str) -> str:
        """The note on small n, with the distance of as many real examples, or of all where there are fewer."""
        if not bias_note(n) or what != SAMPLES:
            return bias_note(n)
        try:
            count = min(n, context.dataset.count("test"))
            held, _ = reference(context.dataset, "test", space, count=count)
        except DataError:  # published statistics stand in for the training split, and for nothing else
            return bias_note(n)
        return bias_note(n, frechet(real, held), count)

    def _kept_pair(self, context: Context, space: Space, seen: Seen) -> tuple[Tensor, Tensor]:
        _, real = reference(context.dataset, "train", space, keep=self._kept)
        return real, seen.features

    def _kid(self, context: Context, space: Space, seen: Seen, what: str) -> list[Measured]:
        real, own = self._kept_pair(context, space, seen)
        size = min(self.subset_size, len(real), len(own))
        draws = torch.Generator().manual_seed(context.seed)
        found = kernel_distance(real, own, generator=draws, subsets=self.subsets, size=size)
        protocol = (
            f"unbiased MMD² with the kernel (x·y/d + 1)³ between {what} and the training split (first {len(real)}), "
            f"{space.about}; mean and standard deviation over {self.subsets} subsets of {size}"
        )
        return [Measured(space.title("KD"), found.value, len(own), protocol, found.error)]

    def _is(self, context: Context, space: Space, seen: Seen, what: str) -> list[Measured]:
        assert seen.scores is not None
        scores = seen.scores.scores()
        protocol = (
            f"exp E KL(p(class | x) ‖ p(class)) of {what}, {space.about}, without the output layer's bias; "
            if space.name == "inception"
            else f"exp E KL(p(class | x) ‖ p(class)) of {what}, {space.about}; "
        ) + f"mean and standard deviation over {len(scores)} splits of a shuffled order"
        spread = float(scores.std(correction=0))
        return [Measured(space.title("CS"), float(scores.mean()), seen.moments.n, protocol, spread)]

    def _prdc(self, context: Context, space: Space, seen: Seen, what: str) -> list[Measured]:
        real, own = self._kept_pair(context, space, seen)
        found = manifold(real, own, self.neighbours)
        protocol = (
            f"{what} against the training split (first {len(real)}), {space.about}, balls to the "
            f"{self.neighbours} nearest neighbours; depends on both numbers of points"
        )
        return [Measured(space.title(name), value, len(own), protocol) for name, value in found._asdict().items()]
