"""Catalogues, plugins good and bad, and what importing genflow costs."""

import inspect
import re
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

import genflow
from genflow import cli
from genflow.registry import Registry, UnknownNameError, check_options, registries, unknown
from genflow.solver.base import FixedStep

ENTRIES = [(plural, name) for plural, registry in registries().items() for name in registry.entries()]
HEAVY = ("torch", "matplotlib", "pandas", "scipy", "sklearn", "torchsde", "torchdiffeq", "cleanfid")


class Plain:
    """A stand-in for a plugin's class."""

    def __init__(self, width=3):
        self.width = width


@pytest.fixture
def plugins(monkeypatch):
    """Installs fake entry points ("name", "module:Class", distribution or None) under one group."""
    real = metadata.entry_points

    def install(*points, group="genflow.processes"):
        found = [SimpleNamespace(name=n, value=v, dist=d and SimpleNamespace(name=d)) for n, v, d in points]
        monkeypatch.setattr(metadata, "entry_points", lambda **k: found if k.get("group") == group else real(**k))
        registries.cache_clear()
        return registries()["processes"]

    yield install
    registries.cache_clear()


def run_cli(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["genflow", *words])
    return cli.run()


# ---- catalogue -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("plural", "name"), ENTRIES)
def test_every_entry_loads_and_takes_its_preset(plural, name):
    registry = registries()[plural]
    entry, factory = registry.entry(name), registry.load(name)
    assert inspect.isclass(factory) or inspect.isfunction(factory)
    assert not inspect.isabstract(factory)
    assert entry.name == name
    assert len(entry.summary) > 10
    assert factory.__doc__
    check_options(name, factory, entry.preset)


def test_the_catalogues_hold_the_published_names():
    names = {plural: set(registry.entries()) for plural, registry in registries().items()}
    assert names["processes"] >= {"pfgm", "vp_ode", "vp_sde"}
    assert names["solvers"] >= {"euler", "heun", "rk45", "euler_maruyama"}
    assert names["backbones"] >= {"mlp", "ncsnv2"}
    assert names["metrics"] >= {"fd", "norm_z", "bpd"}
    assert "digits" in names["datasets"]


@pytest.mark.parametrize("plural", ["processes", "backbones", "solvers", "datasets", "metrics"])
def test_tags_agree_with_the_classes(plural):
    """What is known without an import must be what the class says."""
    registry = registries()[plural]
    for name, entry in registry.entries().items():
        factory = registry.load(name)
        if plural == "processes":
            assert entry.tags["mode"] == registry.get(name).mode, name
        if plural == "solvers":
            made = registry.get(name)
            assert entry.tags["mode"] == made.mode, name
            assert entry.tags.get("needs", ()) == made.needs, name
            assert entry.tags["budget"] == issubclass(factory, FixedStep), name
        if plural == "metrics":
            assert entry.tags["needs"] == factory.needs, name


def test_missing_capabilities_are_those_the_process_refuses():
    registry = registries()["processes"]
    for name, entry in registry.entries().items():
        reason = registry.get(name).why_not("sde")
        assert ("score" in entry.tags.get("missing", {})) == bool(reason), name


@pytest.mark.parametrize(
    ("get", "typed", "nearest"),
    [
        (genflow.get_process, "pfmg", "pfgm"),
        (genflow.get_process, "vp_odd", "vp_ode"),
        (genflow.get_backbone, "ncsn", "ncsnv2"),
        (genflow.get_solver, "huen", "heun"),
        (genflow.get_dataset, "digit", "digits"),
    ],
)
def test_unknown_names_give_the_nearest_and_all_known(get, typed, nearest):
    with pytest.raises(UnknownNameError) as caught:
        get(typed)
    message = str(caught.value)
    assert f"'{typed}'; did you mean '{nearest}'? known: " in message
    kind = next(r for r in registries().values() if message.startswith(f"unknown {r.kind} "))
    assert message.endswith(", ".join(sorted(kind.entries())))


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(UnknownNameError, match="unknown process 'zzzzz'; known: ") as caught:
        genflow.get_process("zzzzz")
    assert "did you mean" not in str(caught.value)


def test_known_names_are_listed_once():
    assert str(unknown("name", "c", ["b", "a", "b"])).endswith("known: a, b")


