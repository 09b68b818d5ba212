"""How values are read: text keeps every character, numbers have one spelling, and home is where ~ is."""

import dataclasses
import importlib
import os
import sys

import numpy as np
import pytest
from PIL import Image

import genflow
from genflow import cli
from genflow.commands.options import resolve
from genflow.commands.train import ModelConfig
from genflow.config import BenchConfig, ConfigError, build, coerce, leaves
from genflow.config_file import read_yaml
from genflow.kinds import kind_of
from genflow.memory import is_out_of_memory
from genflow.places import expand
from genflow.registry import registries
from genflow.scalars import Scalar
from genflow.signatures import imported, written

NAMES = [
    "2024", "set #2", "yes", "no", "on", "null", "Null", "~x", "1e3", "1e-4", "a: b", "[x]", "{x}", "'q'",
    '"d"', "0x10", "1:30", "1:30:00", " lead", "trail ", "-dash", "=eq", "a=b", "a.b", "é", "\U0001f600", "*",
    "&a", "!tag", "%x", "@x", "`", "None", "true", "False", ".5", "007", "010", "1_000", "c:\\d", "#", "a,b",
    "a b", "2020-01-01", "inf", ".nan", "- a", "<<", "?", "|", ">", "x" * 200, "[1, 2]", "{a: 1}", "$HOME",
    "a\tb",
]  # fmt: skip
"""Names that a folder may have, most of which YAML reads as something else."""

BARE = [name for name in NAMES if name.strip() == name and name[0] not in "[{'\"*&!%@`#|>?" and name != "- a"]
BARE = [name for name in BARE if ": " not in name and " #" not in name and "\t" not in name]
"""Those that may stand in YAML without quotes."""

KEYS = dict.fromkeys(("processes", "backbones", "solvers", "datasets", "metrics"))
LEAVES = {leaf.path: leaf for leaf in leaves(BenchConfig)}
for _plural, _key in zip(KEYS, ("process", "backbone", "solver", "dataset", "metric"), strict=True):
    KEYS[_plural] = LEAVES[f"{_key}_options"]


def quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def from_yaml(folder, text, config=BenchConfig):
    """A configuration from the text of a file."""
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return resolve(config, path, {})[0]


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", NAMES)
def test_the_folder_that_is_named_is_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs(name)
    for number in range(10):
        Image.new("L", (5, 5), 20 * number).save(f"{name}/{number}.png")
    path = name
    typed = resolve(ModelConfig, None, {"dataset_options": (f"images.path={path}",)})[0]
    written_out = [from_yaml(tmp_path, f"dataset_options: {{images: {{path: {quoted(path)}}}}}")]
    if name in BARE:
        written_out.append(from_yaml(tmp_path, f"dataset_options:\n  images:\n    path: {path}\n"))
    for config in (typed, *written_out):
        options = config.dataset_options["images"]
        assert options == {"path": path}
        data = genflow.get_dataset("images", **options)
        assert data.shape == (1, 5, 5)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", NAMES)
def test_text_stays_text_in_every_place(name, tmp_path):
    for key in ("out", "inception"):
        assert getattr(resolve(BenchConfig, None, {key: name})[0], key) == name
        assert getattr(from_yaml(tmp_path, f"{key}: {quoted(name)}"), key) == name
        if name in BARE:
            assert getattr(from_yaml(tmp_path, f"{key}: {name}"), key) == name
    listed = from_yaml(tmp_path, f"checkpoint: [{quoted(name)}, other]").checkpoint
    assert listed == (name, "other")
    given = resolve(BenchConfig, None, {"checkpoint": name})[0].checkpoint
    assert given == (tuple(name.split(",")) if "," in name else (name,)) or name in ("[1, 2]",)


