"""The bias of conditional sampling by replacement, and what correctors leave of it, where the conditional is known.

    python benchmarks/replacement_bias.py

X is a pair of standard normals with correlation 0.8, the first given as 1.5; so the second has mean 1.2 and variance
0.36. The backbone is exact: what is off is the method. 50 steps of vp_sde, 4,000 samples, corrector_step = 0.4.
"""

from __future__ import annotations

import torch
from common import about
from torch import Tensor

import genflow
from genflow.inpainting import Replacement, inpaint

RHO, GIVEN = 0.8, 1.5


def main() -> None:
    about()
    process = genflow.get_process("vp_sde")
    values, vectors = torch.linalg.eigh(torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64))

    def backbone(x: Tensor, condition: Tensor) -> Tensor:
        c = process.at(process.time(condition.double()), x)
        gain = c.a * values / (c.a**2 * values + c.b**2)
        return process.prediction.encode((x @ vectors * gain) @ vectors.T, x, c)

    x, mask = torch.tensor([[GIVEN, 0.0]], dtype=torch.float64), torch.tensor([1, 0])
    print(f"exact: mean {RHO * GIVEN:.2f}, variance {1 - RHO**2:.2f}")
    for correctors in (0, 1, 4, 16, 64):
        how = Replacement(nfe=50 * (1 + correctors), correctors=correctors, corrector_step=0.4, batch_size=4000)
        found = inpaint(process, backbone, x, mask, 4000, how)
        drawn = found.x[0, :, 1]
        print(f"{correctors} correctors, NFE {found.nfe:g}: mean {drawn.mean():.2f}, variance {drawn.var():.2f}")


if __name__ == "__main__":
    main()
