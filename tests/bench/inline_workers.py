"""A bench that takes a fraction of a second, and workers without processes to look at the runner alone."""

from concurrent.futures import Future

from genflow.bench.pool import Pool, Slot
from genflow.bench.runner import Runner
from genflow.bench.tasks import Task
from genflow.bench.worker import Worker

TINY = {
    "process": "vp_ode",
    "backbone": "mlp",
    "backbone_options": "mlp.width=8",
    "dataset": "checkerboard",
    "dataset_options": "checkerboard.size=60",
    "solver": "euler,heun",
    "nfe": "2,3",
    "metric": "fd",
    "samples": 50,
    "sample_batch": 8,
    "shard": 2,
    "train.steps": 4,
    "train.batch_size": 8,
    "train.warmup": 0,
}
"""A bench of one process on 2-D points: 11 cells, its samples in four shards."""


class Inline(Pool, Slot):
    """A pool of one worker that answers at once: `answer` is called with each task. None: it works on until stopped.

    An exception as the answer is the worker's death.
    """

    def __init__(self, answer, log=None):
        self.answer, self.log = answer, [] if log is None else log
        self.held = None

    def slots(self):
        return [self]

    def submit(self, task):
        self.model, self.held = task.cell.model or self.model, Future()
        self.log.append(task)
        answer = self.answer(task)
        if isinstance(answer, Exception):
            self.held.set_exception(answer)
        elif answer:
            self.held.set_result(answer)
        return self.held

    def stop(self):
        self.log.append("stop")
        if self.held and not self.held.done():
            self.held.set_result(("stopped", ""))

    def close(self):
        self.log.append("close")

    def last_words(self, error):
        return "it fell silent"


class Several(Pool):
    """Some of them."""

    def __init__(self, slots):
        self._slots = slots

    def slots(self):
        return self._slots

    def stop(self):
        for slot in self._slots:
            slot.stop()

    def close(self):
        for slot in self._slots:
            slot.close()


def working(config):
    """Answers of a real worker in this process."""
    worker = Worker(config, lambda: False)

    def answer(task):
        try:
            worker.run(task.cell.to_json(), lambda share, note: None, task.part)
        except Exception as error:
            return "failed", f"{type(error).__name__}: {error}"
        return "done", ""

    return answer


def start(config, store, jobs):
    """A pool of one real worker in this process, as the runner starts it."""
    return Inline(working(config))


def run(config, plan, answer=None, workers=1, **options):
    """Runs a plan on workers in this process; (runner, log)."""
    log = []
    answer = answer or working(config)
    pool = Several([Inline(answer, log) for _ in range(workers)])
    runner = Runner(config, plan.store, lambda *_: pool, **options)
    runner.run(plan.cells, plan.todo)
    return runner, log


def tasks(log):
    """The tasks that were given out."""
    return [one for one in log if isinstance(one, Task)]
