"""The workers of a bench as jobs of a Slurm cluster, by way of submitit. Imports neither it nor torch before a bench.

Each job is one worker that serves the bench through the shared folder until the bench is over. A job that runs into its
time limit or is pre-empted asks to be queued again and then comes back as the same worker; the errand it was at is
given out once more and goes on from its saved state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genflow.bench.channels import Letters
from genflow.bench.choose import seconds_of
from genflow.bench.post import PATIENCE, Follower, Leader
from genflow.bench.runner import usable_cores
from genflow.bench.serve import ByPost, serve
from genflow.bench.store import Store
from genflow.config import BenchConfig, ConfigError
from genflow.registry import unknown

SHARED = {"gpus": "gpus_per_node", "cpus": "cpus_per_task"}
"""Keys of --slurm that submitit takes as whole numbers, under its own names."""

OWN = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment", "reservation")
"""Keys that are options of sbatch under the same name."""

RETURNS = 1000
"""How often a job may run into its time limit and be queued again."""

KEYS = ("cluster", "time", "mem", *SHARED, *OWN)


@dataclass(frozen=True)
class Job:
    """What a job of the cluster runs: one worker.

    Arguments:
        root: The bench's folder, absolute.
        session: The bench's session.
        name: Of the worker's mailbox.
        cwd: Where the bench was started; paths of its configuration are from there.
        threads: Of torch; 0: as many as the job has cores.
        again: Whether the job has been queued again.
    """

    root: str
    session: str
    name: str
    cwd: str
    threads: int = 0
    again: bool = False

    def __call__(self) -> str:
        os.chdir(self.cwd)
        follower = Follower(Path(self.root), self.session)
        if not follower.find(PATIENCE):
            return "the bench is over"
        errands = ByPost(follower, self.name, self.again)
        serve(errands, threads=self.threads or usable_cores(), place=0)
        errands.finish()
        return "done"

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Asked by submitit when the time is nearly up or the job is pre-empted: the same worker comes again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self, again=True))


def parameters(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(cluster, parameters of submitit) of the words KEY=VALUE of --slurm.

    The word `local` alone, or cluster=local, is submitit's cluster of this machine, to try a bench before it queues.

    Raises:
        ConfigError: A word of another form, or a value that its key does not take.
        UnknownNameError: A key that is not known.
    """
    found: dict[str, Any] = {}
    cluster = "slurm"
    for word in words:
        key, equals, value = word.partition("=") if word != "local" else ("cluster", "=", "local")
        if not equals or not value:
            raise ConfigError(f"slurm: '{word}' is not of the form KEY=VALUE; known keys: {', '.join(KEYS)}")
        if key == "cluster":
            cluster = value
        elif key == "time":
            found["timeout_min"] = max(1, round(seconds_of("slurm: time", value) / 60))
        elif key == "mem":
            found["mem_gb"] = _number(word, value, float)
        elif key in SHARED:
            found[SHARED[key]] = _number(word, value, int)
        elif key in OWN:
            found.update(_own(found, key, value))
        else:
            raise unknown("key of slurm", key, KEYS)
    if cluster not in ("slurm", "local"):
        raise ConfigError(f"slurm: cluster = '{cluster}' is not known; give slurm or local")
    return cluster, found


def _own(found: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """What submitit names itself, and what it passes on to sbatch."""
    if key in ("partition", "account", "qos", "constraint", "exclude", "comment"):
        return {f"slurm_{key}": value}
    return {"slurm_additional_parameters": {**found.get("slurm_additional_parameters", {}), key: value}}


def _number(word: str, value: str, kind: type) -> Any:
    try:
        number = kind(value.lower().removesuffix("gb").removesuffix("g"))
    except ValueError:
        number = -1
    if number < 0:
        wanted = "a whole number" if kind is int else "a number of gigabytes"
        raise ConfigError(f"slurm: '{word}' is not allowed; give {wanted}")
    return number


def submit(config: BenchConfig, store: Store, leader: Leader, jobs: int) -> list[Letters]:
    """Queues so many workers.

    Raises:
        ConfigError: submitit is not installed, no cluster is here, or it refuses the parameters.
    """
    cluster, given = parameters(config.slurm)
    try:
        import submitit
    except ImportError:
        raise ConfigError("slurm needs submitit: pip install 'genflow[slurm]'") from None
    given = {"timeout_min": 24 * 60, "name": "genflow", **given}
    if cluster == "local":
        given = {key: value for key, value in given.items() if not key.startswith("slurm_")}
    try:
        executor = submitit.AutoExecutor(store.root / "slurm", cluster, slurm_max_num_timeout=RETURNS)
        executor.update_parameters(**given)
        root, here = str(store.root.resolve()), os.getcwd()
        threads = max(1, usable_cores() // jobs) if cluster == "local" else 0
        work = [Job(root, leader.session, f"job-{place}", here, threads) for place in range(jobs)]
        queued = [executor.submit(job) for job in work]
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise ConfigError(f"slurm: {' '.join(str(error).split())}") from None
    print(f"genflow: {jobs} jobs queued: {', '.join(str(job.job_id) for job in queued)}", file=sys.stderr)
    return [Letters(leader.box(job.name), ticket) for job, ticket in zip(work, queued, strict=True)]
