"""A metric that only a plugin knows, with its own label, unit and direction, through the whole report."""

from __future__ import annotations

from importlib import metadata

import pytest

from genflow.bench.tables import tables
from genflow.config import BenchConfig
from genflow.estimates import HOLDS
from genflow.evaluate.base import Measured, Metric, Result
from genflow.evaluate.facts import Number, _number_of, direction, facts, headline, number_of, owner
from genflow.registry import Registry, registries
from genflow.report.curves import described
from genflow.report.figures import _model_figures, quality_figures
from genflow.report.latex import to_latex
from genflow.report.measures import leaders
from genflow.report.page import cards, lead, marked


class Sharpness(Metric):
    """Edges of samples."""

    label, better, unit = "sharpness", "higher", "dB"

    def measure(self, context):
        return Result([Measured("sharp", 1.0, len(context.samples), "by hand")])


class Smoothness(Metric):
    """A number of a model, and another that is nobody's to rank."""

    needs = "model"
    numbers = (Number("smooth", better="lower", unit="1/m"), Number("wobble", table="list"))

    def measure(self, context):
        return Result([])


@pytest.fixture(params=["tags", "class", "entry point"])
def plugin(request, monkeypatch):
    """Both metrics, registered in each of the ways there are."""
    registry = registries()["metrics"]
    if request.param == "entry point":

        class Point:
            group, dist = "genflow.metrics", None

            def __init__(self, name, value):
                self.name, self.value = name, value

        points = [Point(name, f"{__name__}:{name.title()}ness") for name in ("sharp", "smooth")]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == registry.group else [])
        monkeypatch.setattr(registry, "_found", None)
        _number_of.cache_clear()
        monkeypatch.setattr(
            Registry, "load", lambda self, name: {"sharp": Sharpness, "smooth": Smoothness}[name], raising=True
        )
        yield
        monkeypatch.undo()
        registry._found = None
        _number_of.cache_clear()
        return
    by_tags = request.param == "tags"
    told = {"needs": "samples", "label": "sharpness", "better": "higher", "unit": "dB"} if by_tags else {}
    registry.add("sharp", object if by_tags else Sharpness, tags=told)
    registry.add(
        "smooth",
        object if by_tags else Smoothness,
        tags={"needs": "model", "numbers": Smoothness.numbers} if by_tags else {},
    )
    yield
    registry.remove("sharp")
    registry.remove("smooth")


@pytest.fixture
def rows(row):
    """Three seeds of two processes at two budgets, and of their models."""

    def of(process, value, metric, **more):
        return [row(process, value + 0.1 * s, metric, seed=s, **more) for s in range(3)]

    sharp = [
        one
        for process, value in (("pfgm", 5.0), ("vp_ode", 9.0))
        for budget in (5, 10)
        for one in of(process, value, "sharp", entry="sharp", budget=budget, nfe=budget)
    ]
    model = {"entry": "smooth", "solver": "", "budget": None, "nfe": None, "of": "model"}
    smooth = [*of("pfgm", 1.0, "smooth", **model), *of("vp_ode", 2.0, "smooth", **model)]
    return [*sharp, *smooth, *of("pfgm", 7.0, "wobble", **model)]


def test_its_facts(plugin):
    fact = number_of("sharp", "sharp")
    assert (fact.better, fact.sign, fact.unit, fact.table) == ("higher", -1, "dB", "nfe")
    assert described("sharp", fact) == "sharpness, dB (higher is better)"
    assert number_of("smooth", "smooth").table == "model"
    assert number_of("wobble", "smooth").table == "list"
    assert owner("smooth", ["fd", "smooth", "sharp"]) == "smooth"
    assert owner("whatever", ["fd", "smooth", "sharp"]) == "sharp"


def test_its_tables_and_latex(plugin, rows):
    found = {table.title: table for table in tables(rows)}
    assert list(found) == ["sharpness against NFE", "smooth", "Other measurements"]
    sharp = found["sharpness against NFE"]
    assert sharp.caption.startswith("In dB; higher is better. ")
    assert sharp.rows[1] == ["vp_ode", "heun", "9.100 ± 0.058", "9.100 ± 0.058"]
    assert marked(sharp) == {(1, 2), (1, 3)}
    assert found["smooth"].header[1] == "smooth, 1/m"
    assert [line[5] for line in found["smooth"].rows] == ["0", "1", "2", "mean"] * 2
    assert "sharpness against NFE" in to_latex(list(found.values()), "genflow bench")


def test_its_ranking(plugin, rows):
    assert headline(rows) == "sharp"
    assert [direction(rows, metric) for metric in ("sharp", "smooth", "wobble")] == [-1, 1, 0]
    assert [card["what"] for card in cards(rows)] == ["vp_ode", "pfgm"]
    found = {(one.metric, one.where): one for one in leaders(rows)}
    assert set(found) == {
        ("sharp", "NFE 5"),
        ("sharp", "NFE 10"),
        ("sharp", "each at its best"),
        ("smooth", "as measured"),
    }
    assert found["sharp", "NFE 5"].first.process == "vp_ode"
    assert found["smooth", "as measured"].first.process == "pfgm"
    assert {one.judgement.word for one in found.values()} == {HOLDS}
    assert lead(rows).startswith("On sharpness, vp_ode (heun, NFE 5) with 9.100 ± 0.058 is ahead of pfgm")


@pytest.mark.quick_one_in(3)
def test_its_plots(plugin, rows, tmp_path):
    figures = [*quality_figures(rows, tmp_path, {}), *_model_figures(rows, {}, {}, tmp_path, {})]
    assert [(figure.title, figure.path.is_file()) for figure in figures] == [
        ("sharpness against NFE", True), ("smooth", True)
    ]  # fmt: skip
    assert "over 3 training seeds" in figures[0].caption


def test_it_is_planned_on_what_it_needs(plugin):
    from genflow.bench.cells import plan

    config = BenchConfig(process=("vp_ode",), solver=("heun",), nfe=(5,), metric=("sharp", "smooth"))
    cells = [cell for cell in plan(config) if cell.kind == "metric" and cell.labels["process"] != "data"]
    assert {(cell.spec["metric"], cell.spec["of"]) for cell in cells} == {("sharp", "samples"), ("smooth", "model")}


@pytest.mark.parametrize("name", registries()["metrics"].entries())
def test_every_built_in_metric_names_the_kinds_of_its_numbers(name):
    """Readable without importing the class: no built-in number falls to the rest."""
    entry = registries()["metrics"].entry(name)
    assert entry.tags["numbers"]
    assert all(number.kind for number in entry.tags["numbers"])
    assert facts({"metric": entry.tags["numbers"][0].kind + "[x]", "entry": name}).table
