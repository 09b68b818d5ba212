"""The quantiser against brute force, the network it makes, and models from early in training."""

import pytest
import torch
from torch import nn

from genflow.claims.studies.quantise import quantised, quantised_network


def nearest_level(weight, bits, largest):
    """Every level of the grid is tried for every weight."""
    top = 2 ** (bits - 1) - 1
    levels = torch.arange(-top, top + 1, dtype=torch.float64) * float(largest) / top
    return levels[(weight.double()[..., None] - levels).abs().argmin(-1)]


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_a_tensor_goes_to_the_nearest_of_its_levels(bits):
    weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(bits))
    expected = nearest_level(weight, bits, weight.abs().max())
    assert torch.allclose(quantised(weight, bits, "tensor").double(), expected, atol=1e-6)
    assert len(quantised(weight, bits, "tensor").unique()) <= 2**bits - 1


@pytest.mark.parametrize("bits", [3, 6])
def test_a_channel_has_levels_of_its_own(bits):
    scales = torch.tensor([0.01, 1.0, 30.0])[:, None]
    weight = scales * torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    rows = [nearest_level(row, bits, row.abs().max()) for row in weight]
    assert torch.allclose(quantised(weight, bits, "channel").double(), torch.stack(rows), rtol=1e-5, atol=1e-7)
    assert quantised(weight, bits, "tensor")[0].abs().max() == 0  # a small channel is lost where all share a step
    assert quantised(weight, bits, "channel")[0].abs().max() > 0


def test_the_largest_weight_stays_and_zero_stays_zero():
    weight = torch.tensor([[0.0, -2.5], [0.0, 0.0]])
    for per in ("tensor", "channel"):
        assert torch.equal(quantised(weight, 4, per), weight)


def test_quantising_again_changes_nothing():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    once = quantised(weight, 4, "channel")
    assert torch.allclose(quantised(once, 4, "channel"), once, atol=1e-6)


def test_a_network_is_copied_and_its_biases_are_left_alone():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    before = [p.clone() for p in network.parameters()]
    changed = quantised_network(network, 3, "tensor")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    for old, new in zip(network.parameters(), changed.parameters(), strict=True):
        expected = old if old.ndim == 1 else quantised(old, 3, "tensor")
        assert torch.equal(new, expected)
