"""NCSNv2's parts against torch's own, its sizes, and the two ways of telling it the noise level."""

import pytest
import torch
import torch.nn.functional as F

import genflow
from genflow.backbone.ncsnv2 import SIZES, InstanceNormPlus, NCSNv2, elu, size_for
from genflow.training import train


def test_elu_equals_torch_s_with_its_gradient():
    x = torch.linspace(-8, 8, 401, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(elu(x), F.elu(x), rtol=0, atol=1e-15)
    (ours,) = torch.autograd.grad(elu(x).sum(), x)
    (theirs,) = torch.autograd.grad(F.elu(x).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(elu, x[::40].detach().requires_grad_())


def test_instance_norm_plus_is_instance_norm_plus_normalised_channel_means():
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64) + torch.arange(5.0).reshape(1, 5, 1, 1)
    norm = InstanceNormPlus(5).double()
    means = x.mean((2, 3))
    relative = (means - means.mean(1, keepdim=True)) / (means.var(1, keepdim=True) + 1e-5).sqrt()
    inner = F.instance_norm(x) + (relative * norm.alpha)[:, :, None, None]
    want = norm.gamma[None, :, None, None] * inner + norm.beta[None, :, None, None]
    torch.testing.assert_close(norm(x), want)


@pytest.mark.parametrize("size", list(SIZES))
def test_every_size_keeps_the_resolution_and_names_what_it_can_not_take(size):
    side = 16
    net = NCSNv2((1, side, side), 1, features=4, size=size)
    assert net(torch.randn(2, 1, side, side), torch.rand(2)).shape == (2, 2, side, side)
    with pytest.raises(ValueError, match="multiples of"):
        NCSNv2((1, 9, 9), size=size)


def test_size_follows_the_resolution():
    assert [size_for(n) for n in (8, 28, 32, 64, 96, 128, 256)] == [
        "tiny",
        "small",
        "small",
        "small",
        *["deeper"] * 2,
        "deepest",
    ]


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
@pytest.mark.parametrize("noise_level", ["plane", "scale", "none"])
def test_each_way_of_telling_the_noise_level_trains_and_samples(name, noise_level):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name)
    net = NCSNv2(data.shape, process.extra_channels, features=4, noise_level=noise_level)
    result = train(process, net, data, steps=3, batch_size=8, lr=1e-3)
    x = genflow.sample(result.process, result.backbone, "euler", 4, nfe=5).x
    assert bool(x.isfinite().all())


def test_scaling_divides_by_the_noise_and_ignores_it_otherwise():
    process = genflow.get_process("vp_ode")
    net = NCSNv2((1, 8, 8), features=4, noise_level="scale").eval()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9], dtype=torch.float64)
    found = process.field(net).output(x, t)
    sigma = process.coefficients(t).b.float().reshape(-1, 1, 1, 1)
    net.conditioning, net.noise_level = "condition", "none"
    torch.testing.assert_close(found * sigma, process.field(net).output(x, t), rtol=1e-5, atol=1e-5)
