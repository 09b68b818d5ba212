"""Sizes: what the catalogue says they weigh, published networks for their own images only, and deep variants."""

import math
import subprocess
import sys

import pytest
import torch

import genflow
from genflow.backbone.cost import cost
from genflow.backbone.mlp import MLP
from genflow.backbone.ncsnv2 import NCSNv2
from genflow.backbone.sizes import SIZES
from genflow.commands.list import short
from genflow.registry import registries

ENTRIES = registries()["backbones"].entries()
ROWS = [(name, row) for name, rows in SIZES.items() for row in rows]
AS_PUBLISHED = {"normalise": False}


def options(name, row):
    """How a listed size is built."""
    if not row.published:
        return {}
    return {"size": row.name, **AS_PUBLISHED, **({"noise_level": "scale"} if name == "ncsnv2" else {})}


@pytest.mark.quick_one_in(31)
@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda v: v if isinstance(v, str) else f"{v.name}-{v.shape}")
def test_the_catalogue_weighs_what_the_class_weighs(name, row):
    found = cost(name, row.shape, **options(name, row))
    assert (row.parameters, row.flops) == tuple(found), f"genflow/backbone/sizes.py should say {found}"


@pytest.mark.slow
def test_every_built_in_backbone_lists_its_sizes_and_each_has_the_name_of_what_is_built():
    assert all("sizes" in entry.tags for entry in ENTRIES.values() if entry.origin == "genflow")
    for name, rows in SIZES.items():
        assert {(1, 8, 8), (1, 28, 28), (3, 32, 32)} <= {row.shape for row in rows if not row.published}
        for row in rows:
            if row.name and not row.published and max(row.shape) < 64:
                with torch.device("meta"):
                    default, asked = (
                        genflow.get_backbone(name, shape=row.shape, **o) for o in ({}, {"size": row.name})
                    )
                assert default.config() == asked.config()


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [
        ("ncsnv2", "cifar10", 29.69),
        ("ddpm", "cifar10", 35.22),
        ("ddpmpp", "cifar10", 61.80),
        ("ddpmpp_deep", "cifar10", 106.63),
        ("ncsnpp", "cifar10", 62.76),
        ("ncsnpp_deep", "cifar10", 107.59),
        ("ddpmpp", "lsun256", 124.08),
    ],
)
def test_published_numbers_of_parameters(name, size, millions):
    assert [round(row.parameters / 1e6, 2) for row in SIZES[name] if row.name == size] == [millions]


def test_operations_of_layers_counted_by_hand():
    """A residual MLP is matrices only; a matrix of m x n takes 2 m n operations."""
    net = MLP((2, 2, 2), width=16, depth=2)
    matrices = sum(p.numel() for p in net.parameters() if p.ndim == 2)
    assert cost("mlp", (2, 2, 2), width=16, depth=2) == (sum(p.numel() for p in net.parameters()), 2 * matrices)
    tiny = {"nf": 4, "ch_mult": [1], "num_res_blocks": 1, "attention": False, "normalise": False}
    side, by_hand = 6 * 6, 0
    by_hand += 4 * 16 + 16 * 16  # the time
    by_hand += 9 * side * (1 * 4 + 4 * 1)  # first and last convolution
    by_hand += 9 * side * 4 * (4 + 4) * 3 + 3 * 16 * 4  # three blocks of 4 channels: one down, two in the middle
    by_hand += 2 * (9 * side * 4 * (8 + 4) + side * 8 * 4 + 16 * 4)  # two blocks up take 8, with 1 x 1 shortcuts
    assert cost("ddpmpp", (1, 6, 6), **tiny).flops == 2 * by_hand


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7 "), (999, "999 "), (1230, "1.23 k"), (61_804_419, "61.80 M"), (2.5e9, "2.50 G")]
)
def test_large_numbers_are_short(number, text):
    assert short(number) == text


