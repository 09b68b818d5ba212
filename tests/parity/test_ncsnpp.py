"""NCSN++, DDPM++ and DDPM against the published networks (score_sde_pytorch, Poisson_flow): weights and outputs."""

from __future__ import annotations

import _codecs

import numpy as np
import pytest
import torch

from genflow.backbone.ddpm import DDPM
from genflow.backbone.ncsnpp import NCSNpp
from genflow.backbone.unet_design import published_options
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VE, VP, SubVP

CLASSES = {"ncsnpp": NCSNpp, "ddpm": DDPM}
F64, F32 = torch.float64, torch.float32
VE_NETS = ("ve_ncsnpp_continuous", "ve_ncsnpp_output_skip", "ve_ncsnpp_ddpmblocks")


def build(stored, weights, dtype, shape=None):
    """The network of a stored configuration with published weights, in eval mode."""
    config = stored["config"]
    make = CLASSES[config["model"]["name"]]
    extra = int(config["training"]["sde"] == "poisson")
    net = make(tuple(shape or stored["x"].shape[1:]), extra_channels=extra, **published_options(config))
    net.load_published(weights)
    return net.to(dtype).eval()


@pytest.fixture
def network(load):
    """Stored arrays, and the network with the stored weights."""

    def read(name, dtype):
        stored = load(f"nets/{name}.pt")
        return stored, build(stored, stored["state_dict"], dtype)

    return read


@pytest.mark.parametrize("name", ["pfgm_ddpmpp", "vp_ddpmpp", "vp_ddpm", *VE_NETS])
def test_names_come_in_the_published_order(network, name):
    """Averages of published checkpoints are lists in this order."""
    stored, net = network(name, F32)
    assert list(net.state_dict()) == [k for k in stored["state_dict"] if k != "sigmas"]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tag", "tolerance"), [(F64, "_f64", 1e-9), (F32, "", 1e-6)])
def test_pfgm_ddpmpp(network, error, dtype, tag, tolerance):
    """Told z itself by the process, the network answers the published field."""
    stored, net = network("pfgm_ddpmpp", dtype)
    process = PFGM(dim=3072, z_min=1e-3, z_max=40.0)
    output = process.field(net).output(stored["x"].to(dtype), stored["z"].double())
    assert output.dtype == dtype
    assert error(output[:, :3], stored[f"out_x{tag}"]) < tolerance
    assert error(output[:, 3].mean((1, 2)), stored[f"out_z{tag}"]) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("name", ["vp_ddpmpp", "vp_ddpm"])
@pytest.mark.parametrize(
    ("dtype", "key", "tolerance"), [(F64, "model_out_f64", 1e-9), (F32, "model_out_labels_t999", 1e-6)]
)
def test_vp(network, error, name, dtype, key, tolerance):
    """Told t, it embeds 999 t."""
    stored, net = network(name, dtype)
    found = VP().field(net).output(stored["x"].to(dtype), stored["t"].double())
    assert error(found, stored[key]) < tolerance


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "process", "key"),
    [
        ("vp_ddpmpp", VP, "vp_score_continuous"),
        ("vp_ddpmpp", SubVP, "subvp_score"),
        ("vp_ddpm", VP, "vp_score_continuous"),
    ],
)
def test_vp_score(network, error, name, process, key):
    """−output/b; near t = 0 the published float32 1 − e^(−B) in b keeps few digits, so the last two times count.

    In float64, against numbers stored in float32, which are off by 3.2e-6 by their own rounding.
    """
    stored, net = network(name, F64)
    found = process().field(net).score(stored["x"].double(), stored["t"].double())
    assert error(found[-2:], stored[key][-2:]) < 5e-6


@torch.no_grad()
def test_discrete_vp_labels(load, error):
    """The same weights told 999 t as the label of a table; its standard deviations are the chain's at whole labels."""
    stored = load("nets/vp_ddpmpp.pt")
    options = {**published_options(stored["config"]), "time_scale": 999.0}
    net = NCSNpp((3, 32, 32), **options).eval()
    net.load_published(stored["state_dict"])
    betas = torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=F64)
    std = (1 - (1 - betas).cumprod(0)).sqrt()
    labels = (stored["t"] * 999).long()
    score = -net(stored["x"], stored["t"]) / std[labels].float()[:, None, None, None]
    # at label 0 the published float32 1 − ᾱ keeps four digits
    assert error(score[2:], stored["vp_score_discrete"][2:]) < 3e-6
    assert error(score, stored["vp_score_discrete"]) < 1e-3


@pytest.mark.quick_one_in(5)
@torch.no_grad()
@pytest.mark.parametrize("name", VE_NETS)
@pytest.mark.parametrize(("dtype", "key", "tolerance"), [(F64, "score_f64", 1e-9), (F32, "score", 5e-5)])
def test_ve(network, error, name, dtype, key, tolerance):
    """Told σ; the stored float64 run was told its float32 value."""
    stored, net = network(name, dtype)
    x, sigma = stored["x"].to(dtype), stored["std"].to(dtype)
    assert error(net(x, sigma), stored[key]) < tolerance
    process = VE(sigma_max=float(stored["config"]["model"]["sigma_max"]), head="score")
    found = process.field(net).score(x, stored["t"].double())
    assert all(error(a, b) < 5e-5 for a, b in zip(found, stored[key], strict=True))


@torch.no_grad()
@pytest.mark.parametrize(
    ("folder", "file"),
    [("vp_ddpmpp", "checkpoint_8.np1.pth"), ("pfgm_ddpmpp", "checkpoint_600000.pth")],
)
def test_checkpoints(load, parity, error, folder, file):
    """Names with "module." load, and the averaged weights are a list in the order of the trained parameters."""
    expected = load(f"ckpt/{folder}/expected.pt")
    scalar = np._core.multiarray.scalar
    plain = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, np.dtypes.Float64DType, _codecs.encode]
    with torch.serialization.safe_globals(plain):
        stored = torch.load(parity / "ckpt" / folder / file)
    net = build(expected, stored["model"], F32)
    assert answers_agree(net, expected, "out_raw", error)
    averages = stored["ema"]["shadow_params"]
    for parameter, average in zip(net.parameters(), averages, strict=True):
        parameter.copy_(average)
    assert answers_agree(net, expected, "out_ema", error)


def answers_agree(net, expected, key, error):
    """The stored answer is VP's score at t, or both parts of the field at z."""
    x, told, want = expected["x"], expected["cond"].double(), expected[key]
    if len(want) == 1:
        return error(VP().field(net).score(x, told), want[0]) < 1e-6
    output = PFGM(dim=3072, z_min=1e-3, z_max=40.0).field(net).output(x, told)
    return error(output[:, :3], want[0]) < 1e-6 and error(output[:, 3].mean((1, 2)), want[1]) < 1e-6


def test_weights_of_another_design_get_a_sentence(network):
    stored, net = network("vp_ddpmpp", F32)
    other = NCSNpp((3, 32, 32), **{**published_options(stored["config"]), "nf": 8})
    with pytest.raises(ValueError, match=r"do not fit this NCSNpp: all_modules\.0\.weight is \(64, 16\) in them"):
        other.load_published(stored["state_dict"])
    with pytest.raises(ValueError, match=r"all_modules\.29\.bias is missing in them"):
        net.load_published({k: v for k, v in stored["state_dict"].items() if k != "all_modules.29.bias"})
