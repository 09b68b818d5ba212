"""A thousand inputs to the command line and to configuration files: a usable result, or a sentence with its code."""

import random
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genflow import cli
from genflow.commands.evaluate import EvaluateConfig
from genflow.commands.likelihood import DensityConfig
from genflow.commands.options import flag
from genflow.commands.sample import SampleConfig
from genflow.commands.train import ModelConfig
from genflow.config import BenchConfig, Options, leaves
from genflow.registry import registries
from genflow.study.config import UNREAD, StudyConfig

CODES = {0, 1, 2, 3, 70, 74, 75}
"""Documented exit codes that no signal and no time limit makes."""

ODD = [
    "", " ", "0", "1", "2", "3", "-1", "2.5", "nan", "inf", "-inf", "1e400", "1e30", "010", "1_0", "1:30", "0x10", ".5",
    "true", "no", "null", "None", "~", "~nobody/x", "a,b", "1,1", "2,1", ",", "[1, 2]", "[", "{a: 1}", "{", "word", "é",
    "\U0001f600", "'q'", '"d"', "a b", "a=b", "a.b=c", "-x", "--", "*", "&a", "!t", "%x", "@x", "`", "c:\\d",
    "#", "x" * 300,
    "\u0661", "1e-4", "skip:1", "missing/file.npz", "x.npz", "x.png", "x.csv", ".", "/dev/null/x", "cpu",
    "cuda:99", "all",
]  # fmt: skip
WORDS = [
    "mlp.width=4",
    "mlp.width=",
    "mlp.depth=1e9",
    "vp_ode.head=x",
    "heun.grid=[1]",
    "fd.features=~x",
    "x",
    "=",
    "a.b=1",
]
WORDS += [
    "checkerboard.size=2.5",
    "checkerboard.seed=-1",
    "mlp.width=010",
    "vp_ode.beta_min=null",
    "mlp.shape=3",
    "vp.levels=[1",
]
SKIPPED = ("compile", "tensorboard", "steps", "slurm", "device", "cuda_graphs", "timeout")
"""What would cost minutes, or is a matter of the machine."""

TINY = "--process vp_ode --backbone mlp --backbone-options mlp.width=4 --dataset checkerboard --train-steps 1"
TINY += " --train-batch-size 4 --train-warmup 0 --dataset-options checkerboard.size=50"
QUICK = "--checkpoint model --nfe 2"
COMMANDS = {
    "train": (ModelConfig, TINY.split(), ()),
    "sample": (SampleConfig, f"{QUICK} --n 2".split(), ()),
    "evaluate": (EvaluateConfig, f"{QUICK} --metric fd --samples 4".split(), ()),
    "likelihood": (DensityConfig, ["--checkpoint", "model", "--examples", "2", "--solver", "heun", "--nfe", "2"], ()),
    "bench": (BenchConfig, ["--dry-run", "--process", "vp_ode", "--solver", "heun"], ()),
    "study": (StudyConfig, ["step_size", "--checkpoint", "missing"], UNREAD),
}
PLAIN = [
    ["list"], ["list", "X"], ["weights", "list"], ["weights", "path", "X"], ["weights", "add", "X"],
    ["weights", "verify"],
    ["report", "X"], ["report", "model", "X"], ["reproduce", "--list"], ["reproduce", "X", "--dry-run"],
    ["import", "X"],
    ["reproduce", "pfgm_nfe", "--dry-run", "--set", "X"], ["reproduce", "pfgm_nfe", "--dry-run", "--scale", "X"],
    ["average", "--run", "X", "--decay", "0.5"], ["average", "--run", "model", "--width", "X"], ["study", "X"], ["X"],
    ["encode", "--checkpoint", "X"], ["decode", "--latents", "X", "--checkpoint", "model"], ["sample", "--config", "X"],
    ["inpaint", "--checkpoint", "model", "--mask", "X"], ["bench", "--only", "X", "--dry-run"], ["bench",
    "--time-limit", "X"],
    ["interpolate", "--checkpoint", "model", "--count", "X"], ["colourise", "--checkpoint", "X"], ["--X"],
    ["train", "X"],
]  # fmt: skip


@st.composite
def lines(draw) -> tuple[list[str], str | None]:
    """A command line, and the text of a configuration file that it names as c.yaml."""
    if draw(st.integers(0, 4)) == 0:
        return [word.replace("X", draw(st.sampled_from(ODD))) for word in draw(st.sampled_from(PLAIN))], None
    command = draw(st.sampled_from(sorted(COMMANDS)))
    config, words, unread = COMMANDS[command]
    known = [x for x in leaves(config) if x.path.split(".")[-1] not in SKIPPED and x.path not in unread]
    chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique_by=lambda leaf: leaf.path))
    pairs = [(leaf, draw(values(leaf))) for leaf in chosen]
    if draw(st.booleans()):
        given_words = [w for leaf, value in pairs for w in as_words(leaf, value)]
        return [command, *words, *given_words], None
    styles = [draw(st.sampled_from(["{}", "'{}'", "[{}]", "{{a: {}}}"])) for _ in pairs]
    text = "".join(f"{leaf.path}: {style.format(value)}\n" for (leaf, value), style in zip(pairs, styles, strict=True))
    return [command, *words, "--config", "c.yaml"], draw(st.sampled_from(["", "\ufeff"])) + text


def values(leaf):
    pool = list(ODD)
    if leaf.type == Options:
        pool += WORDS * 6
    elif leaf.metadata.get("registry"):
        pool += list(registries()[leaf.metadata["registry"]].entries())
    return st.sampled_from(pool)


def as_words(leaf, value):
    return (
        [random.Random(value).choice([flag(leaf.path), "--no-" + flag(leaf.path)[2:]])]
        if leaf.type is bool
        else [
            flag(leaf.path),
            value,
        ]
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small model, where every command runs; its bench plans, but asks no other process."""
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("GENFLOW_CACHE", str(folder / "cache"))
        patch.setattr("genflow.commands.bench._check", lambda *_: None)
        patch.setattr(sys, "argv", ["genflow", "train", *TINY.split(), "--out", "model"])
        assert cli.run() == 0
        yield folder


@pytest.mark.slow
@settings(max_examples=1000, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(line=lines())
def test_any_input_is_answered(place, line):
    words, text = line
    if text is not None:
        Path("c.yaml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        code, err, seconds = answer(patch, words)
    assert seconds < 20, words
    assert code in CODES, (words, code)
    assert "Traceback" not in err
    if code:
        said = [part for part in err.splitlines() if part.startswith(("genflow: ", "Error: "))]
        assert said, (words, text, code, err)
        assert len(said[-1]) > 25, said


def answer(patch, words):
    """(exit code, what went to standard error, seconds) of a command in this process."""
    import io

    err = io.StringIO()
    patch.setattr(sys, "argv", ["genflow", *words])
    patch.setattr(sys, "stdout", io.StringIO())
    patch.setattr(sys, "stderr", err)
    began = time.monotonic()
    try:
        code = cli.run()
    except BaseException as error:
        raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error
    return code, err.getvalue(), time.monotonic() - began
