"""`genflow import` on checkpoints in the published format: outputs, drifts and samples of what it writes.

The stored answers are those of the published code. Drifts are computed here from them by the published formulas, and
compared with the velocity of the imported process over the imported network.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import genflow
from genflow.checkpoint import read_folder
from genflow.cli import cli
from genflow.convert.importer import import_checkpoint

VP_FILE = ("vp_ddpmpp", "checkpoint_8.np1.pth")
PFGM_FILE = ("pfgm_ddpmpp", "checkpoint_600000.pth")
N = 3 * 32 * 32
F64 = torch.float64


def run(*words):
    """A command line; its output."""
    result = CliRunner().invoke(cli, [str(w) for w in words], catch_exceptions=False, standalone_mode=False)
    assert result.return_value in (0, None), result.output
    return result.output


@pytest.fixture
def imported(parity, tmp_path):
    """The process, the network and config.json of an imported file."""

    def build(folder, file, **options):
        out = tmp_path / "model"
        import_checkpoint(parity / "ckpt" / folder / file, out, **options)
        return *genflow.load(out), json.loads(read_folder(out)["config.json"])

    return build


# ---- the two stored checkpoints --------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(2)
@torch.no_grad()
@pytest.mark.parametrize(("ema", "key"), [(True, "out_ema"), (False, "out_raw")])
def test_pfgm_answers_and_its_drift(imported, load, error, ema, key):
    """(v_x, v_z), and z v_x/(v_z + 1e-5) with the authors' v_z below z_exp = 5, over the imported pair."""
    process, net, config = imported(*PFGM_FILE, ema=ema, as_published=True)
    stored = load("ckpt/pfgm_ddpmpp/expected.pt")
    x, z = stored["x"], stored["cond"].double()
    v_x, v_z = stored[key]
    output = process.field(net).output(x, z)
    assert error(output[:, :3], v_x) < 1e-6
    assert error(output[:, 3].mean((1, 2)), v_z) < 1e-6
    share = v_x.flatten(1).norm(dim=1) / math.sqrt(N)
    reach = ((5.0 * share / (1 - share)) ** 2 + z**2).sqrt()
    slope = torch.where(z < 5, -math.sqrt(N) * z / (reach + 5.0), v_z.double())
    want = v_x.double() / (slope + 1e-5)[:, None, None, None]
    assert error(process.field(net).velocity(x, z), want) < 2e-6
    assert config["imported"]["ema"] == ({"decay": 0.9999, "num_updates": 3} if ema else None)
    assert (process.t_data, process.t_prior, process.radius_limit) == (1e-3, 40.0, 3000.0)


def test_pfgm_is_recognised_with_genflows_own_rules_by_default(imported):
    process, _, config = imported(*PFGM_FILE)
    assert (process.prior, process.inverse, process.constant) == ("exact", "projected", "exact")
    assert (process.prediction.gamma, process.steps, process.setting("dim")) == (5.0, 291, N)
    assert process.setting("radius") == pytest.approx(math.sqrt(N))
    assert config["dataset"] == {"name": "cifar10", "options": {}}
    assert config["imported"]["file"] == PFGM_FILE[1]
    assert config["imported"]["step"] == 3


def test_what_the_file_shows_must_agree(imported, parity):
    attention = r"preset poisson/celeba64_ddpmpp does not fit this file: .*attention at the levels \[1\] in the file"
    with pytest.raises(ValueError, match=attention):
        imported(*PFGM_FILE, preset_name="poisson/celeba64_ddpmpp")
    with pytest.raises(ValueError, match="the file has one output channel more than x, unlike vpsde"):
        imported(*PFGM_FILE, preset_name="vp/cifar10_ddpmpp_continuous")
    with pytest.raises(ValueError, match="both a preset and a configuration were given"):
        imported(*PFGM_FILE, preset_name="poisson/cifar10_ddpmpp", config_file=parity / "ckpt/vp_ddpmpp/config.json")


VP_NAMES = {"preset_name": "vp/cifar10_ddpmpp_continuous"}


