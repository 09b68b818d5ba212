"""Former names of modules, and of what they held, still work and warn."""

import importlib
import subprocess
import sys

import pytest

import genflow.convert.configs  # noqa: F401  # the package itself holds no other name
from genflow.former import MODULES, NAMES


@pytest.mark.parametrize(("old", "new"), list(MODULES.items()))
def test_a_former_module_is_the_present_one(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=rf"{old} is now {new}"):
        former = importlib.import_module(old)
    now = importlib.import_module(new)
    names = [name for name in vars(now) if not name.startswith("__")]
    assert names
    assert all(getattr(former, name) is getattr(now, name) for name in names)
    with pytest.raises(AttributeError):
        _ = former.no_such_name


def test_modules_below_a_former_package_are_found():
    for name in [name for name in sys.modules if name.startswith("genflow.published")]:
        del sys.modules[name]
    with pytest.warns(FutureWarning):
        from genflow.published.read import read_published
    assert read_published.__module__ == "genflow.convert.read"


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_a_name_that_has_moved_is_found_where_it_was(module, name):
    place = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=rf"{module}\.{name} is now"):
        assert getattr(place, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = place.no_such_name


def test_an_unknown_module_is_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"genflow\.data\.no_such"):
        importlib.import_module("genflow.data.no_such")


def test_the_package_itself_uses_no_former_name():
    code = "import warnings; warnings.simplefilter('error', FutureWarning); import genflow.commands.bench, genflow.cli"
    subprocess.run([sys.executable, "-c", code], check=True)
