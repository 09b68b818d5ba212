"""Inputs by the thousand to the command line and to configuration files: a usable result, or a sentence that names what
came, with its exit code."""

import csv
import io
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import genflow
from genflow import cli
from genflow.claims.studies.config import UNREAD, StudyConfig
from genflow.commands.average import AverageConfig
from genflow.commands.evaluate import EvaluateConfig
from genflow.commands.likelihood import DensityConfig
from genflow.commands.options import flag
from genflow.commands.sample import SampleConfig
from genflow.commands.train import ModelConfig
from genflow.config import BenchConfig, Options, leaves
from genflow.registry import registries

CODES = {0, 2, 3, 70, 74, 75}
"""Documented exit codes that no signal and no time limit makes; 1 is a failure that nobody foresaw."""

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
TINY = "--process vp_ode --backbone mlp --backbone-options mlp.width=4 --dataset checkerboard --train-steps 1"
TINY += " --train-batch-size 4 --train-warmup 0 --dataset-options checkerboard.size=50"
QUICK = "--checkpoint model --nfe 2"
COMMANDS = {
    "train": (ModelConfig, TINY.split(), ()),
    "sample": (SampleConfig, f"{QUICK} --n 2".split(), ()),
    "evaluate": (EvaluateConfig, f"{QUICK} --metric fd --samples 4".split(), ()),
    "likelihood": (DensityConfig, ["--checkpoint", "model", "--examples", "2", "--solver", "heun", "--nfe", "2"], ()),
    "average": (AverageConfig, ["--run", "model", "--decay", "0.5"], ()),
    "bench": (BenchConfig, ["--dry-run", "--process", "vp_ode", "--solver", "heun"], ()),
    "study": (StudyConfig, ["step_size", "--checkpoint", "missing"], UNREAD),
}
"""Configuration, the words of a quick run, and the keys that are left as they are."""

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
    ["train", "X"], ["doctor"], ["doctor", "X"],
]  # fmt: skip


SLOW = ("compile", "train.compile")
"""Options that take a compiler half a minute; the bench alone is given them, since it plans here."""

PLACES = ("GENFLOW_CACHE", "GENFLOW_DATA_DIR", "GENFLOW_WEIGHTS_DIR")


@dataclass(frozen=True)
class Line:
    """A command line, the text of a configuration file that it names as c.yaml, and the environment.

    `names` are words of which a refusal has to hold one: the values that came, and the options that they came for.
    """

    words: list[str]
    names: tuple[str, ...]
    text: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


@st.composite
def lines(draw) -> Line:
    if draw(st.integers(0, 4)) == 0:
        return draw(plain_lines())
    command = draw(st.sampled_from(sorted(COMMANDS)))
    config, words, unread = COMMANDS[command]
    known = [x for x in leaves(config) if x.path not in unread and (command == "bench" or x.path not in SLOW)]
    chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique_by=lambda leaf: leaf.path))
    pairs = [(leaf, draw(values(leaf))) for leaf in chosen]
    names = [n for leaf, value in pairs for n in (leaf.path, flag(leaf.path)[2:], leaf.path[-9:], *shown(value))]
    names = (*names, "missing") if command == "study" else tuple(names)
    if draw(st.booleans()):
        return Line([command, *words, *(w for leaf, value in pairs for w in as_words(leaf, value))], names)
    styles = [draw(st.sampled_from(["{}", "'{}'", "[{}]", "{{a: {}}}"])) for _ in pairs]
    text = "".join(f"{leaf.path}: {style.format(value)}\n" for (leaf, value), style in zip(pairs, styles, strict=True))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return Line([command, *words, "--config", "c.yaml"], (*names, "c.yaml"), mark + text)


@st.composite
def plain_lines(draw) -> Line:
    """Commands that have no configuration, or one word of it in question."""
    value, words = draw(st.sampled_from(ODD)), draw(st.sampled_from(PLAIN))
    place = draw(st.sampled_from(PLACES)) if words == ["doctor"] else None
    named = [word.lstrip("-") for word in words if word.startswith("--")] + [word for word in words if word == "model"]
    return Line(
        [word.replace("X", value) for word in words],
        (*named, *shown(value), "argument", "command"),
        environment={place: value} if place else {},
    )