@pytest.mark.quick_one_in(2)
@torch.no_grad()
@pytest.mark.parametrize(("ema", "key"), [(True, "out_ema"), (False, "out_raw")])
def test_vp_score_and_its_probability_flow(imported, load, error, ema, key):
    """−β x/2 − β s/2 with β = 0.1 + 19.9 t. Three steps of training leave a score of 1e-5, so the flow is compared
    without its first term: a wrong sign of the network, or a wrong factor, shows."""
    process, net, _ = imported(*VP_FILE, ema=ema, **VP_NAMES)
    stored = load("ckpt/vp_ddpmpp/expected.pt")
    x, t, score = stored["x"], stored["cond"].double(), stored[key][0].double()
    assert error(process.field(net).score(x, t), score) < 2e-6
    beta = (0.1 + 19.9 * t)[:, None, None, None]
    velocity = process.field(net.double()).velocity(x.double(), t)
    assert error(velocity + beta / 2 * x.double(), -beta / 2 * score) < 2e-6


@pytest.mark.slow
def test_the_average_is_not_the_last_step(imported):
    """Three steps apart, they must differ, or the two tests above would prove one thing."""
    nets = [imported(*VP_FILE, ema=ema, **VP_NAMES)[1].state_dict() for ema in (True, False)]
    assert any(not torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


@pytest.mark.slow
def test_vp_needs_to_be_told_and_takes_its_own_configuration(imported, parity):
    with pytest.raises(
        ValueError, match="vp_ode, continuous, cifar10 at 32 pixels: vp/cifar10_ddpmpp_continuous or"
    ) as e:
        imported(*VP_FILE)
    assert "vp_ode, 1000 levels, cifar10 at 32 pixels: vp/cifar10_ddpmpp;" in str(e.value)
    assert "subvp/cifar10_ddpmpp_continuous" in str(e.value)
    assert "--preset NAME" in str(e.value)
    told, net, _ = imported(*VP_FILE, **VP_NAMES)
    own, same, config = imported(*VP_FILE, config_file=parity / "ckpt/vp_ddpmpp/config.json")
    assert told == own
    assert net.config() == same.config()
    assert config["imported"]["configuration"] == "configuration config.json"


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    ("file", "more"),
    [(PFGM_FILE, ()), (VP_FILE, ("--preset", "vp/cifar10_ddpmpp_continuous"))],
)
def test_command_line_from_file_to_samples_without_the_data(parity, tmp_path, monkeypatch, file, more):
    """Import, then a picture by the adaptive solver and an array by a fixed budget; CIFAR-10 is not here."""
    monkeypatch.setenv("GENFLOW_DATA_DIR", str(tmp_path / "nothing"))
    model, picture, array = (tmp_path / name for name in ("model", "samples.png", "samples.npz"))
    told = run("import", parity.joinpath("ckpt", *file), "--out", model, *more)
    assert f"{parity.joinpath('ckpt', *file).stat().st_size:,} bytes, sha256 " in told
    loose = [f"--solver-options=rk45.{name}=0.1" for name in ("rtol", "atol")]
    line = run("sample", "--checkpoint", model, "--solver", "rk45", "--n", 4, "--out", picture, *loose)
    assert "4 samples" in line
    assert picture.read_bytes().startswith(b"\x89PNG")
    run("sample", "--checkpoint", model, "--solver", "euler", "--nfe", 5, "--n", 4, "--out", array)
    with np.load(array) as arrays:
        assert arrays["x"].shape == (4, 3, 32, 32)
        assert np.isfinite(arrays["x"]).all()


# ---- other networks, put into the published format here --------------------------------------------------------------


def published_file(path, weights, decay=0.999, frozen=()):
    """A checkpoint of the published layout; its average is a tenth of the way back to zero."""
    trained = [name for name in weights if name != "sigmas" and name not in frozen]
    shadow = [0.9 * weights[name] for name in trained]
    ema = {"decay": decay, "num_updates": 7, "shadow_params": shadow}
    model = {f"module.{name}": value for name, value in weights.items()}
    group = {"lr": np.float64(2e-4), "params": list(range(len(trained)))}
    torch.save({"optimizer": {"state": {}, "param_groups": [group]}, "model": model, "ema": ema, "step": 12}, path)