@pytest.mark.parametrize(
    "text", ["010", "007", "1_000", "1:30", "0x10", "0o17", "1e", "١", "1,000", "yes", "--1", "+-1"]
)
@pytest.mark.parametrize("style", ["typed", "bare", "quoted"])
def test_a_number_has_one_spelling(text, style):
    for path in ("samples", "train.lr"):
        with pytest.raises(ConfigError, match=r"is not a (whole )?number"):
            coerce(LEAVES[path], Scalar(text, style))
    with pytest.raises(ConfigError, match=r"is not allowed; give a number"):
        coerce(KEYS["solvers"], {"rk45": {"rtol": Scalar(text, style)}})


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), (".5", 0.5), ("3", 3.0), ("-2.50", -2.5), ("1E2", 100.0)])
@pytest.mark.parametrize("style", ["typed", "bare", "quoted"])
def test_numbers(text, value, style):
    found = coerce(KEYS["solvers"], {"rk45": {"rtol": Scalar(text, style)}})["rk45"]["rtol"]
    assert (found, type(found)) == (value, float)


def test_whole_numbers_are_exact_and_fit_into_64_bits():
    assert build(BenchConfig, {"seed": Scalar(str(2**53 + 1))}).seed == (2**53 + 1,)
    assert build(BenchConfig, {"seed": Scalar("9223372036854775807")}).seed == (2**63 - 1,)
    for text in ("9223372036854775808", "1e23", "1e999999999", "9" * 5000):
        with pytest.raises(ConfigError, match="seed = "):
            build(BenchConfig, {"seed": Scalar(text)})


# ---- options of constructors -------------------------------------------------------------------------------

ENTRIES = [(plural, name) for plural, registry in registries().items() for name in registry.entries()]
ONCE = list({registries()[plural].entry(name).target: (plural, name) for plural, name in ENTRIES}.values())
"""One name of each class."""

TYPES = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}
ODD = ["3", "3.0", "-1", "0", "2.5", "nan", "inf", "-inf", "1e400", "true", "no", "word", "null", "[1, 2]", "[]"]
ODD += ["{a: 1}", "1e18", "1e30", "010", "1:30", "", " ", "[nan]", "[[1]]", "[a, b]", "'3'", '"null"', "~"]


@pytest.mark.parametrize(("plural", "name"), ENTRIES)
def test_what_the_source_says_is_what_the_class_takes(plural, name):
    """Options are typed without importing torch, so both readings must agree."""
    entry = registries()[plural].entry(name)
    source, live = written(entry.target), imported(entry.load())
    assert source is not None
    assert live is not None
    typed = {k: kind_of(v) for k, v in {**registries()[plural].shared(entry), **source}.items()}
    assert typed == {k: kind_of(v) for k, v in live.items()}
    assert typed == registries()[plural].kinds(name)


def fits(kind, value) -> bool:
    if isinstance(value, list):
        return kind.item is not None and all(fits(kind.item, one) for one in value)
    if isinstance(value, dict):
        return kind.value is not None
    return (
        any(type(value) is TYPES.get(n) for n in kind.names)
        or value in kind.words
        or bool(kind.names & {"any", "other"})
    )


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(("plural", "name"), ONCE)
def test_every_option_gets_a_value_of_its_type_or_a_sentence(plural, name, tmp_path):
    registry = registries()[plural]
    for option, kind in registry.kinds(name).items():
        if option in registry.reserved:
            continue
        for text in ODD:
            raws = [Scalar(text), Scalar(text, "bare"), Scalar(text, "quoted")]
            raws += [] if text not in ODD[:9] else [float(text), [float(text)], None, True, [Scalar(text, "bare")]]
            for raw in raws:
                said, value = "", None
                try:
                    value = coerce(KEYS[plural], {name: {option: raw}})[name][option]
                except ConfigError as error:
                    said = str(error)
                if said:
                    assert f"{name}.{option} = " in said
                    assert "is not allowed; give " in said
                    assert "\n" not in said
                else:
                    assert fits(kind, value), (option, raw, value)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(("plural", "name"), [e for e in ONCE if e[0] in ("processes", "solvers", "metrics")])
