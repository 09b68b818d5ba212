"""The flows of the collapse against what is known of them, and the jackknife."""

from __future__ import annotations

import math

import pytest
import torch

from genflow.claims.papers.measuring import jackknife
from genflow.claims.papers.pfgm_plane import flat_ends, lifted_ends


def disk(count):
    """Points of a sunflower, even over the unit disk."""
    k = torch.arange(count, dtype=torch.float64) + 0.5
    radius, angle = (k / count).sqrt(), k * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def test_a_wide_uniform_disk_collapses_to_its_middle():
    """Inside a uniform disk the plane's own field is x/2 times the density, so −E leads everything to the centre."""
    ends = flat_ends(disk(400), 0.3, 60, steps=300)
    assert float(ends.norm(dim=1).max()) < 0.02


def test_narrow_charges_do_not_collapse():
    """Two narrow charges take half of a circle's points each: no field line ends elsewhere."""
    ends = flat_ends(torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64), 1e-3, 400, steps=600)
    right = float((ends[:, 0] > 0).double().mean())
    assert float((ends[:, 0].abs() - 1).abs().max()) < 0.05
    assert right == pytest.approx(0.5, abs=4 * 0.025)


def test_with_z_the_disk_is_filled():
    """Radii of a uniform disk have the mean 2/3 and the root mean square √(1/2), a little blurred by ε."""
    radius = lifted_ends(disk(400), 0.05, 300).norm(dim=1)
    assert float(radius.median()) == pytest.approx(math.sqrt(0.5), abs=0.08)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.randn(800, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = jackknife(x, lambda kept: float(kept.mean()), blocks=800)
    assert value == pytest.approx(float(x.mean()))
    assert error == pytest.approx(float(x.std() / math.sqrt(800)))
