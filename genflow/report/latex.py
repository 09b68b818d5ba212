"""Tables for LaTeX, in the style of booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from genflow.bench.tables import Table
from genflow.report.words import WORDS, is_real

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
}
"""Characters with a special meaning in LaTeX."""

SYMBOLS = {
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "²": r"\textsuperscript{2}",
    "∇": r"$\nabla$",
    "√": r"$\surd$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "·": r"$\cdot$",
    "σ": r"$\sigma$",
    "γ": r"$\gamma$",
    "ε": r"$\varepsilon$",
    "η": r"$\eta$",
    "Δ": r"$\Delta$",
    "∫": r"$\int$",
    "⟨": r"$\langle$",
    "⟩": r"$\rangle$",
}
"""Characters that pdfLaTeX does not know in text mode."""


def latex_safe(text: str) -> str:
    """Text that LaTeX prints unchanged, without control characters; letters in neither table stay as they are."""
    kept = (c for c in text.replace("\n", " ") if c.isprintable())
    return "".join(SPECIAL.get(c) or SYMBOLS.get(c) or c for c in kept)


def to_latex(found: Sequence[Table], command: str) -> str:
    """tables.tex: every table in a `table` environment with its caption; needs \\usepackage{booktabs}."""
    head = f"% Made by: {' '.join(command.split())}\n% In the preamble: \\usepackage{{booktabs}}\n\n"
    return head + "\n".join(_table(table) for table in found)


def _table(table: Table) -> str:
    columns = "".join("l" if i == 0 or name in WORDS else "r" for i, name in enumerate(table.header))
    lines = [_line(table.header), r"\midrule"]
    for row in table.rows:
        lines += [_line(row), *([r"\midrule"] if is_real(row[0]) else [])]
    body = "\n".join(f"    {line}" for line in (r"\toprule", *lines, r"\bottomrule"))
    caption = latex_safe(f"{table.title}. {table.caption}".replace("`", ""))
    return (
        "\\begin{table}[htbp]\n  \\centering\n"
        f"  \\caption{{{caption}}}\n"
        f"  \\begin{{tabular}}{{{columns}}}\n{body}\n  \\end{{tabular}}\n"
        "\\end{table}\n"
    )


def _line(cells: Sequence[str]) -> str:
    text = " & ".join(latex_safe(cell) for cell in cells) + r" \\"
    return f"{{}}{text}" if text.startswith(("[", "*")) else text  # after \\\\ these would be read as its argument
