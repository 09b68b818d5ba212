"""Feature spaces for distances between samples. A distance in any of these is called FD[name]; "FID" is the one in
Inception's space (`genflow.evaluate.spaces`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from genflow.data.base import Dataset
from genflow.devices import Execution, multiplying

WEIGHTS = Path(__file__).parent / "weights"
DIGITS_SHA256 = "0e35d19abc9666c7ddb98e825e56ce5656402e7ebe00e687c38f4fc93311ff3e"
"""Hash of the shipped digits.safetensors; `python benchmarks/train_extractor.py digits` prints it."""
MNIST_SHA256 = "ef2eb74f5171a56b85b81d55afe98b336b149999ec34f520e33da01ea8b82288"
"""Hash of the shipped mnist.safetensors; `python benchmarks/train_extractor.py mnist` prints it."""


class Classifier(nn.Module):
    """A small convolutional classifier of images of one channel; the features are its last 64 hidden units.

    A subclass gives the widths and strides of its three layers, the side of their last map, and half of the range of
    grey levels, which become [−1, 1].
    """

    dim = 64
    WIDTHS: ClassVar[tuple[int, int, int]]
    STRIDES: ClassVar[tuple[int, int, int]]
    SIDE: ClassVar[int]
    HALF: ClassVar[float]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (a, b), stride in zip(pairwise((1, *self.WIDTHS)), self.STRIDES, strict=True):
            layers += [nn.Conv2d(a, b, 3, padding=1, stride=stride), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(self.WIDTHS[-1] * self.SIDE**2, self.dim))
        self.end = nn.Linear(self.dim, 10)

    def features(self, raw: Tensor) -> Tensor:
        """Features (n, 64) of raw images (n, 1, height, width)."""
        return self.body(raw / self.HALF - 1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, 10) from features."""
        return self.end(nn.functional.silu(features))

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (n, 10)."""
        return self.logits(self.features(raw))


class DigitsClassifier(Classifier):
    """Of 8x8 digits with 17 grey levels."""

    WIDTHS, STRIDES, SIDE, HALF = (24, 32, 32), (1, 2, 1), 4, 8.0


class MnistClassifier(Classifier):
    """Of 28x28 digits with 256 grey levels."""

    WIDTHS, STRIDES, SIDE, HALF = (16, 32, 64), (2, 2, 2), 4, 127.5


class TinyNet(nn.Module):
    """An untrained convolutional network for images of any size: mean and standard deviation of each of 4 layers' maps.

    Random features respond to textures and shapes and are fitted to no data. The weights are drawn from a fixed seed,
    so FD[tiny] means the same everywhere.

    Arguments:
        channels: Channels of the images.
        levels: Grey levels, which are mapped to [−1, 1]; None takes the values as they are.
    """

    WIDTHS = (16, 32, 64, 64)

    def __init__(self, channels: int, levels: int | None) -> None:
        super().__init__()
        self.levels = levels
        generator = torch.Generator().manual_seed(2022)
        widths = (channels, *self.WIDTHS)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Conv2d)
                fan = layer.in_channels * 9
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / fan) ** 0.5)
                layer.bias.copy_(torch.randn(layer.out_channels, generator=generator) * 0.1)  # type: ignore[union-attr]

    @property
    def dim(self) -> int:
        return 2 * sum(self.WIDTHS)

    def features(self, raw: Tensor) -> Tensor:
        """Features (n, 352) of raw images (n, channels, height, width)."""
        x = raw if self.levels is None else raw * (2 / (self.levels - 1)) - 1
        found = []
        for layer in self.layers:
            x = nn.functional.silu(layer(x))
            flat = x.flatten(2)
            found += [flat.mean(2), flat.std(2, correction=0)]
            x = nn.functional.avg_pool2d(x, 2) if min(x.shape[-2:]) >= 4 else x
        return torch.cat(found, 1)


def load_digits_classifier() -> DigitsClassifier:
    """The shipped classifier, its file checked against its hash.

    Raises:
        RuntimeError: The file in the installed package was changed.
    """
    return _load_shipped(DigitsClassifier(), "digits.safetensors", DIGITS_SHA256)


def load_mnist_classifier() -> MnistClassifier:
    """The same for 28x28 digits."""
    return _load_shipped(MnistClassifier(), "mnist.safetensors", MNIST_SHA256)


C = TypeVar("C", bound=Classifier)


def _load_shipped(model: C, file: str, expected: str) -> C:
    from safetensors.torch import load

    path = WEIGHTS / file
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise RuntimeError(f"{path} has sha256 {found}, not {expected}; reinstall genflow")
    model.load_state_dict(load(content))
    return model.eval().requires_grad_(False)


Extractor = Callable[[Tensor], Tensor]
"""Raw examples (n, *shape) -> features (n, d)."""


class Watch(Protocol):
    """Checks what goes into an extractor."""

    def update(self, images: Tensor) -> None: ...

    def merge(self, other: Any) -> None: ...

    def finish(self) -> None: ...


def _same(raw: Tensor) -> Tensor:
    return raw


class Origin(NamedTuple):
    """What trained an extractor: the first `rows` of the `total` training rows of a data set, in their fixed order
    (`genflow.data.order`)."""

    dataset: str
    rows: int
    total: int


@dataclass(frozen=True)
class Space:
    """A feature space, in which samples are compared.

    Arguments:
        name: For tables: FD[name].
        digest: Hash of the extractor and of how examples are prepared for it.
        about: Description for the protocol.
        features: Prepared examples (B, ...) -> features (B, d).
        logits: Features -> class logits (B, classes); None where the space has no classes.
        prepare: Raw examples -> what `features` takes.
        watch: Makes a check of what `features` takes; None for none.
        batch: Examples at a time.
        origin: What trained the extractor; None where none of the data sets here did.
    """

    name: str
    digest: str
    about: str
    features: Extractor
    logits: Extractor | None = None
    prepare: Extractor = _same
    watch: Callable[[], Watch] | None = None
    batch: int = 500
    origin: Origin | None = None

    def first_row(self, dataset: Dataset) -> int:
        """The first row of the training split that references use; those before it trained the extractor."""
        known = self.origin
        same = known is not None and (dataset.name, dataset.count("train")) == (known.dataset, known.total)
        return known.rows if known is not None and same else 0

    def title(self, kind: str) -> str:
        """The name of a number: FD[digits], KD[digits], CS[digits]; in Inception's space FID, KID, IS."""
        known = {"FD": "FID", "KD": "KID", "CS": "IS"}
        if self.name == "inception" and kind[:2] in known:
            return known[kind[:2]] + kind[2:]
        return f"{kind}[{self.name}]"


