"""DDPM's U-Net: its published size, its sizes for a CPU, and its norms. Its function is held to stored arrays."""

import pytest
import torch

import genflow
from genflow.backbone.ddpm import DDPM, SIZES
from genflow.backbone.unet_layers import ResBlock, group_norm
from genflow.training import train


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        net = DDPM((3, 32, 32), size="cifar10", normalise=False)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 35.22
    assert net.design.groups == 32


@pytest.mark.parametrize("side", [7, 8, 14, 28])
def test_any_size_of_image(side):
    net = DDPM((2, side, side + 3), extra_channels=1)
    assert net(torch.randn(2, 2, side, side + 3), torch.rand(2)).shape == (2, 3, side, side + 3)


def test_blocks_keep_the_resolution_and_do_not_rescale():
    blocks = [m for m in DDPM((1, 8, 8)).modules() if isinstance(m, ResBlock)]
    assert len(blocks) == 8  # two down, two in the middle, four up
    assert all(b.change is None and not b.rescale for b in blocks)


@pytest.mark.parametrize(
    ("channels", "most", "groups"),
    [(32, 32, 32), (64, 32, 32), (96, 32, 32), (48, 32, 24), (16, None, 4), (48, None, 12), (256, None, 32), (6, 4, 3)],
)
def test_norms_have_the_largest_number_of_equal_groups(channels, most, groups):
    assert group_norm(channels, most).num_groups == groups


@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_it_trains_and_samples(name):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name).for_data(data.scaling.encode(data.train))
    net = genflow.get_backbone("ddpm", shape=data.shape, extra_channels=process.extra_channels, nf=8, classes=10)
    result = train(process, net, data, steps=2, batch_size=8, lr=1e-3)
    assert bool(genflow.sample(result.process, result.backbone, "euler", 2, nfe=4).x.isfinite().all())


def test_sizes_are_named_where_another_is_asked_for():
    with pytest.raises(ValueError, match="size = 'large' is not allowed; give " + " or ".join(SIZES)):
        DDPM((1, 8, 8), size="large")
    with pytest.raises(ValueError, match="groups = 0 is not allowed"):
        DDPM((1, 8, 8), groups=0)
