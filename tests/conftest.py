"""One thread for torch in the whole suite: its networks are tiny, and several processes share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
