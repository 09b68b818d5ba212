"""The commands on one checkpoint: what they write, that it is what the functions give, and what they refuse."""

import csv
import shutil
import sys

import matplotlib.image
import numpy as np
import pytest
import torch
from said import said

import genflow as library
from genflow import cli
from genflow.data.base import Dataset, Scaling
from genflow.registry import registries

TRAIN = "train --backbone mlp --backbone-options mlp.width=16 --train-steps 5 --train-batch-size 16 --train-warmup 0"


class TinyColours(Dataset):
    """Random colour images of 3x4x4 in 8 levels."""

    name = "tiny_colours"
    shape = (3, 4, 4)
    scaling = Scaling.grey(levels=8)

    def _draw(self, seed):
        return torch.randint(0, 8, (40, *self.shape), generator=torch.Generator().manual_seed(seed)).float()

    train = property(lambda self: self._draw(0))
    test = property(lambda self: self._draw(1))


@pytest.fixture(scope="module", autouse=True)
def colours():
    registries()["datasets"].add("tiny_colours", TinyColours)
    yield
    registries()["datasets"].remove("tiny_colours")


@pytest.fixture(scope="module")
def models(tmp_path_factory, colours):
    """Folders of checkpoints after a few steps of training."""
    folder = tmp_path_factory.mktemp("models")
    made = {"vp": "vp_ode", "pfgm": "pfgm", "board": "vp_ode", "colour": "vp_ode"}
    data = {"board": "checkerboard --dataset-options checkerboard.size=50", "colour": "tiny_colours"}
    for name, process in made.items():
        line = f"{TRAIN} --process {process} --dataset {data.get(name, 'digits')} --out {folder / name}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["genflow", *line.split()])
            assert cli.run() == 0
    return folder


