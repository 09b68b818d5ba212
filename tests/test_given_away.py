"""A checkpoint that is given away: what works on another machine without the training data, and what says it cannot."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from said import said

import genflow as library
from genflow import cli
from genflow.checkpoint import open_checkpoint, read_folder, resolve, write_folder
from genflow.data.base import Scaling

SDE = "--solver euler_maruyama --nfe 2"
TRAIN = "train --backbone mlp --backbone-options mlp.width=8 --train-steps 3 --train-batch-size 8 --train-warmup 0"


def call(monkeypatch, capsys, line):
    monkeypatch.setattr(sys, "argv", ["genflow", *line.split()])
    capsys.readouterr()
    return said(cli.run(), capsys)


def paint(folder, count, size=(8, 8), seed=0):
    draws = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(draws.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where models were trained on pictures of cats and dogs."""
    root = tmp_path_factory.mktemp("home")
    paint(root / "pets" / "cats", 12)
    paint(root / "pets" / "dogs", 12, seed=1)
    data = "--dataset images --dataset-options images.path=pets --dataset-options images.test_share=0.5"
    told = f"{data} --dataset-options images.classes=true --backbone-options mlp.classes=2"
    for name, line in {
        "vp": f"--process vp_sde {told}",
        "pfgm": f"--process pfgm {data}",
        "mirror": f"--process si_mirror {data}",
        "from_digits": "--process si_linear --process-options si_linear.source=digits --dataset digits",
        "silent": f"--process vp_ode {data} --dataset-options images.classes=true",
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setattr(sys, "argv", ["genflow", *f"{TRAIN} {line} --out {name}".split()])
            assert cli.run() == 0
    return root


@pytest.fixture
def genflow(home, tmp_path, monkeypatch, capsys):
    """Runs a command beside copies of the models, the pictures left at home and moved away there."""
    for name in ("vp", "pfgm", "mirror", "from_digits"):
        shutil.copytree(home / name, tmp_path / name)
    (home / "pets").rename(home / "moved")
    monkeypatch.chdir(tmp_path)
    yield lambda line: call(monkeypatch, capsys, line)
    (home / "moved").rename(home / "pets")


def done(result):
    """What a command printed, which warned of nothing; notes about the data are not warnings of the command."""
    warned = [line for line in result.err.splitlines() if "not used as classes" not in line]
    assert (result.code, warned) == (0, [])
    return result.out


def refused(result):
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.strip().splitlines()) == 1
    return result.err


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("model", ["vp", "pfgm", "from_digits"])
@pytest.mark.parametrize(
    "line",
    [
        "sample --n 3 --solver euler --nfe 2 --out o.png",
        "sample --n 3 --solver euler --nfe 2 --out o.npz",
        "interpolate --latents prior --pairs 2 --count 3 --solver euler --nfe 2 --out o.png",
        "interpolate --latents prior --pairs 2 --count 3 --solver euler --nfe 2 --out o.npz",
        "interpolate --image given --pairs 1 --count 3 --solver euler --nfe 2 --out o.png",
        "encode --image given --solver euler --nfe 2 --out o.npz",
        "encode --image given/00.png --solver euler --nfe 2 --out o.png",
    ],
)
def test_what_works_without_the_training_data(genflow, tmp_path, model, line):
    if model == "vp" and line.startswith("sample"):
        line = line.replace("euler", "euler_maruyama")
    paint(tmp_path / "given", 2, (12, 16))
    assert "o." in done(genflow(f"{line} --checkpoint {model}"))
    assert (tmp_path / line.split()[-1]).stat().st_size > 100


