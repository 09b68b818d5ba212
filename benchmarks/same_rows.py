"""Whether a change of code leaves the measured numbers as they were, bit for bit.

    python benchmarks/same_rows.py --save before.csv       # before the change
    python benchmarks/same_rows.py --compare before.csv    # after it: exit code 1 and the rows that differ

Runs small benches with fixed seeds (under a minute on two CPU cores) and keeps every row of their results.csv without
the columns `seconds` and `network_seconds`. Options of `genflow bench` that must not matter follow after `--`:

    python benchmarks/same_rows.py --compare before.csv -- --jobs 3 --shard 1
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

TRAINING = ("--train-steps=12", "--train-batch-size=16", "--train-warmup=2", "--backbone=mlp")
BENCHES = {
    "digits": (
        "--process=pfgm,pfgmpp,vp_ode,vp_sde,si_linear",
        "--solver=euler,heun,dpmpp_2m,rk45,euler_maruyama",
        "--solver-options=rk45.rtol=0.1",
        "--solver-options=rk45.atol=0.1",
        "--metric=fd,prdc,norm_z,bpd",
        "--nfe=4,7",
        "--samples=40",
        "--sample-batch=8",
        "--norm-nfe=4",
        "--norm-factors=0.8,1.25",
        "--bpd-examples=4",
        "--bpd-rtol=0.1",
        "--bpd-atol=0.1",
        "--backbone-options=mlp.width=16",
    ),
    "points": (
        "--dataset=eight_gaussians",
        "--dataset-options=eight_gaussians.size=200",
        "--process=vp_ode,si_mirror,ve_sde",
        "--solver=euler,euler_maruyama",
        "--metric=fd,two_sample,kl",
        "--bpd-examples=8",
        "--bpd-rtol=0.1",
        "--bpd-atol=0.1",
        "--nfe=3,5",
        "--seed=0,1",
        "--samples=60",
        "--sample-batch=8",
        "--backbone-options=mlp.width=8",
    ),
}
"""Words of the benches by name: every kind of cell, solvers with and without a budget, samples in shards, two seeds."""


def measured(folder: Path, more: list[str]) -> str:
    """The rows of all benches, run in a folder or read from there where they are finished, as CSV."""
    lines: list[str] = []
    for name, words in BENCHES.items():
        out = folder / name
        command = [sys.executable, "-m", "genflow", "bench", *TRAINING, *words, "--out", str(out), *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with (out / "results.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                {k: v for k, v in row.items() if k not in ("seconds", "network_seconds")}
                for row in csv.DictReader(file)
            ]
        lines += [f"bench,{','.join(rows[0])}"] if not lines else []
        lines += [f"{name},{','.join(quoted(value) for value in row.values())}" for row in rows]
    return "\n".join(lines) + "\n"


def quoted(value: str) -> str:
    """A value as a field of CSV."""
    return '"' + value.replace('"', '""') + '"' if set(value) & set(',"\n') else value


def differences(before: str, after: str) -> list[str]:
    """Lines that stand in one text alone, with a sign of which, in order."""
    import difflib

    found = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0)
    return [line for line in found if not line.startswith("@@")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--save", type=Path, metavar="FILE", help="write the rows there")
    what.add_argument("--compare", type=Path, metavar="FILE", help="compare them with rows that were saved")
    parser.add_argument("--folder", type=Path, help="where the benches run; a temporary folder without it")
    parser.add_argument("more", nargs="*", help="options of genflow bench, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        rows = measured(given.folder or Path(spare), given.more)
    if given.save:
        given.save.write_text(rows, encoding="utf-8")
        print(f"{rows.count(chr(10)) - 1} rows saved in {given.save}")
        return 0
    found = differences(given.compare.read_text(encoding="utf-8"), rows)
    print("\n".join(found) or f"the same: {rows.count(chr(10)) - 1} rows, bit for bit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
