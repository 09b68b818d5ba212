"""What a pass through an extractor costs beside clean-fid's generator path with the same extractor, and its memory.

    python benchmarks/feature_speed.py

Images of 32x32 to statistics of 2048 features in the protocol clean: resize, extractor, mean and covariance. The
extractor is a stub with the published network's interface and next to no work, so the path itself is what is timed.
Interleaved, median of pairs; bar: clean-fid's time over ours at least 1. Then the memory that a pass adds at its peak,
for n and 4n images in processes of their own; bar: at most 20 MB more for 4n, where the features alone are 75 MB more.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from common import about, interleaved, ratio, verdict
from torch import Tensor, nn

from genflow.evaluate.checks import ImageCheck
from genflow.evaluate.features import Space
from genflow.evaluate.passes import feature_pass
from genflow.evaluate.resize import resize

N, DIM, RUNS = 1024, 2048, 5


class Stub(nn.Module):
    """Images (n, 3, 299, 299) with values 0 to 255 -> (n, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(3 * 64, DIM)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mix(nn.functional.avg_pool2d((x - 128) / 128, 37).flatten(1)))


def images(n: int, batch: int = 128) -> Iterator[Tensor]:
    """Drawn images, batch by batch, none of them held."""
    for seed in range(n // batch):
        yield torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 255


def ours(stub: Stub, n: int) -> Tensor:
    """Mean and covariance by one pass."""
    space = Space("stub", "", "", lambda raw: stub(resize(raw, "clean")), watch=ImageCheck, batch=64)
    return feature_pass(images(n), space).moments.result().mean


def theirs(stub: Stub, n: int) -> np.ndarray:
    """The same by clean-fid's generator path."""
    from cleanfid.fid import get_model_features

    batches = images(n)
    found = get_model_features(
        lambda z: next(batches), stub, num_gen=n, batch_size=128, device=torch.device("cpu"), verbose=False
    )
    np.cov(found, rowvar=False)
    return found.mean(0)


def peak(function: Callable[[Stub, int], object], n: int) -> float:
    """MB that a pass over n images adds to a process at its peak."""
    fork = multiprocessing.get_context("fork")
    reader, writer = fork.Pipe(duplex=False)

    def child() -> None:
        stub = Stub()
        function(stub, 256)  # what libraries take once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        function(stub, n)
        writer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = fork.Process(target=child)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the pass ended with exit code {process.exitcode}")
    return reader.recv()


def main() -> int:
    about()
    memory = {f.__name__: [peak(f, n) for n in (3 * N, 12 * N)] for f in (ours, theirs)}
    stub = Stub()
    np.testing.assert_allclose(ours(stub, N).numpy(), theirs(stub, N), rtol=1e-3, atol=1e-4)
    own, other = interleaved(RUNS, lambda: ours(stub, N), lambda: theirs(stub, N), warm_up=0)
    held = [verdict("clean-fid's generator path over ours", ratio(other, own), 1.0, at_most=False)]
    for name, (few, many) in memory.items():
        print(f"{name}: {few:.0f} MB more for {3 * N} images, {many:.0f} MB for {12 * N}")
    few, many = memory["ours"]
    held.append(verdict("MB that 4 times as many images add", many - few, 20))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
