"""Every recipe: its configurations, its published numbers, its plan at full scale, its claims without numbers."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest

import genflow
from genflow.bench.cells import plan
from genflow.claims.papers import get_recipe, recipes
from genflow.claims.parts import CONFIGS, Settings, absences, open_parts
from genflow.claims.recipe import SCALES
from genflow.claims.results import Results
from genflow.commands.reproduce import plan_lines
from genflow.config import ConfigError
from genflow.estimates import NOT_MEASURED

KNOWN = recipes()
each = pytest.mark.parametrize("recipe", KNOWN.values(), ids=list(KNOWN))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Settings of a machine without any file, by scale."""
    monkeypatch.setenv("GENFLOW_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    return lambda scale: Settings(scale, tmp_path / "out", tmp_path / "shared", tmp_path / "published")


@pytest.mark.quick_one_in(11)
@each
@pytest.mark.parametrize("scale", SCALES)
def test_both_scales_have_a_plan(recipe, scale, empty):
    """Processes, solvers, metrics and options of every bench go together; cells can be planned."""
    settings = empty(scale)
    parts = open_parts(recipe, settings)
    assert parts or recipe.study
    assert all(plan(part.config) for part in parts)
    text = "\n".join(plan_lines(recipe, settings))
    assert all(claim.text in text for claim in recipe.claims)
    assert all(f"{part.name}:" in text for part in parts)


@each
def test_published_numbers_have_a_source_and_a_protocol(recipe):
    for line in recipe.comparisons:
        if line.published:
            assert math.isfinite(line.published.value)
            assert len(line.published.source) > 10
            assert len(line.published.protocol) > 10


@pytest.mark.quick_one_in(3)
@each
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_looked_for_is_run(recipe, scale, empty):
    """A row of the table asks for a part, process, solver and budget that the scale's benches have."""
    parts = {part.name: part.config for part in open_parts(recipe, empty(scale))}
    for line in recipe.comparisons:
        wanted = line.find.get(scale)
        if wanted is None or ("solver" not in wanted and "budget" not in wanted):
            continue
        assert "part" not in wanted or wanted["part"] in parts, line.what
        asked = [parts[wanted["part"]]] if "part" in wanted else list(parts.values())
        assert any(wanted.get("process", config.process[0]) in config.process for config in asked), line.what
        assert any(wanted.get("solver", config.solver[0]) in config.solver for config in asked), line.what
        if wanted.get("budget") is not None:
            assert any(wanted["budget"] in config.nfe for config in asked), line.what


@each
@pytest.mark.parametrize("scale", SCALES)
def test_nothing_is_claimed_of_nothing(recipe, scale):
    """Without a single number no claim holds or fails: verdicts come from the results."""
    assert recipe.claims
    assert {claim.judge(Results(scale)).word for claim in recipe.claims} == {NOT_MEASURED}


@pytest.mark.quick_one_in(11)
@each
def test_full_scale_says_what_is_missing(recipe, empty):
    """Each published file is named with where it is from; data sets that do not ship are named, too."""
    settings = empty("full")
    parts = open_parts(recipe, settings)
    lines = absences(parts, settings)
    for part in parts:
        for one, path in part.weights:
            assert any(str(path) in line and one.origin in line for line in lines)
            assert f"genflow import {path} --preset {one.preset}" in "\n".join(plan_lines(recipe, settings))
    shipped = {"heart", "checkerboard", "digits", "mnist5k"}
    for name in {part.config.dataset for part in parts} - shipped:
        assert any(line.startswith(f"data set {name}: ") for line in lines), name


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'pfgm_nfe'"):
        get_recipe("pfgm_nfee")


def test_every_poisson_recipe_is_there():
    """The tables and figures of the two Poisson papers."""
    wanted = [
        "cifar10",
        "ncsnv2",
        "bpd",
        "nfe",
        "norm_z",
        "interpolation",
        "temperature",
        "celeba64",
        "lsun256",
        "heart",
        "collapse",
    ]
    assert {f"pfgm_{name}" for name in wanted} | {"pfgmpp_d"} <= set(KNOWN)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ConfigError, match="small, full"):
        Settings("medium")


def test_the_package_and_its_configurations_are_installed():
    """Every folder of the package is a package, and configurations are package data."""
    root = Path(genflow.__file__).parent
    folders = {file.parent for file in (root / "claims").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    data = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["genflow"]
    assert f"{CONFIGS.relative_to(root)}/*.yaml" in data


def test_a_sentence_about_the_same_data_is_judged_by_one_recipe(empty):
    """Two recipes that judge it from two configurations would give two answers."""
    judges: dict[tuple[str, str], list[str]] = {}
    for name, recipe in KNOWN.items():
        data = {part.config.dataset for part in open_parts(recipe, empty("full"))}
        for claim in recipe.claims:
            for one in data:
                judges.setdefault((claim.text, one), []).append(name)
    assert {key: names for key, names in judges.items() if len(names) > 1} == {}


def test_every_number_of_a_table_is_asked_for_by_its_metric():
    """Beside the headline a metric reports others of the same samples, so a query without one would match several."""
    queries = [q for one in KNOWN.values() for compared in one.comparisons for q in compared.find.values()]
    assert len(queries) > 100
    assert [q for q in queries if "metric" not in q] == []
