"""Trains the classifier behind FD[mnist] on mnist5k's training split and writes its weights into the package.

    python benchmarks/train_mnist_extractor.py

Prints the held-out accuracy and the hash that genflow/evaluate/features.py checks. Takes about two minutes on one core.
"""

from __future__ import annotations

import hashlib

import torch
from safetensors.torch import save

import genflow
from genflow.evaluate.features import WEIGHTS, MnistClassifier


def shifted(raw: torch.Tensor) -> torch.Tensor:
    """Each batch moved by up to two pixels, filled with background."""
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    padded = torch.nn.functional.pad(raw, (2, 2, 2, 2))
    return padded[:, :, 2 + dy : 30 + dy, 2 + dx : 30 + dx]


def main() -> None:
    torch.manual_seed(0)
    data, model, epochs = genflow.get_dataset("mnist5k"), MnistClassifier(), 25
    x, y = data.train, data.labels("train")
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 64 * 64].split(64):
            loss = torch.nn.functional.cross_entropy(model(shifted(x[rows])), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        for split in ("train", "test"):
            hit = (model(data.split(split)).argmax(1) == data.labels(split)).float().mean()
            print(f"{split} accuracy {100 * hit:.2f} %")
    content = save(model.state_dict())
    WEIGHTS.mkdir(exist_ok=True)
    (WEIGHTS / "mnist.safetensors").write_bytes(content)
    print(f"{len(content)} bytes, MNIST_SHA256 = {hashlib.sha256(content).hexdigest()!r}")


if __name__ == "__main__":
    main()
