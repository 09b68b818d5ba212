"""Values from YAML, command line and defaults: what is taken, what is refused, and where it is said to stand."""

import dataclasses
import math

import click
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from genflow.cli import cli
from genflow.commands.bench import FLAGS
from genflow.commands.sample import SampleConfig
from genflow.commands.train import ModelConfig
from genflow.config import BenchConfig, ConfigError, build, flatten, leaves, to_dict
from genflow.config_file import read_yaml
from genflow.registry import registries

CONFIGS = {"bench": BenchConfig, "train": ModelConfig, "sample": SampleConfig}
LEAVES = {leaf.path: leaf for leaf in leaves(BenchConfig)}


@pytest.fixture
def read(tmp_path):
    """Reads YAML text as a bench: (configuration, where each value stands)."""

    def run(text):
        path = tmp_path / "bench.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        values, lines = read_yaml(path, BenchConfig)
        return build(BenchConfig, values), lines

    return run


def refusal(call, *arguments) -> str:
    """The message of the ValueError that a call raises."""
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- YAML ------------------------------------------------------------------------------------------------


def test_numbers_lists_and_nested_keys(read, tmp_path):
    config, lines = read(
        """
samples: 40
nfe: [5, 10]
seed: 3
process: vp_ode, pfgm
train:
  lr: 1e-4
  steps: 2.0e+1
norm.level: 2
process_options:
  pfgm: {gamma: 1e-2, restrict: true}
"""
    )
    assert (config.samples, config.nfe, config.seed, config.norm.level) == (40, (5, 10), (3,), 2.0)
    assert config.process == ("vp_ode", "pfgm")
    assert (config.train.lr, config.train.steps) == (1e-4, 20)
    assert config.process_options == {"pfgm": {"gamma": 0.01, "restrict": "true"}}
    assert config.train.batch_size == BenchConfig().train.batch_size
    assert lines["train.lr"] == f"{tmp_path / 'bench.yaml'}:7"
    assert set(lines) == {
        "samples",
        "nfe",
        "seed",
        "process",
        "train.lr",
        "train.steps",
        "norm.level",
        "process_options",
    }


