"""What a recipe leaves in its folder (table.md, table.csv, findings.md, results.csv, configs/, pictures), and what a
study does (results.csv, table.md, README.md, pictures)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from genflow.bench.cells import REAL
from genflow.bench.rows import COLUMNS, Row
from genflow.checkpoint import write_file
from genflow.claims.claim import Verdict, family, summary
from genflow.claims.recipe import Comparison, Recipe, Work
from genflow.claims.results import Number, Results, number
from genflow.claims.studies import Outcome, StudyEntry
from genflow.config import to_dict
from genflow.estimates import meaning, short
from genflow.evaluate.protocol import is_missing, reason
from genflow.report.environment import environment
from genflow.report.words import REAL_SPLIT

if TYPE_CHECKING:
    from genflow.claims.parts import Part, Settings

NOT_RUN, SEVERAL, STUDY = "not run at this scale", "several numbers: see results.csv", "study"
VERDICTS = (
    "Verdicts are by two-sided t tests at 5 %, paired by seed where both numbers have the same seeds, with Holm's "
    "correction for the number of claims; p is after it. One training seed gets no verdict on a process."
)
FLOOR_NOTE = (
    f"Rows of the {REAL_SPLIT} are measured here, not published: the value of real data by the same measure. Their n "
    "is in the protocol."
)
TABLE = (
    *("what", "published_metric", "published", "published_protocol", "source"),
    *("metric", "measured", "error", "nfe", "n", "seeds", "protocol"),
)


STUDY_COLUMNS = (
    *("study", "process", "backbone", "dataset", "solver", "nfe", "setting", "level", "metric", "value", "stderr"),
    *("n", "seed", "protocol", "seconds"),
)


def write_recipe(recipe: Recipe, settings: Settings, parts: Sequence[Part], done: Work, command: str) -> None:
    """Writes every output of a recipe."""
    out = settings.out
    (out / "configs").mkdir(parents=True, exist_ok=True)
    _draw(recipe, done, out)
    found: list[tuple[Comparison, Number | str]] = [(line, measured(line, done.results)) for line in recipe.comparisons]
    found += floors(done.results, [one for _, one in found if isinstance(one, Number)])
    write_file(out / "table.csv", csv_text(TABLE, [csv_row(line, number) for line, number in found]))
    write_file(out / "results.csv", csv_text(("part", *COLUMNS), done.results.rows))
    write_file(out / "table.md", table(recipe, settings, found, done, command))
    write_file(out / "findings.md", findings(recipe, settings, done, command))
    for part in parts:
        bench = done.benches[part.name]
        write_file(out / "configs" / f"{part.name}.yaml", yaml.safe_dump(to_dict(bench.config), sort_keys=False))


def _draw(recipe: Recipe, done: Work, out: Path) -> None:
    """A recipe's pictures; one that cannot be drawn counts as a failure, and the rest is written."""
    try:
        done.captions |= recipe.draw(done.results, out) if recipe.draw else {}
    except (ValueError, LookupError) as error:
        done.failures["the picture"] = str(error)


def measured(line: Comparison, results: Results) -> Number | str:
    """The measured number of a row of the table, or why there is none: not run at this scale, or not one number."""
    wanted = line.find.get(results.scale)
    if wanted is None:
        return NOT_RUN
    why = (reason(row) for row in results.rows if is_missing(row) and all(row.get(k) == v for k, v in wanted.items()))
    try:
        return results.find(**wanted) or next(why, NOT_RUN)
    except ValueError:
        return SEVERAL


def floors(results: Results, shown: Sequence[Number]) -> list[tuple[Comparison, Number]]:
    """Rows of the table for the real test split: its value by each metric of the table, once for each data set.

    Arguments:
        results: All that was measured.
        shown: Numbers that the table has already.
    """
    known = {_of_real(row) for one in shown for row in one.rows}
    metrics = {one.rows[0]["metric"].partition("@")[0] for one in shown}
    fresh: dict[tuple[object, ...], Row] = {}
    for row in results.select(process=REAL):
        if row["part"] != STUDY and row["metric"] in metrics and _of_real(row) not in known:
            fresh.setdefault(_of_real(row), row)
    return [(Comparison(f"{REAL_SPLIT}, {row['dataset']}", None, {}), number([row])) for row in fresh.values()]


