"""The page: values are escaped, it needs no network, and it says what the numbers say and no more."""

import html
import json
import re

import pytest

from genflow.bench.store import Store
from genflow.bench.tables import Table
from genflow.config import BenchConfig
from genflow.report.figures import slug
from genflow.report.page import Content, cards, configuration, lead, marked, page
from genflow.report.record import Record

EVIL = "<script>alert(1)</script>"


def content(tmp_path, rows=(), tables=(), config=None, **record):
    return Content(config or BenchConfig(), Store(tmp_path), [], [], rows, tables, [], Record(**record))


def test_values_from_the_run_are_escaped(tmp_path, row):
    table = Table(EVIL, ["process"], [["<b>x</b>"]], "a < b `<i>`")
    rows = [row(EVIL, 2.0), row("pfgm", 1.0), row("pfgm", None, solver=EVIL)]
    config = BenchConfig(out=f"runs/{EVIL[:8]}", process_options={"pfgm": {"gamma": EVIL}})
    facts = {"commands": (f"genflow bench --out '{EVIL}'",), "notes": (EVIL,), "environment": {EVIL: EVIL}}
    text = page(content(tmp_path, rows, [table], config, **facts, origin={"out": EVIL}))
    assert EVIL not in text
    assert "<b>x</b>" not in text
    assert "<i>" not in text
    assert text.count(html.escape(EVIL)) >= 7
    assert text.count("<script>") == 1  # the page's own


def test_it_asks_nobody_for_anything(tmp_path, row):
    """No address of a server, and a policy that allows this style and this script by their hashes alone."""
    text = page(content(tmp_path, [row()]))
    assert "://" not in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", text)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src &#39;none&#39;; img-src data:")
    assert "unsafe" not in policy


def test_cards_show_the_best_setting_against_the_floor(row):
    rows = [row("data", 2.0, solver="", budget=None), row("pfgm", 9.0), row("pfgm", 5.0, budget=20), row("vp_ode", 6.0)]
    found = cards(rows)
    assert [c["value"] for c in found] == ["5", "6", "2"]
    assert "heun, NFE 20" in found[0]["how"]
    assert "2.5 × real against real" in found[0]["how"]


def test_cards_of_a_metric_where_more_is_better(row):
    rows = [row(p, v, metric="IS", entry="is") for p, v in (("pfgm", 3.0), ("vp_ode", 4.0))]
    assert [c["what"] for c in cards(rows)] == ["vp_ode", "pfgm"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (3.0, "pfgm (heun, NFE 10) with 2.000 ± 0.058 is ahead of vp_ode"),
        (2.1, "there is no significant difference between pfgm (heun, NFE 10) with 2.000 ± 0.058 and vp_ode"),
        (2.1, "The difference is 0.10 ± 0.12 (p = 0.48; significant from 0.497)"),
    ],
)
def test_the_sentence_claims_no_more_than_the_tests_allow(row, second, words):
    rows = [row("pfgm", 2.0 + v, seed=s) for s, v in enumerate((0, 0.1, -0.1))]
    assert words in lead([*rows, *(row("vp_ode", second - v, seed=s) for s, v in enumerate((0, 0.1, -0.1)))])


def test_the_sentence_of_one_training_seed_judges_nothing(row):
    said = lead([row("pfgm", 2.0, stderr=0.001), row("vp_ode", 3.0, stderr=0.001)])
    assert "pfgm (heun, NFE 10) with 2.0000 ± 0.0010 has the best mean, then vp_ode" in said
    assert "One training seed allows no verdict" in said
    assert "ahead" not in said


def test_the_sentence_of_one_process_and_of_none(row):
    assert "no other process to compare it with" in lead([row("pfgm", 2.0)])
    assert lead([]) == ""
    assert lead([row("pfgm", 2.0, metric="unheard of", entry="plugin")]) == ""


def test_the_best_of_each_column_is_marked_and_the_floor_is_not():
    lines = [["real test split", "–", "1.00", "1.00"], ["a", "heun", "9.10 ± 0.2", "3.00"], ["b", "heun", "10.2", ""]]
    table = Table("FD[digits] against NFE", ["process", "solver", "NFE 5", "own NFE"], lines, "", 1)
    assert marked(table) == {(1, 2)}  # the last column has one number: nothing to be best of
    assert marked(Table("unheard of", table.header, lines, "")) == set()
    assert marked(Table("higher", table.header, lines, "", -1)) == {(2, 2)}


def test_every_setting_stands_with_its_value_and_its_origin():
    config = BenchConfig(nfe=(5, 10), seed=(3,))
    found = {
        key: (value, source, changed) for key, value, source, changed in configuration(config, {"nfe": "a.yaml:2"})
    }
    assert found["nfe"] == ("5, 10", "a.yaml:2", True)
    assert found["seed"] == ("3", "set", True)
    assert found["train.lr"] == ("0.005", "default", False)


def test_file_names_of_any_words():
    assert slug("torchdiffeq/dopri5") == "torchdiffeq-dopri5"
    assert slug("../../x") == "..-..-x"
    assert slug("<>") == "x"


def test_a_bench_without_numbers_still_has_a_page(tmp_path):
    text = page(content(tmp_path))
    assert "<h2>Summary</h2>" in text
    assert json.dumps("nan") not in text
