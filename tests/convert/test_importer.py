"""`genflow import`: what it writes, what it refuses, and that folders of genflow itself are refused where damaged."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import genflow
from genflow.checkpoint import MANIFEST, CheckpointError, read_folder
from genflow.cli import cli
from genflow.config import ConfigError
from genflow.convert.configs import PRESETS
from genflow.convert.importer import import_checkpoint


def run(*words):
    """A command line; its output, or the error it raised."""
    result = CliRunner().invoke(cli, [str(w) for w in words], standalone_mode=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.slow
def test_one_line_makes_a_folder_that_samples(file, stored, tmp_path):
    """The folder holds the average, its source and its scaling; a picture needs no data set."""
    out = tmp_path / "model"
    output = run("import", file, "--out", out)
    assert "process: pfgm: dim 3072" in output
    assert "(recognised as poisson/cifar10_ddpmpp)" in output
    assert "note: not of the published size: nf 8 in the file, 128 there" in output
    assert "average of decay 0.9999 after 5 steps, of 5" in output
    config = json.loads(read_folder(out)["config.json"])
    assert config["imported"]["sha256"] in output
    assert config["imported"]["bytes"] == file.stat().st_size
    assert config["shape"] == [3, 32, 32]
    _, net = genflow.load(out)
    for name, value in net.state_dict().items():
        assert torch.equal(value, 2 * stored["model"][f"module.{name}"]), name
    run("sample", "--checkpoint", out, "--n", 2, "--nfe", 3, "--out", tmp_path / "samples.png")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_step_instead_of_the_average(file, stored, tmp_path):
    run("import", file, "--out", tmp_path / "model", "--no-ema", "--as-published")
    process, net = genflow.load(tmp_path / "model")
    assert all(torch.equal(v, stored["model"][f"module.{k}"]) for k, v in net.state_dict().items())
    assert (process.prior, process.inverse, process.constant) == ("published",) * 3
    assert json.loads(read_folder(tmp_path / "model")["config.json"])["imported"]["ema"] is None


def test_a_file_without_an_average_needs_to_be_told(file, stored, tmp_path):
    torch.save({k: v for k, v in stored.items() if k != "ema"}, file)
    with pytest.raises(CheckpointError, match="has no average of its weights; --no-ema uses those of the last step"):
        run("import", file, "--out", tmp_path / "model")
    assert run("import", file, "--out", tmp_path / "model", "--no-ema")


def changed(stored, **ema):
    return {**stored, "ema": {**stored["ema"], **ema}}


def test_an_average_of_another_network_is_refused(file, stored, tmp_path):
    values = stored["ema"]["shadow_params"]
    cases = {
        f"the average has {len(values) - 1} tensors for {len(values)} parameters": values[1:],
        r"the average of all_modules.0.weight has shape \(4,\), the parameter \(32, 8\)": values[::-1],
    }
    for words, shadow in cases.items():
        torch.save(changed(stored, shadow_params=shadow), file)
        with pytest.raises(CheckpointError, match=words):
            import_checkpoint(file, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(file, stored, tmp_path, value):
    shadow = list(stored["ema"]["shadow_params"])
    shadow[4] = shadow[4].clone(memory_format=torch.contiguous_format)
    shadow[4].view(-1)[3] = value
    torch.save(changed(stored, shadow_params=shadow), file)
    words = "1 of 216 entries of all_modules.2.weight in the averaged weights are not finite; --no-ema uses"
    with pytest.raises(ValueError, match=words) as error:
        import_checkpoint(file, tmp_path / "model")
    assert str(file) in str(error.value)
    import_checkpoint(file, tmp_path / "model", ema=False)


def test_nothing_but_a_checkpoint_is_replaced(file, tmp_path):
    other = tmp_path / "letters"
    other.mkdir()
    (other / "dear.txt").write_text("to keep")
    for out, words in ((other, "a folder that holds other files"), (file, "is a file; give a folder")):
        with pytest.raises(ValueError, match=words):
            import_checkpoint(file, out)
    assert (other / "dear.txt").read_text() == "to keep"
    for _ in range(2):
        import_checkpoint(file, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"dear.txt is a file, not a folder"):
        run("import", file, "--out", other / "dear.txt" / "model")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.json", "{", "is neither JSON nor YAML"),
        ("c.yaml", "a: [", "is neither JSON nor YAML"),
        ("c.yaml", "3", "has no sections"),
        ("c.yaml", "model: {name: ncsnpp}", "lacks data.image_size"),
        ("c.json", None, "cannot be read: No such file"),
    ],
)
def test_bad_configurations_are_named(file, tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        import_checkpoint(file, tmp_path / "model", config_file=tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_configuration_must_have_the_sizes_of_the_file(file, tmp_path):
    config = PRESETS["poisson/cifar10_ddpmpp"]
    (tmp_path / "c.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"does not fit this file: model.nf: 8 in the file, 128 there; model.ch_mult: 1-2"
    ):
        import_checkpoint(file, tmp_path / "model", config_file=tmp_path / "c.json")
    own = {**config, "model": {**config["model"], "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1}}
    (tmp_path / "c.json").write_text(json.dumps(own))
    done = import_checkpoint(file, tmp_path / "model", config_file=tmp_path / "c.json")
    assert done.notes == []


def test_a_damaged_file_ends_the_command_with_its_name(file, tmp_path):
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=rf"{file} is truncated or damaged"):
        run("import", file, "--out", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_help_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, genflow.commands.import_; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- folders of genflow ----------------------------------------------------------------------------------------------


@pytest.fixture
def model(file, tmp_path):
    """A checkpoint folder."""
    import_checkpoint(file, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, rf"is not a finished checkpoint: it has no {MANIFEST}"),
        ("{", rf"{MANIFEST} is damaged"),
        ('{"files": {}}', rf"{MANIFEST} is damaged"),
        ('{"format": 99, "files": {}}', "has format 99; this genflow reads up to 1: update it"),
    ],
)
def test_a_manifest_that_is_missing_invalid_or_from_the_future_stops_everything(model, tmp_path, text, words):
    """By the Python call and by the command: the folder is named and nothing is loaded in part."""
    (model / MANIFEST).unlink()
    if text is not None:
        (model / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=words) as error:
        genflow.load(model)
    assert str(model) in str(error.value)
    with pytest.raises(CheckpointError, match=words):
        run("sample", "--checkpoint", model, "--n", 1, "--nfe", 2, "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_published_file_is_no_folder_and_says_what_to_do(file):
    with pytest.raises(CheckpointError, match=rf"{file} is a file.* genflow import"):
        genflow.load(file)
