"""Starts a bench's workers: processes of this machine, or the workers of a Dask cluster. Imports neither torch nor Dask
until they are needed."""

from __future__ import annotations

import os

from genflow.bench.pool import Pool
from genflow.bench.queues import request
from genflow.bench.store import Store
from genflow.config import BenchConfig, ConfigError


def start_workers(config: BenchConfig, store: Store, jobs: int) -> Pool:
    """Starts the workers that the configuration asks for.

    Arguments:
        config: The bench.
        store: Its folder, held by this process.
        jobs: How many to start.

    Raises:
        ConfigError: It asks for a cluster that is not there, or a package for it is missing.
    """
    check_place(config)
    if config.scheduler or config.cluster or config.slurm:
        from genflow.bench.cluster import open_cluster

        return open_cluster(config, store, jobs)
    from genflow.bench.local import LocalPool

    return LocalPool(config, store.root, jobs)


def check_place(config: BenchConfig) -> None:
    """Raises ConfigError inside torchrun, for two kinds of workers at once, and for a --cluster that is not valid.

    Starts nothing and imports no package of the cluster.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a bench does not share its work among the ranks of torchrun; start it once, with --jobs on one machine "
            "and --scheduler or --cluster on several (torchrun is for genflow train)"
        )
    given = [f"--{name}" for name in ("scheduler", "cluster", "slurm") if getattr(config, name)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; give one of them")
    if config.cluster or config.slurm:
        request(config)
