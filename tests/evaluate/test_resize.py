"""The batched resize against clean-fid's own, image by image, and torch-fidelity's TensorFlow rule."""

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer

from genflow.evaluate.resize import RULES, resize

SIZES = [(8, 8), (28, 28), (32, 32), (64, 96), (300, 299), (400, 310)]


def images(size, n=2):
    return torch.randint(0, 256, (n, 3, *size), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_equals_clean_fids_resizer_within_a_255th_of_a_grey_level(mode, size):
    x, one = images(size), build_resizer(mode)
    want = np.stack([one(image.numpy().transpose(1, 2, 0)).transpose(2, 0, 1) for image in x])
    assert np.abs(resize(x, mode).numpy() - want).max() <= 1 / 255


@pytest.mark.parametrize("size", [(32, 32), (400, 310)])
def test_tensorflows_rule_equals_torch_fidelitys(size):
    fidelity = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    want = fidelity.interpolate_bilinear_2d_like_tensorflow1x(images(size), size=(299, 299), align_corners=False)
    assert (resize(images(size), "legacy_tensorflow") - want).abs().max() <= 1 / 255


def test_the_rules_differ_and_each_keeps_a_flat_image():
    x = images((32, 32))
    found = {mode: resize(x, mode) for mode in RULES}
    for a, b in (("clean", "legacy_pytorch"), ("clean", "legacy_tensorflow"), ("legacy_pytorch", "legacy_tensorflow")):
        assert (found[a] - found[b]).abs().max() > 5
    for mode in RULES:
        torch.testing.assert_close(resize(torch.full((1, 3, 32, 32), 77.0), mode), torch.full((1, 3, 299, 299), 77.0))


def test_a_batch_is_its_images_one_by_one():
    x = images((28, 40), 5)
    one = torch.cat([resize(image[None], "clean") for image in x])
    torch.testing.assert_close(resize(x, "clean"), one, rtol=0, atol=1e-4)
