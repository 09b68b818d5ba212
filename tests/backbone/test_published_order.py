"""The order of blocks in every published network, against forward passes written from names of weights alone.

The plain passes below read a state dict and know no module of the package. Networks have the published depth, levels
and order, few channels and small images; the published ones, built on no device, are held to the same names. Weights,
offsets and scales are all drawn, so two blocks of equal shape cannot be exchanged unseen: the last tests exchange them.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import genflow
from genflow.backbone import ncsnv2
from genflow.backbone.ncsnv2 import NCSNv2

F64 = torch.float64
BOUND = 1e-12
ROOT2 = math.sqrt(2.0)


def drawn(net, seed=0):
    """The network in float64 with every number of its state drawn: weights by fan-in, large enough for deep blocks to
    reach the output."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double().eval()
    for value in net.state_dict().values():
        noise = torch.randn(value.shape, generator=generator, dtype=F64)
        fan = value[0].numel() if value.ndim > 2 else len(value)
        value.copy_(1.4 * noise / math.sqrt(fan) if value.ndim > 1 else 0.5 * noise + 0.3)
    return net


# ---- NCSNv2 ----------------------------------------------------------------------------------------------------------

RES = {"small": "1 2 3 4", "deeper": "1 2 3 4 5", "deepest": "1 2 3 31 4 5"}
"""Stages on the way down."""
REFINE = {"small": "1 2 3 4", "deeper": "1 2 3 4 5", "deepest": "1 2 31 3 4 5"}
"""Refine blocks on the way up, as the published networks call them: 31 takes the features of stage 31."""
HALVED = {"small": "2", "deeper": "2 3", "deepest": "2 3 31"}
DILATED = {"small": {"3": 2, "4": 4}, "deeper": {"4": 2, "5": 4}, "deepest": {"4": 2, "5": 4}}


class Weights:
    """A state dict, read by name."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return self.state[self.prefix + name]

    def at(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def has(self, name):
        return any(key.startswith(self.prefix + name) for key in self.state)

    def conv(self, x, name="", **options):
        w = self.at(name) if name else self
        return F.conv2d(x, w["weight"], w["bias"] if w.has("bias") else None, **options)


def plus_norm(w, x):
    means = x.mean((2, 3))
    means = (means - means.mean(1, keepdim=True)) / torch.sqrt(means.var(1, keepdim=True) + 1e-5)
    h = F.instance_norm(x, eps=1e-5) + (means * w["alpha"])[:, :, None, None]
    return w["gamma"][:, None, None] * h + w["beta"][:, None, None]


def res_block(w, x, dilation, halve):
    wide = {"padding": dilation, "dilation": dilation}
    h = w.conv(F.elu(plus_norm(w.at("normalize1"), x)), "conv1", **wide)
    h = F.elu(plus_norm(w.at("normalize2"), h))
    if halve:
        h = F.avg_pool2d(w.conv(h, "conv2.conv", padding=1), 2)
        return h + F.avg_pool2d(w.conv(x, "shortcut.conv"), 2)
    h = w.conv(h, "conv2", **wide)
    return h + (w.conv(x, "shortcut", **wide) if w.has("shortcut") else x)


def units(w, x, blocks):
    for i in range(1, blocks + 1):
        h = x
        for j in (1, 2):
            h = w.conv(F.elu(h), f"{i}_{j}_conv", padding=1)
        x = x + h
    return x


def refine_block(w, xs, last):
    xs = [units(w.at(f"adapt_convs.{k}"), x, 2) for k, x in enumerate(xs)]
    if len(xs) > 1:
        parts = [w.conv(x, f"msf.convs.{k}", padding=1) for k, x in enumerate(xs)]
        size = parts[0].shape[2:]
        x = sum(F.interpolate(part, size=size, mode="bilinear", align_corners=True) for part in parts)
    else:
        x = xs[0]
    x = path = F.elu(x)
    for k in range(2):
        path = w.conv(F.max_pool2d(path, 5, stride=1, padding=2), f"crp.convs.{k}", padding=1)
        x = x + path
    return units(w.at("output_convs"), x, 3 if last else 1)


def plain_ncsnv2(state, x, sigma, size):
    """Data in [0, 1]; the output is divided by the noise's scale."""
    w = Weights(state)
    h, layers = w.conv(2 * x - 1, "begin_conv", padding=1), {}
    for name in RES[size].split():
        for i in (0, 1):
            halve = i == 0 and name in HALVED[size].split()
            h = res_block(w.at(f"res{name}.{i}"), h, DILATED[size].get(name, 1), halve)
        layers[name] = h
    names = REFINE[size].split()
    below = []
    for name, stage in zip(names, reversed(RES[size].split()), strict=True):
        below = [refine_block(w.at(f"refine{name}"), [layers[stage], *below], last=name == names[-1])]
    return w.conv(F.elu(plus_norm(w.at("normalizer"), below[0])), "end_conv", padding=1) / sigma[:, None, None, None]


