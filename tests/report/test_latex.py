"""tables.tex, read back as LaTeX reads it: environments, columns, escapes."""

import re

import pytest

from genflow.bench.tables import Table
from genflow.report.latex import SPECIAL, latex_safe, to_latex

HARD = r"a_b & 50% of $x^2 #1 {c} ~ \d < e | f " + '"g"'


def split_cells(line):
    """Cells of a table's line: split at ampersands that no backslash precedes."""
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]


def unescape(text):
    """What LaTeX prints for the commands that `latex_safe` writes."""
    back = {v: k for k, v in SPECIAL.items()}
    pattern = "|".join(re.escape(v) for v in sorted(back, key=len, reverse=True))
    return re.sub(pattern, lambda found: back[found[0]], text)


def test_escapes_print_as_what_they_were():
    assert unescape(latex_safe(HARD)) == HARD
    assert latex_safe("2 ± 1 × 3 −4 → ∞") == r"2 $\pm$ 1 $\times$ 3 $-$4 $\to$ $\infty$"


@pytest.mark.parametrize("character", list(SPECIAL))
def test_no_special_character_is_left_bare(character):
    found = latex_safe(f"x{character}y")
    assert unescape(found) == f"x{character}y"
    stripped = re.sub(r"\\[a-z]+\{\}|\\.|\{''\}", "", found)
    assert stripped == "xy"


def test_a_line_that_begins_with_a_bracket_is_no_argument_of_the_line_before():
    text = to_latex([Table("T", ["a", "b"], [["x", "1"], ["[y]", "2"], ["*", "3"]], "")], "genflow")
    assert "{}[y] & 2" in text
    assert "{}* & 3" in text


def test_tables_are_whole():
    header, rows = (
        ["process", "solver", "NFE 5", HARD],
        [["real test split", "–", "1", "2"], ["p_1", "a&b", "3 ± 1", ""]],
    )
    text = to_latex(
        [Table("FD & more", header, rows, "n = 5, `code` 100%"), Table("T", ["a"], [["b"]], "")], "genflow\nx"
    )
    assert text.splitlines()[0] == "% Made by: genflow x"
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", body) for word in ("begin", "end"))
    assert opened == ["table", "tabular"] * 2
    assert closed == ["tabular", "table"] * 2
    for rule in ("toprule", "bottomrule"):
        assert body.count(rf"\{rule}") == 2
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", body)[1]
    assert columns == "llrr"
    lines = [line.strip() for line in body.split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines() if line.strip()]
    assert [line for line in lines if line == r"\midrule"] == [r"\midrule"] * 2  # below the head and below the floor
    cells = [split_cells(line) for line in lines if line != r"\midrule"]
    assert {len(line) for line in cells} == {4}
    assert [unescape(c) for c in cells[0]] == header
    assert unescape(cells[2][1]) == "a&b"
    assert r"\caption{FD \& more. n = 5, code 100\%}" in body
    unbalanced = re.sub(r"\\[{}]", "", body)
    assert unbalanced.count("{") == unbalanced.count("}")