def test_what_is_of_the_right_type_is_taken_or_refused_by_its_class(plural, name):
    registry = registries()[plural]
    for option, kind in registry.kinds(name).items():
        for text in ("3", "-1", "0", "2.5", "nan", "inf", "1e30", "true", "word", "", "[1, 2]", "[]", "null"):
            refusal = None
            try:
                value = coerce(KEYS[plural], {name: {option: Scalar(text)}})[name][option]
                registry.get(name, **{option: value})
            except Exception as error:
                refusal = error
            assert refusal is None or isinstance(refusal, ValueError) or is_out_of_memory(refusal), (option, refusal)
            assert "is of the wrong kind" not in str(refusal), (option, kind, text)


def test_a_whole_number_may_come_as_a_float_and_arrives_whole(tmp_path):
    text = 'dataset_options: {images: {path: x, channels: "3"}}\nbackbone_options: {mlp: {width: 8.0}}'
    config = from_yaml(tmp_path, text)
    assert repr(config.dataset_options) == "{'images': {'path': 'x', 'channels': 3}}"
    assert repr(config.backbone_options) == "{'mlp': {'width': 8}}"
    assert genflow.get_backbone("mlp", shape=(2,), width=8.0).config()["width"] == 8
    with pytest.raises(ValueError, match=r"width = 8.5 is not allowed; give a whole number"):
        genflow.get_backbone("mlp", shape=(2,), width=8.5)


