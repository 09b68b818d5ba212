"""NCSNv2 against the published networks (ermongroup/ncsnv2), weights and outputs."""

from __future__ import annotations

import pytest
import torch

from genflow.backbone.ncsnv2 import SIZES, NCSNv2

FILES = {"ncsnv2_64": "small", "ncsnv2_deeper": "deeper"}


def build(stored, size, noise_level, dtype):
    """The network with the stored weights, centring [0, 1] data as the published one does."""
    width = stored["config"]["model"]["ngf"]
    net = NCSNv2((3, 32, 32), features=width, size=size, noise_level=noise_level, normalise=False, centre=True)
    weights = {k: v for k, v in stored["state_dict"].items() if k != "sigmas"}
    assert set(net.state_dict()) == set(weights)
    net.load_state_dict(weights)
    return net.to(dtype).eval()


def sigmas(stored, dtype):
    return stored["state_dict"]["sigmas"][stored["labels"]].to(dtype)


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), FILES.items())
def test_output_in_float64(load, error, name, size):
    stored = load(f"nets/{name}.pt")
    x, sigma = stored["x"].double(), sigmas(stored, torch.float64)
    trunk = build(stored, size, "none", torch.float64)(x, torch.zeros(len(x)))
    assert error(trunk / sigma[:, None, None, None], stored["model_out_f64"]) < 1e-9
    divided = build(stored, size, "scale", torch.float64)(x, sigma)
    assert error(divided, stored["model_out_f64"]) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), FILES.items())
def test_output_in_float32(load, error, name, size):
    """The published float32 output is itself 1.4e-6 and 2.6e-6 away from its float64 one, so 1e-6 is out of reach."""
    stored = load(f"nets/{name}.pt")
    rounding = error(stored["model_out"], stored["model_out_f64"])
    found = build(stored, size, "scale", torch.float32)(stored["x"], sigmas(stored, torch.float32))
    assert found.dtype == torch.float32
    assert error(found, stored["model_out_f64"]) < 1.5 * rounding
    trunk = build(stored, size, "none", torch.float32)(stored["x"], torch.zeros(len(stored["x"])))
    assert error(trunk, stored["trunk_out_before_sigma_division"]) < 2 * rounding


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds_and_takes_a_field_head_and_any_noise_level(size):
    """The published port cannot be built, has no field head, and takes only whole-numbered noise levels."""
    net = NCSNv2((1, 32, 32), extra_channels=1, features=4, size=size).eval()
    output = net(torch.randn(3, 1, 32, 32), torch.tensor([0.37, -1.7, 1e4]))
    assert output.shape == (3, 2, 32, 32)
    assert output.isfinite().all()