@pytest.fixture
def genflow(monkeypatch, capsys, tmp_path, models):
    """Runs a command beside copies of the checkpoints: (code, out, err)."""
    for name in ("vp", "pfgm", "board", "colour"):
        shutil.copytree(models / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def run(line):
        monkeypatch.setattr(sys, "argv", ["genflow", *line.split()])
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        code = cli.run()
        untouched = sorted(tmp_path.rglob("*")) == before
        return said(code, capsys, untouched=untouched)

    return run


def done(result):
    assert (result.code, result.err) == (0, "")
    return result.out


def refused(result):
    assert result.code == 2
    assert result.out == ""
    assert result.untouched
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1
    return result.err


def picture(path):
    """Height, width of a picture that is not one flat colour."""
    image = matplotlib.image.imread(path)
    assert image.std() > 0.02
    return image.shape[:2]


# ---- likelihood ------------------------------------------------------------------------------------------


def test_likelihood_prints_what_the_function_gives(genflow):
    out = done(genflow("likelihood --checkpoint vp --examples 20 --probes 2 --seed 3 --solver heun --nfe 9"))
    process, backbone = library.load("vp")
    data = library.get_dataset("digits")
    x = data.scaling.encode(data.test[:20], torch.Generator().manual_seed(3))
    heun = library.get_solver("heun")
    want = library.log_likelihood(process, backbone, x, solver=heun, nfe=9, probes=2, seed=3).log_prob
    nats = -float(want.mean())
    bits = (nats - 64 * np.log(2 / 17)) / (64 * np.log(2))
    assert f"bits/dim: {bits:.4f} ± " in out
    assert f"nats: {nats:.4f} ± {float(want.std()) / np.sqrt(20):.4f}" in out
    for words in ("n = 20", "heun, NFE 9.0", "2 rademacher probes", "seed 3", "U[0,1)^N, s = 2/17, N = 64"):
        assert words in out


@pytest.mark.parametrize("ending", ["csv", "npz", "png"])
def test_likelihood_of_every_example(genflow, tmp_path, ending):
    done(genflow(f"likelihood --checkpoint vp --examples 20 --solver euler --nfe 4 --out new/l.{ending}"))
    path = tmp_path / "new" / f"l.{ending}"
    if ending == "png":
        height, width = picture(path)
        assert width > 1.5 * height
        return
    if ending == "csv":
        rows = list(csv.DictReader(path.open()))
        found = {k: np.array([float(r[k]) for r in rows]) for k in ("nats", "bits_per_dim")}
    else:
        found = dict(np.load(path))
    assert len(found["nats"]) == 20
    assert found["bits_per_dim"] == pytest.approx((found["nats"] / 64 - np.log(2 / 17)) / np.log(2))


def test_likelihood_of_points_is_in_nats_alone(genflow, tmp_path):
    out = done(genflow("likelihood --checkpoint board --examples 9 --trace exact --solver rk4 --nfe 20 --out l.png"))
    assert "bits/dim" not in out
    assert "exact trace" in out
    picture(tmp_path / "l.png")


# ---- latents ---------------------------------------------------------------------------------------------


def test_encode_and_decode_are_inverse(genflow, tmp_path):
    line = "--solver midpoint --solver-options midpoint.grid=log --nfe 40"
    out = done(genflow(f"encode --checkpoint vp --n 6 {line} --out l.npz"))
    assert "6 latents of vp_ode, midpoint, NFE 80 there and back" in out
    arrays = dict(np.load(tmp_path / "l.npz"))
    process, backbone = library.load("vp")
    solver = library.get_solver("midpoint", grid="log")
    from genflow.latent import encode

    want = encode(process, backbone, torch.from_numpy(arrays["x"]), solver, nfe=40).x
    np.testing.assert_allclose(arrays["latent"], want.numpy(), rtol=1e-5, atol=1e-6)
    assert "NFE 40" in done(genflow(f"decode --checkpoint vp --latents l.npz {line} --out d.npz"))
    np.testing.assert_allclose(np.load(tmp_path / "d.npz")["x"], arrays["back"], rtol=1e-5, atol=1e-6)
    assert arrays["rms"] == pytest.approx(np.sqrt(((arrays["back"] - arrays["x"]) ** 2).mean((1, 2, 3))), rel=1e-4)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("model", ["pfgm", "vp", "board"])
def test_pictures_of_latents(genflow, tmp_path, model):
    done(genflow(f"encode --checkpoint {model} --n 8 --solver heun --nfe 6 --out norms.png"))
    picture(tmp_path / "norms.png")
    done(genflow(f"encode --checkpoint {model} --n 8 --solver heun --nfe 6 --out l.npz"))
    done(genflow(f"decode --checkpoint {model} --latents l.npz --solver heun --nfe 6 --out d.png"))
    picture(tmp_path / "d.png")


@pytest.mark.parametrize("kind", ["prior", "spherical", "linear"])
def test_interpolate(genflow, tmp_path, kind):
    line = f"interpolate --checkpoint pfgm --pairs 3 --count 5 --kind {kind} --solver heun --nfe 10"
    assert "NFE 14.0 per example shown" in done(genflow(f"{line} --out i.png"))  # 10 + 10 · 2 ends / 5
    height, width = picture(tmp_path / "i.png")
    assert width > height
    done(genflow(f"{line} --out i.npz"))
    arrays = dict(np.load(tmp_path / "i.npz"))
    assert arrays["x"].shape == (3, 5, 1, 8, 8)
    assert arrays["first"].shape == arrays["second"].shape == (3, 1, 8, 8)


# ---- control ---------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("mask", ["right", "left", "top", "bottom", "centre", "pixels"])
def test_inpaint(genflow, tmp_path, mask):
    line = f"inpaint --checkpoint vp --images 2 --n 3 --nfe 4 --mask {mask}"
    assert "NFE 4" in done(genflow(f"{line} --out p.npz"))
    arrays = dict(np.load(tmp_path / "p.npz"))
    keep = np.broadcast_to(arrays["mask"], (2, 3, 1, 8, 8))
    given = np.broadcast_to(arrays["given"][:, None], keep.shape)
    assert (arrays["x"][keep] == given[keep]).all()
    assert not (arrays["x"][~keep] == given[~keep]).any()
    share = {"centre": 0.75}.get(mask, 0.5)
    assert arrays["mask"].mean() == share
    gone = {"right": np.s_[..., 4:], "left": np.s_[..., :4], "top": np.s_[..., :4, :], "bottom": np.s_[..., 4:, :]}
    if mask in gone:
        assert not arrays["mask"][gone[mask]].any()
    done(genflow(f"{line} --out p.png"))
    picture(tmp_path / "p.png")


def test_colourise(genflow, tmp_path):
    line = "colourise --checkpoint colour --images 2 --n 3 --nfe 4"
    done(genflow(f"{line} --out c.npz"))
    arrays = dict(np.load(tmp_path / "c.npz"))
    assert arrays["x"].shape == (2, 3, 3, 4, 4)
    np.testing.assert_allclose(arrays["x"].mean(2), np.repeat(arrays["given"], 3, axis=1), atol=1e-5)
    done(genflow(f"{line} --out c.png"))
    image = matplotlib.image.imread(tmp_path / "c.png")[..., :3]
    assert (image.max(2) - image.min(2)).max() > 0.3, "no colour in the picture"


# ---- evaluate and temperature ----------------------------------------------------------------------------


def test_evaluate_gives_the_rows_of_a_bench(genflow, tmp_path):
    line = "evaluate --checkpoint vp --samples 20 --nfe 4 --bpd-examples 10 --norm-nfe 4 --seed 2 --out new/e.csv"
    out = done(genflow(line))
    rows = list(csv.DictReader((tmp_path / "new" / "e.csv").open()))
    metrics = {(r["process"], r["metric"]) for r in rows}
    assert {("vp_ode", "FD[digits]"), ("data", "FD[digits]"), ("vp_ode", "bits/dim")} <= metrics
    assert any(m.startswith("norm_spread") for _, m in metrics)
    assert all(r["protocol"] for r in rows)
    own = next(r for r in rows if (r["process"], r["metric"]) == ("vp_ode", "FD[digits]"))
    assert (own["solver"], own["nfe"], own["n"], own["seed"], own["backbone"]) == ("heun", "4.0", "20", "2", "mlp")
    process, backbone = library.load("vp")
    from genflow.evaluate import fd

    x = library.sample(process, backbone, "heun", 20, nfe=4, seed=2).x
    assert float(own["value"]) == pytest.approx(fd(x, library.get_dataset("digits"))[1], rel=1e-4)
    assert out.count("## ") >= 3


def test_evaluate_one_metric_with_its_own_budget(genflow, tmp_path):
    done(genflow("evaluate --checkpoint board --metric bpd --bpd-examples 5 --out e.csv"))
    rows = list(csv.DictReader((tmp_path / "e.csv").open()))
    assert [r["metric"] for r in rows] == ["nll[nats]"]
    done(genflow("evaluate --checkpoint board --metric fd --samples 10 --solver rk45 --out e.csv"))
    rows = list(csv.DictReader((tmp_path / "e.csv").open()))
    assert float(next(r for r in rows if r["process"] == "vp_ode")["nfe"]) > 8


def test_bits_per_dim_alone_loads_no_features(genflow, monkeypatch):
    def load(*_, **__):
        raise AssertionError("a feature extractor was loaded")

    for module in ("spaces", "quality"):
        monkeypatch.setattr(f"genflow.evaluate.{module}.space_for", load)
    done(genflow("evaluate --checkpoint vp --metric bpd --bpd-examples 2 --out e.csv"))
    with pytest.raises(AssertionError, match="was loaded"):
        genflow("evaluate --checkpoint vp --metric fd --samples 4 --nfe 2 --out e.csv")


def test_temperature_scales_the_prior(genflow, tmp_path):
    line = "sample --checkpoint vp --n 3 --solver euler --nfe 1"
    assert "temperature 0.5" in done(genflow(f"{line} --temperature 0.5 --out t.npz"))
    process, backbone = library.load("vp")
    want = library.sample(process, backbone, "euler", 3, nfe=1, temperature=0.5).x
    plain = library.sample(process, backbone, "euler", 3, nfe=1).x
    assert np.array_equal(np.load(tmp_path / "t.npz")["x"], want.numpy())
    assert not torch.allclose(want, plain)


# ---- refusals --------------------------------------------------------------------------------------------

VERBS = ("likelihood", "encode", "decode", "interpolate", "inpaint", "colourise", "evaluate")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(genflow, verb):
    text = done(genflow(f"{verb} --help"))
    assert text.index("Examples:") < text.index("Options:")
    assert f"genflow {verb} --checkpoint" in text


@pytest.mark.parametrize("verb", VERBS)
def test_a_checkpoint_that_is_none(genflow, tmp_path, verb):
    ending = {"evaluate": "csv"}.get(verb, "npz")
    np.savez(tmp_path / "latents.npz", latent=np.zeros((1, 1, 8, 8), np.float32))
    assert "missing does not exist" in refused(genflow(f"{verb} --checkpoint missing --out x.{ending}"))


@pytest.mark.parametrize("verb", VERBS)
def test_an_out_that_can_not_be_written(genflow, tmp_path, verb):
    ending = {"evaluate": "csv"}.get(verb, "npz")
    (tmp_path / "file.txt").touch()
    (tmp_path / f"folder.{ending}").mkdir()
    assert "ending says what to write" in refused(genflow(f"{verb} --checkpoint vp --out x.gif"))
    assert "is a folder; give a file" in refused(genflow(f"{verb} --checkpoint vp --out folder.{ending}"))
    assert "file.txt is a file, not a folder" in refused(genflow(f"{verb} --checkpoint vp --out file.txt/x.{ending}"))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("likelihood --checkpoint vp --trace all", "unknown trace 'all'"),
        ("likelihood --checkpoint vp --probe gauss", "did you mean 'gaussian'"),
        ("likelihood --checkpoint vp --probes 0", "probes = 0 is not allowed"),
        ("likelihood --checkpoint vp --examples 1", "examples = 1 is not allowed"),
        ("likelihood --checkpoint vp --solver heum", "unknown solver 'heum'; did you mean 'heun'?"),
        ("likelihood --checkpoint vp --solver euler_maruyama --nfe 3", "a likelihood follows the ODE"),
        ("likelihood --checkpoint vp --device nonsense", "nonsense"),
        ("likelihood --checkpoint board --label data", "knows no classes"),
        ("colourise --checkpoint colour --label 1", "knows no classes"),
        ("colourise --checkpoint colour --label data --guidance 2", "knows no classes"),
        ("inpaint --checkpoint vp --solver pc", "PredictorCorrector cannot be used under a constraint"),
        ("likelihood --checkpoint vp --solver-options heun.grid=log", "'heun'"),
        ("encode --checkpoint vp --n 0", "n = 0 is not allowed"),
        ("encode --checkpoint vp --solver euler_maruyama", "latents follow the ODE"),
        ("decode --checkpoint vp --latents missing.npz", "missing.npz cannot be read"),
        ("decode --checkpoint vp --latents vp/config.json", "config.json cannot be read"),
        ("interpolate --checkpoint vp --pairs 0", "pairs = 0 is not allowed"),
        ("interpolate --checkpoint vp --count 1", "count = 1 is not allowed"),
        ("interpolate --checkpoint vp --kind priro", "did you mean 'prior'"),
        ("interpolate --checkpoint vp --pairs 251", "pairs = 251 needs 502 test examples; there are 500"),
        ("interpolate --checkpoint board", "needs images, and the data set 'checkerboard'"),
        ("inpaint --checkpoint board", "needs images, and the data set 'checkerboard'"),
        ("inpaint --checkpoint pfgm", "PFGM cannot be sampled under a constraint"),
        ("inpaint --checkpoint vp --mask middle", "unknown mask 'middle'"),
        ("inpaint --checkpoint vp --images 0", "images = 0 is not allowed"),
        ("inpaint --checkpoint vp --n 0", "n = 0 is not allowed"),
        ("inpaint --checkpoint vp --nfe 5 --correctors 1", "nfe = 5 is not a whole number of steps"),
        ("inpaint --checkpoint vp --solver heun", "needs a fixed-step SDE solver, and Heun is not one"),
        ("colourise --checkpoint vp", "needs images of 3 channels, and those of the data set 'digits' have 1"),
        ("colourise --checkpoint pfgm", "PFGM cannot be sampled under a constraint"),
        ("evaluate --checkpoint vp --metric fdd", "unknown metric 'fdd'; did you mean 'fd'?"),
        ("evaluate --checkpoint vp --metric fd,fd", "metric lists a name twice"),
        ("evaluate --checkpoint vp --samples 1", "samples = 1 is not allowed"),
        ("evaluate --checkpoint vp --solver heum", "unknown solver 'heum'; did you mean 'heun'?"),
        ("sample --checkpoint vp --temperature 0", "temperature = 0.0 is not allowed"),
    ],
)
def test_what_is_refused(genflow, line, what):
    assert what in refused(genflow(line))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": np.zeros((2, 1, 8, 8))}, "has no array 'latent'; it has: x"),
        ({"latent": np.zeros((2, 64))}, "has shape (2, 64)"),
        ({"latent": np.zeros((0, 1, 8, 8))}, "has shape (0, 1, 8, 8)"),
        ({"latent": np.full((1, 1, 8, 8), np.nan)}, "finite"),
        ({"latent": np.array(["a"])}, "has shape (1,)"),
    ],
)
def test_latents_that_do_not_fit(genflow, tmp_path, arrays, what):
    np.savez(tmp_path / "latents.npz", **arrays)
    assert what in refused(genflow("decode --checkpoint vp --out x.npz"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data[: len(data) // 2], "are not an .npz file, or one that was cut off"),
        (lambda data: data.replace(b"\x00" * 64, b"\x01" * 64, 1), "cannot be read"),
        (lambda data: b"", "are not an .npz file, or one that was cut off"),
        (lambda data: data[data.index(b"\x93NUMPY") :], "are one array; give a .npz file with an array 'latent'"),
    ],
    ids=["cut", "flipped", "empty", "one array"],
)
def test_latents_that_are_damaged(genflow, tmp_path, change, what):
    path = tmp_path / "latents.npz"
    np.savez(path, latent=np.zeros((2, 1, 8, 8), np.float32))
    path.write_bytes(change(path.read_bytes()))
    assert f"the latents latents.npz {what}" in refused(genflow("decode --checkpoint vp --out x.npz"))


def test_the_new_commands_are_listed_without_torch():
    import subprocess

    code = (
        "import sys; from genflow.cli import cli\n"
        "try: cli.main(['--help'], standalone_mode=False)\n"
        "finally: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(f"  {verb}" in text for verb in VERBS)