def test_latents_go_from_encode_to_decode_and_interpolate(genflow, tmp_path):
    paint(tmp_path / "given", 4)
    how = "--checkpoint pfgm --solver euler --nfe 4"
    done(genflow(f"encode --image given {how} --out l.npz"))
    arrays = dict(np.load(tmp_path / "l.npz"))
    assert arrays["latent"].shape == (4, 3, 8, 8)
    want = Scaling.grey(256).decode(torch.from_numpy(arrays["x"])).numpy()
    shown = np.stack([np.asarray(Image.open(tmp_path / "given" / f"{i:02}.png")) for i in range(4)])
    assert (want.transpose(0, 2, 3, 1) == shown).all()
    done(genflow(f"decode --latents l.npz {how} --out d.png"))
    done(genflow(f"decode --latents l.npz {how} --out d.npz"))
    back = np.load(tmp_path / "d.npz")["x"]
    np.testing.assert_allclose(back, arrays["back"], rtol=1e-4, atol=1e-5)
    done(genflow(f"interpolate --latents l.npz --pairs 2 --count 4 {how} --out i.npz"))
    path = np.load(tmp_path / "i.npz")["x"]
    np.testing.assert_allclose(path[:, 0], back[0::2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(path[:, -1], back[1::2], rtol=1e-4, atol=1e-5)
    assert "pairs = 3 needs 6 latents in l.npz; there are 4; give pairs = 2" in refused(
        genflow(f"interpolate --latents l.npz --pairs 3 {how} --out i.npz")
    )


def test_latents_of_the_prior_are_its_draws_by_the_seed(genflow, tmp_path):
    from genflow.sampling import draw_prior

    how = "--count 3 --solver euler --nfe 2 --checkpoint vp --out i.npz"
    done(genflow(f"interpolate --latents prior --seed 5 --pairs 2 {how}"))
    arrays = dict(np.load(tmp_path / "i.npz"))
    process, _ = library.load("vp")
    drawn, _ = draw_prior(process, (3, 8, 8), 5, range(4), torch.float32)
    assert (np.stack([arrays["first"], arrays["second"]], 1).reshape(drawn.shape) == drawn.numpy()).all()


@pytest.mark.parametrize("verb", ["inpaint", "colourise"])
def test_a_given_picture_is_completed(genflow, tmp_path, verb):
    paint(tmp_path / "given", 1)
    line = f"{verb} --checkpoint vp --image given/00.png --n 2 --nfe 4 --label dogs"
    assert "2 samples of each of 1 images" in done(genflow(f"{line} --out o.npz"))
    arrays = dict(np.load(tmp_path / "o.npz"))
    if verb == "inpaint":
        levels = Scaling.grey(256).decode(torch.from_numpy(arrays["given"])).numpy()[0].transpose(1, 2, 0)
        assert (levels == np.asarray(Image.open(tmp_path / "given" / "00.png"))).all()
        keep = np.broadcast_to(arrays["mask"], arrays["x"].shape)
        assert (arrays["x"][keep] == np.broadcast_to(arrays["given"][:, None], keep.shape)[keep]).all()
    else:
        np.testing.assert_allclose(arrays["x"].mean(2)[:, 0], arrays["given"][:, 0], atol=1e-5)
    done(genflow(f"{line} --out o.png"))


def test_samples_of_one_command_begin_another(genflow, tmp_path):
    done(genflow("sample --checkpoint pfgm --n 3 --solver euler --nfe 2 --out s.npz"))
    done(genflow("encode --checkpoint pfgm --image s.npz --solver euler --nfe 2 --out l.npz"))
    assert (np.load(tmp_path / "l.npz")["x"] == np.load(tmp_path / "s.npz")["x"]).all()
    np.save(tmp_path / "s.npy", np.load(tmp_path / "s.npz")["x"])
    done(genflow("encode --checkpoint pfgm --image s.npy --solver euler --nfe 2 --out m.npz"))
    assert (np.load(tmp_path / "l.npz")["latent"] == np.load(tmp_path / "m.npz")["latent"]).all()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read: No such file"),
        (b"no picture", "is damaged, or no image"),
        (b"", "is damaged, or no image"),
    ],
)
def test_pictures_that_are_none(genflow, tmp_path, content, what):
    if content is not None:
        (tmp_path / "p.png").write_bytes(content)
    for verb in ("encode --out x.npz", "inpaint --out x.npz", "interpolate --out x.npz"):
        assert what in refused(genflow(f"{verb} --checkpoint vp --image p.png --nfe 4"))
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(genflow("encode --checkpoint vp --image empty --out x.npz"))


@pytest.mark.parametrize("verb", ["sample", "interpolate --latents prior"])
def test_a_base_of_data_says_what_is_missing(genflow, verb):
    text = refused(genflow(f"{verb} --checkpoint mirror --solver euler_maruyama --nfe 2 --out x.npz"))
    if verb == "sample":
        assert "si_mirror cannot be sampled without the data it was trained on" in text
        assert "images.path" in text