@pytest.mark.parametrize(
    ("get", "name", "option", "nearest"),
    [
        (genflow.get_solver, "rk45", "rtoll", "rtol"),
        (genflow.get_process, "pfgm", "gama", "gamma"),
        (genflow.get_dataset, "heart", "scales", "scale"),
    ],
)
def test_unknown_options_give_the_nearest(get, name, option, nearest):
    with pytest.raises(ValueError, match=f"'{name}' '{option}'; did you mean '{nearest}'"):
        get(name, **{option: 1})


def test_preset_stands_and_can_be_joined_by_options():
    assert genflow.get_process("vp_sde").mode == "sde"
    assert genflow.get_process("vp_ode").mode == "ode"


def test_add_and_remove():
    registry = Registry("process", "genflow.process", "genflow.processes")
    registry.add("mine", Plain, summary="my own")
    assert registry.get("mine", width=5).width == 5
    assert (registry.entry("mine").origin, registry.entry("mine").summary) == ("this program", "my own")
    for taken in ("mine", "pfgm"):
        with pytest.raises(ValueError, match=f"'{taken}' exists already"):
            registry.add(taken, Plain)
    registry.remove("mine")
    with pytest.raises(UnknownNameError):
        registry.get("mine")


# ---- plugins ---------------------------------------------------------------------------------------------

GOOD = ("plain", f"{__name__}:Plain", "good-plugin")
BROKEN = ("broken", "package_that_is_not_there:Thing", "bad-plugin")
LACKING = ("lacking", f"{__name__}:Missing", "bad-plugin")
NO_CLASS = ("no_class", __name__, "bad-plugin")
TAKEN = ("pfgm", f"{__name__}:Plain", "greedy-plugin")


def test_a_good_plugin_works_beside_bad_ones(plugins):
    registry = plugins(BROKEN, TAKEN, GOOD, LACKING, NO_CLASS)
    assert genflow.get_process("plain", width=4).width == 4
    assert registry.entry("plain").origin == "good-plugin"
    assert registry.entry("plain").family == "plain"
    with pytest.raises(ValueError, match="did you mean 'width'"):
        genflow.get_process("plain", widht=4)
    with pytest.raises(UnknownNameError, match="did you mean 'plain'"):
        genflow.get_process("plan")


@pytest.mark.parametrize("point", [BROKEN, LACKING, NO_CLASS], ids=lambda p: p[0])
def test_a_broken_plugin_says_whose_and_why_every_time(plugins, point):
    plugins(GOOD, point)
    for _ in range(2):
        with pytest.raises(UnknownNameError, match=rf"process '{point[0]}' cannot be used: \w+Error.*of bad-plugin"):
            genflow.get_process(point[0])


def test_a_name_that_is_taken_keeps_its_owner(plugins):
    registry = plugins(TAKEN, GOOD, ("plain", "elsewhere:Plain", "late-plugin"))
    assert registry.load("pfgm").__module__ == "genflow.process.poisson"
    assert registry.entry("plain").origin == "good-plugin"
    assert registry.broken == {
        "pfgm (greedy-plugin)": "the name is taken by genflow; rename one of them",
        "plain (late-plugin)": "the name is taken by good-plugin; rename one of them",
    }


def test_a_plugin_without_distribution_is_listed(plugins):
    assert plugins(("loose", f"{__name__}:Plain", None)).entry("loose").origin == "an unnamed distribution"


def test_list_shows_good_and_bad_plugins(plugins, monkeypatch, capsys):
    plugins(BROKEN, TAKEN, GOOD)
    assert run_cli(monkeypatch, "list", "processes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "plain" and "[plugin of good-plugin]" in line for line in lines[1:] if line)
    assert any(line.split()[0] == "broken" for line in lines[1:] if line)
    assert any("BROKEN" in line and "greedy-plugin" in line for line in lines)
    assert any(line.split()[0] == "pfgm" and "Poisson" in line for line in lines[1:] if line)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise SystemExit(3)", "BROKEN, SystemExit: 3"),
        ("def", "BROKEN, SyntaxError: "),
        ("import package_that_is_not_there", "BROKEN, ModuleNotFoundError: No module named"),
        ("1 / 0", "BROKEN, ZeroDivisionError: division by zero"),
        ("Thing = 3", "BROKEN, TypeError: it points to int 3, not to a class"),
        ("from genflow.solver.ode import Euler as Thing", "BROKEN, TypeError: Euler is a solver, not a process"),
        ('class Thing:\n    """A path of my own.\n\n    More."""', "A path of my own. (not a process's class"),
        ("class Thing: pass", "no description"),
        ('def Thing():\n    """Makes a path."""', "Makes a path."),
    ],
)
def test_list_says_what_a_plugin_is_or_why_it_cannot_be_used(plugins, monkeypatch, capsys, tmp_path, source, said):
    (tmp_path / "plugged.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugged", raising=False)
    plugins(("mine", "plugged:Thing", "my-plugin"))
    assert run_cli(monkeypatch, "list", "processes") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["mine"]]
    assert len(lines) == 1
    assert said in lines[0]
    assert "[plugin of my-plugin]" in lines[0]
    monkeypatch.delitem(sys.modules, "plugged", raising=False)