@dataclass(frozen=True)
class Shipped:
    """A classifier in the package: its loader, hash, the shape and grey levels of its images, and what trained it."""

    load: Callable[[], Classifier]
    digest: str
    shape: tuple[int, ...]
    levels: int
    origin: Origin


SHIPPED = {
    "digits": Shipped(load_digits_classifier, DIGITS_SHA256, (1, 8, 8), 17, Origin("digits", 497, 1297)),
    "mnist": Shipped(load_mnist_classifier, MNIST_SHA256, (1, 28, 28), 256, Origin("mnist5k", 1500, 4000)),
}
"""References keep 800 and 2,500 training rows, many times the 64 features. More rows would make a better classifier and
a noisier reference; these get 98.4 and 97.3 % of the held-out images right."""


def own_space(dataset_name: str) -> str:
    """A data set's own space, the default: a classifier of digits for digits, else the raw values (FD[identity])."""
    return next((name for name, one in SHIPPED.items() if one.origin.dataset == dataset_name), "identity")


def shipped_space(name: str) -> Space:
    """The space of a classifier in the package."""
    one = SHIPPED[name]
    model, origin = one.load(), one.origin
    about = (
        f"features '{name}' (d = {model.dim}), a classifier trained on {origin.rows} rows of {origin.dataset} that no "
        "reference uses"
    )
    return Space(name, one.digest, about, quiet(model.features), quiet(model.logits), origin=origin)


def quiet(function: Extractor) -> Extractor:
    """Without gradients or TF32: what is measured does not depend on how networks are run."""

    @torch.no_grad()
    def call(raw: Tensor) -> Tensor:
        with multiplying(Execution()):
            return function(raw)

    return call


@torch.no_grad()
def extract(features: Extractor, raw: Tensor, batch_size: int = 500) -> Tensor:
    """Features of all examples, by batches."""
    return torch.cat([features(chunk) for chunk in raw.split(batch_size)])