def test_whole_numbers_may_be_written_with_an_exponent(read):
    assert read("train: {steps: 1e3}")[0].train.steps == 1000
    assert build(BenchConfig, {"samples": "2e2"}).samples == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampels: 3", ":1: unknown config key 'sampels'; did you mean 'samples'?"),
        (
            "samples: 4\ntrain:\n  lr: 1\n  stpes: 3",
            ":4: unknown config key 'train.stpes'; did you mean 'train.steps'?",
        ),
        ("train: 5", ", line 1: train = 5 is not a section; give its keys below it: precision, channels_last"),
        ("on: 5", ":1: unknown config key 'on'"),
        ("samples: 4\n? ~\n: 5", ":2: unknown config key"),
        ("samples: many", ":1: samples = 'many' is not a whole number of at least 2"),
        ("samples: 2.5", ":1: samples = 2.5 is not a whole number"),
        ("samples: true", ":1: samples = True is not a whole number"),
        ("samples:", ":1: samples = None is not a whole number"),
        ("samples: {a: 1}", ":1: samples = {'a': 1} is not a whole number"),
        ("samples: [3]", ":1: samples = [3] is not a whole number"),
        ("\nsamples: 1", ":2: samples = 1 is not allowed; give a finite number of at least 2"),
        ("nfe: [5, x]", ":1: nfe = 'x' is not a whole number of at least 1"),
        ("nfe: []", ":1: nfe is empty; give at least one value"),
        ("train: {lr: .nan}", ":1: train.lr = nan is not allowed; give a finite number above 0"),
        ("train: {lr: 0}", ":1: train.lr = 0.0 is not allowed"),
        ("train: {schedule: cosin}", ":1: unknown train.schedule 'cosin'; did you mean 'cosine'?"),
        ("process: ['']", ":1: process has an empty entry"),
        ("process_options: {pfgm: 3}", ":1: process_options.pfgm = 3 is not a mapping"),
        ("process_options: 3", ":1: process_options"),
        ("process_options: [3]", ":1: process_options"),
        ("process_options:", ":1: process_options"),
    ],
)
def test_a_refused_value_is_named_with_file_and_line(read, text, said, tmp_path):
    assert f"{tmp_path / 'bench.yaml'}{said}" in refusal(read, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1,\nb: }", "is not YAML"),
        ("samples: 3\n samples: 4", "is not YAML"),
        (b"\xff\xfe\x00\x01", "is not YAML"),
        ("samples: 3\n---\nsamples: 4", "is not YAML"),
        ("", "is empty, not a mapping"),
        ("# only words\n", "is empty, not a mapping"),
        ("- samples", "is a list, not a mapping"),
        ("samples", "is a str, not a mapping"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(read, text, said, tmp_path):
    assert f"{tmp_path / 'bench.yaml'} {said}" in refusal(read, text)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "nowhere.yaml cannot be read: No such file" in refusal(read_yaml, tmp_path / "nowhere.yaml", BenchConfig)
    assert f"{tmp_path} cannot be read: Is a directory" in refusal(read_yaml, tmp_path, BenchConfig)


def test_what_a_bench_writes_reads_back_the_same(read):
    config = build(
        BenchConfig,
        {
            "process": "pfgm,vp_sde",
            "train.lr": "3e-7",
            "norm.factors": [0.5, 3],
            "process_options": ["pfgm.gamma=1e-9", "vp.beta_max=12"],
            "out": "runs/a b",
        },
    )
    assert read(yaml.safe_dump(to_dict(config), sort_keys=False))[0] == config


# ---- values ----------------------------------------------------------------------------------------------

SIZES = [leaf.path for leaf in LEAVES.values() if leaf.type in (int, tuple[int, ...])]
NUMBERS = [leaf.path for leaf in LEAVES.values() if leaf.type in (float, tuple[float, ...])]


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    "value", ["nan", "inf", "-1", "many", "", "1.5", "1e400", -1, 0.5, math.nan, math.inf, None, True]
)
@pytest.mark.parametrize("path", SIZES)
def test_sizes_that_are_no_counts_are_refused(path, value):
    message = refusal(build, BenchConfig, {path: value})
    assert path in message
    assert str(value) in message
    assert "at least" in message


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "many", "", -1, math.nan, -math.inf, None, False])
@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_out_of_range_are_refused(path, value):
    message = refusal(build, BenchConfig, {path: value})
    assert path in message
    assert "above" in message or "at least" in message


@pytest.mark.parametrize(
    "path", ["samples", "nfe", "train.steps", "train.batch_size", "norm.nfe", "bpd.examples", "sample_batch"]
)
@pytest.mark.parametrize("value", [0, "0", "0.0", [0]])
def test_zero_is_refused_where_something_must_be_done(path, value):
    with pytest.raises(ConfigError, match=path):
        build(BenchConfig, {path: value})


def test_limits_themselves():
    build(BenchConfig, {"samples": 2, "nfe": 1, "jobs": 0, "train.ema": 0, "train.grad_clip": 0, "train.warmup": 0})
    for path, value in {"samples": 1, "train.ema": 1, "train.beta2": 0, "bpd.rtol": 1}.items():
        assert path in refusal(build, BenchConfig, {path: value})


def test_large_whole_numbers_stay_exact():
    """2⁵³ + 1 is no float; it is taken as it is, or refused for its size, but not for not being whole."""
    value = 2**53 + 1
    try:
        assert build(BenchConfig, {"seed": str(value)}).seed == (value,)
    except ConfigError as error:
        assert "is not a whole number" not in str(error)  # noqa: PT017


