"""Workers of a Dask cluster: of a scheduler that runs already, or of jobs that the bench queues through dask-jobqueue.

Each worker of the cluster is a slot: an executor of Dask that is bound to it, one task at a time. Workers and bench
share the output folder. The slot of a worker comes and goes with it.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

from genflow.bench.cells import Cell
from genflow.bench.execute import Answer, Assignment, execute
from genflow.bench.pool import Pool, Slot
from genflow.bench.queues import SYSTEMS, request
from genflow.bench.store import Store
from genflow.bench.tasks import Task
from genflow.config import BenchConfig, ConfigError, flatten

log = logging.getLogger(__name__)

LOOK, PATIENCE = 0.5, 30.0
"""Seconds between two looks at the cluster's workers, and until a scheduler that does not answer counts as gone."""


class ClusterGoneError(RuntimeError):
    """The scheduler does not answer any more; finished cells are kept."""


def open_cluster(config: BenchConfig, store: Store, jobs: int) -> DaskPool:
    """Joins the cluster of --scheduler, or starts the one of --cluster.

    Arguments:
        config: The bench.
        store: Its folder.
        jobs: How many jobs to queue where a cluster is started.

    Raises:
        ConfigError: A package is missing, the scheduler does not answer, or the queueing system is not here.
    """
    try:
        import distributed
    except ImportError:
        raise ConfigError("scheduler and cluster need Dask: pip install 'genflow[cluster]'") from None
    for name in ("distributed", "distributed.client"):  # the bench reports what matters
        logging.getLogger(name).setLevel(logging.CRITICAL)
    cluster = None if config.scheduler else start_jobs(config, store.root, jobs)
    where = config.scheduler if cluster is None else cluster
    file = {"scheduler_file": where} if isinstance(where, str) and Path(where).is_file() else {"address": where}
    try:
        client = distributed.Client(**file, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"scheduler = '{config.scheduler}' does not answer ({error}); start one with `dask scheduler`, and give "
            "its address, e.g. tcp://host:8786"
        ) from None
    return DaskPool(config, client, cluster, 0 if cluster else config.jobs)


def start_jobs(config: BenchConfig, folder: Path, jobs: int) -> Any:
    """A cluster of dask-jobqueue with so many jobs queued; a job that ends before the bench is queued again.

    Raises:
        ConfigError: dask-jobqueue is not installed, or the system's command is missing or refuses the job.
    """
    system, options = request(config)
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
        importlib.import_module("dask_jobqueue.local")
    except ImportError:
        raise ConfigError("cluster needs dask-jobqueue: pip install 'genflow[cluster]'") from None
    kind = getattr(jobqueue.local if system == "local" else jobqueue, SYSTEMS[system])
    command = kind.job_cls.submit_command
    if command and not shutil.which(command.split()[0]):
        raise ConfigError(
            f"cluster = '{system}': there is no {command.split()[0]} here; start the bench where jobs are queued"
        )
    host = {"host": options.pop("host")} if "host" in options else {}
    cluster = None
    try:
        cluster = kind(
            **options,
            log_directory=str((folder / "cluster").resolve()),
            scheduler_options={"dashboard_address": "127.0.0.1:0", **host},
        )
        cluster.sync(_queue_one, cluster)
    except MemoryError:
        raise
    except Exception as error:  # of the system's command, in any way
        if cluster is not None:
            _quietly(cluster.close)  # it stumbles over the job that never was
        raise ConfigError(f"cluster = '{system}': {' '.join(str(error).split())}") from None
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    print(f"genflow: {jobs} jobs queued; their logs are in {folder / 'cluster'}", file=sys.stderr)
    return cluster


def _quietly(call: Callable[..., Any], *given: Any, **options: Any) -> None:
    """Calls what may fail in any way without harm, and notes how it failed."""
    try:
        call(*given, **options)
    except MemoryError:
        raise
    except Exception as error:
        log.debug("%s failed: %s: %s", call.__qualname__, type(error).__name__, error)


async def _queue_one(cluster: Any) -> None:
    """Queues the first job; raises what the system's command says, which `scale` and `adapt` would only log."""
    cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster


class DaskSlot(Slot):
    """One worker of the cluster.

    Arguments:
        pool: Its pool.
        address: Of the worker.
        facts: What the scheduler knows of it.
        place: Its number among the workers of its host.
    """

    def __init__(self, pool: DaskPool, address: str, facts: Mapping[str, Any], place: int) -> None:
        self.pool, self.threads, self.place = pool, int(facts["nthreads"]), place
        gpu = pool.config["device"].startswith("cuda") and facts["resources"].get("GPU")
        bound = {"workers": [address], "pure": False, **({"resources": {"GPU": 1}} if gpu else {})}
        self.executor = pool.client.get_executor(**bound)

    def submit(self, task: Task) -> Future[Answer]:
        self.last_progress, self.model = (0.0, ""), task.cell.model or self.model
        given = Assignment(self.pool.config, task.cell.to_json(), task.part, self.threads, self.place)
        future: Future[Answer] = self.executor.submit(work, given, self.pool.session, os.getcwd())
        return future


class DaskPool(Pool):
    """The workers of a Dask cluster, which may come and go.

    Arguments:
        config: The bench.
        client: Of the cluster.
        cluster: The one that the bench started; None for one that was there.
        most: How many workers to use; 0 for all.
    """

    def __init__(self, config: BenchConfig, client: Any, cluster: Any, most: int) -> None:
        self.config, self.client, self.cluster, self.most = flatten(config), client, cluster, most
        self.session = f"genflow-{uuid.uuid4().hex[:12]}"
        self._slots: dict[str, DaskSlot] = {}
        self._looked, self._waiting = -LOOK, False
        client.subscribe_topic(self.session, self._hear)

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        address, share, note = (event[1][key] for key in ("worker", "share", "note"))
        if address in self._slots:
            self._slots[address].last_progress = share, note

    def slots(self) -> list[DaskSlot]:
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self._follow(self._workers())
        return list(self._slots.values())

    def _workers(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.client.scheduler_info(n_workers=-1)
            return dict(found["workers"])
        except (OSError, RuntimeError, TimeoutError, KeyError):  # a client that has given up has no workers
            raise ClusterGoneError("the Dask scheduler does not answer any more; finished cells are kept") from None

    def _follow(self, workers: dict[str, Any]) -> None:
        """Closes the slots of workers that have left, and opens those of new ones."""
        for address in self._slots.keys() - workers.keys():
            self._slots.pop(address).executor.shutdown(wait=False)
        for address, facts in workers.items():
            if address in self._slots or (self.most and len(self._slots) >= self.most):
                continue
            mates = sorted(a for a, f in workers.items() if f["host"] == facts["host"])
            self._slots[address] = DaskSlot(self, address, facts, mates.index(address))
        if not self._slots and not self._waiting:
            print(f"genflow: waiting for workers of {self.client.scheduler.address}", file=sys.stderr)
        self._waiting = not self._slots

    def stop(self) -> None:
        """Asks in a thread of its own, since Dask waits quite long for a worker that has just died. A worker that does
        not get the request notices that the bench is gone."""
        given, options = (self.client.run, ask_to_stop, self.session), {"on_error": "ignore"}
        threading.Thread(target=_quietly, args=given, kwargs=options, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError, RuntimeError, TimeoutError):
            self.client.close(timeout=5)
        if self.cluster is not None:
            self.cluster.close()


# ---- inside a worker -------------------------------------------------------------------------------------

_stopping: set[str] = set()
"""Benches that have asked this process to stop."""

_turn = threading.Lock()
"""A worker with several threads still does one task at a time."""


def ask_to_stop(session: str) -> None:
    """Has the tasks of a bench in this process save and end."""
    _stopping.add(session)


def work(given: Assignment, session: str, folder: str) -> Answer:
    """Does a task where the bench was started, if this worker can see that folder and has the same code."""
    import distributed

    worker = distributed.get_worker()
    task, where = worker.get_current_task(), f"the worker on {socket.gethostname()}"

    def tell(share: float, note: str) -> None:
        worker.log_event(session, {"worker": worker.address, "share": share, "note": note})

    def should_stop() -> bool:
        return session in _stopping or _given_up(worker, task)

    with _turn:
        out = Path(folder) / given.config["out"]
        if not (Path(folder).is_dir() and (out / ".lock").exists()):
            return "refused", f"{where} does not see {out}; the bench and its workers must share that folder"
        with chdir(folder):
            if _key_here(given.cell) != given.cell["key"]:
                return "refused", f"{where} runs other code than the bench; start it again"
            return execute(given, tell, should_stop)


def _key_here(cell: Mapping[str, Any]) -> str:
    """The key that this installation gives to a cell."""
    return Cell(**{f.name: cell[f.name] for f in dataclasses.fields(Cell) if f.init}).key


def _given_up(worker: Any, task: Any) -> bool:
    """Whether nobody waits for a task of this worker any more: the bench is gone, or the worker is to leave."""
    state = worker.state.tasks.get(task)
    return worker.status.name not in ("running", "paused") or state is None or state.state != "executing"
