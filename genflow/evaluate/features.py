"""Feature extractors for Fréchet distances. A distance in any of these spaces is FD[name], never "FID"."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
DIGITS_SHA256 = "6f282531b08c4e356d2d2344c2ce196397c75bbf882ba153e18031e1b9950103"
"""Hash of the shipped digits.safetensors; benchmarks/train_digits_extractor.py prints it."""


class DigitsClassifier(nn.Module):
    """A small convolutional classifier of 8x8 digits with 17 grey levels; its 64 last hidden units are the features."""

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

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (n, 10)."""
        return self.end(nn.functional.silu(self.features(raw)))


def load_digits_classifier() -> DigitsClassifier:
    """The shipped classifier, its file checked against its hash.

    Raises:
        RuntimeError: The file in the installed package was changed.
    """
    from safetensors.torch import load

    path = WEIGHTS / "digits.safetensors"
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGITS_SHA256:
        raise RuntimeError(f"{path} has sha256 {found}, not {DIGITS_SHA256}; reinstall genflow")
    model = DigitsClassifier()
    model.load_state_dict(load(content))
    return model.eval().requires_grad_(False)


Extractor = Callable[[Tensor], Tensor]
"""Raw examples (n, *shape) -> features (n, d)."""


def extractor_for(dataset_name: str, shape: tuple[int, ...]) -> tuple[str, Extractor]:
    """Name and function of the feature space in which a data set's samples are compared.

    Digits have a classifier; other data is compared as it is, by its own values: FD[identity].
    """
    if dataset_name == "digits":
        model = load_digits_classifier()
        return "digits", lambda raw: extract(model.features, raw)
    return "identity", lambda raw: raw.flatten(1)


@torch.no_grad()
def extract(features: Extractor, raw: Tensor, batch_size: int = 500) -> Tensor:
    """Features of all examples, by batches."""
    return torch.cat([features(chunk) for chunk in raw.split(batch_size)])
