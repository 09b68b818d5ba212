"""NCSN++ and DDPM++: their layers against scipy and torch, every design, odd sizes, and their conditioning."""

import itertools
import math

import numpy as np
import pytest
import scipy
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import genflow
from genflow.backbone.ncsnpp import SIZES, NCSNpp
from genflow.backbone.unet_layers import (
    Attention,
    Combine,
    Conv,
    Downsample,
    FourierEmbedding,
    Pointwise,
    PositionalEmbedding,
    Scaler,
    Upsample,
)
from genflow.registry import registries
from genflow.training import train

F64 = torch.float64
DDPMPP = registries()["backbones"].entry("ddpmpp").preset
TAPS = [(1, 3, 3, 1), (1, 2), (1, 4, 2), (3, 1, 2, 5, 1)]


def maps(*shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(0))


# ---- layers ----------------------------------------------------------------------------------------------------------


def upfirdn(x, taps, up=1, down=1, pad=(0, 0), gain=1.0):
    """StyleGAN2's operation by scipy: zeros between the values, zeros around, true convolution, every down-th value."""
    k = np.outer(taps, taps) / np.sum(taps) ** 2 * gain
    wide = np.zeros((x.shape[0] * up, x.shape[1] * up))
    wide[::up, ::up] = x
    return scipy.signal.convolve2d(np.pad(wide, pad), k, mode="valid")[::down, ::down]


def each(x, f):
    """f of every map of x (B, C, H, W)."""
    return torch.stack([torch.stack([torch.from_numpy(np.ascontiguousarray(f(m.numpy()))) for m in row]) for row in x])


def convolved(planes, weight, **options):
    """Correlation of (C, H, W) with (O, C, 3, 3) by scipy."""
    return [
        sum(scipy.signal.correlate2d(plane, w, **options) for plane, w in zip(planes, row, strict=True))
        for row in weight.detach().numpy()
    ]