def test_unknown_keys_name_the_nearest():
    message = refusal(build, BenchConfig, {"train.step": 3})
    assert "unknown config key 'train.step'; did you mean 'train.steps'?" in message
    assert all(path in message for path in LEAVES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pfgm.gamma=0.5", {"pfgm": {"gamma": 0.5}}),
        (["pfgm.gamma=1e-5", "pfgm.tau=3", "vp.x=yes"], {"pfgm": {"gamma": 1e-5, "tau": 3}, "vp": {"x": "yes"}}),
        (["a.means=[[0, 1e-1], [1, 2]]"], {"a": {"means": [[0, 0.1], [1, 2]]}}),
        (["a.b=word"], {"a": {"b": "word"}}),
        (["a.b=c=d"], {"a": {"b": "c=d"}}),
        (["a.b.c=1"], {"a": {"b.c": 1}}),
        ([], {}),
    ],
)
def test_option_words(words, expected):
    assert build(BenchConfig, {"process_options": words}).process_options == expected


@pytest.mark.parametrize(
    "word", ["pfgm", "pfgm.gamma", "gamma=1", ".gamma=1", "pfgm.=1", "=1", "", "pfgm.gamma=[1", "pfgm.gamma=@"]
)
def test_bad_option_words_are_named(word):
    message = refusal(build, BenchConfig, {"process_options": [word]})
    assert message.startswith("process_options")
    assert f"'{word}'" in message


# ---- round trips -----------------------------------------------------------------------------------------


def test_defaults_survive_flatten_and_build():
    for config in CONFIGS.values():
        assert build(config, flatten(config())) == config()
        assert build(config, {}) == config()
        assert list(flatten(config())) == [leaf.path for leaf in leaves(config)]


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    lr=st.floats(1e-300, 1e300),
    factors=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4, unique=True),
    steps=st.integers(1, 2**53),
    nfe=st.lists(st.integers(1, 10**6), min_size=1, max_size=4, unique=True),
)
def test_numbers_round_trip_as_values_words_and_yaml(lr, factors, steps, nfe):
    given_values = {"train.lr": lr, "norm.factors": factors, "train.steps": steps, "nfe": nfe}
    words = {k: ",".join(map(repr, v)) if isinstance(v, list) else repr(v) for k, v in given_values.items()}
    config = build(BenchConfig, given_values)
    assert (config.train.lr, config.norm.factors, config.train.steps, config.nfe) == (
        lr,
        tuple(factors),
        steps,
        tuple(nfe),
    )
    assert build(BenchConfig, words) == config
    assert build(BenchConfig, flatten(config)) == config
    assert build(BenchConfig, yaml.safe_load(yaml.safe_dump(flatten(config)))) == config


def test_flatten_and_to_dict_are_plain_and_apart():
    config = BenchConfig()
    plain = flatten(config)
    plain["process_options"]["pfgm"] = {}
    assert BenchConfig().process_options == {}
    assert all(type(v) in (bool, int, float, str, list, dict) for v in plain.values())
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config.train).items()}
    assert to_dict(config)["train"] == lists


# ---- options of the command line -------------------------------------------------------------------------


@pytest.mark.parametrize("command", CONFIGS)
def test_every_leaf_is_an_option_and_every_option_a_leaf(command):
    found = cli.get_command(click.Context(cli), command)
    flags = {option: p for p in found.params if p.name not in ("config_file", *FLAGS) for option in p.opts}
    expected = {"--" + leaf.path.replace(".", "-").replace("_", "-"): leaf for leaf in leaves(CONFIGS[command])}
    assert set(flags) == set(expected)
    assert any(p.name == "config_file" for p in found.params)
    for name, leaf in expected.items():
        assert leaf.metadata["help"] in flags[name].help
        assert flags[name].default is None, "a default stands in the configuration class only"


@pytest.mark.parametrize("command", CONFIGS)
def test_leaves_have_help_and_defaults_that_pass_their_own_range(command):
    for leaf in leaves(CONFIGS[command]):
        assert len(leaf.metadata["help"]) > 3, leaf.path
        assert build(CONFIGS[command], {leaf.path: leaf.default}) == CONFIGS[command]()


def test_default_names_are_registered():
    for leaf in LEAVES.values():
        known = leaf.metadata.get("registry")
        if known and leaf.default:
            names = [leaf.default] if isinstance(leaf.default, str) else leaf.default
            assert set(names) <= set(registries()[known].entries()), leaf.path
