"""DDPM++ and NCSN++ against a straightforward network with the same state dict: values and gradients."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import genflow

FILE = Path(__file__).parents[2] / "benchmarks" / "plain_unet.py"


@pytest.fixture(scope="module")
def plain_version():
    spec = importlib.util.spec_from_file_location("plain_unet", FILE)
    module = sys.modules["plain_unet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain_version


CASES = [
    ("ddpmpp", (1, 8, 8), {}),
    ("ncsnpp", (1, 8, 8), {}),
    ("ddpmpp_deep", (3, 16, 16), {"nf": 8, "extra_channels": 1, "conditioning": "noise_level", "time_scale": 1.0}),
    ("ncsnpp", (3, 16, 16), {"nf": 8, "conditioning": "log_noise_level", "scale_by_sigma": True, "centre": True}),
    ("ncsnpp", (2, 16, 16), {"nf": 8, "attention": False, "normalise": False, "embedding_type": "positional"}),
    ("ddpmpp", (3, 32, 32), {"size": "cifar10", "nf": 8, "num_res_blocks": 1, "dropout": 0.0, "normalise": False}),
]


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_values_and_gradients_of_a_straightforward_network(plain_version, name, shape, options):
    net = genflow.get_backbone(name, shape=shape, **options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    plain = plain_version(net)
    assert dict(plain.named_parameters()).keys() == dict(net.named_parameters()).keys()
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    condition = torch.tensor([0.1, 0.8, 30.0], dtype=torch.float64)
    found, want = net(x, condition), plain(x, condition)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9 * float(want.detach().abs().max()))
    found.square().mean().backward()
    want.square().mean().backward()
    ours, theirs = dict(net.named_parameters()), dict(plain.named_parameters())
    for key, parameter in ours.items():
        scale = float(theirs[key].grad.abs().max()) + 1e-6 * float(want.detach().square().mean())
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-7, atol=1e-7 * scale, msg=key)
