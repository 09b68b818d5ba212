"""Runs a study and writes its folder: results.csv, table.md, pictures, README.md."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from genflow.checkpoint import write_file
from genflow.claims.claim import family, summary
from genflow.claims.studies.config import StudyConfig, entry
from genflow.claims.studies.experiment import Lab, Study
from genflow.claims.studies.results import Found, to_csv
from genflow.claims.studies.subjects import Tell
from genflow.config import ConfigError

PAIRED = (
    "Blocks of two settings begin at the same draws of the prior, and growths and differences are taken block by "
    "block, so their errors are smaller than those of the distances themselves. With one training seed ± is over "
    "blocks and no process is judged to be better; with several, growths and differences are paired by seed. Verdicts "
    "are by two-sided t tests at 5 %, with Holm's correction for the comparisons of the study; p is after it."
)


def run_study(name: str, config: StudyConfig, command: str, tell: Tell = lambda report: None) -> Found:
    """Measures what is not kept yet, and writes everything anew.

    Arguments:
        name: Of the study.
        config: As `settled` gives it.
        command: What was typed, for the files.
        tell: Hears how the work goes.

    Raises:
        ConfigError: The configuration does not fit the study, or its folder can not be written.
        CellError, Interrupted, BusyError: From the training of models that were missing.
    """
    module = importlib.import_module(entry(name).module)
    study: Study = next(
        v() for v in vars(module).values() if isinstance(v, type) and issubclass(v, Study) and v is not Study
    )
    found, folder = study.run(Lab(name, config, tell, study.code)), Path(config.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out = '{folder}' can not be written: {error.strerror}; choose another folder") from None
    write_file(folder / "results.csv", to_csv(found.rows))
    write_file(folder / "table.md", "\n".join(table.markdown() for table in found.tables))
    for file, text in found.files.items():
        write_file(folder / file, text)
    pictures = found.draw(folder)
    for file in pictures:
        shrink(folder / file)
    write_file(folder / "README.md", readme(name, found, pictures, command))
    return found


def shrink(path: Path) -> None:
    """Writes a picture with 256 colours, which is enough for lines and letters and takes a third of the room."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    small.save(path, optimize=True)


def readme(name: str, found: Found, pictures: Mapping[str, str], command: str) -> str:
    """README.md: the command, what is claimed, what was found, the tables and the pictures."""
    findings = family(found.findings)
    parts = [
        f"# Study {name}: {entry(name).summary}",
        f"Made by `{command}`. Every number with its protocol is in `results.csv`.",
        f"**Claimed.** {found.claim}",
        " ".join(filter(None, ("**Found.**", summary(findings)))),
        "\n".join(f"* {one.told}" for one in findings),
        f"**Protocol.** {' '.join([*found.notes, PAIRED])}",
        *(f"![{caption}]({file})\n\n*{caption}*" for file, caption in pictures.items()),
        "\n".join(table.markdown() for table in found.tables).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"