def shown(value):
    """How a message may show a value; one that a search would find anywhere is quoted."""
    first = re.split(r"[=,.]", value)[0]
    return [word for word in (value[:30], first, repr(value)[1:-1]) if len(word) > 1] + [
        repr(value),
        f"'{value}'",
        f"'{first}'",
        f"--{first}",
    ]


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
    """A folder with a small model, where every command runs."""
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("GENFLOW_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["genflow", "train", *TINY.split(), "--train-more-ema", "0.5", "--out", "model"])
        assert cli.run() == 0
        yield folder


WAYS = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.slow
@settings(max_examples=1000, **WAYS)
@given(line=lines())
def test_any_input_is_answered(place, line):
    """In this process; benches plan, and ask no other process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genflow.commands.bench._check", lambda *_: None)
        check(line, *here(patch, line))


@pytest.mark.slow
@settings(max_examples=30, **WAYS)
@given(line=lines())
def test_any_input_is_answered_by_the_program(place, line):
    check(line, *there(line))


def check(line, code, out, err, seconds):
    """A usable result, or a sentence that names what came."""
    assert seconds < 20, line
    assert "Traceback" not in err
    if line.words[0] == "doctor" and code == 1:
        assert "to mend: " in out
        return
    assert code in CODES, (line, code, err)
    if code == 0:
        usable(line.words[0], out)
        return
    said = [part for part in err.splitlines() if part.startswith(("genflow: ", "Error: "))]
    assert said, (line, code, err)
    if "this run was begun with another configuration" in said[-1]:
        return  # by a line before this one, in the same folder
    names = {*line.names, *(os.path.expanduser(word) for word in line.words if word.startswith("~"))}
    names |= {word[:2] for word in line.words if re.match("-[a-z]", word)}  # letters may be joined to one word
    names |= {"/home"} if any("~" in name for name in line.names) else set()  # a home folder is shown put in
    assert any(name in said[-1] for name in names), (line, said)


def usable(command, out):
    """What a command that succeeded has left."""
    assert out.strip() or command.startswith("-")
    last = out.strip().splitlines()[-1] if out.strip() else ""
    if command in ("train", "average"):
        _, network = genflow.load(re.match(r"checkpoint: (.*) \(", last)[1])
        assert all(p.isfinite().all() for p in network.parameters())
    elif command == "sample":
        path = Path(re.match(r"(.*?\.(png|npz)): \d+ samples", last)[1])
        if path.suffix == ".npz":
            assert np.isfinite(np.load(path)["x"]).all()
        else:
            Image.open(path).verify()
    elif command == "evaluate":
        rows = list(csv.DictReader(io.StringIO(Path(last).read_text(encoding="utf-8"))))
        assert rows
        assert all(row["value"] or row["protocol"] for row in rows)


def prepared(line):
    """The words after `genflow`; the configuration file is written."""
    if line.text is not None:
        Path("c.yaml").write_text(line.text, encoding="utf-8")
    return line.words


def here(patch, line):
    """(exit code, standard output, standard error, seconds of work) of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    for name, value in line.environment.items():
        patch.setenv(name, value)
    patch.setattr(sys, "argv", ["genflow", *prepared(line)])
    patch.setattr(sys, "stdout", out)
    patch.setattr(sys, "stderr", err)
    began = time.process_time()  # on a busy machine others take their share
    try:
        code = cli.run()
    except BaseException as error:
        raise AssertionError(f"{line}: {type(error).__name__}: {error}") from error
    return code, out.getvalue(), err.getvalue(), time.process_time() - began


def there(line):
    """The same of the program itself."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "genflow", *prepared(line)],
        capture_output=True, text=True, encoding="utf-8", timeout=60, env={**os.environ, **line.environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr, time.monotonic() - began