@pytest.mark.parametrize("taps", TAPS)
def test_filtered_halving_and_doubling(taps):
    x, scaler = maps(2, 3, 6, 8), Scaler(taps).double()
    p = len(taps) - 2
    half = each(x, lambda m: upfirdn(m, taps, down=2, pad=((p + 1) // 2, p // 2)))
    torch.testing.assert_close(scaler.halve(x), half, rtol=1e-6, atol=1e-6)
    double = each(x, lambda m: upfirdn(m, taps, up=2, pad=((p + 1) // 2 + 1, p // 2), gain=4))
    torch.testing.assert_close(scaler.enlarge(x), double, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 4, 2), (3, 1, 2, 5, 1)])
def test_filtered_convolutions_change_the_resolution(taps):
    """The published doubling one does not run; this is what its parts say: zeros between, convolution, filter."""
    x, scaler, k = maps(1, 2, 6, 4), Scaler(taps).double(), len(taps)
    down, up = (layer(2, 3, scaler, conv=True).double() for layer in (Downsample, Upsample))
    for layer in (down, up):
        torch.nn.init.normal_(layer.Conv2d_0.bias)
    bias = [layer.Conv2d_0.bias.detach()[None, :, None, None] for layer in (down, up)]

    filtered = [upfirdn(plane, taps, pad=((k + 1) // 2, k // 2)) for plane in x[0].numpy()]
    want = np.stack([m[::2, ::2] for m in convolved(filtered, down.Conv2d_0.weight, mode="valid")])
    torch.testing.assert_close(down(x), torch.from_numpy(want)[None] + bias[0], rtol=1e-6, atol=1e-6)

    wide = np.zeros((2, 12, 8))
    wide[:, ::2, ::2] = x[0].numpy()
    wide = wide[:, :-1, :-1]
    p = k - 4
    pads = ((p + 1) // 2 + 1, p // 2 + 1)
    whole = [upfirdn(m, taps, pad=pads, gain=4) for m in convolved(wide, up.Conv2d_0.weight, mode="full")]
    torch.testing.assert_close(up(x), torch.from_numpy(np.stack(whole))[None] + bias[1], rtol=1e-6, atol=1e-6)


def test_without_a_filter_means_and_nearest_values():
    x, scaler = maps(2, 3, 6, 8), Scaler(None)
    cells = x.reshape(2, 3, 3, 2, 4, 2)
    torch.testing.assert_close(scaler.halve(x), cells.mean((3, 5)))
    torch.testing.assert_close(scaler.enlarge(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    down = Downsample(3, 3, scaler, conv=True).double()
    assert list(down.state_dict()) == ["Conv_0.weight", "Conv_0.bias"]
    want = np.stack(convolved(np.pad(x[0].numpy(), ((0, 0), (0, 1), (0, 1))), down.Conv_0.weight, mode="valid"))
    torch.testing.assert_close(down(x)[0], torch.from_numpy(want)[:, ::2, ::2])


@pytest.mark.parametrize("taps", [None, (1, 3, 3, 1)])
@pytest.mark.parametrize("conv", [False, True])
def test_odd_sizes_count_their_last_row_twice(taps, conv):
    x = maps(1, 2, 7, 5)
    layer = Downsample(2, 2, Scaler(taps), conv=conv).double()
    edge = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)), mode="edge"))
    assert layer(x).shape == (1, 2, 4, 3)
    torch.testing.assert_close(layer(x), layer(edge))


def test_attention_is_scaled_dot_product_attention():
    layer = Attention(8, rescale=True, init_scale=1.0, groups=None).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = maps(2, 8, 3, 5)
    tokens = F.group_norm(x, 2, layer.GroupNorm_0.weight, layer.GroupNorm_0.bias, eps=1e-6).flatten(2).transpose(1, 2)
    q, k, v = (tokens @ getattr(layer, f"NIN_{i}").W + getattr(layer, f"NIN_{i}").b for i in range(3))
    heads = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    added = (heads @ layer.NIN_3.W + layer.NIN_3.b).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), (x + added) / 2**0.5)


def test_attention_has_second_derivatives_where_torch_s_plain_form_is_asked_for():
    layer = Attention(4, rescale=True, init_scale=1.0, groups=None).double()
    x = maps(1, 4, 2, 2).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("nf", [8, 64])
def test_layouts_follow_width_and_training_and_change_nothing(nf):
    """Channels last on a CPU, but for a wide network that is trained."""
    net = NCSNpp((3, 8, 8), nf=nf, ch_mult=(1, 2), num_res_blocks=1)
    for parameter in net.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    assert net.all_modules[-1].weight.is_contiguous(memory_format=torch.channels_last) == (nf < 64)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    trained = net(x, t).detach()
    assert net._laid_out(x) is x
    with torch.no_grad():
        assert net._laid_out(x).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(net(x, t), trained, rtol=1e-4, atol=1e-5)


def test_positional_features_are_geometric_waves():
    found = PositionalEmbedding(8)(torch.tensor([0.0, 2.5], dtype=F64))
    rates = torch.tensor([1, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4], dtype=F64)
    want = torch.stack([torch.cat([(s * rates).sin(), (s * rates).cos()]) for s in (0.0, 2.5)])
    torch.testing.assert_close(found, want, rtol=0, atol=1e-6)


def test_fourier_features_are_drawn_from_the_seed_and_not_trained():
    layer = FourierEmbedding(4096, 16.0)
    assert [n for n, _ in layer.named_parameters()] == []
    assert list(layer.state_dict()) == ["W"]
    assert float(layer.W.std()) == pytest.approx(16.0, rel=0.05)  # four and a half standard errors
    s = torch.tensor([0.0, 0.3])
    waves = torch.exp(2j * math.pi * torch.outer(s.double(), layer.W.double()))
    torch.testing.assert_close(layer(s).double(), torch.cat([waves.imag, waves.real], 1), rtol=0, atol=1e-4)
    one, two = NCSNpp((1, 8, 8)), NCSNpp((1, 8, 8))
    one.initialise(3)
    two.initialise(3)
    assert torch.equal(one.all_modules[0].W, two.all_modules[0].W)
    two.initialise(4)
    assert not torch.equal(one.all_modules[0].W, two.all_modules[0].W)


@pytest.mark.parametrize(
    ("layer", "weight", "variance"),
    [
        (Conv(40, 60), "weight", 1 / 450),
        (Conv(64, 64, scale=0.5), "weight", 0.5 / 576),
        (Pointwise(90, 110), "W", 1e-3),
    ],
)
def test_initial_weights_have_variance_scale_over_mean_fan(layer, weight, variance):
    values = getattr(layer, weight).detach()
    assert float(values.var()) == pytest.approx(variance, rel=0.06)  # five standard errors of the smallest layer
    assert float(values.abs().max()) <= (3 * variance) ** 0.5


def test_scale_zero_begins_at_almost_zero():
    net = NCSNpp((1, 8, 8))
    assert 0 < float(net.all_modules[-1].weight.detach().abs().max()) < 1e-4
    assert float(net(torch.randn(2, 1, 8, 8), torch.rand(2)).detach().abs().max()) < 1e-3


@pytest.mark.parametrize("method", ["sum", "cat"])
def test_pyramid_joins_the_features(method):
    layer, small, wide = Combine(3, 4, method).double(), maps(2, 3, 5, 5), maps(2, 4, 5, 5) + 1
    lifted = torch.einsum("oi,bihw->bohw", layer.Conv_0.weight[:, :, 0, 0], small)
    torch.testing.assert_close(layer(small, wide), lifted + wide if method == "sum" else torch.cat([lifted, wide], 1))


# ---- designs ---------------------------------------------------------------------------------------------------------

PYRAMIDS = [
    ("none", "none", "sum"),
    ("output_skip", "input_skip", "sum"),
    ("residual", "input_skip", "cat"),
    ("residual", "residual", "sum"),
    ("output_skip", "none", "sum"),
]


LAYERS = list(itertools.product(("biggan", "ddpm"), (0, 1), (0, 1)))


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize(("progressive", "progressive_input", "combine"), PYRAMIDS)
@pytest.mark.parametrize(("resblock_type", "fir", "conv"), LAYERS)
def test_every_design_runs_and_learns_everywhere(resblock_type, fir, conv, progressive, progressive_input, combine):
    """Of these the published code cannot run ddpm blocks without FIR, nor FIR before a convolution going up."""
    net = NCSNpp(
        (2, 10, 7),
        extra_channels=1,
        nf=8,
        ch_mult=(1, 2, 2),
        num_res_blocks=1,
        resblock_type=resblock_type,
        fir=bool(fir),
        resamp_with_conv=bool(conv),
        progressive=progressive,
        progressive_input=progressive_input,
        progressive_combine=combine,
        init_scale=1.0,
    )
    output = net(torch.randn(2, 2, 10, 7), torch.tensor([0.1, 0.7]))
    assert output.shape == (2, 3, 10, 7)
    output.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        # a bias before a norm of one channel per group, or before a softmax, changes nothing
        assert bool(parameter.grad.any()) or name.endswith(("bias", "b")), name


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 9, 14, 28])
def test_any_size_of_image(side):
    for options in ({}, DDPMPP):
        net = NCSNpp((1, side, side + 1), nf=8, ch_mult=(1, 2, 2), num_res_blocks=1, **options)
        assert net(torch.randn(2, 1, side, side + 1), torch.rand(2)).shape == (2, 1, side, side + 1)


@pytest.mark.parametrize(
    ("side", "places"),
    [(8, [False, True]), (28, [False, True, False]), (64, [False, False, True]), (32, [False, True, False])],
)
def test_attention_is_where_the_side_is_at_most_16(side, places):
    assert NCSNpp((1, side, side)).attends == places
    assert not any(NCSNpp((1, side, side), attention=False).attends)


def test_attention_can_be_asked_for_anywhere_or_left_out():
    def count(**options):
        return sum(isinstance(m, Attention) for m in NCSNpp((1, 28, 28), nf=8, **options).modules())

    assert count() == 3  # the middle, one block down, one up
    assert count(attn_resolutions=[28, 7]) == 5
    assert count(attn_resolutions=[5]) == 1
    assert count(attention=False) == 0


COUNTS = [
    ("ddpmpp", (3, 32, 32), 1, "cifar10", 61.81),
    ("ddpmpp", (3, 32, 32), 0, "cifar10", 61.80),
    ("ddpmpp_deep", (3, 32, 32), 1, "cifar10", 106.63),
    ("ddpmpp_deep", (3, 32, 32), 0, "cifar10", 106.63),
    ("ncsnpp", (3, 32, 32), 0, "cifar10", 62.76),
    ("ncsnpp_deep", (3, 32, 32), 0, "cifar10", 107.59),
    ("ddpmpp", (3, 64, 64), 1, "celeba64", 61.81),
    ("ddpmpp", (3, 256, 256), 1, "lsun256", 124.08),
]


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(("name", "shape", "extra", "size", "millions"), COUNTS)
def test_published_sizes_have_the_published_number_of_parameters(name, shape, extra, size, millions):
    with torch.device("meta"):
        net = genflow.get_backbone(name, shape=shape, extra_channels=extra, size=size, normalise=False)
    frozen = sum(b.numel() for b in net.state_dict().values()) - sum(p.numel() for p in net.parameters())
    assert frozen == (128 if name.startswith("ncsnpp") else 0)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions


def test_the_registered_name_is_the_design():
    net = genflow.get_backbone("ddpmpp", shape=(1, 8, 8))
    assert (net.design.fir, net.design.progressive_input, net.design.embedding_type) == (False, "none", "positional")
    assert NCSNpp(**net.config()).design == net.design
    assert genflow.get_backbone("ncsnpp", shape=(1, 8, 8)).design.embedding_type == "fourier"


# ---- the conditioning ------------------------------------------------------------------------------------------------


def random_net(**options):
    """A network whose every parameter is drawn, so that nothing hides behind a zero."""
    net = NCSNpp((1, 8, 8), nf=8, **options).double().eval()
    net.initialise(0)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return net


@torch.no_grad()
def test_scale_shift_and_log_of_what_is_told():
    x, sigma = maps(3, 1, 8, 8), torch.tensor([0.02, 1.0, 300.0], dtype=F64)
    plain = random_net(**DDPMPP, conditioning="noise_level", time_scale=1.0)
    moved = random_net(**DDPMPP, conditioning="log_noise_level", time_scale=-2.5, time_shift=4.0)
    torch.testing.assert_close(moved(x, sigma), plain(x, 4.0 - 2.5 * sigma.log()))
    assert (plain.conditioning, moved.conditioning, random_net().conditioning) == (
        "noise_level",
        "noise_level",
        "condition",
    )


@torch.no_grad()
@pytest.mark.parametrize(("conditioning", "name"), [("noise_level", "ve_ode"), ("log_noise_level", "pfgm")])
def test_dividing_by_the_noise_level(conditioning, name):
    process, x = genflow.get_process(name), maps(2, 1, 8, 8)
    t = process.grid(5)[1:3]
    options = {"conditioning": conditioning, "extra_channels": process.extra_channels}
    whole = process.field(random_net(**options)).output(x, t)
    found = process.field(random_net(**options, scale_by_sigma=True)).output(x, t)
    torch.testing.assert_close(found * process.noise_level(t)[:, None, None, None], whole)


@torch.no_grad()
@pytest.mark.parametrize("value", [-1.7, 0.0, 999.4, 5000.0])
def test_positional_features_take_any_number(value):
    """The published network looks it up in a table of a thousand noise levels."""
    net = random_net(**DDPMPP, time_scale=1.0)
    assert bool(net(maps(1, 1, 8, 8), torch.tensor([value], dtype=F64)).isfinite().all())


@torch.no_grad()
def test_the_size_of_x_is_told_apart_from_its_direction():
    """Far out, x ten times as long is the same picture with another size; without by_size it is the same input."""
    net, x, t = random_net(), 1e5 * maps(2, 1, 8, 8), torch.tensor([0.2, 0.9], dtype=F64)
    near, far = net(x, t), net(10 * x, t)
    assert float((near - far).abs().max()) > 1e-2 * float(near.abs().max())
    net.by_size.weight.zero_()
    torch.testing.assert_close(net(10 * x, t), net(x, t), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_centring():
    x, t = maps(2, 1, 8, 8), torch.rand(2, dtype=F64)
    torch.testing.assert_close(random_net(centre=True)(x, t), random_net()(2 * x - 1, t))


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
@pytest.mark.parametrize("conditioning", ["condition", "noise_level", "log_noise_level"])
@pytest.mark.parametrize("embedding_type", ["fourier", "positional"])
def test_each_conditioning_trains_and_samples(name, conditioning, embedding_type):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name).for_data(data.scaling.encode(data.train))
    net = NCSNpp(data.shape, process.extra_channels, nf=8, conditioning=conditioning, embedding_type=embedding_type)
    result = train(process, net, data, steps=2, batch_size=8, lr=1e-3)
    assert bool(genflow.sample(result.process, result.backbone, "euler", 2, nfe=4).x.isfinite().all())


@pytest.mark.slow
def test_dropout_is_drawn_from_the_run_s_seed(tmp_path):
    """Same seed, same weights, whatever the state of torch's own generator, and also when the run is interrupted."""

    def weights(seed, state=None, stop=None):
        torch.manual_seed(seed)
        data, process = genflow.get_dataset("digits"), genflow.get_process("vp_ode")
        net = NCSNpp(data.shape, nf=8, dropout=0.5)
        options = {"steps": 4, "batch_size": 8, "lr": 1e-2, "state": state, "should_stop": stop}
        net = train(process, net, data, **options).backbone
        return torch.cat([p.flatten() for p in net.parameters()])

    whole, calls = weights(1), itertools.count(1)
    assert torch.equal(weights(2), whole)
    weights(3, tmp_path / "state", lambda: next(calls) == 2)
    assert torch.equal(weights(4, tmp_path / "state"), whole)
    net = NCSNpp((1, 8, 8), nf=8, dropout=0.5).train()
    net.all_modules[-1].weight.data.fill_(1.0)
    x, t = torch.randn(1, 1, 8, 8), torch.rand(1)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


WRONG = [
    ({"nf": 7}, "nf = 7 is not allowed; give an even number"),
    ({"ch_mult": 2}, "ch_mult = 2 is not allowed; give a list"),
    ({"ch_mult": []}, "ch_mult"),
    ({"num_res_blocks": 0}, "num_res_blocks"),
    ({"attn_resolutions": [4.5]}, "attn_resolutions"),
    ({"dropout": 1.0}, "dropout = 1.0 is not allowed; give a number from 0"),
    ({"fir_kernel": (1, -1)}, "fir_kernel"),
    ({"size": "huge"}, "size = 'huge' is not allowed; give " + " or ".join(SIZES)),
    ({"progressive": "skip"}, "progressive = 'skip' is not allowed; give none or output_skip or residual"),
    ({"conditioning": "sigma"}, "conditioning = 'sigma' is not allowed; give condition or noise_level"),
    ({"scale_by_sigma": True}, "conditioning = 'condition' is not allowed; give 'noise_level' or 'log_noise_level'"),
    ({"shape": (64,)}, "shape = .* is not allowed; give .channels, height, width."),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options_that_make_no_sense_get_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        NCSNpp(**{"shape": (1, 8, 8), **options})


def test_the_former_name_of_the_conditioning_works_with_a_warning():
    with pytest.warns(FutureWarning, match="the option told is now conditioning"):
        net = NCSNpp((1, 8, 8), told="log_noise_level")
    assert net.config()["conditioning"] == "log_noise_level"
    assert "told" not in net.config()
    with pytest.warns(FutureWarning, match="told"):
        again = genflow.get_backbone("ncsnpp", **{**net.config(), "told": "noise_level"})
    assert again.design.conditioning == "noise_level"
