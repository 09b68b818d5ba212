"""`genflow colourise`: the colours of grey images, drawn by a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from genflow.commands.control import ControlConfig, draw_rows, given_images, line, open_control
from genflow.commands.loaded import label_numbers, write_arrays
from genflow.commands.options import config_command
from genflow.config import ConfigError, option


@dataclass(frozen=True)
class ColouriseConfig(ControlConfig):
    """The same for the mean of the channels."""

    out: str = option("colourised.png", "file to write: .png for a picture, .npz for data units", place=True)


def run_colourise(config: ColouriseConfig) -> str:
    """Draws, writes, and returns what to print."""
    from genflow.inpainting import colourise

    out, how, opened = open_control(config, config.out, "colourising")
    if opened.shape[0] != 3:
        of = f"the data set '{opened.data['name']}'" if opened.data else str(opened.path)
        raise ConfigError(
            f"colourising needs images of 3 channels, and those of {of} have {opened.shape[0]}; take a model of colour "
            "images"
        )
    begin = given_images(config, opened)
    grey = begin.x.mean(1, keepdim=True)
    labels = label_numbers(config.label, opened, len(begin.x), begin.labels, begin.missing)
    pair = opened.process, opened.backbone
    found = colourise(*pair, grey, config.n, how, labels=labels, guidance=config.guidance)
    if out.suffix == ".npz":
        write_arrays(out, {"x": found.x, "given": grey})
    else:
        draw_rows(out, opened, begin.raw, begin.raw.mean(1, keepdim=True).expand_as(begin.raw), found)
    return line(config, config.out, opened, found, len(begin.x), "from the mean of the channels")


colourise_command = config_command(
    "colourise",
    ColouriseConfig,
    run_colourise,
    "Colour the grey versions of test images, or given grey ones.",
    "genflow colourise --checkpoint runs/vp_colour --out colourised.png",
    "genflow colourise --checkpoint runs/vp_colour --image old.png --out coloured.png",
    after="Needs data of three channels, and a process with a score; genflow list says which have none.",
)
