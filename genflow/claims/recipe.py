"""What a recipe is: a table or figure of a paper, as benches to run, numbers to compare and claims to judge.

To add a recipe:

1. Write `configs/reproduce/<name>_small.yaml` and `<name>_full.yaml`: configurations of `genflow bench`, the first for
   data that ship, the second at the paper's scale. All benches of all recipes share one cells folder, so a model is
   trained once for all recipes whose configurations train it alike: leave `train` alone where you can.
2. In a module of `genflow/claims/papers/` that `__init__.MODULES` lists, put a `Recipe` into RECIPES: its `comparisons`
   (rows of the table: a published number and where the measured one is found, at each scale) and its `claims` (a
   sentence, and a function of the results that says whether it holds, by numbers). `judge.py` has the usual ones.
3. What a bench does not measure (a picture, a study of an exact field) is a `study`: a function of `Work` that writes
   pictures into its folder and returns rows, which are stored like those of a cell. Import torch inside, not above.
   `papers/measuring.py` has what such studies share.
4. Published numbers are those that were read in a paper or in its authors' repository; name the place in `source`.
   `tests/claims/test_recipes.py` goes over all recipes: it runs the full scale's plan, and holds the rest to this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genflow.bench.rows import Row
from genflow.claims.claim import Claim
from genflow.claims.results import Results

if TYPE_CHECKING:
    from genflow.bench.cells import Cell
    from genflow.bench.store import Store
    from genflow.config import BenchConfig

SCALES = ("small", "full")
"""small: data that ship, some minutes on two CPU cores. full: the paper's."""


# ---- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A number as its authors give it.

    Arguments:
        value: The number.
        metric: What it is, e.g. "FID".
        protocol: Data, solver, NFE, samples: what the source says of how it was measured, and what it leaves open.
        source: Where it was read.
    """

    value: float
    metric: str
    protocol: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """A row of the table.

    Arguments:
        what: Model and sampler, in words.
        published: The published number; None where there is none that was verified.
        find: By scale, what the measured row says of itself: fields of results.csv ("process", "solver", "metric",
            "budget", ...) and "part", the configuration it is from. A scale that is not named was not run.
    """

    what: str
    published: Published | None
    find: Mapping[str, Mapping[str, Any]]


def both(query: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What `Comparison.find` says of a number that both scales measure alike."""
    return dict.fromkeys(SCALES, query)


def at_scales(small: str, full: str, part: str, **common: Any) -> dict[str, Mapping[str, Any]]:
    """What `Comparison.find` says of a number that has another metric at each scale.

    Arguments:
        small, full: The metric there; "" for a scale that does not measure it.
        part: The full scale's configuration.
        common: Further fields of the rows.
    """
    found = {"small": {**common, "metric": small}, "full": {**common, "metric": full, "part": part}}
    return {scale: query for scale, query in found.items() if query["metric"]}


def unpublished(found: Iterable[tuple[str, Mapping[str, Mapping[str, Any]]]]) -> tuple[Comparison, ...]:
    """Rows of the table without a published number: (in words, where the measured one is)."""
    return tuple(Comparison(what, None, find) for what, find in found)


# ---- what is run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """A published file that stands for training at full scale.

    Arguments:
        file: Name it is looked for by, in the folder --published.
        preset: Published configuration, as `genflow import --preset` takes it.
        process: Processes that it is measured as.
        origin: Where it is published, in words.
        as_published: Whether to take the authors' sampler, where that differs.
    """

    file: str
    preset: str
    process: tuple[str, ...]
    origin: str
    as_published: bool = False


@dataclass(frozen=True)
class Variant:
    """A configuration under another name and with changes: for recipes that run one with several values.

    Arguments:
        name: Of the part.
        config: The configuration in configs/reproduce, without .yaml.
        changes: key=value, values as YAML has them.
    """

    name: str
    config: str
    changes: tuple[str, ...] = ()


@dataclass
class Work:
    """A recipe's run: what its study sees, and what became of it.

    Arguments:
        scale: "small" or "full".
        folder: For pictures.
        benches: The finished benches by part.
        results: What they measured.
        changes: What was changed from the configurations, "key=value".
        captions: Of pictures, by file name; see `picture`.
        failures: Cells that failed, by name, with the reason.
    """

    scale: str
    folder: Path
    benches: dict[str, Bench]
    results: Results
    changes: tuple[str, ...] = ()
    captions: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def picture(self, name: str, caption: str) -> Path:
        """The path for a picture; its caption is stored for the table."""
        self.captions[name] = caption
        return self.folder / name

    def models(self, part: str | None = None) -> Iterator[tuple[str, int, str]]:
        """(process, seed, checkpoint folder) of every model of a part, or of the first part."""
        bench = self.benches[part or next(iter(self.benches))]
        seen = set()
        for cell in bench.cells:
            folder = cell.folder or (str(bench.store.folder(cell.parents[0])) if cell.parents else "")
            who = cell.labels["process"], cell.labels["seed"], folder
            if cell.model and cell.kind != "train" and who not in seen:
                seen.add(who)
                yield who


@dataclass(frozen=True)
class Bench:
    """A configuration that was run: its bench, the shared store, and its finished cells."""

    config: BenchConfig
    store: Store
    cells: list[Cell]


Study = Callable[[Work], list[Row]]
"""Computes, draws into `Work.folder`, and returns rows with the fields of results.csv; see `row`."""

Draw = Callable[[Results, Path], dict[str, str]]
"""Draws into a folder; returns the captions of its pictures by file name."""


@dataclass(frozen=True)
class Recipe:
    """A table or figure of a paper.

    Arguments:
        name: On the command line.
        title: What it shows.
        paper: Authors, year, arXiv number.
        claim: What the paper says of it, in our words.
        comparisons: Rows of its table.
        claims: What is judged.
        parts: By scale, configurations of benches in configs/reproduce, without .yaml, or variants of them. None:
            <name>_<scale>.
        weights: Published files that take the place of training, by part.
        study: What the benches do not measure, or None.
        draw: Pictures of the measured numbers, or None.
        notes: How the scales differ from each other and from the paper.
    """

    name: str
    title: str
    paper: str
    claim: str
    comparisons: tuple[Comparison, ...]
    claims: tuple[Claim, ...]
    parts: Mapping[str, tuple[str | Variant, ...]] | None = None
    weights: Mapping[str, tuple[Weights, ...]] = field(default_factory=dict)
    study: Study | None = None
    draw: Draw | None = None
    notes: tuple[str, ...] = ()

    def parts_of(self, scale: str) -> list[Variant]:
        """Its configurations at a scale."""
        found = (f"{self.name}_{scale}",) if self.parts is None else self.parts.get(scale, ())
        return [Variant(one, one) if isinstance(one, str) else one for one in found]