def _of_real(row: Row) -> tuple[object, ...]:
    """What a measurement of real data is known by: parts with the same data repeat it."""
    return tuple(row.get(name) for name in ("process", "dataset", "metric", "value", "n", "protocol"))


def csv_row(line: Comparison, number: Number | str) -> dict[str, object]:
    """A row of table.csv, numbers in full precision."""
    row: dict[str, object] = {"what": line.what}
    if line.published:
        own = line.published
        row |= {"published_metric": own.metric, "published": own.value}
        row |= {"published_protocol": own.protocol, "source": own.source}
    if isinstance(number, str):
        return row | {"protocol": number}
    first = number.rows[0]
    row |= {"metric": first["metric"], "measured": number.value, "error": _known(number.error)}
    row |= {"nfe": _known(number.nfe), "n": first["n"], "seeds": _seeds(number), "protocol": _protocol(number)}
    return row


def _seeds(number: Number) -> int:
    return len({row["seed"] for row in number.rows})


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _protocol(number: Number) -> str:
    first = number.rows[0]
    parts = [first["dataset"], first["backbone"], first["solver"], first["protocol"]]
    seeds = f"seed{'s' * (_seeds(number) > 1)} {', '.join(str(row['seed']) for row in number.rows)}"
    return "; ".join([*(str(word) for word in parts if word), f"n = {first['n']}", seeds])


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows under their columns, numbers in full precision; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in one.items()})
    return buffer.getvalue()


def pictures(captions: Mapping[str, str]) -> list[str]:
    """Markdown that shows pictures, by file, with their captions."""
    return [f"![{caption}]({name})\n\n*{caption}*\n" for name, caption in captions.items()]


# ---- table.md --------------------------------------------------------------------------------------------------------


class _Notes:
    """Protocols by their mark: p1, p2, ... for published ones, m1, m2, ... for measured ones."""

    def __init__(self, letter: str) -> None:
        self.letter, self.known = letter, dict[str, str]()

    def mark(self, text: str) -> str:
        return self.known.setdefault(text, f"{self.letter}{len(self.known) + 1}")

    def lines(self) -> list[str]:
        return [f"* **{mark}**: {text}" for text, mark in self.known.items()]


def table(
    recipe: Recipe, settings: Settings, found: Sequence[tuple[Comparison, Number | str]], done: Work, command: str
) -> str:
    """table.md: published and measured side by side, each with the mark of its protocol."""
    published, own = _Notes("p"), _Notes("m")
    body = [_line(line, number, published, own) for line, number in found]
    header = ["", "published", "protocol", "measured", "NFE", "protocol"]
    text = [f"# {recipe.title}", "", f"{recipe.paper}. Scale: {settings.scale}.", ""]
    if body:
        text += [_cells(header), _cells(["---"] * len(header)), *map(_cells, body), ""]
        words = meaning(one for _, one in found if isinstance(one, Number))
        text += [f"{words}; as the protocol says where it is of one measurement.", ""] if words else []
        text += [FLOOR_NOTE, ""] if any(line.what.startswith(REAL_SPLIT) for line, _ in found) else []
    if published.known:
        text += ["Published:", "", *published.lines(), ""]
    if own.known:
        text += ["Measured:", "", *own.lines(), ""]
    text += pictures(done.captions)
    return "\n".join([*text, *_made(settings, command)])


def _line(line: Comparison, number: Number | str, published: _Notes, own: _Notes) -> list[str]:
    cells = [line.what]
    if line.published:
        known = line.published
        cells += [f"{known.metric} {known.value:g}", published.mark(f"{known.protocol}. Source: {known.source}")]
    else:
        cells += ["–", ""]
    if isinstance(number, str):
        return [*cells, number, "", ""]
    calls = short(number.nfe) if math.isfinite(number.nfe) else ""
    return [*cells, f"{number.rows[0]['metric']} {number}", calls, own.mark(_protocol(number))]


