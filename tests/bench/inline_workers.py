"""A bench that takes a fraction of a second, and workers without processes to look at the runner alone."""

import queue

from genflow.bench.channels import Channel
from genflow.bench.runner import Runner
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


class Inline(Channel):
    """A worker that answers at once: `answer` is called with each errand and gives its replies; None is its death."""

    def __init__(self, answer, log=None):
        self.answer, self.log = answer, [] if log is None else log
        self.held = queue.Queue()

    def listen(self, arrivals):
        self.arrivals = arrivals
        self.put({"hello": 1})

    def put(self, message):
        self.arrivals.put((self, message))

    def send(self, message):
        if "cell" not in message:
            return self.put({"ready": True})
        self.log.append(message)
        for reply in self.answer(message):
            self.put(reply)
        return None

    def stop(self):
        self.log.append("stop")

    def kill(self):
        self.log.append("kill")

    def close(self):
        self.log.append("close")

    def last_words(self):
        return "it fell silent"


def working(config):
    """Answers of a real worker in this process."""
    worker = Worker(config, lambda: False)

    def answer(errand):
        try:
            worker.run(errand["cell"], lambda share, note: None, errand["part"] and tuple(errand["part"]))
        except Exception as error:
            return [{"failed": errand["cell"]["key"], "error": f"{type(error).__name__}: {error}"}]
        return [{"done": errand["cell"]["key"]}]

    return answer


def run(config, plan, answer=None, workers=1, **options):
    """Runs a plan on workers in this process; (runner, log)."""
    log = []
    answer = answer or working(config)
    runner = Runner(config, plan.store, lambda jobs: [Inline(answer, log) for _ in range(workers)], **options)
    runner.run(plan.cells, plan.todo)
    return runner, log
