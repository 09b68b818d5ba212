"""Training: one loop for every process, with averages, resumption and several ranks."""

from genflow.training.batches import STREAMS, Batches, check_data, check_pairs, in_range, stream
from genflow.training.loop import NonFiniteLossError, Trainer
from genflow.training.run import Keeping, Progress, Run, TrainResult, train

__all__ = [
    "STREAMS",
    "Batches",
    "Keeping",
    "NonFiniteLossError",
    "Progress",
    "Run",
    "TrainResult",
    "Trainer",
    "check_data",
    "check_pairs",
    "in_range",
    "stream",
    "train",
]