def test_options_are_read_without_torch(tmp_path):
    import subprocess

    words = ["bench", "--dry-run", "--process-options", "pfgm.gamma=1e-5", "--solver-options", "rk45.rtol=1e-3"]
    code = f"""
import sys
sys.argv = ["genflow", *{words!r}]
from genflow.commands.options import resolve
from genflow.config import BenchConfig
c = resolve(BenchConfig, None, {{"process_options": ("pfgm.gamma=1e-5",), "solver_options": ("rk45.rtol=1e-3",)}})[0]
assert c.process_options == {{"pfgm": {{"gamma": 1e-5}}}}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)


# ---- home --------------------------------------------------------------------------------------------------


def configurations():
    """(command, configuration class) of every command that has one."""
    for command, (module, _) in cli.COMMANDS.items():
        for one in vars(importlib.import_module(module)).values():
            if (
                getattr(one, "__name__", "").endswith("Config")
                and dataclasses.is_dataclass(one)
                and hasattr(one, "out")
            ):
                yield command, one


PLACES = sorted({(c.__name__, x.path) for _, c in configurations() for x in leaves(c) if x.metadata.get("place")})
CLASSES = {c.__name__: c for _, c in configurations()}


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("owner", "path"), PLACES)
def test_home_is_put_in_wherever_a_path_is_given(owner, path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config, needed = CLASSES[owner], {"guidance": "2"} if path == "guide" else {}
    lines = "".join(f"\n{name}: {value}" for name, value in needed.items())
    for given, said in {
        "~/x": f"{tmp_path}/x",
        "~": str(tmp_path),
        "./~": "./~",
        "a/~": "a/~",
        "~nobody-here/x": None,
    }.items():
        typed = getattr(resolve(config, None, {path: given, **needed})[0], path)
        read = getattr(from_yaml(tmp_path, f"{path}: {quoted(given)}{lines}", config), path)
        bare = getattr(from_yaml(tmp_path, f"{path}: {given}{lines}", config), path)
        expected = said or given
        assert {str(v) for v in (typed, read, bare)} <= {expected, str((expected,))}


def test_every_option_that_is_a_folder_or_a_file_is_a_place():
    for _, config in configurations():
        for leaf in leaves(config):
            text = leaf.metadata["help"]
            if leaf.type in (str, tuple[str, ...]) and text.startswith(
                ("folder", "file ", "the run's folder", "output f", ".npz")
            ):
                assert leaf.metadata.get("place"), (config.__name__, leaf.path)


def test_home_in_arguments_and_options_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.zeros((10, 1, 5, 5), np.uint8))
    assert genflow.get_dataset("images", path="~/x.npy").shape == (1, 5, 5)
    assert expand("~nobody-here") == expand("./~nobody-here")
    assert not (tmp_path / "~").exists()


# ---- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["train:", "train: ~", "train: null", "train: {}", "train:\n#  lr: 3\n", "norm:\ntrain:\n"]
)
def test_an_empty_section_is_nothing(text, tmp_path):
    assert from_yaml(tmp_path, f"{text}\nsamples: 7\n") == build(BenchConfig, {"samples": 7})


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: 5", "line 1: train = 5 is not a section; give its keys below it: precision"),
        ("train: [1]", "line 1: train = a list is not a section"),
        ("train: steps", "train = 'steps' is not a section"),
        ("train: ''", "train = '' is not a section"),
        ("samples: 3\nsamples: 4", "line 2: the key samples stands twice"),
        ("train: {lr: 1, lr: 2}", "the key train.lr stands twice"),
        ("process_options: {pfgm: {gamma: 1, gamma: 2}}", "the key process_options.pfgm.gamma stands twice"),
        ("samples:\t3\n\ttrain: 1", "is not YAML"),
        ("a: &a {a: *a}", "an alias stands within what it stands for"),
        ("train: &t\n  <<: *t", "an alias stands within what it stands for"),
        ("<<: 3", "<< takes a mapping"),
        ("? [a]\n: 1", "a key is a word, not a list"),
        ("samples: !!python/object:os.system 3", "the tag tag:yaml.org,2002:python/object:os.system is not known"),
        ("samples: !size 3", "the tag !size is not known here; quote the value"),
        ("dataset_options: {images: {path: [x]}}", "images.path = ['x'] is not allowed; give a word"),
        ("dataset_options: {images: {path: {x}}}", "is not allowed; give a word"),
        ("dataset_options: {images: }", "dataset_options.images = None is not a mapping"),
        ("x: " + "[" * 3000, "is not YAML"),
        ("a: " + "[" * 60 + "]" * 60, "lists are too deep"),
        ("#" * 300_000, "has over 200000 bytes"),
        ("samples: \0", "is not YAML"),
        ('out: "a\\0b"', "it holds a null character"),
        ("nfe: [5, 5]", "nfe lists a value twice: 5, 5"),
        ("process: [pfgm, pfgm]", "process lists a name twice: pfgm, pfgm"),
        ("checkpoint: [a, a]", "checkpoint lists a name twice: a, a"),
        ("nfe: 1e9", "nfe = 1000000000 is not allowed; give a finite number of at least 1 and up to 1,000,000"),
    ],
)
def test_files_that_cannot_be_used_say_where_and_why(text, said, tmp_path):
    with pytest.raises(ValueError) as caught:
        from_yaml(tmp_path, text)
    assert said in str(caught.value)
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_of_aliases_end(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ValueError, match=r"unknown config key|over 20000 values"):
        from_yaml(tmp_path, "\n".join(lines))
    with pytest.raises(ValueError, match="over 20000 values"):
        from_yaml(tmp_path, "checkpoint:\n- " + "\n- ".join(line[4:] for line in lines))


def test_marks_line_ends_and_merge_keys(tmp_path):
    expected = build(BenchConfig, {"samples": 7, "train.lr": 0.5, "train.steps": 3})
    for text in (
        "\ufeffsamples: 7\ntrain: {lr: 0.5, steps: 3}\n",
        "samples: 7\r\ntrain:\r\n  lr: 0.5\r\n  steps: 3\r\n",
        "samples: 7\ntrain:\n  <<: {lr: 0.25, steps: 3}\n  lr: 0.5\n",
        "samples: !!int '7'\ntrain: {<<: [{lr: 0.5}, {lr: 2, steps: 3}]}\n",
    ):
        path = tmp_path / "c.yaml"
        path.write_bytes(text.encode())
        assert resolve(BenchConfig, path, {})[0] == expected


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("samples: 7")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        read_yaml(path, BenchConfig)