def test_doctor_names_a_broken_plugin(plugins, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    plugins(BROKEN, GOOD)
    assert run_cli(monkeypatch, "doctor") == 1
    out = capsys.readouterr().out
    assert "plugin plain (processes) of good-plugin: imports" in out
    assert "plugin broken (processes): BROKEN, ModuleNotFoundError" in out


def test_a_bench_plans_with_a_plugin(plugins, monkeypatch, capsys, tmp_path):
    """The distribution's version is part of the cells' identity, so this one has to be installed."""
    monkeypatch.chdir(tmp_path)
    plugins(BROKEN, ("plain", f"{__name__}:Plain", "pytest"))
    assert run_cli(monkeypatch, "bench", "--process", "plain", "--solver", "heun", "--nfe", "5", "--dry-run") == 0
    assert "sample plain heun 5 seed 0" in capsys.readouterr().out


# ---- laziness --------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize(
    "code",
    [
        "import genflow",
        "import genflow.bench.runner, genflow.bench.tables",
        "run('--help')",
        "run('list')",
        "run('bench', '--help')",
        "run('bench', '--dry-run')",
        "run('bench', '--nfe', '0', code=2)",
    ],
)
def test_nothing_heavy_is_imported(code, tmp_path):
    script = f"""
import sys
def run(*words, code=0):
    from genflow.cli import run as cli
    sys.argv = ["genflow", *words]
    assert cli() == code
{code}
print("HEAVY:", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY:"
    assert list(tmp_path.iterdir()) == []


# ---- options ---------------------------------------------------------------------------------------------


class Options:
    """A stand-in for a class with options of every annotation."""

    def __init__(self, flip: bool = True, root: "str | None" = None, size: int = 1, either: "str | float" = 1.0):
        self.root = root
        self.half = size / 2


@pytest.fixture
def registry():
    found = Registry("thing", "genflow.backbone", "genflow.none", ("size",))
    found.add("thing", Options)
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flip": "abc"}, "thing 'thing': flip = 'abc' is not allowed; give true or false"),
        ({"flip": 1}, "flip = 1 is not allowed"),
        ({"flip": None}, "flip = None is not allowed"),
        ({"root": 5}, "root = 5 is not allowed; give a word"),
        ({"root": "x", "size": [1]}, "no thing 'thing' can be made with root = 'x': a value is of the wrong kind"),
    ],
)
def test_options_of_the_wrong_kind_are_named(registry, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        registry.get("thing", **options)


def test_options_of_the_right_kind_pass_and_errors_without_options_stay(registry, tmp_path):
    for options in (
        {},
        {"flip": False},
        {"root": None},
        {"root": "x"},
        {"root": tmp_path},
        {"either": "x"},
        {"size": 4},
    ):
        assert registry.get("thing", **options).root == options.get("root")
    with pytest.raises(TypeError):
        registry.get("thing", size=[1])


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ncsnv2", "normalise", "abc"),
        ("ncsnv2", "centre", "abc"),
        ("ncsnv2", "size", [1]),
        ("ddpmpp", "size", [1]),
        ("ddpmpp", "attention", "abc"),
        ("ddpmpp", "fir", "abc"),
        ("ddpmpp", "deep", "abc"),
        ("mlp", "normalise", "abc"),
        ("mlp", "width", [1]),
    ],
)
def test_backbones_refuse_values_of_the_wrong_kind(name, option, value):
    with pytest.raises(ValueError, match=re.escape(f"{option} = {value!r} is not allowed")):
        genflow.get_backbone(name, shape=(1, 8, 8), **{option: value})


def test_a_data_set_s_folder_is_a_word():
    with pytest.raises(ValueError, match="dataset 'cifar10': root = 5 is not allowed; give a word"):
        genflow.get_dataset("cifar10", root=5)