@pytest.mark.parametrize(
    "verb", ["likelihood", "evaluate --metric bpd", "encode", "interpolate --pairs 1", "inpaint --nfe 4"]
)
def test_commands_that_need_data_name_the_place_and_the_option(genflow, home, verb):
    out = "--out x.csv" if verb.startswith("evaluate") else "" if verb == "likelihood" else "--out x.npz"
    text = refused(genflow(f"{verb} --checkpoint vp {out}"))
    assert str(home / "pets") in text
    assert "--dataset-options images.path=" in text


def test_the_new_place_of_the_data_is_an_option(genflow, home, tmp_path):
    moved = f"--dataset-options images.path={home / 'moved'}"
    how = "--solver euler --nfe 2"
    assert "n = 5" in done(genflow(f"likelihood --checkpoint vp --examples 5 {how} {moved}"))
    done(genflow(f"encode --checkpoint vp --n 3 {how} {moved} --label data --out l.npz"))
    done(genflow(f"evaluate --checkpoint vp --metric fd --samples 6 {SDE} {moved} --out e.csv"))
    drawn = genflow(f"sample --checkpoint mirror --n 2 --solver euler_maruyama --nfe 2 {moved} --out s.png")
    assert (drawn.code, "not used as classes" in drawn.err) == (0, True)
    assert "did you mean 'images'" in refused(
        genflow(f"likelihood --checkpoint vp {moved.replace('images.path', 'image.path')}")
    )


def test_other_data_at_the_place_are_noticed(genflow, home, tmp_path):
    shutil.copytree(home / "moved", tmp_path / "pets")
    for path in (tmp_path / "pets" / "dogs").iterdir():
        path.rename(tmp_path / "pets" / "cats" / f"d{path.name}")
    (tmp_path / "pets" / "dogs").rename(tmp_path / "pets" / "wolves")
    (tmp_path / "pets" / "cats" / "d00.png").rename(tmp_path / "pets" / "wolves" / "00.png")
    line = f"--dataset-options images.path={tmp_path / 'pets'}"
    result = genflow(f"evaluate --checkpoint vp --metric fd --samples 6 {SDE} {line} --out e.csv")
    assert result.code == 0
    assert "was ('cats', 'dogs') and is ('cats', 'wolves')" in result.err
    assert "has changed since" in result.err
    paint(tmp_path / "large" / "cats", 4, (9, 9))
    result = genflow(f"likelihood --checkpoint vp --dataset-options images.path={tmp_path / 'large'}")
    assert (result.code, result.out) == (2, "")
    text = result.err.strip().splitlines()[-1]  # what is noted about the folder comes before
    assert "have shape (3, 9, 9), and vp is a model of (3, 8, 8)" in text


@pytest.mark.parametrize("name", ["vp", "pfgm", "mirror", "from_digits"])
def test_what_a_checkpoint_holds_is_what_the_data_set_says(home, name, monkeypatch):
    monkeypatch.chdir(home.parent)
    opened = open_checkpoint(home / name)
    data = opened.dataset()
    assert opened.scaling == data.scaling
    assert opened.shape == tuple(data.shape)
    assert opened.about["classes"] == list(data.class_names)
    refit = opened.process.for_data(data.fitting_points())
    assert refit.config() == opened.process.config()


def test_samples_are_bitwise_those_of_a_process_fitted_again(genflow, home, tmp_path):
    done(genflow("sample --checkpoint pfgm --n 4 --solver heun --nfe 5 --out s.npz"))
    process, backbone = library.load("pfgm")
    data = library.get_dataset("images", path=str(home / "moved"), test_share=0.5)
    fitted = process.for_data(data.fitting_points())
    want = library.sample(fitted, backbone, "heun", 4, nfe=5, batch_size=250).x
    assert (np.load(tmp_path / "s.npz")["x"] == want.numpy()).all()


def old(folder):
    """The same checkpoint as it was written before it held what sampling needs, its place relative."""
    files = dict(read_folder(folder))
    about = json.loads(files["config.json"])
    for key in ("scaling", "shape", "classes", "examples"):
        about.pop(key)
    about["dataset"]["options"]["path"] = "moved"
    files["config.json"] = json.dumps(about).encode()
    files["model.safetensors"] = to_bytes(from_bytes(files["model.safetensors"]))
    write_folder(resolve(folder), files)


