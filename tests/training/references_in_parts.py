"""Run by each of two ranks: posterior means over references in parts and over all of them, written to a folder."""

import json
import sys
from pathlib import Path

import torch

import genflow
from genflow.data.base import Dataset, Scaling
from genflow.distributed import open_team
from genflow.process.posterior import posterior_mean
from genflow.training import Batches, stream


class Levels(Dataset):
    """Random grey levels on a disk; counts what is read."""

    name, scaling, flip, held, shape = "levels", Scaling.grey(16), True, False, (1, 4, 4)
    stored = torch.randint(0, 16, (308, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    read = 0

    def count(self, split):
        return 300 if split == "train" else 8

    def examples(self, split, rows):
        self.read += len(rows)
        return self.stored[rows]


def found(name, count, team):
    """The worst error over the batch, in float32, beside the mean over all references in float64."""
    data = Levels()
    process = genflow.get_process(name, **({} if name.startswith("pfgm") else {"objective": "stable"}))
    batches, alone = Batches(data, 20, 3, team), Batches(Levels(), 20, 3)
    x, refs = batches.points(1, count, True)
    pairs = process.perturb(x, generator=stream(3, "noise", 1))
    before, made = data.read, []

    class Watched:
        largest, total = refs.largest, refs.total

        def __iter__(self):
            for part in refs:
                made.append(len(part))
                yield part

    mean = posterior_mean(pairs.x_t, pairs.t, [x, Watched()], process)
    whole = count > len(refs)
    read = data.read - before if whole else 0
    _, same = alone.points(1, count, True)
    everything = torch.cat([x, *(same if not isinstance(same, torch.Tensor) else [same])])
    want = posterior_mean(pairs.x_t.double(), pairs.t, everything.double(), process)
    error = float((mean - want).abs().max())
    return {"error": error, "made": sum(made), "references": len(refs), "read": read, "batch": 20}


def main(folder):
    torch.set_num_threads(1)
    genflow.training.batches.WHOLE = 0
    with open_team() as team:
        lines = [found(name, count, team) for name in ("pfgm", "vp_ode", "pfgmpp") for count in (120, 10_000)]
        Path(folder, f"{team.rank}.json").write_text(json.dumps(lines))


if __name__ == "__main__":
    main(sys.argv[1])
