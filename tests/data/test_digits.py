"""The digits, their fixed split, and the scaling between grey levels and data units."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from stored import stored_labels

from genflow import get_dataset
from genflow.data.base import Scaling
from genflow.registry import registries

FIRST_TEST_LABELS = [0, 9, 6, 9, 8, 4, 5, 8]
FIRST_TRAIN_LABELS = [2, 8, 2, 6, 6, 7, 1, 9]


@pytest.fixture(scope="module")
def digits():
    return get_dataset("digits")


def test_shapes_and_types(digits):
    assert digits.train.shape == (1297, 1, 8, 8)
    assert digits.test.shape == (500, 1, 8, 8)
    assert digits.shape == (1, 8, 8)
    for split, count in (("train", 1297), ("test", 500)):
        assert digits.split(split).dtype == torch.float32
        assert digits.labels(split).shape == (count,)
        assert digits.labels(split).dtype == torch.int64


def test_seventeen_whole_levels(digits):
    levels = torch.cat([digits.train, digits.test]).unique()
    assert levels.tolist() == list(range(17))
    assert digits.scaling.levels == 17 == registries()["datasets"].entry("digits").tags["levels"]


def test_split_is_disjoint_and_complete(digits):
    """All images of the source differ, so equal sets of rows mean each one is there exactly once."""
    source = load_digits()
    rows = {image.tobytes(): label for image, label in zip(source.images.astype(np.float32), source.target)}
    parts = [{x.numpy().tobytes() for x in digits.split(s)} for s in ("train", "test")]
    assert len(rows) == 1797
    assert parts[0] | parts[1] == set(rows)
    assert not parts[0] & parts[1]
    for split in ("train", "test"):
        assert digits.labels(split).tolist() == [rows[x.numpy().tobytes()] for x in digits.split(split)]


def test_split_is_stable(digits):
    """Sums and first labels of the published split; they change only with the split itself."""
    assert [int(digits.split(s).sum()) for s in ("train", "test")] == [405_824, 155_894]
    assert [int(digits.labels(s).sum()) for s in ("train", "test")] == [5824, 2246]
    assert stored_labels(digits, "test")[:8].tolist() == FIRST_TEST_LABELS
    assert stored_labels(digits, "train")[:8].tolist() == FIRST_TRAIN_LABELS
    assert torch.equal(get_dataset("digits").train, digits.train)


def test_options_and_splits_that_do_not_exist_are_refused(digits):
    with pytest.raises(ValueError, match="'size'"):
        get_dataset("digits", size=3)
    with pytest.raises(ValueError, match="split = 'valid'"):
        digits.split("valid")
    with pytest.raises(ValueError, match="digits"):
        digits.log_prob(digits.test)


# ---- scaling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 16, 17, 256])
def test_middles_of_levels_lie_evenly_in_the_unit_box(levels):
    scaling = Scaling.grey(levels)
    x = scaling.encode(torch.arange(levels, dtype=torch.float64))
    assert float(x[0]) == pytest.approx(-1 + 1 / levels)
    assert float(x[-1]) == pytest.approx(1 - 1 / levels)
    torch.testing.assert_close(x.diff(), torch.full((levels - 1,), 2 / levels, dtype=torch.float64))


@pytest.mark.parametrize("levels", [2, 16, 17, 256])
def test_round_trip_of_the_middles_is_exact(levels):
    raw = torch.arange(levels, dtype=torch.float32)
    scaling = Scaling.grey(levels)
    assert torch.equal(scaling.decode(scaling.encode(raw)), raw)


@pytest.mark.parametrize("seed", range(3))
def test_round_trip_of_dequantised_levels_is_exact(seed):
    """A draw next to the end of its level must not be rounded into the next one."""
    scaling, raw = Scaling.grey(17), torch.arange(17.0).repeat(200_000)
    x = scaling.encode(raw, torch.Generator().manual_seed(seed))
    assert x.dtype == torch.float32
    assert torch.equal(scaling.decode(x), raw)


def test_dequantisation_is_uniform_and_follows_the_generator():
    scaling, raw = Scaling.grey(17), torch.full((50_000,), 5.0)
    x, again = (scaling.encode(raw, torch.Generator().manual_seed(1)) for _ in range(2))
    u = (x + 1) * 17 / 2 - 5
    assert torch.equal(x, again)
    assert (float(u.mean()), float(u.var())) == pytest.approx((1 / 2, 1 / 12), abs=3e-3)
    assert -1e-5 < float(u.min()) < 1e-3
    assert 0.999 < float(u.max()) < 1 + 1e-5


def test_decode_clamps_to_the_levels():
    decoded = Scaling.grey(17).decode(torch.tensor([-50.0, -1.0, 0.0, 0.9999, 1.0, 50.0]))
    assert decoded.tolist() == [0, 0, 8, 16, 16, 16]


def test_continuous_round_trip_takes_no_noise():
    scaling, raw = Scaling(scale=0.25, shift=-3.0), torch.linspace(-9, 9, 50, dtype=torch.float64)
    x = scaling.encode(raw, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, raw / 4 - 3)
    torch.testing.assert_close(scaling.decode(x), raw)


@pytest.mark.parametrize("scaling", [Scaling.grey(17), Scaling.grey(256), Scaling(3.0, 1.0), Scaling()])
def test_log_det_is_that_of_the_jacobian(scaling):
    jacobian = torch.autograd.functional.jacobian(scaling.encode, torch.arange(5, dtype=torch.float64))
    assert scaling.log_det(5) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-12)


def test_uniform_noise_in_the_box_costs_log_levels_a_dimension():
    """A uniform density on the box, (1/2)^N in data units, has log2(levels) bits/dim in raw units."""
    assert -(-64 * math.log(2) + Scaling.grey(17).log_det(64)) == pytest.approx(64 * math.log(17))