@pytest.mark.quick_one_in(3)
@torch.no_grad()
@pytest.mark.parametrize("name", ["ve_ncsnpp_continuous", "ve_ncsnpp_output_skip", "ve_ncsnpp_ddpmblocks"])
def test_ve_scores_at_genflows_unit(load, tmp_path, error, name):
    """At x' = 2x − 1 the score is half the stored one, and the flow −σ² ln(σ_max/σ_min) s is twice as fast."""
    stored = load(f"nets/{name}.pt")
    (tmp_path / "config.json").write_text(json.dumps(stored["config"]))
    published_file(tmp_path / "x.pth", stored["state_dict"], frozen=("all_modules.0.W",))
    import_checkpoint(tmp_path / "x.pth", tmp_path / "m", config_file=tmp_path / "config.json", ema=False)
    process, net = genflow.load(tmp_path / "m")
    x, t, score = 2 * stored["x"] - 1, stored["t"].double(), stored["score"].double()
    low, high = 0.01, float(stored["config"]["model"]["sigma_max"])
    assert (process.sigma_min, process.sigma_max) == (2 * low, 2 * high)
    found, velocity = process.field(net).velocity_and_score(x, t)[::-1]
    sigma = low * (high / low) ** t
    rate = (sigma**2 * math.log(high / low))[:, None, None, None]
    for row in range(len(x)):
        assert error(found[row], score[row] / 2) < 5e-5
        assert error(velocity[row], -2 * rate[row] * score[row]) < 5e-5


@pytest.mark.quick_one_in(2)
@torch.no_grad()
@pytest.mark.parametrize("name", ["ncsnv2_64", "ncsnv2_deeper"])
def test_ncsnv2_scores_at_genflows_unit(load, tmp_path, error, name):
    """SMLD at the stored 20 levels: label k is the k-th of falling noise levels, and the network divides by it."""
    stored = load(f"nets/{name}.pt")
    width = stored["config"]["model"]["ngf"]
    config = {
        "model": {
            "name": {"ncsnv2_64": "ncsnv2_64", "ncsnv2_deeper": "ncsnv2_128"}[name],
            "nf": width,
            "ema_rate": 0.999,
        },
        "data": {"image_size": 32, "num_channels": 3, "centered": False, "dataset": "CIFAR10"},
        "training": {"sde": "vesde", "continuous": False},
    }
    config["model"] |= {"sigma_min": 0.01, "sigma_max": 50, "num_scales": 20}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    published_file(tmp_path / "x.pth", stored["state_dict"])
    import_checkpoint(tmp_path / "x.pth", tmp_path / "m", config_file=tmp_path / "config.yaml", ema=False)
    process, net = genflow.load(tmp_path / "m")
    t = process.level_times().flip(0)[stored["labels"]]
    found = process.field(net).score(2 * stored["x"] - 1, t)
    assert error(found, stored["model_out_f64"] / 2) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_ddpm(load, tmp_path, error):
    stored = load("nets/vp_ddpm.pt")
    (tmp_path / "config.json").write_text(json.dumps(stored["config"]))
    published_file(tmp_path / "x.pth", stored["state_dict"], decay=0.9999)
    import_checkpoint(tmp_path / "x.pth", tmp_path / "m", config_file=tmp_path / "config.json", ema=False)
    process, net = genflow.load(tmp_path / "m")
    found = process.field(net).score(stored["x"], stored["t"].double())
    assert error(found[-2:], stored["vp_score_continuous"][-2:]) < 2e-6


@pytest.mark.slow
@torch.no_grad()
def test_one_file_two_processes(load, tmp_path, error):
    """VP and sub-VP name their weights alike; the preset decides, and each gives its own stored score."""
    stored = load("nets/vp_ddpmpp.pt")
    published_file(tmp_path / "x.pth", stored["state_dict"], decay=0.9999)
    for kind, key in (("vp", "vp_score_continuous"), ("subvp", "subvp_score")):
        preset = f"{kind}/cifar10_ddpmpp_continuous"
        import_checkpoint(tmp_path / "x.pth", tmp_path / kind, preset_name=preset, ema=False)
        process, net = genflow.load(tmp_path / kind)
        found = process.field(net).score(stored["x"], stored["t"].double())
        assert error(found[-2:], stored[key][-2:]) < 2e-6


@torch.no_grad()
def test_the_average_skips_the_frequencies_that_are_not_trained(load, tmp_path):
    """Every parameter is the average's, nine tenths of the model's; the random frequencies are the model's own."""
    stored = load("nets/ve_ncsnpp_continuous.pt")
    published_file(tmp_path / "x.pth", stored["state_dict"], frozen=("all_modules.0.W",))
    import_checkpoint(tmp_path / "x.pth", tmp_path / "m", preset_name="ve/cifar10_ncsnpp_continuous")
    found = genflow.load(tmp_path / "m")[1].state_dict()
    for name, value in stored["state_dict"].items():
        if name != "sigmas":
            factor = 1.0 if name == "all_modules.0.W" else 0.9
            assert torch.equal(found[name], factor * value), name