def test_listing_prints_every_size_without_torch():
    code = (
        "import sys; sys.argv[1:] = ['list', 'backbones']; from genflow.cli import run; code = run(); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for rows in SIZES.values():
        for row in rows:
            text = f"{'x'.join(map(str, row.shape))}: {short(row.parameters)} parameters, {short(row.flops)}FLOPs"
            assert text in done.stdout
    assert "cifar10 3x32x32: 29.69 M parameters, 19.79 GFLOPs an image, as published" in done.stdout


# ---- published networks take their own images ------------------------------------------------------------------------

PUBLISHED = [(name, row) for name, row in ROWS if row.published]


@pytest.mark.parametrize(("name", "row"), PUBLISHED, ids=lambda v: v if isinstance(v, str) else v.name)
@pytest.mark.parametrize("wrong", ["channels", "side"])
def test_a_published_network_refuses_other_images_by_name(name, row, wrong):
    channels, side = row.shape[0], row.shape[1]
    shape = (1, side, side) if wrong == "channels" else (channels, 28, 28)
    came, wanted = ("x".join(map(str, s)) for s in (shape, row.shape))
    message = (
        rf"size = '{row.name}' is the published network for images of {wanted} .*, but these are {came}; leave size"
    )
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        genflow.get_backbone(name, shape=shape, size=row.name)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("name", ["ncsnv2", "ddpmpp_deep"])
def test_the_widths_that_the_refusal_gives_do_build_that_network(name):
    """They are read from the sentence, as a user would."""
    with pytest.raises(ValueError) as caught:
        genflow.get_backbone(name, shape=(1, 32, 32), size="cifar10")
    words = str(caught.value).split("by name: ")[1].replace(", ", ",").split()
    parsed = {k: v if v.isalpha() else eval(v, {}) for k, v in (word.split("=") for word in words)}
    with torch.device("meta"):
        wide = genflow.get_backbone(name, shape=(1, 32, 32), **parsed)
        published = genflow.get_backbone(name, shape=(3, 32, 32), size="cifar10")
    shapes = [{n: p.shape for n, p in net.named_parameters() if "1" in n} for net in (wide, published)]
    different = [n for n in shapes[0] if shapes[0][n] != shapes[1][n]]
    assert shapes[0].keys() == shapes[1].keys()
    assert len(different) <= 1, different  # the convolution that takes the channels


@pytest.mark.slow
def test_a_thinner_published_network_is_no_refusal():
    net = genflow.get_backbone("ddpmpp", shape=(3, 32, 32), size="cifar10", nf=8)
    assert (net.design.nf, net.design.num_res_blocks) == (8, 4)


# ---- variants and defaults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ncsnpp", "ddpmpp"])
def test_deep_has_twice_the_blocks_of_its_size_and_own_weights(name):
    plain, deep = (genflow.get_backbone(n, shape=(1, 8, 8), nf=8) for n in (name, f"{name}_deep"))
    assert deep.design.num_res_blocks == 2 * plain.design.num_res_blocks
    assert ENTRIES[name].family != ENTRIES[f"{name}_deep"].family
    again = genflow.get_backbone(f"{name}_deep", **deep.config())
    assert again.design == deep.design  # not doubled a second time
    assert genflow.get_backbone(f"{name}_deep", shape=(1, 8, 8), num_res_blocks=3).design.num_res_blocks == 3


@pytest.mark.slow
def test_high_resolution_networks_have_their_pyramids():
    with torch.device("meta"):
        net = genflow.get_backbone("ncsnpp", shape=(3, 256, 256), size="ffhq256")
        other = genflow.get_backbone("ncsnpp", shape=(3, 256, 256), size="ffhq256", progressive="none")
        bedroom = genflow.get_backbone("ddpmpp", shape=(3, 256, 256), size="lsun256")
    assert (net.design.progressive, net.design.progressive_input) == ("output_skip", "input_skip")
    assert other.design.progressive == "none"
    assert (bedroom.design.progressive, bedroom.design.progressive_input) == ("none", "none")


def test_the_width_of_the_mlp_follows_the_entries():
    widths = {shape: MLP(shape).config()["width"] for shape in ((2,), (1, 8, 8), (1, 28, 28), (3, 32, 32))}
    assert widths == {(2,): 128, (1, 8, 8): 128, (1, 28, 28): 256, (3, 32, 32): 256}
    assert MLP((3, 32, 32), width=64).config()["width"] == 64


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("size", "side"), [("small", 32), ("deeper", 96), ("deeper", 128), ("deepest", 160)])
def test_each_size_of_ncsnv2_runs_at_its_resolution_with_head_and_classes(size, side):
    net = NCSNv2((3, side, side), extra_channels=1, features=2, classes=3)
    assert net.config()["size"] == size
    output = net(torch.randn(2, 3, side, side), torch.tensor([0.37, 1e4]), torch.tensor([2, -1]))
    assert output.shape == (2, 4, side, side)
    output.square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("dilation", [2, 4])
def test_dilated_convolutions_keep_the_size_and_look_that_far(dilation):
    from genflow.backbone.ncsnv2 import conv3x3

    conv = conv3x3(1, 1, dilation)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 8, 8] = 1
    lit = conv(x)[0, 0].detach().nonzero().tolist()
    assert lit == [[8 + i * dilation, 8 + j * dilation] for i in (-1, 0, 1) for j in (-1, 0, 1)]


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", [n for n in ENTRIES if ENTRIES[n].origin == "genflow"])
def test_head_and_classes_on_each(name):
    net = genflow.get_backbone(name, shape=(3, 16, 16), extra_channels=1, classes=4, **THIN.get(name, THIN["unet"]))
    labels = torch.tensor([0, 3, -1])
    output = net(torch.randn(3, 3, 16, 16), torch.rand(3), labels)
    assert output.shape == (3, 4, 16, 16)
    assert math.isfinite(float(output.detach().sum()))


THIN = {"mlp": {"width": 8}, "ncsnv2": {"features": 4}, "unet": {"nf": 8}}
