"""What training costs beside what it cannot do without: the step, the averages, a checkpoint.

    python benchmarks/training_speed.py

* a whole step (data, pairs, loss, backward, Adam, averages, statistics) over forward, backward and Adam of the same
  network on the same batch: at most 1.10. Digits with the bench's NCSNv2, and 3x32x32 noise with DDPM++ "small";
* a step of PFGM whose field averages over N = 1024 points over one of VP: at most 1.10. The published proportion is 32
  such points to an image of the batch;
* the averages' update over the plain loop ema = d ema + (1 - d) p, for few large and many small tensors: at most 1.0
  and 0.5;
* an atomic, synced and hashed checkpoint over `torch.save` of the same tensors: at most 1.6. `torch.save` does not
  sync, so the ratio over one that does stands beside it.

Ratios are medians over interleaved pairs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from common import about, interleaved, ratio, verdict

import genflow
from genflow.checkpoint import Checkpoints
from genflow.config import TrainConfig
from genflow.data.base import Dataset, Scaling
from genflow.training import Trainer
from genflow.training.averages import Averages
from genflow.training.run import Run, state_files


class Noise(Dataset):
    """4,096 random images of 3x32x32."""

    name, shape, scaling = "noise", (3, 32, 32), Scaling.grey(256)
    train = torch.randint(0, 256, (4096, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    test = train[:8]


def trainer(process: str, backbone: str, data: Dataset, batch: int, options: dict | None = None, **more: object) -> Run:
    fitted = genflow.get_process(process, **(options or {})).for_data(data.fitting_points())
    network = genflow.get_backbone(backbone, shape=data.shape, extra_channels=fitted.extra_channels, **more)
    return Run(Trainer(fitted, network, data, TrainConfig(batch_size=batch, schedule="constant")), None)


def bare(process: str, backbone: str, data: Dataset, batch: int):
    """Forward, backward and Adam of the network alone."""
    run = trainer(process, backbone, data, batch)
    network, optimiser = run.trainer.backbone, run.trainer.optimiser
    pairs, _ = run.trainer.pairs()
    condition = run.trainer.process.condition(pairs.t).float()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        network(pairs.x_t, condition).square().mean().backward()
        optimiser.step()

    return step


def steps() -> list[bool]:
    held = []
    for data, backbone, batch in ((genflow.get_dataset("digits"), "ncsnv2", 64), (Noise(), "ddpmpp", 16)):
        for process in ("pfgm", "vp_ode", "si_linear"):
            run = trainer(process, backbone, data, batch)

            def whole(run=run) -> None:
                run.record(run.trainer.advance())

            network, ours = interleaved(25, bare(process, backbone, data, batch), whole, warm_up=3)
            held.append(
                verdict(f"{process} {backbone} {data.name}: step over the bare network", ratio(ours, network), 1.1)
            )
        for size in {64: (64,), 16: (16, 32)}[batch]:
            many = trainer("pfgm", backbone, data, size, {"large_batch": 1024})
            one = trainer("vp_ode", backbone, data, size)
            vp, pfgm = interleaved(25 * 16 // size + 9, one.trainer.advance, many.trainer.advance, warm_up=3)
            what = f"{backbone} {data.name}, batch {size}: PFGM step at N = 1024 over VP's"
            held.append(verdict(what, ratio(pfgm, vp), 1.1))
    return held


AVERAGED = (("40 large tensors", [(512, 512, 3, 3)] * 40, 1.0), ("500 small ones", [(64,)] * 500, 0.5))
"""What is averaged, its shapes, and the bar."""


@torch.no_grad()
def averages() -> list[bool]:
    held = []
    for what, shapes, bar in AVERAGED:
        weights = {str(i): torch.randn(shape) for i, shape in enumerate(shapes)}
        ours, plain = Averages(weights, 0.999), {n: w.clone() for n, w in weights.items()}

        def loop(plain=plain, weights=weights) -> None:
            for name, weight in weights.items():
                plain[name].copy_(0.999 * plain[name] + 0.001 * weight)

        def lerp(plain=plain, weights=weights) -> None:
            for name, weight in weights.items():
                plain[name].lerp_(weight, 0.001)

        def fused(ours=ours) -> None:
            ours.update(10_000)

        slow, single, fast = interleaved(25, loop, lerp, fused, warm_up=2)
        held.append(verdict(f"averages of {what} over the plain loop", ratio(fast, slow), bar))
        print(f"       (over a loop of lerp_: {ratio(fast, single):.3g})")
    return held


def checkpoints() -> list[bool]:
    run = trainer("pfgm", "ddpmpp", Noise(), 4, nf=128, ch_mult=[1, 2, 2, 2], num_res_blocks=2)
    run.trainer.advance()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        model, rest = run.trainer.tensors()
        kept = Checkpoints(Path(folder) / "ours", 1)
        size = sum(v.numel() * v.element_size() for v in (*model.values(), *rest.values())) / 2**20

        def plain() -> None:
            torch.save({"model": model, "rest": rest}, Path(folder) / "plain.pt")

        def synced() -> None:
            with (Path(folder) / "synced.pt").open("wb") as file:
                torch.save({"model": model, "rest": rest}, file)
                file.flush()
                os.fsync(file.fileno())

        def ours() -> None:
            kept.write(1, state_files(run.trainer, 0.0, None))

        first, second, third = interleaved(7, plain, synced, ours)
    print(f"       (checkpoint of {size:.0f} MiB; over a torch.save that syncs: {ratio(third, second):.3g})")
    return [verdict("checkpoint, atomic, synced and hashed, over torch.save", ratio(third, first), 1.6)]


def main() -> int:
    about()
    held = [*steps(), *averages(), *checkpoints()]
    return 0 if all(held) else 1


if __name__ == "__main__":
    raise SystemExit(main())
