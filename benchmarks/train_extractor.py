"""Trains the classifier behind FD[digits] or FD[mnist] and writes its weights into the package.

    python benchmarks/train_extractor.py digits
    python benchmarks/train_extractor.py mnist

It sees the first 497 (1,500) rows of the training split, which no reference of a metric uses; see `SHIPPED` in
genflow/evaluate/features.py. Prints the accuracy on the rows that references use, and the hash that features.py checks.
Takes half a minute (a minute) on one core.
"""

from __future__ import annotations

import hashlib
import sys

import torch
from safetensors.torch import save

import genflow
from genflow.evaluate.features import SHIPPED, WEIGHTS, Classifier, DigitsClassifier, MnistClassifier

RECIPES: dict[str, tuple[type[Classifier], int, int]] = {
    "digits": (DigitsClassifier, 160, 1),
    "mnist": (MnistClassifier, 70, 2),
}
"""Classifier, epochs, and by how many pixels images are shifted at most."""


def shifted(raw: torch.Tensor, most: int) -> torch.Tensor:
    """Each batch moved by up to so many pixels, filled with background."""
    dy, dx = torch.randint(0, 2 * most + 1, (2,)).tolist()
    side = raw.shape[-1]
    return torch.nn.functional.pad(raw, (most,) * 4)[:, :, dy : dy + side, dx : dx + side]


def main(name: str) -> None:
    torch.manual_seed(0)
    make, epochs, shift = RECIPES[name]
    origin, model = SHIPPED[name].origin, make()
    data = genflow.get_dataset(origin.dataset)
    x, y = data.train[: origin.rows], data.labels("train")[: origin.rows]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    batches = len(x) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: batches * 64].split(64):
            loss = torch.nn.functional.cross_entropy(model(shifted(x[rows], shift)), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
    for split, first in (("train", origin.rows), ("test", 0)):
        with torch.no_grad():
            hit = (model(data.split(split)[first:]).argmax(1) == data.labels(split)[first:]).float().mean()
        print(f"{split} rows of references: accuracy {100 * hit:.2f} %")
    content = save(model.state_dict())
    WEIGHTS.mkdir(exist_ok=True)
    (WEIGHTS / f"{name}.safetensors").write_bytes(content)
    print(f"{len(content)} bytes, {name.upper()}_SHA256 = {hashlib.sha256(content).hexdigest()!r}")


if __name__ == "__main__":
    main(sys.argv[1])