def test_an_old_checkpoint_opens_its_data_set(genflow, home, tmp_path, monkeypatch):
    done(genflow("sample --checkpoint pfgm --n 2 --solver euler --nfe 2 --out new.npz"))
    old(tmp_path / "pfgm")
    monkeypatch.chdir(home)
    for out in ("old.npz", "old.png"):
        done(genflow(f"sample --checkpoint {tmp_path / 'pfgm'} --n 2 --solver euler --nfe 2 --out {tmp_path / out}"))
    assert (np.load(tmp_path / "old.npz")["x"] == np.load(tmp_path / "new.npz")["x"]).all()
    monkeypatch.chdir(tmp_path)
    assert "--dataset-options images.path=" in refused(genflow("sample --checkpoint pfgm --n 2 --out x.npz"))


# ---- classes by name ---------------------------------------------------------------------------------------------


def test_classes_have_names(genflow, tmp_path):
    how = "--checkpoint vp --n 2 --solver euler_maruyama --nfe 2"
    assert "class dogs (number 1), guidance 1" in done(genflow(f"sample {how} --label dogs --out a.npz"))
    assert "class dogs (number 1)" in done(genflow(f"sample {how} --label 1 --out b.npz"))
    assert (np.load(tmp_path / "a.npz")["x"] == np.load(tmp_path / "b.npz")["x"]).all()
    assert np.load(tmp_path / "a.npz")["labels"].tolist() == [1, 1]
    done(genflow(f"sample {how} --label all --out c.npz"))
    assert np.load(tmp_path / "c.npz")["labels"].tolist() == [0, 1]
    text = refused(genflow(f"sample {how} --label dgos --out a.npz"))
    assert "label = 'dgos' is not a class" in text
    assert "cats, dogs" in text
    assert "2 is not a class" in refused(genflow(f"sample {how} --label 2 --out a.npz"))


def test_training_prints_its_classes_and_says_where_they_go_unused(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    data = "--process vp_ode --dataset images --dataset-options images.path=pets --dataset-options images.classes=true"
    result = call(monkeypatch, capsys, f"{TRAIN} {data} --backbone-options mlp.classes=2 --out {tmp_path / 'a'}")
    assert (result.code, "not used" in result.err) == (0, False)
    assert "classes: 0 = cats, 1 = dogs" in result.out
    monkeypatch.setattr("genflow.data.notes._SAID", set())  # a line is said once a process
    result = call(monkeypatch, capsys, f"{TRAIN} {data} --out {tmp_path / 'b'}")
    assert result.code == 0
    assert "classes:" not in result.out
    assert "the 2 classes of 'images' are not used, since the backbone takes none; give it classes = 2" in result.err
    result = call(monkeypatch, capsys, f"{TRAIN} {data} --backbone-options mlp.classes=3 --out {tmp_path / 'c'}")
    assert result.code == 0
    assert "takes 3 classes, and the data set has 2" in result.err
    paint(tmp_path / "one" / "cats", 6)
    data = data.replace("path=pets", f"path={tmp_path / 'one'}")
    result = call(monkeypatch, capsys, f"{TRAIN} {data} --backbone-options mlp.classes=1 --out {tmp_path / 'd'}")
    assert result.code == 0
    assert "only one class, 'cats'" in result.err


def test_a_name_that_is_another_class_s_number_is_the_name(home, tmp_path, monkeypatch, capsys):
    for name in ("1", "2", "7"):
        paint(tmp_path / "numbers" / name, 4)
    monkeypatch.chdir(tmp_path)
    data = "--dataset images --dataset-options images.path=numbers --dataset-options images.classes=true"
    assert (
        call(monkeypatch, capsys, f"{TRAIN} --process vp_ode {data} --backbone-options mlp.classes=3 --out m").code == 0
    )
    result = call(monkeypatch, capsys, "sample --checkpoint m --n 2 --nfe 2 --label 1 --out s.npz")
    assert "class 1 (number 0)" in result.out
    assert np.load(tmp_path / "s.npz")["labels"].tolist() == [0, 0]
    result = call(monkeypatch, capsys, "sample --checkpoint m --n 2 --nfe 2 --label 0 --out s.npz")
    assert "class 1 (number 0)" in result.out
