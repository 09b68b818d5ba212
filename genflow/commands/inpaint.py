"""`genflow inpaint`: a missing part of images, drawn again by a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genflow.commands.control import ControlConfig, draw_rows, given_images, line, open_control
from genflow.commands.loaded import label_numbers, write_arrays
from genflow.commands.options import config_command
from genflow.config import option

if TYPE_CHECKING:
    from torch import Tensor

MASKS = ("right", "left", "top", "bottom", "centre", "pixels")
"""What is taken away: a half, the middle quarter, or every second pixel as on a chessboard."""


@dataclass(frozen=True)
class InpaintConfig(ControlConfig):
    """The same with a mask."""

    mask: str = option("right", f"what is taken away: {', '.join(MASKS)}", among=MASKS)
    out: str = option("inpainted.png", "file to write: .png for a picture, .npz for data units", place=True)


def run_inpaint(config: InpaintConfig) -> str:
    """Draws, writes, and returns what to print."""
    import torch

    from genflow.inpainting import inpaint

    out, how, opened = open_control(config, config.out, "inpainting")
    begin, keep = given_images(config, opened), kept(config.mask, opened.shape)
    labels = label_numbers(config.label, opened, len(begin.x), begin.labels, begin.missing)
    pair = opened.process, opened.backbone
    found = inpaint(*pair, begin.x, keep, config.n, how, labels=labels, guidance=config.guidance)
    if out.suffix == ".npz":
        write_arrays(out, {"x": found.x, "given": begin.x, "mask": keep})
    else:
        draw_rows(out, opened, begin.raw, torch.where(keep, begin.raw, torch.nan), found)
    return line(config, config.out, opened, found, len(begin.x), f"{config.mask} taken away")


def kept(mask: str, shape: tuple[int, ...]) -> Tensor:
    """True where a pixel stays, in the shape (C, H, W) of an image."""
    import torch

    height, width = shape[1:]
    row, column = torch.arange(height)[:, None], torch.arange(width)[None, :]
    middle = ((row >= height // 4) & (row < height - height // 4)) & (
        (column >= width // 4) & (column < width - width // 4)
    )
    gone = {
        "right": column >= width // 2,
        "left": column < width - width // 2,
        "top": row < height - height // 2,
        "bottom": row >= height // 2,
        "centre": middle,
        "pixels": (row + column) % 2 == 1,
    }[mask]
    return (~gone).expand(shape)


inpaint_command = config_command(
    "inpaint",
    InpaintConfig,
    run_inpaint,
    "Take away a part of test images, or of given ones, and draw it again.",
    "genflow inpaint --checkpoint runs/vp --mask right --out inpainted.png",
    "genflow inpaint --checkpoint runs/vp --mask centre --correctors 9 --nfe 1000 --out centre.png",
    "genflow inpaint --checkpoint runs/vp --image face.png --mask top --out faces.png",
    after="Needs a process with a score; genflow list says which have none.",
)
