"""Distances of a study along what it varies: their table, their growths and their curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genflow.bench.tables import Table
from genflow.claims.claim import Verdict
from genflow.claims.draw import Axes, Curve, curves
from genflow.claims.judge import Ends, loses_least
from genflow.claims.studies.measure import BlockDistance, Blocks
from genflow.claims.studies.subjects import Subject
from genflow.estimates import DRAWS, TRAININGS, Estimate, mean, short
from genflow.report.palette import palette

SEED = ", seed "
"""Separates process and seed in a subject's label, where a study has several seeds."""


def label(subject: Subject, among: Sequence[Subject]) -> str:
    """The subject's name, with its seed where there are several."""
    return subject.name if len({one.seed for one in among}) == 1 else f"{subject.name}{SEED}{subject.seed}"


def over_seeds(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Numbers by process over training seeds, from numbers by process and seed; those of one seed as they are."""
    groups: dict[str, dict[str, Estimate]] = {}
    for name, one in found.items():
        process, _, seed = name.partition(SEED)
        groups.setdefault(process, {})[seed] = one
    return {name: _joined(own) if len(own) > 1 else next(iter(own.values())) for name, own in groups.items()}


def _joined(own: Mapping[str, Estimate]) -> Estimate:
    trained = any(one.seeds is not None for one in own.values())
    values = {seed: one.value for seed, one in own.items()}
    return mean(values, TRAININGS if trained else DRAWS, len(own) if trained else None)


@dataclass
class Series:
    """Distances by panel, line and level.

    Arguments:
        distance: What was measured.
        word: A level in words.
        falling: Whether the largest level is the first.
        panels: The distances; a level is what the study varies, None for what a solver chooses itself.
    """

    distance: BlockDistance
    word: Callable[[Any], str] = str
    falling: bool = False
    panels: dict[str, dict[str, dict[Any, Blocks]]] = field(default_factory=dict)

    def add(self, panel: str, line: str, level: Any, found: Blocks) -> None:
        """Puts a distance in its place."""
        self.panels.setdefault(panel, {}).setdefault(line, {})[level] = found

    def only(self, *panels: str) -> Series:
        """Some of the panels."""
        return replace(self, panels={name: self.panels[name] for name in panels})

    def without(self, level: Any) -> Series:
        """All levels but one."""
        kept = {
            panel: {line: {k: b for k, b in by.items() if k != level} for line, by in lines.items()}
            for panel, lines in self.panels.items()
        }
        return replace(self, panels=kept)

    def levels(self) -> list[Any]:
        """Every level once: numbers in their order, words as they came; None last."""
        known = dict.fromkeys(level for _, _, by in self._lines() for level in by)
        numbers = sorted((one for one in known if isinstance(one, int | float)), reverse=self.falling)
        return [*numbers, *(one for one in known if isinstance(one, str)), *([None] if None in known else [])]

    def _lines(self) -> Iterator[tuple[str, str, dict[Any, Blocks]]]:
        for panel, lines in self.panels.items():
            for line, by in lines.items():
                yield panel, line, by

    def table(
        self, title: str, head: str, caption: str, name: Callable[[str, str], str] = lambda panel, line: line
    ) -> Table:
        """A line for each panel and line, by default called as the line is; a column for each level."""
        levels = self.levels()
        body = [["real test split", *[short(self.distance.floor)] * len(levels)]]
        for panel, line, by in self._lines():
            cells = [_cell(level, by[level]) if level in by else "" for level in levels]
            body.append([name(panel, line), *cells])
        return Table(f"{self.distance.name} {title}", [head, *map(self.word, levels)], body, caption)

    def growths(self, panel: str, level: Any, since: Any, what: str) -> list[Verdict]:
        """Verdicts on the first line's distance growing least from one level to another: as a factor, and by how much.

        A line with seeds stands for its process with the others of it.
        """
        lines = self.panels[panel]
        worse, good = (over_seeds({name: by[one].mean for name, by in lines.items()}) for one in (level, since))
        ends: dict[str, Ends] = {name: (worse[name], good[name]) for name in worse}
        first, found = next(iter(ends)), []
        for factor in (True, False):
            one = loses_least(first, ends, f"{self.distance.name}: ", factor)
            how = "a factor" if factor else "a difference"
            found.append(replace(one, claim=f"{first}'s distance grows the least {what}, as {how}."))
        return found

    def remarks(self, panel: str, level: Any, since: Any, what: str) -> list[str]:
        """The numbers behind `growths`, where a recipe judges them."""
        return [f"{what[:1].upper()}{what[1:]}, {one.evidence}." for one in self.growths(panel, level, since, what)]

    def draw(
        self,
        path: Path,
        x: str,
        colours: Mapping[str, str] | None = None,
        by_nfe: bool = False,
        named: bool = False,
        log_x: bool = True,
    ) -> dict[str, str]:
        """Draws a panel for each of the panels.

        Arguments:
            path: Of the picture.
            x: Label of the axis of levels.
            colours: By line; the palette's by default.
            by_nfe: Whether a level's place is what was spent there.
            named: Whether it is its place in the list of levels, under its word.
            log_x: Whether places are on a logarithmic axis.

        Returns:
            The caption by file name.
        """
        levels, order = self.levels(), list(dict.fromkeys(line for _, line, _ in self._lines()))
        colours = colours or palette(order)
        groups: dict[str, list[Curve]] = {}
        for panel, line, by in self._lines():
            at = {k: b.nfe if by_nfe else levels.index(k) if named else k for k, b in by.items()}
            shown = sorted(by, key=lambda level: at[level])
            values = [by[level].mean for level in shown]
            curve = Curve(line, [at[level] for level in shown], values, colours[line], order.index(line) % 4)
            groups.setdefault(panel, []).append(curve)
        names = [self.word(level) for level in levels] if named else []
        places = [level for level in levels if level is not None]
        curves(path, groups, Axes(x, self.distance.name, self.distance.floor, places, log_x, names))
        return {path.name: f"{self.distance.name} against the {x}. Bars are one standard error."}


def _cell(level: Any, found: Blocks) -> str:
    return f"{found.mean!s} (NFE {found.nfe:.0f})" if level is None else str(found.mean)
