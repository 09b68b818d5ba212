"""Feature spaces for distances between samples. A distance in any of these is called FD[name]; "FID" is the one in
Inception's space (`genflow.evaluate.spaces`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genflow.devices import Execution, multiplying

WEIGHTS = Path(__file__).parent / "weights"
DIGITS_SHA256 = "6f282531b08c4e356d2d2344c2ce196397c75bbf882ba153e18031e1b9950103"
"""Hash of the shipped digits.safetensors; benchmarks/train_digits_extractor.py prints it."""
MNIST_SHA256 = "a03b45adcff129f235075d388a66c9ee500fa2e5ede44f8d420e3fc054ba9791"
"""Hash of the shipped mnist.safetensors; benchmarks/train_mnist_extractor.py prints it."""


class DigitsClassifier(nn.Module):
    """A small convolutional classifier of 8x8 digits with 17 grey levels; the features are its last 64 hidden units."""

    dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 32, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, self.dim),
        )
        self.end = nn.Linear(self.dim, 10)

    def features(self, raw: Tensor) -> Tensor:
        """Features (n, 64) of raw images (n, 1, 8, 8) with values 0 to 16."""
        return self.body(raw / 8 - 1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, 10) from features."""
        return self.end(nn.functional.silu(features))

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (n, 10)."""
        return self.logits(self.features(raw))


class MnistClassifier(nn.Module):
    """A small convolutional classifier of 28x28 digits with 256 grey levels; 64 features as in DigitsClassifier."""

    dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, self.dim),
        )
        self.end = nn.Linear(self.dim, 10)

    def features(self, raw: Tensor) -> Tensor:
        """Features (n, 64) of raw images (n, 1, 28, 28) with values 0 to 255."""
        return self.body(raw / 127.5 - 1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, 10) from features."""
        return self.end(nn.functional.silu(features))

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (n, 10)."""
        return self.logits(self.features(raw))


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
    model = DigitsClassifier()
    _load_shipped(model, "digits.safetensors", DIGITS_SHA256)
    return model


def load_mnist_classifier() -> MnistClassifier:
    """The same for 28x28 digits."""
    model = MnistClassifier()
    _load_shipped(model, "mnist.safetensors", MNIST_SHA256)
    return model


def _load_shipped(model: nn.Module, file: str, expected: str) -> None:
    from safetensors.torch import load

    path = WEIGHTS / file
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise RuntimeError(f"{path} has sha256 {found}, not {expected}; reinstall genflow")
    model.load_state_dict(load(content))
    model.eval().requires_grad_(False)


Extractor = Callable[[Tensor], Tensor]
"""Raw examples (n, *shape) -> features (n, d)."""


class Watch(Protocol):
    """Checks what goes into an extractor."""

    def update(self, images: Tensor) -> None: ...

    def merge(self, other: Any) -> None: ...

    def finish(self) -> None: ...


def _same(raw: Tensor) -> Tensor:
    return raw


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
    """

    name: str
    digest: str
    about: str
    features: Extractor
    logits: Extractor | None = None
    prepare: Extractor = _same
    watch: Callable[[], Watch] | None = None
    batch: int = 500

    def title(self, kind: str) -> str:
        """The name of a number: FD[digits], KD[digits], CS[digits]; in Inception's space FID, KID, IS."""
        known = {"FD": "FID", "KD": "KID", "CS": "IS"}
        return known[kind] if self.name == "inception" and kind in known else f"{kind}[{self.name}]"


def own_space(dataset_name: str) -> str:
    """A data set's own space, the default: a classifier of digits for digits, else the raw values (FD[identity])."""
    return {"digits": "digits", "mnist5k": "mnist"}.get(dataset_name, "identity")


SHIPPED: dict[str, tuple[Callable[[], Any], str, tuple[int, ...], int]] = {
    "digits": (load_digits_classifier, DIGITS_SHA256, (1, 8, 8), 17),
    "mnist": (load_mnist_classifier, MNIST_SHA256, (1, 28, 28), 256),
}
"""Classifiers in the package: loader, hash, and the shape and grey levels of their images."""


def shipped_space(name: str) -> Space:
    """The space of a classifier in the package."""
    load, digest, _, _ = SHIPPED[name]
    model = load()
    return Space(name, digest, f"features '{name}' (d = {model.dim})", quiet(model.features), quiet(model.logits))


def quiet(function: Extractor) -> Extractor:
    """Without gradients or TF32: what is measured does not depend on how networks are run."""

    @torch.no_grad()
    def call(raw: Tensor) -> Tensor:
        with multiplying(Execution()):
            return function(raw)

    return call


def extractor_for(dataset_name: str, shape: tuple[int, ...]) -> tuple[str, Extractor]:
    """Name and function of the feature space in which a data set's samples are compared."""
    name = own_space(dataset_name)
    if name in SHIPPED:
        space = shipped_space(name)
        return name, lambda raw: extract(space.features, raw)
    return name, lambda raw: raw.flatten(1)


@torch.no_grad()
def extract(features: Extractor, raw: Tensor, batch_size: int = 500) -> Tensor:
    """Features of all examples, by batches."""
    return torch.cat([features(chunk) for chunk in raw.split(batch_size)])