def ncsnv2_case(size, extra):
    side = {"small": 8, "deeper": 16, "deepest": 16}[size]
    options = {"noise_level": "scale", "normalise": False, "centre": True}
    net = drawn(NCSNv2((3, side, side), extra, features=6, size=size, **options))
    return net, lambda state, x, level: plain_ncsnv2(state, x, level, size)


# ---- U-Nets ----------------------------------------------------------------------------------------------------------

PYRAMID = {"progressive": "output_skip", "progressive_input": "input_skip", "num_res_blocks": 2}
DDPMPP = {"fir": False, "progressive": "none", "progressive_input": "none", "fourier": False}
NCSNPP = {"fir": True, "progressive": "none", "progressive_input": "residual", "fourier": True}
UNETS = {
    ("ddpmpp", "cifar10"): {**DDPMPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attends": 1},
    ("ddpmpp", "celeba64"): {**DDPMPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attends": 2},
    ("ddpmpp", "lsun256"): {**DDPMPP, "ch_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "attends": 4},
    ("ddpmpp_deep", "cifar10"): {**DDPMPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 8, "attends": 1},
    ("ncsnpp", "cifar10"): {**NCSNPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attends": 1},
    ("ncsnpp", "celeba64"): {**NCSNPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attends": 2},
    ("ncsnpp", "ffhq256"): {**NCSNPP, **PYRAMID, "ch_mult": (1, 1, 2, 2, 2, 2, 2), "attends": 4},
    ("ncsnpp", "ffhq1024"): {
        **NCSNPP,
        **PYRAMID,
        "num_res_blocks": 1,
        "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
        "attends": 6,
    },
    ("ncsnpp_deep", "cifar10"): {**NCSNPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 8, "attends": 1},
    ("ddpm", "cifar10"): {**DDPMPP, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 2, "attends": 1, "ddpm": True},
}
"""By network and size as published; attention is at the level "attends", where the side is 16."""
PUBLISHED_SIDE = {"cifar10": 32, "celeba64": 64, "lsun256": 256, "ffhq256": 256, "ffhq1024": 1024}


def filtered(x, pad, gain=1.0):
    """A true convolution of every map with (1, 3, 3, 1) ⊗ (1, 3, 3, 1)/64."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = (gain * torch.outer(taps, taps))[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=x.shape[1])


def halved(x, fir):
    return filtered(x, (1, 1))[:, :, ::2, ::2] if fir else F.avg_pool2d(x, 2)


def doubled(x, fir):
    if not fir:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return filtered(wide, (2, 1), gain=4.0)


class PlainUNet:
    """One forward pass, layer after layer of `all_modules`."""

    def __init__(self, state, design):
        self.state, self.place, self.d, self.ddpm = state, 0, design, design.get("ddpm", False)

    def layer(self):
        self.place += 1
        return Weights(self.state, f"all_modules.{self.place - 1}.")

    def norm(self, w, x):
        groups = 32 if self.ddpm else min(x.shape[1] // 4, 32)
        return F.group_norm(x, groups, w["weight"], w["bias"], eps=1e-6)

    def join(self, x, h):
        return x + h if self.ddpm else (x + h) / ROOT2

    def block(self, x, time, change=None):
        w = self.layer()
        h = F.silu(self.norm(w.at("GroupNorm_0"), x))
        h, x = (change(h, self.d["fir"]), change(x, self.d["fir"])) if change else (h, x)
        h = w.conv(h, "Conv_0", padding=1)
        h = h + F.linear(F.silu(time), w["Dense_0.weight"], w["Dense_0.bias"])[:, :, None, None]
        h = w.conv(F.silu(self.norm(w.at("GroupNorm_1"), h)), "Conv_1", padding=1)
        if w.has("Conv_2"):
            x = w.conv(x, "Conv_2")
        elif w.has("NIN_0"):
            x = self.nin(w, 0, x)
        return self.join(x, h)

    def nin(self, w, k, x):
        return torch.einsum("bchw,cd->bdhw", x, w[f"NIN_{k}.W"]) + w[f"NIN_{k}.b"][:, None, None]

    def attention(self, x):
        w = self.layer()
        h = self.norm(w.at("GroupNorm_0"), x)
        q, k, v = (self.nin(w, i, h).flatten(2) for i in range(3))
        share = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1])).softmax(2)
        return self.join(x, self.nin(w, 3, torch.einsum("bij,bcj->bci", share, v).reshape(x.shape)))

    def attend(self, x, level):
        return self.attention(x) if level == self.d["attends"] else x

    def output(self, h):
        norm, conv = self.layer(), self.layer()
        return conv.conv(F.silu(self.norm(norm, h)), padding=1)

    def time(self, level, nf):
        if self.d["fourier"]:
            phase = level.log()[:, None] * self.layer()["W"] * 2 * math.pi
        else:
            half = nf // 2
            rates = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000) / (half - 1)))
            phase = level[:, None] * rates.double()
        first, second = self.layer(), self.layer()
        h = F.linear(torch.cat([phase.sin(), phase.cos()], 1), first["weight"], first["bias"])
        return F.linear(F.silu(h), second["weight"], second["bias"])

    def down(self, h, time, level, pyramid):
        """Half the resolution of the features, with the input's pyramid."""
        if self.ddpm:
            return self.layer().at("Conv_0").conv(F.pad(h, (0, 1, 0, 1)), stride=2), pyramid
        h = self.block(h, time, halved)
        if self.d["progressive_input"] == "input_skip":
            pyramid = halved(pyramid, True)
            return self.layer().conv(pyramid, "Conv_0") + h, pyramid
        if self.d["progressive_input"] == "residual":
            h = (self.layer().at("Conv2d_0").conv(filtered(pyramid, (2, 2)), stride=2) + h) / ROOT2
            return h, h
        return h, pyramid

    def __call__(self, x, level, nf):
        levels = len(self.d["ch_mult"])
        time, pyramid = self.time(level, nf), x
        maps = [self.layer().conv(x, padding=1)]
        for i in range(levels):
            for _ in range(self.d["num_res_blocks"]):
                maps.append(self.attend(self.block(maps[-1], time), i))
            if i < levels - 1:
                h, pyramid = self.down(maps[-1], time, i, pyramid)
                maps.append(h)
        h = self.block(self.attention(self.block(maps[-1], time)), time)
        image = None
        for i in reversed(range(levels)):
            for _ in range(self.d["num_res_blocks"] + 1):
                h = self.block(torch.cat([h, maps.pop()], 1), time)
            h = self.attend(h, i)
            if self.d["progressive"] == "output_skip":
                image = self.output(h) + (0 if image is None else doubled(image, True))
            if i and self.ddpm:
                h = self.layer().conv(doubled(h, False), "Conv_0", padding=1)
            elif i:
                h = self.block(h, time, doubled)
        image = self.output(h) if image is None else image
        assert f"all_modules.{self.place}.weight" not in self.state
        return image


def unet_case(name, size, extra, nf=None):
    """A network of the published depth, whose lowest maps have 2 x 2 pixels, in the deepest one pixel."""
    design = UNETS[name, size]
    levels = len(design["ch_mult"])
    nf, side = (
        nf or {"ddpm": 32, "ncsnpp_deep": 8, "ddpmpp_deep": 8}.get(name, 8 if levels < 7 else 4),
        2 ** min(levels, 7),
    )
    options = {k: design[k] for k in ("ch_mult", "num_res_blocks")}
    if name == "ddpm":
        options["groups"] = 32
    else:
        options.update(progressive=design["progressive"], progressive_input=design["progressive_input"])
    conditioning = "log_noise_level" if design["fourier"] else "noise_level"
    net = genflow.get_backbone(
        name,
        shape=(3, side, side),
        extra_channels=extra,
        nf=nf,
        attn_resolutions=[side >> design["attends"]],
        conditioning=conditioning,
        time_scale=1.0,
        scale_by_sigma=True,
        normalise=False,
        centre=True,
        **options,
    )
    net = drawn(net)

    def plain(state, x, level):
        return PlainUNet(state, design)(2 * x - 1, level, nf) / level[:, None, None, None]

    return net, plain


# ---- values ----------------------------------------------------------------------------------------------------------

CASES = [
    *(pytest.param(ncsnv2_case, (size, extra), id=f"ncsnv2-{size}-{extra}") for size in RES for extra in (0, 1)),
    *(pytest.param(unet_case, (*key, extra), id="-".join((*key, str(extra)))) for key in UNETS for extra in (0, 1)),
]
"""Every published size; 1: with the channel more that Poisson flow's head has."""


def inputs(net):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(2, *net.shape, generator=generator, dtype=F64), torch.tensor([0.3, 2.7], dtype=F64)


def gap(found, want):
    return float((found - want).abs().max() / want.abs().max())


@pytest.mark.quick_one_in(23)
@torch.no_grad()
@pytest.mark.parametrize(("make", "arguments"), CASES)
def test_every_published_network_is_the_plain_one(make, arguments):
    net, plain = make(*arguments)
    x, level = inputs(net)
    found = net(x, level)
    assert found.shape[1] == 3 + arguments[-1]
    assert gap(found, plain(net.state_dict(), x, level)) < BOUND


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "width"), [("ncsnv2", "deepest", 128), ("ddpmpp", "cifar10", 128)])
def test_the_published_width(name, size, width):
    if name == "ncsnv2":
        net = drawn(NCSNv2((3, 16, 16), features=width, size=size, noise_level="scale", normalise=False, centre=True))
        plain = ncsnv2_case(size, 0)[1]
    else:
        net, plain = unet_case(name, size, 0, nf=width)
    x, level = inputs(net)
    assert gap(net(x, level), plain(net.state_dict(), x, level)) < BOUND


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(("name", "size"), UNETS)
def test_the_published_unet_has_the_blocks_of_the_small_one(name, size):
    """Names, and which shapes are equal, of the network that `size` builds."""
    side = PUBLISHED_SIDE[size]
    with torch.device("meta"):
        whole = genflow.get_backbone(name, shape=(3, side, side), size=size, normalise=False)
    small = unet_case(name, size, 0)[0]
    assert list(whole.state_dict()) == list(small.state_dict())
    assert whole.attends == small.attends
    chosen = (
        "fir",
        "progressive",
        "progressive_input",
        "progressive_combine",
        "resblock_type",
        "skip_rescale",
        "fir_kernel",
    )
    for option in chosen:
        assert getattr(whole.design, option) == getattr(small.design, option), option
    assert (whole.design.embedding_type == "fourier") == UNETS[name, size]["fourier"]
    for key, value in small.state_dict().items():
        assert len(whole.state_dict()[key].shape) == value.ndim, key


@pytest.mark.parametrize("name", ncsnv2.PUBLISHED)
def test_the_published_ncsnv2_has_the_blocks_of_the_small_one(name):
    shape, size = ncsnv2.PUBLISHED[name]
    with torch.device("meta"):
        whole = NCSNv2(shape, size=name, noise_level="scale", normalise=False)
    assert list(whole.state_dict()) == list(ncsnv2_case(size, 0)[0].state_dict())


# ---- the tests notice ------------------------------------------------------------------------------------------------


def blocks(state):
    """Names of the parameters of every block, under the block's name."""
    found = {}
    for key in state:
        parts = key.split(".")
        depth = 2 if parts[0] == "all_modules" or parts[0].startswith("res") else 1
        found.setdefault(".".join(parts[:depth]), []).append(".".join(parts[depth:]))
    return found


def twins(state):
    """Pairs of blocks of equal names and shapes, each with the next of its kind."""
    kinds = {}
    for block, names in blocks(state).items():
        kinds.setdefault(tuple((n, tuple(state[f"{block}.{n}"].shape)) for n in names), []).append(block)
    return [pair for alike in kinds.values() for pair in itertools.pairwise(alike)]


@pytest.mark.quick_one_in(13)
@torch.no_grad()
@pytest.mark.parametrize(("make", "arguments"), [case for case in CASES if case.values[1][-1] == 0])
def test_no_two_blocks_of_equal_shape_can_be_exchanged_unseen(make, arguments):
    net, plain = make(*arguments)
    x, level = (values[:1] for values in inputs(net))  # one row is enough to see a change
    found, state = net(x, level), net.state_dict()
    pairs = twins(state)
    assert pairs
    for one, other in pairs:
        changed = dict(state)
        for name in blocks(state)[one]:
            changed[f"{one}.{name}"], changed[f"{other}.{name}"] = state[f"{other}.{name}"], state[f"{one}.{name}"]
        assert gap(found, plain(changed, x, level)) > 1000 * BOUND, (one, other)  # deep blocks change 5e-7 of it


@torch.no_grad()
def test_the_order_3_before_31_is_noticed(monkeypatch):
    monkeypatch.setitem(ncsnv2.REFINE_NAMES, "deepest", ("1", "2", "3", "31", "4", "5"))
    net, plain = ncsnv2_case("deepest", 0)
    x, level = inputs(net)
    assert gap(net(x, level), plain(net.state_dict(), x, level)) > 1e-3