def _made(settings: Settings, command: str) -> list[str]:
    lines = [f"Made by `{command}`." if command else ""]
    if settings.changes:
        lines.append("Changed from the recipe: " + ", ".join(f"`{change}`" for change in settings.changes) + ".")
    found = environment()
    shown = ("genflow", "Python", "CPU", "cores this process may use", "torch")
    lines.append("Environment: " + ", ".join(f"{name} {found[name]}" for name in shown if name in found) + ".")
    return [*lines, ""]


# ---- findings.md -----------------------------------------------------------------------------------------------------


def findings(recipe: Recipe, settings: Settings, done: Work, command: str) -> str:
    """findings.md: what the paper says, and which claims hold at this scale by the numbers."""
    text = [f"# {recipe.title}", "", f"**Paper**: {recipe.paper}. {recipe.claim}", ""]
    text += [f"**Scale**: {settings.scale}. " + " ".join(recipe.notes), ""]
    text += verdict_table([claim.verdict(done.results) for claim in recipe.claims])
    text += ["", VERDICTS, "", *(f"* {line}" for line in gaps(done)), "", *_made(settings, command)]
    return "\n".join(text)


def verdict_table(found: Sequence[Verdict]) -> list[str]:
    """A line of markdown for each claim of one recipe or study, corrected together."""
    lines = [_cells((one.claim, f"**{one.word}**", one.evidence)) for one in family(found)]
    return [_cells(("claim", "verdict", "evidence")), _cells(["---"] * 3), *lines]


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def gaps(done: Work) -> list[str]:
    """What failed or could not be measured, each once, with the reason."""
    failed = [f"{name} failed: {why}" for name, why in done.failures.items()]
    lacking = [f"{row['metric']} was not measured: {reason(row)}" for row in done.results.rows if is_missing(row)]
    return list(dict.fromkeys([*failed, *lacking]))


# ---- a study's folder ------------------------------------------------------------------------------------------------

PAIRED = (
    "Blocks of two settings begin at the same draws of the prior, and growths and differences are taken block by "
    "block, so their errors are smaller than those of the distances themselves. With one training seed ± is over "
    "blocks; with several, it is over seeds, and growths and differences are paired by seed."
)


def write_study(name: str, entry: StudyEntry, found: Outcome, out: Path, command: str) -> None:
    """Writes every output of a study."""
    write_file(out / "results.csv", csv_text(STUDY_COLUMNS, found.rows))
    write_file(out / "table.md", "\n".join(one.markdown() for one in found.tables))
    for file, words in found.files.items():
        write_file(out / file, words)
    captions = found.draw(out)
    for file in captions:
        shrink(out / file)
    write_file(out / "README.md", study_page(name, entry, found, captions, command))


def shrink(path: Path) -> None:
    """Writes a picture with 256 colours, which is enough for lines and letters and takes a third of the room."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    small.save(path, optimize=True)


def study_page(name: str, entry: StudyEntry, found: Outcome, captions: Mapping[str, str], command: str) -> str:
    """README.md: the command, what is claimed, what was found, the tables and the pictures."""
    parts = [
        f"# Study {name}: {entry.summary}",
        f"Made by `{command}`. Every number with its protocol is in `results.csv`.",
        f"**Claimed.** {entry.claimed}",
        " ".join(filter(None, ("**Found.**", summary(family(found.verdicts))))),
        "\n".join(f"* {remark}" for remark in found.remarks),
        "\n".join(verdict_table(found.verdicts)) if found.verdicts else "",
        f"**Protocol.** {' '.join([*found.notes, PAIRED, *([VERDICTS] if found.verdicts else [])])}",
        "\n".join(pictures(captions)).rstrip(),
        "\n".join(one.markdown() for one in found.tables).rstrip(),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"
