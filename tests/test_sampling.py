"""Memory and shares in sampling: a smaller batch and a part of the samples change no sample."""

import logging

import pytest
import torch

import genflow
from genflow.memory import MemoryExhaustedError
from genflow.sampling import smaller_batch


def oracle():
    data = genflow.get_dataset("eight_gaussians", size=50)
    process = genflow.get_process("vp_sde").for_data(data.fitting_points())
    return process, process.oracle(data.train)


class Narrow:
    """A backbone that fits `most` samples."""

    def __init__(self, inner, most):
        self.inner, self.most, self.sizes = inner, most, []

    def __call__(self, x, condition):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inner(x, condition)


def test_a_batch_that_does_not_fit_is_halved_and_no_sample_changes(caplog):
    process, exact = oracle()
    narrow = Narrow(exact, 5)
    how = {"nfe": 6, "seed": 3, "shape": (2,)}
    with caplog.at_level(logging.WARNING, "genflow"):
        found = genflow.sample(process, narrow, "euler_maruyama", 23, batch_size=20, **how)
    assert narrow.sizes[:3] == [20, 10, 5]
    assert max(narrow.sizes[3:]) == 5
    assert "10 samples at a time; 5 from here on" in caplog.text
    assert found.nfe == 6
    torch.testing.assert_close(found.x, genflow.sample(process, exact, "euler_maruyama", 23, **how).x)


def test_one_sample_that_does_not_fit_is_an_error_with_its_exit_code():
    process, exact = oracle()
    with pytest.raises(MemoryExhaustedError, match="one sample") as caught:
        genflow.sample(process, Narrow(exact, 0), "euler_maruyama", 4, nfe=2, shape=(2,))
    assert caught.value.exit_code == 70


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes"):
        smaller_batch(8, RuntimeError("shapes do not match"))
