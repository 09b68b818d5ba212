"""A bench inside torchrun: two ranks on one CPU share its errands."""

import csv
import os
import subprocess
import sys

import inline_workers as inline
import pytest

from genflow.bench.choose import prepare
from genflow.bench.crew import RANK_VARIABLES, Ranks, crew, follow, ranks
from genflow.bench.post import Leader
from genflow.bench.tables import collect, to_csv
from genflow.config import ConfigError

WORDS = [f"--{key.replace('.', '-').replace('_', '-')}={value}" for key, value in inline.TINY.items()]


def test_only_torchrun_makes_ranks(monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert ranks() is None
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "3412"):
        monkeypatch.setenv(name, value)
    assert ranks() == Ranks(3, 4, 1, 2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks() is None


def test_a_rank_that_finds_no_bench_says_so(tiny, monkeypatch):
    monkeypatch.setattr("genflow.bench.crew.WAIT", 0.3)
    monkeypatch.setattr(os, "environ", {**os.environ, "RANK": "1"})
    with pytest.raises(ConfigError, match=r"rank 1 found no bench in .*bench within 0 s; do ranks share it\?"):
        follow(tiny(), Ranks(1, 2, 1, 2))


def test_slurm_inside_torchrun_is_refused(tiny, monkeypatch):
    monkeypatch.setattr("genflow.bench.crew.ranks", lambda: Ranks(0, 2, 0, 2))
    config = tiny(slurm="local")
    with pytest.raises(ConfigError, match="choose one of the two"), crew(config, prepare(config).store):
        pass


def test_two_ranks_make_the_tables_of_one(tiny, tmp_path):
    config = tiny(out=str(tmp_path / "alone"))
    plan = prepare(config)
    plan.store.prepare()
    inline.run(config, plan)
    wanted = list(csv.DictReader(to_csv(collect(plan.store, plan.cells)).splitlines()))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command = [*torchrun, "-m", "genflow", "bench", *WORDS, "--keep-going", "--out", "shared"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader((tmp_path / "shared" / "results.csv").open(encoding="utf-8")))
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in (found, wanted)]
    assert timeless[0] == timeless[1]
    assert done.stdout.count("## FD[identity]") == 1, "the first rank alone prints"
    assert not (tmp_path / "shared" / ".workers").exists()
    with Leader(tmp_path / "shared"):  # the folder is free
        pass
