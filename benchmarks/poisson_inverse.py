"""What the inverse of the Poisson field is worth: one trained network, sampled with every inverse.

    genflow train --process pfgm --out runs/pfgm
    python benchmarks/poisson_inverse.py runs/pfgm

Prints a Markdown table of FD[digits] by inverse, bound and NFE (Heun, two blocks of 500 samples, seed 0).
"""

from __future__ import annotations

import dataclasses
import sys

import genflow
from genflow.evaluate.features import space_for
from genflow.evaluate.frechet import frechet_distance

BUDGETS = (10, 20, 35)
FAR = 1e6
"""A bound that never binds."""


def main() -> None:
    process, backbone = genflow.load(sys.argv[1])
    data = genflow.get_dataset("digits")
    space = space_for("own", data)
    name, extractor = space.name, space.features
    reference = extractor(data.train)
    print(f"| inverse | bound on the posterior mean | {' | '.join(f'NFE {n}' for n in BUDGETS)} |")
    print("|---|---|" + "---|" * len(BUDGETS))
    print(f"| real test split, FD[{name}] | | {frechet_distance(reference, extractor(data.test)):.2f} | | |")
    for inverse, radius in (
        ("projected", None),
        ("projected", FAR),
        ("exact", None),
        ("exact", FAR),
        ("ratio", FAR),
        ("published", FAR),
    ):
        variant = dataclasses.replace(process, inverse=inverse, radius=radius, z_exp=process.setting("norm") / 6)
        cells = []
        for nfe in BUDGETS:
            try:
                x = data.scaling.decode(genflow.sample(variant, backbone, "heun", 1000, nfe=nfe).x)
                one, two = (frechet_distance(reference, extractor(block)) for block in x.split(500))
                cells.append(f"{(one + two) / 2:.2f} ± {abs(one - two) / 2:.2f}")
            except RuntimeError as error:
                cells.append(type(error).__name__)
        bound = "none" if inverse in ("ratio", "published") else "1e6" if radius else "data"
        print(f"| {inverse} | {bound} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
